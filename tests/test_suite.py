"""The tests themselves: they mirror the house, use what is public, and assert no time."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src" / "patchclamp"
FILES = sorted(TESTS.rglob("*.py"))
TIERS = {"smollm2", "crosscheck"}  # folders that are tiers and no boxes

# Where torch, transformers and the system have no public way to what a test must see or change.
THEIRS = {"_forward_hooks", "_forward_pre_hooks", "_attn_implementation", "_tokenize", "_exit"}
NOTEBOOKS = "_repr_html_"  # the name by which notebooks ask

CLOCKS = {
    "perf_counter",
    "perf_counter_ns",
    "process_time",
    "process_time_ns",
    "time",
    "time_ns",
    "monotonic",
    "monotonic_ns",
}


def name_of(file: Path) -> str:
    return str(file.relative_to(TESTS))


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != NOTEBOOKS


def private_uses(tree: ast.Module) -> list[str]:
    """Private modules and names of ours that are imported, and private attributes that are read or replaced."""
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = [] if own or node.attr in THEIRS else [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "getattr",
            "setattr",
            "delattr",
            "hasattr",
            "patch",
            "import_module",
        ):
            texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            names = [part for text in texts for part in text.split(".")]
        found += [f"line {node.lineno}: {name}" for name in names if private(name)]  # type: ignore[attr-defined]
    return found


def reads_clock(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and (
        (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in CLOCKS
            and ast.unparse(node.func.value) == "time"
        )
        or (isinstance(node.func, ast.Name) and node.func.id in CLOCKS)
    )


def times_asserted(tree: ast.Module) -> list[str]:
    """Asserts on a clock, on a name that was given a clock's reading, or on a number called seconds."""
    found = []
    for scope in (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Module))):
        clocked = {
            target.id
            for node in ast.walk(scope)
            if isinstance(node, ast.Assign) and any(map(reads_clock, ast.walk(node.value)))
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(scope):
            if not isinstance(node, ast.Assert):
                continue
            for part in ast.walk(node.test):
                if reads_clock(part) or (isinstance(part, ast.Name) and part.id in clocked):
                    found.append(f"line {node.lineno}: a clock")
                if isinstance(part, ast.Compare) and not above_zero(part) and named_a_time(part):
                    found.append(f"line {node.lineno}: {ast.unparse(part)}")
    return found


def named_a_time(comparison: ast.Compare) -> bool:
    names = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(comparison)}
    return bool(names & {"seconds", "elapsed", "took"})


def above_zero(comparison: ast.Compare) -> bool:
    """Whether it says no more than that a time was taken: ``seconds > 0`` or ``seconds is not None``."""
    right = comparison.comparators[-1]
    return (
        isinstance(right, ast.Constant)
        and right.value in (0, None)
        and isinstance(comparison.ops[-1], (ast.Gt, ast.GtE, ast.IsNot))
    )


@cache
def trees() -> dict[str, ast.Module]:
    return {name_of(file): ast.parse(file.read_text(), str(file)) for file in FILES}


def test_tests_use_what_is_public() -> None:
    """By name where it is public; what can be seen from outside only through private state is no behaviour."""
    found = {name: private_uses(tree) for name, tree in trees().items()}
    assert not {name: uses for name, uses in found.items() if uses}, (
        "test the public function, or make this public"
    )


def test_no_test_asserts_a_time() -> None:
    """A machine may be five times as busy: count passes, name what is imported, look for the file of a cache."""
    found = {name: times_asserted(tree) for name, tree in trees().items()}
    assert not {name: times for name, times in found.items() if times}, "say what makes it quick instead"


def test_a_file_of_tests_is_one_idea() -> None:
    lines = {name_of(file): len(file.read_text().splitlines()) for file in FILES}
    assert not {name: n for name, n in lines.items() if n > 400}, (
        "cut them at their seams; what is shared stands in tests/*.py"
    )
    silent = [name for name, tree in trees().items() if not ast.get_docstring(tree)]
    assert not silent, "a file says in its first line what it shows"


def test_tests_stand_where_the_code_stands() -> None:
    boxes = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    folders = {file.parent for file in FILES if file.parent != TESTS}
    assert {folder.name for folder in folders} <= boxes | TIERS and all(f.parent == TESTS for f in folders)
    strays = [name_of(f) for f in FILES if f.parent != TESTS and not f.name.startswith("test_")]
    assert not strays, f"{strays}: helpers stand in tests/ itself, where every test finds them"


def test_no_test_imports_another_test() -> None:
    names = {file.stem for file in FILES if file.name.startswith("test_")}
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in names, f"{name}: {node.module} is a test; share by a helper module"


@pytest.mark.parametrize(
    ("code", "n"),
    [
        ("from patchclamp.x import _y", 1),
        ("from patchclamp._x import y", 1),
        ("import patchclamp._x", 1),
        ("print(thing._state)", 1),
        ("monkeypatch.setattr(thing, '_state', 3)", 1),
        ("monkeypatch.setattr('patchclamp.x._y', 3)", 1),
        ("self._own = thing.__dict__", 0),
        ("model._forward_hooks", 0),
    ],
)
def test_private_uses_are_seen(code: str, n: int) -> None:
    assert len(private_uses(ast.parse(code))) == n


@pytest.mark.parametrize(
    ("code", "n"),
    [
        ("start = time.perf_counter()\nassert time.perf_counter() - start < 5", 2),
        ("took = time.monotonic()\nassert x < took", 1),
        ("assert float(seconds) < 20", 1),
        ("assert result.seconds > 0", 0),
        ("assert walk(seconds=3.0) == 4", 0),
        ("assert recording.time == 4", 0),
    ],
)
def test_asserted_times_are_seen(code: str, n: int) -> None:
    assert (len(times_asserted(ast.parse(code))) > 0) == (n > 0)
