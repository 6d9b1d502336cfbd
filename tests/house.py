"""The checks behind `test_floors.py`, on plain data: module name -> parsed source, so that a planted fault can be held to them."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_type_hints

Trees = Mapping[str, ast.Module]
"""Dotted name of a module (of a package: of its `__init__`, with that ending) -> its source, parsed."""
INIT = ".__init__"
HOLDERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
CONVERSIONS = ("save", "plot", "figure")
"""Methods that users expect of data, beside `to_*`."""


def imports(module: str, trees: Trees) -> set[str]:
    """Our modules that a module imports: at its head, inside functions, and for type checkers alone.

    A name that a package's `__init__` offers counts as imported from the file that defines it, too.
    """
    known = {name.removesuffix(INIT) for name in trees}
    found: set[str] = set()
    for node in ast.walk(trees[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in whole}
            found |= {source(str(node.module), alias.name, trees) for alias in node.names}
    return found & known


def source(package: str, name: str, trees: Trees) -> str:
    """The module from which a package's `__init__` has a name that it offers; the package itself for others."""
    tree = trees.get(package + INIT)
    for node in tree.body if tree else ():
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            return source(str(node.module), name, trees) if node.module != package else f"{package}.{name}"
    return package


def graph(trees: Trees) -> dict[str, set[str]]:
    """Who imports whom; what a package's `__init__` offers of its own folder is left out."""
    out: dict[str, set[str]] = {}
    for module in trees:
        name = module.removesuffix(INIT)
        offered = f"{name}." if module.endswith(INIT) else None
        found = imports(module, trees) - {name}
        out[name] = {other for other in found if offered is None or not other.startswith(offered)}
    return out


def boxes(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same between the folders of the package; the package's own `__init__` is none of them."""
    out: dict[str, set[str]] = defaultdict(set)
    for name, others in arrows.items():
        for other in others:
            if box(name) and box(other) and box(name) != box(other):
                out[box(name)].add(box(other))
    return dict(out)


def box(module: str) -> str:
    """The folder of the package that a module belongs to; "" for the package itself."""
    return (module.split(".") + [""])[1]


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """A way round from a name to itself; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(arrows.get(name, ())):
                if found := visit(other, (*path, name)):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := visit(name, ()))), [])


def pairs(arrows: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Two files that import each other: one idea, cut in two."""
    return [(a, b) for a in sorted(arrows) for b in sorted(arrows[a]) if a < b and a in arrows.get(b, ())]


def private(name: str) -> bool:
    """Whether a name is its folder's own affair."""
    return name.startswith("_") and not name.startswith("__")


def borrowed(trees: Trees) -> list[str]:
    """Underscore modules and names that are imported from outside the folder that they stand in."""
    out = []
    for module, tree in trees.items():
        here = module.rsplit(".", 1)[0]
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("patchclamp"):
                continue
            for alias in node.names:
                names = f"{node.module}.{alias.name}".split(".")
                first = next((i for i, name in enumerate(names) if private(name)), None)
                if first is None:
                    continue
                # a private module stands in the folder above it; a private name of a file, in the file's folder
                owner = ".".join(names[:first])
                if owner in trees:
                    owner = owner.rsplit(".", 1)[0]
                if owner != here:
                    out.append(f"{module}: {'.'.join(names)}")
    return out


def classes_named_twice(trees: Trees) -> dict[str, list[str]]:
    """Name of a class -> the modules that define one of this name, where there are several."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(module)
    return {name: sorted(modules) for name, modules in sorted(found.items()) if len(modules) > 1}


def long_conversions(tree: ast.Module) -> list[str]:
    """`save`, `to_*`, `plot` and `figure` of classes that are more than one statement on a function below them."""
    out = []
    for node in ast.walk(tree):
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if not isinstance(method, ast.FunctionDef):
                continue
            if method.name not in CONVERSIONS and not method.name.startswith("to_"):
                continue
            said = ast.get_docstring(method, clean=False) is not None
            rest = [s for s in method.body[said:] if not isinstance(s, (ast.Import, ast.ImportFrom))]
            if len(rest) > 1 or isinstance(rest[0], (ast.For, ast.While, ast.If, ast.With, ast.Try)):
                out.append(f"{node.name}.{method.name}")  # type: ignore[union-attr]
    return out


def code_lines(text: str, tree: ast.Module) -> int:
    """Lines that are neither blank nor part of a docstring."""
    said = {
        line
        for node in ast.walk(tree)
        if isinstance(node, HOLDERS) and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    return sum(bool(line.strip()) and number not in said for number, line in enumerate(text.splitlines(), 1))


def forbidden(tree: ast.Module, prints: bool) -> Iterator[str]:
    """What no file does: catch everything, run data as code, make random numbers of an unchecked seed, and print."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            if caught in ("", "Exception", "BaseException"):
                yield f"line {node.lineno}: catches everything"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("pickle.load", "pickle.loads", "eval", "exec"):
                yield f"line {node.lineno}: {called}"
            if called.endswith(("random.default_rng", "Generator().manual_seed")) and seeded_from(node):
                yield f"line {node.lineno}: {called}; base.seeds makes random numbers"
            if called == "print" and not prints:
                yield f"line {node.lineno}: library code does not print"


def seeded_from(call: ast.Call) -> bool:
    """Whether a seed that somebody gave reaches a generator as it is."""
    constant = all(isinstance(node, ast.Constant) for node in call.args)
    return not constant and "check_seed(" not in ast.unparse(call)


# ---- tables of methods


def different_heads(table: Mapping[str, Callable[..., Any]], head: Sequence[str]) -> dict[str, list[str]]:
    """Entries whose parameters by place do not begin with `head`; all others of theirs have a default or a name."""
    out = {}
    for name, method in table.items():
        places = [
            p.name
            for p in inspect.signature(method).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if places[: len(head)] != list(head):
            out[name] = places
    return out


def different_returns(table: Mapping[str, Callable[..., Any]], base: type) -> dict[str, Any]:
    """Entries that are no subclass of `base` (classes), or do not say that they return one (functions)."""
    made = {n: m if inspect.isclass(m) else get_type_hints(m).get("return") for n, m in table.items()}
    return {n: m for n, m in made.items() if not (inspect.isclass(m) and issubclass(m, base))}


def out_of_step(entries: Iterable[str], rows: Iterable[str], waiting: Iterable[str]) -> dict[str, list[str]]:
    """Methods without a row of truth that do not wait, and those that wait but have their row or are gone."""
    entries, rows, waiting = set(entries), set(rows), set(waiting)
    return {
        "without a row of truth": sorted(entries - rows - waiting),
        "no longer waiting": sorted(waiting & rows | waiting - entries),
    }
