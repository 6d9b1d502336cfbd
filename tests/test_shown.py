"""Objects show themselves: a line of at most 400 characters, a card that parses, and never an array."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import patchclamp as pc
import planted
from patchclamp.attribute import METHODS, attribution_patching
from patchclamp.decompose import PCA
from patchclamp.draw.cards import brief, card, marked, shown
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.recording import Recording

VERBS = ("measure", "decompose", "describe", "attribute", "connect", "compare", "intervene", "evaluate")
VOID = {"br", "meta", "img"}


class Nesting(HTMLParser):
    """Every element is closed, in order; what is read is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.said += data


def read(text: str) -> str:
    parser = Nesting()
    parser.feed(text)
    parser.close()
    assert not parser.open
    assert "<script" not in text
    return parser.said


def check(thing: Any) -> str:
    line = repr(thing)
    assert 0 < len(line) <= 400 and "\n" not in line
    assert "object at 0x" not in line and "tensor(" not in line and "array(" not in line
    said = read(thing._repr_html_())
    assert type(thing).__name__ in said and "tensor(" not in said and "array(" not in said
    return said


def results() -> list[type]:
    """Classes of this package that a function which a verb lists returns."""
    found: dict[type, None] = {}

    def visit(kind: Any) -> None:
        if (
            inspect.isclass(kind)
            and kind.__module__.startswith("patchclamp")
            and "patchclamp.base" not in kind.__module__
        ):
            found[kind] = None
        for part in typing.get_args(kind):
            visit(part)

    for verb in VERBS:
        module = importlib.import_module(f"patchclamp.{verb}")
        listed = {**getattr(module, "METHODS", {}), **getattr(module, "TOOLS", {})}
        for function in listed.values():
            if inspect.isfunction(function):
                visit(typing.get_type_hints(function).get("return"))
    return sorted(found, key=lambda kind: kind.__qualname__)


@pytest.mark.parametrize("kind", results(), ids=lambda kind: kind.__name__)
def test_what_a_verb_returns_shows_itself(kind: type) -> None:
    assert hasattr(kind, "_repr_html_"), f"{kind.__module__}.{kind.__name__}: put @shown on it"


@pytest.fixture(scope="module")
def subject() -> Any:
    return planted.subject()


def test_nouns_say_what_they_are(subject: Any) -> None:
    task = planted.task(24)
    said = check(subject)
    assert subject.name in said and "n heads" in said
    said = check(task)
    assert task.items[0].answers[0].strip() in said
    sites = [site for site in subject.known_sites() if site.point == "head"]
    scores = attribution_patching(subject, task, sites)
    said = check(scores)
    assert str(scores.top(1, by="abs")[0]) in said and "<svg" in scores._repr_html_()
    by_role = attribution_patching(subject, task, "resid_post.*", positions="roles")
    assert all(role in check(by_role) for role in by_role.positions or ())
    change = pc.Intervention(scores.top(1)[0], "mean")
    effect = pc.effect(subject, task.split("test"), change, reference=task.split("train"))
    assert f"{effect.estimate.value:+.3f}" in check(effect)
    run = subject.run(subject.batch(subject.encode([task.items[0].clean])), read=["head.0"], logits="last")
    assert "head.0" in check(run)


def test_recordings_dictionaries_and_graphs_say_what_they_are() -> None:
    rng = np.random.default_rng(0)
    recording = Recording.from_arrays({"lfp": rng.normal(size=(30, 40, 6)).astype("float32")})
    assert "lfp[0]" in check(recording) and "1,200" in check(recording)
    assert "features" in check(PCA(3).fit(recording, "lfp"))
    small, large = (
        Graph(tuple(map(str, range(n))), rng.normal(size=(n, n)), True, "by hand") for n in (5, 200)
    )
    assert "<svg" in small._repr_html_() and "<svg" not in large._repr_html_()
    assert "more" not in check(small) and "source" in check(large)


def test_a_circuit_is_drawn() -> None:
    nodes = ["embeddings", "head.0[1]", "head.1[2]", "logits"]
    ends = [(1, 0), (2, 1), (3, 2)]
    graph = CircuitGraph.of(nodes, ends, [[1.0, -2.0, 3.0]], method="by hand", limits="anything")
    said = check(graph)
    assert all(name in said for name in nodes) and "anything" in said
    assert 'class="link neg"' in graph._repr_html_()


def test_text_is_escaped_and_arrays_are_named_by_their_shape() -> None:
    @shown
    @dataclasses.dataclass
    class Found:
        name: str
        values: np.ndarray
        table: pd.DataFrame
        many: list[int]
        tensor: torch.Tensor

    found = Found(
        "<script>alert(1)</script>" * 50, np.zeros((300, 40)), pd.DataFrame({"<b>": range(9)}), list(range(9999)),
        torch.zeros(3, 4, dtype=torch.bfloat16),
    )  # fmt: skip
    said = check(found)
    assert "float64 (300, 40)" in said and "9,999 items" in said and "bfloat16 (3, 4)" in said
    assert "<b>" not in found._repr_html_()
    assert "a &lt; b" in card("x", {}, say="a < b")


def test_shades_follow_size_and_sign() -> None:
    text = marked([("a<", 1.0), ("b", -0.5), ("c", 0.0), ("d", float("nan"))])
    assert "--pos) 60%" in text and "--neg) 30%" in text and "a&lt;" in text and text.count("style=") == 2
    assert brief({"a": 1.5}) == "a: 1.50" and len(METHODS) > 3
