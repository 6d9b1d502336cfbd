"""The rules of the house that the contracts in pyproject.toml cannot say, and each rule held to a planted fault.

Imports go down and verbs never import each other: `[tool.importlinter]`, run by ``make lint``. Here: no circles, no private
names across folders, one name one class, one signature a table, one statement a conversion, a truth for every method.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from house import (
    borrowed,
    box,
    boxes,
    circle,
    classes_named_twice,
    code_lines,
    different_heads,
    different_returns,
    forbidden,
    graph,
    long_conversions,
    out_of_step,
    pairs,
    private,
)
from patchclamp.compare.result import Comparison
from patchclamp.decompose.base import Decomposer
from patchclamp.describe.functions import Answer
from patchclamp.describe.scoring import SCORES, DescriptionScore
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.measure import Measure
from patchclamp.nouns.scores import Scores
from patchclamp.study.leaderboard.table import ADAPTORS, methods_of, verbs
from patchclamp.truth import TRUTHS

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "patchclamp"
VERBS = (
    "record",
    "measure",
    "decompose",
    "describe",
    "attribute",
    "connect",
    "compare",
    "intervene",
    "evaluate",
)
BOXES = {"app", "study", "truth", *VERBS, "subjects", "nouns", "draw", "base"}
FILES = sorted(SOURCE.rglob("*.py"))
SIGNATURES: dict[str, tuple[tuple[str, ...], type]] = {
    "attribute": (("subject", "task", "sites"), Scores),
    "compare": (("a", "b"), Comparison),
    "connect": (("data", "groups"), Graph),
    "decompose": (("n_features",), Decomposer),
    "describe": (("query",), Answer),
    "measure": ((), Measure),
}
"""Verb -> how the parameters of every entry of its `METHODS` begin, and what each returns (or is, where it is a class)."""
RUNS = {"Checkpoint.save", "RunState.save"}
"""States of a run, which only the run itself saves: not data that a user holds."""


@cache
def trees() -> dict[str, ast.Module]:
    return {
        ".".join(("patchclamp", *file.relative_to(SOURCE).with_suffix("").parts)): ast.parse(file.read_text())
        for file in FILES
    }


@cache
def arrows() -> dict[str, set[str]]:
    return graph(trees())


def planted(**files: str) -> dict[str, ast.Module]:
    """A package of these files: ``a__b="import ..."`` is ``patchclamp/a/b.py``, ``a____init__`` its `__init__`."""
    return {f"patchclamp.{name.replace('__', '.', 1)}": ast.parse(text) for name, text in files.items()}


# ---- the boxes, and what the contracts say of them


def test_the_contracts_name_every_box() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one for one in contracts if one["type"] == "layers")["layers"]
    assert {name.strip() for layer in layers for name in layer.split("|")} == BOXES
    assert {box(name) for name in arrows()} - {""} == BOXES


def test_files_and_boxes_form_no_circle() -> None:
    """Over all imports, deferred ones and those for type checkers too."""
    assert not circle(arrows()), " -> ".join(circle(arrows()))
    assert not circle(boxes(arrows())), " -> ".join(circle(boxes(arrows())))
    assert not pairs(arrows())


@pytest.mark.parametrize(
    "text",
    [
        "from patchclamp.a.one import y",
        "def f():\n    from patchclamp.a.one import y",
        "if TYPE_CHECKING:\n    from patchclamp.a.one import y",
        "from patchclamp.a import x",  # which the package's __init__ offers from `one`
    ],
)
def test_a_planted_circle_is_found(text: str) -> None:
    trees = planted(
        a____init__="from patchclamp.a.one import x", a__one="from patchclamp.b.two import z", b__two=text
    )
    assert circle(graph(trees)) in (
        ["patchclamp.a.one", "patchclamp.b.two", "patchclamp.a.one"],
        ["patchclamp.a", "patchclamp.a.one", "patchclamp.b.two", "patchclamp.a"],
    )
    assert circle(boxes(graph(trees))) == ["a", "b", "a"]
    assert pairs(graph(trees)) == [("patchclamp.a.one", "patchclamp.b.two")]


def test_a_package_that_offers_its_own_files_is_no_circle() -> None:
    trees = planted(a____init__="from patchclamp.a.one import x", a__one="import patchclamp.a")
    assert not circle(graph(trees))


# ---- names


def test_no_private_file_at_the_root_and_no_private_name_across_folders() -> None:
    assert not [file.name for file in SOURCE.glob("*.py") if private(file.name)]
    assert not [folder.name for folder in SOURCE.iterdir() if private(folder.name)]
    assert not borrowed(trees())


@pytest.mark.parametrize(
    "text",
    ["from patchclamp.a._one import x", "from patchclamp.a import _one", "from patchclamp.a.two import _x"],
)
def test_a_planted_private_name_is_found(text: str) -> None:
    files = {"a___one": "x = 1", "a__two": "_x = 1"}
    assert len(borrowed(planted(**files, b__three=text))) == 1
    assert not borrowed(planted(**files, a__three=text))


def test_one_name_one_class() -> None:
    assert not classes_named_twice(trees())


def test_a_class_named_twice_is_found() -> None:
    trees = planted(
        a__one="class _Run: ...", b__two="def f():\n    class _Run: ...", b__three="class Run: ..."
    )
    assert classes_named_twice(trees) == {"_Run": ["patchclamp.a.one", "patchclamp.b.two"]}


# ---- tables of methods


def table(verb: str, name: str = "METHODS") -> dict[str, Any]:
    """A table of a verb; empty where it has none."""
    return dict(getattr(importlib.import_module(f"patchclamp.{verb}"), name, {}))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if table(verb)])
def test_a_table_has_one_signature(verb: str) -> None:
    head, base = SIGNATURES[verb]
    assert not different_heads(table(verb), head)
    assert not different_returns(table(verb), base)


def test_scores_of_descriptions_have_one_signature() -> None:
    assert not different_heads(SCORES, ("description",))
    assert not different_returns(SCORES, DescriptionScore)


def test_a_planted_signature_is_found() -> None:
    def right(subject: Any, task: Any, *, seed: int = 0) -> Scores: ...  # type: ignore[empty-body]
    def turned(task: Any, subject: Any) -> Scores: ...  # type: ignore[empty-body]
    def other(subject: Any, task: Any, more: int = 0) -> Graph: ...  # type: ignore[empty-body]

    methods = {"right": right, "turned": turned, "other": other, "class": Scores}
    assert set(different_heads(methods, ("subject", "task"))) == {"turned", "class"}
    assert set(different_returns(methods, Scores)) == {"other"}


def waiting() -> dict[str, list[str]]:
    """Verb -> methods in the list of those that wait for their row of truth."""
    out: dict[str, list[str]] = {}
    for line in (ROOT / "tests" / "waiting_for_truth.txt").read_text().splitlines():
        verb, _, names = line.partition(":")
        if not line.startswith("#"):
            out.setdefault(verb, []).extend(names.split())
    return out


@pytest.mark.parametrize(
    "verb", [verb for verb in VERBS if verb != "record"]
)  # finds nothing: `proof` holds it
def test_every_method_has_a_row_of_truth_or_waits_for_it(verb: str) -> None:
    adaptors = [adaptor for (own, _), adaptor in ADAPTORS.items() if own == verb]
    truths = TRUTHS.values()
    entries = {**table(verb), **table(verb, "TOOLS")}
    rows = [
        name
        for name, method in (methods_of(verb) if verb in verbs() else {}).items()
        if any(adaptor.takes(name, method, truth, slow=True) for adaptor in adaptors for truth in truths)
    ]
    assert not {
        fault: names for fault, names in out_of_step(entries, rows, waiting().get(verb, ())).items() if names
    }


def test_the_list_of_those_that_wait_only_shrinks() -> None:
    assert set(waiting()) <= set(VERBS)
    assert sum(map(len, waiting().values())) <= 74, "a new method comes with its row of truth"


def test_a_method_out_of_step_is_found() -> None:
    assert out_of_step(["new", "held", "waits"], ["held"], ["waits", "held", "gone"]) == {
        "without a row of truth": ["new"],
        "no longer waiting": ["gone", "held"],
    }


# ---- files


def test_house_rules() -> None:
    found = []
    for file, tree in zip(FILES, trees().values(), strict=True):
        n = code_lines(file.read_text(), tree)
        if n > 400:
            found.append(f"{file} has {n} lines of code; it is more than one idea")
        if not ast.get_docstring(tree):
            found.append(f"{file}: says in its first line what it is")
        if file.name != "seeds.py":
            found += [f"{file}: {fault}" for fault in forbidden(tree, prints="app" in file.parts)]
    assert not found, "\n".join(found)


def test_planted_faults_of_a_file_are_found() -> None:
    for text in (
        "try: f()\nexcept: pass",
        "try: f()\nexcept Exception: pass",
        "pickle.load(f)",
        "eval(x)",
        "print(1)",
        "numpy.random.default_rng(seed)",
        "torch.Generator().manual_seed(seed + 1)",
    ):
        assert len(list(forbidden(ast.parse(text), prints=False))) == 1, text
    assert not list(forbidden(ast.parse("try: f()\nexcept ValueError: print(1)"), prints=True))
    text = '"""Said,\n\ntwice."""\n\nx = """kept\n"""\n\ndef f():\n    """Said."""\n    return 1\n'
    assert code_lines(text, ast.parse(text)) == 4


def test_conversions_are_one_statement() -> None:
    """`save`, `to_*`, `plot` and `figure`, which users expect of data, stand on functions below that take arrays and tables."""
    long = {
        f"{name}.{one}"
        for name, tree in trees().items()
        if box(name) in ("nouns", *VERBS)
        for one in long_conversions(tree)
        if one not in RUNS
    }
    assert not long


def test_a_planted_conversion_is_found() -> None:
    text = """
class Data:
    def to_json(self):
        "Said."
        import json

        return json.dumps(self.x)

    def plot(self):
        figure = new_figure()
        return figure

    def save(self, path):
        if path: write(path)
"""
    assert long_conversions(ast.parse(text)) == ["Data.plot", "Data.save"]


def test_every_folder_is_a_package() -> None:
    left_out = {file.parent for file in FILES if not (file.parent / "__init__.py").is_file()}
    assert not left_out, "without __init__.py they are left out of the wheel"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_lists_at_most_twenty_names(verb: str) -> None:
    assert len(importlib.import_module(f"patchclamp.{verb}").__all__) <= 20


def test_the_drawing_of_the_house_is_that_of_the_plan() -> None:
    place = ROOT / "docs" / "figures" / "house.py"
    spec = importlib.util.spec_from_file_location("house_figure", place)
    assert spec is not None
    assert spec.loader is not None
    figure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figure)
    assert {box for floor in figure.floors() for box in floor} == BOXES
    assert figure.FIGURE.read_text(encoding="utf-8") == figure.drawing(), (
        "python docs/figures/house.py draws it anew"
    )


def test_the_page_of_the_house_has_a_line_for_every_box() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in sorted(BOXES) if f"| `{name}` |" not in page] == []
