"""The floors of the house: imports go down, verbs never import each other, and there are no circles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "patchclamp"
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
FLOORS: dict[str, int] = {
    "base": 0,
    "draw": 1,
    "nouns": 2,
    "subjects": 3,
    **dict.fromkeys(VERBS, 4),
    "truth": 5,
    "study": 6,
    "app": 7,
}
FILES = sorted(SOURCE.rglob("*.py"))
NAMES = {".".join(("patchclamp", *f.relative_to(SOURCE).with_suffix("").parts)): f for f in FILES}
MODULES = {name.removesuffix(".__init__"): file for name, file in NAMES.items()}


def imports(file: Path, deferred: bool = True) -> set[str]:
    """Our modules that a file imports; with `deferred`, also inside functions. Not those for type checkers alone."""
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    functions = () if deferred else (ast.FunctionDef, ast.AsyncFunctionDef)
    left_out = {
        id(inner)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        or isinstance(node, functions)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{file}: relative import")
    return {name for name in found if name.split(".")[0] == "patchclamp"}


def part(module: str) -> str:
    """The part of the house that a module belongs to; "" for the package itself."""
    names = module.split(".")
    return names[1] if len(names) > 1 else ""


def floor(module: str) -> int | None:
    return FLOORS.get(part(module))


def test_every_part_of_the_house_has_a_floor() -> None:
    unknown = sorted(module for module in MODULES if part(module) and floor(module) is None)
    assert not unknown, f"give these a floor in tests/test_floors.py: {unknown}"


@pytest.mark.parametrize("module", [module for module in sorted(MODULES) if part(module)])
def test_imports_go_down(module: str) -> None:
    own = floor(module)
    for other in imports(MODULES[module]):
        theirs = floor(other)
        if not part(other) or part(other) == part(module):
            continue
        assert own is not None
        assert theirs is not None
        assert theirs <= own, f"{module} (floor {own}) imports {other} (floor {theirs})"
        if part(module) in VERBS:
            assert part(other) not in VERBS, f"{module}: a verb never imports another verb, here {other}"


def test_modules_form_no_circle() -> None:
    graph = {module: imports(file, deferred=False) & set(MODULES) for module, file in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name] - {name}):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def code_lines(text: str, tree: ast.Module) -> int:
    """Lines that are neither blank nor part of a docstring."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    said = {
        line
        for node in ast.walk(tree)
        if isinstance(node, holders) and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    return sum(bool(line.strip()) and number not in said for number, line in enumerate(text.splitlines(), 1))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_house_rules(file: Path) -> None:
    text = file.read_text()
    tree = ast.parse(text)
    n = code_lines(text, tree)
    assert n <= 400, f"{file} has {n} lines of code; it is more than one idea"
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            assert caught not in ("", "Exception", "BaseException"), (
                f"{file}:{node.lineno}: catches everything"
            )
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "pickle.load",
            "pickle.loads",
            "eval",
            "exec",
        ):
            raise AssertionError(f"{file}:{node.lineno}: {ast.unparse(node.func)}")
        in_library = "app" not in file.parts
        if in_library and isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            raise AssertionError(f"{file}:{node.lineno}: library code does not print")
    assert ast.get_docstring(tree), f"{file}: says in its first line what it is"


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=lambda f: f.name)
def test_every_folder_is_a_package(folder: Path) -> None:
    assert (folder / "__init__.py").is_file(), f"{folder}: without __init__.py it is left out of the wheel"
