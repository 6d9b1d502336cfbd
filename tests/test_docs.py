"""The code in README.md and docs/ runs, prints what the page says, and names what exists.

A page's Python blocks run from top to bottom in one namespace, in an empty folder. A page with a block that opens
the embedded model belongs to its tier. An HTML comment on the line above a block changes what is done with it:

* ``<!-- not run: reason -->``: only compiled
* ``<!-- output -->`` above a text block: what the Python block before it must print ("..." stands for anything)
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pages import ROOT, blocks
from patchclamp.truth import TRUTHS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Their examples fit models that are worth showing, and take 5 to 15 seconds each.
SLOW = {"connect.md", "connect-models.md", "decompose.md", "decompose-sae.md"}
VERBS = ("measure", "decompose", "describe", "attribute", "connect", "evaluate", "compare")


def pages() -> list[Any]:
    found = []
    for page in PAGES:
        python = [block for block in blocks(page) if block.kind == "python"]
        if python:
            embedded = any(
                '"smollm2"' in block.code and not block.note.startswith("not run") for block in python
            )
            marks = [pytest.mark.smollm2] if embedded else [pytest.mark.slow] if page.name in SLOW else []
            found.append(pytest.param(page, marks=marks, id=page.name))
    return found


@pytest.fixture(autouse=True)
def truths_as_they_were() -> Iterator[None]:
    """Drop truths that a page registers: the leaderboard's tests run in the same process."""
    before = set(TRUTHS)
    yield
    for name in set(TRUTHS) - before:
        del TRUTHS[name]


@pytest.mark.parametrize("page", pages())
def test_code_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        if block.kind == "python":
            # Line numbers in a traceback are those of the page.
            code = compile("\n" * block.line + block.code, str(page), "exec")
            if not block.note.startswith("not run"):
                out = io.StringIO()
                with contextlib.redirect_stdout(out), warnings.catch_warnings():
                    exec(code, namespace)
                printed = out.getvalue()
        elif block.note == "output":
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            same = doctest.OutputChecker().check_output(block.code, printed, flags)
            assert same, (
                f"{page.name}, line {block.line}: the page says\n{block.code}\nbut this is printed:\n{printed}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_page_exist(page: Path) -> None:
    from patchclamp.app.commands import COMMANDS

    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page):
        if block.kind not in ("bash", "sh", "console", "shell"):
            continue
        for line in block.code.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["patchclamp"] and len(words) > 1 and not words[1].startswith("-"):
                assert words[1] in COMMANDS, f"{page.name}: {line}"
            if words[:1] == ["make"]:
                assert set(words[1:]) <= targets, f"{page.name}: {line}"


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_of_a_verb_names_every_method(verb: str) -> None:
    module = importlib.import_module(f"patchclamp.{verb}")
    methods = [*getattr(module, "METHODS", ()), *getattr(module, "TOOLS", ())]
    text = (ROOT / "docs" / f"{verb}.md").read_text()
    missing = [name for name in methods if not re.search(rf"`{re.escape(name)}\b", text)]
    assert not missing, f"docs/{verb}.md does not mention {missing}"


def test_the_tasks_page_names_every_task() -> None:
    from patchclamp.nouns.tasks.builtin import TASKS

    text = (ROOT / "docs" / "tasks.md").read_text()
    assert not [name for name in TASKS if f"`{name}`" not in text]


def test_peers_page_and_aliases_agree() -> None:
    """Each TransformerLens name on the page parses to the address that the page gives for it."""
    from patchclamp.nouns.units import parse_site

    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)`", (ROOT / "docs" / "peers.md").read_text(), re.MULTILINE)
    assert len(rows) >= 10
    for ours, theirs in rows:
        assert str(parse_site(theirs)) == ours


def test_the_measure_in_add_a_method_is_right() -> None:
    """Its block defines `Span`; here it is cut, merged, saved and restored."""
    import torch

    from patchclamp.nouns.recording.recording import Samples

    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks(ROOT / "docs" / "add-a-method.md"):
        if block.kind == "python":
            exec(compile(block.code, "add-a-method.md", "exec"), namespace)
    span = namespace["Span"]
    activity = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    parts = []
    for rows in (slice(0, 3), slice(3, 11), slice(11, 20)):
        part = span()
        size = len(activity[rows])
        part.update(activity[rows], Samples.of(doc=torch.arange(size), position=torch.arange(size)))
        parts.append(span.from_state(part.state()))
    whole = parts[2].merge(parts[0]).merge(parts[1])
    assert whole.result()["span"].values == pytest.approx((activity.amax(0) - activity.amin(0)).numpy())
    assert whole.n_samples == 20


def test_the_figures_in_the_readme_are_those_of_the_benchmarks() -> None:
    from benchmarks.tables import PAGES as with_figures
    from benchmarks.tables import filled

    for page in with_figures:
        assert filled(page.read_text()) == page.read_text(), "python -m benchmarks.tables makes them anew"
