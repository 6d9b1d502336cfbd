"""Objects as plain data and arrays, and back: what a long run keeps of its results, without pickle.

Numbers, texts, lists, tuples, mappings, sets, arrays, tensors, tables and the package's own data classes; nothing else,
so that reading a file builds data and runs nothing.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError


class FreezeError(TypeError):
    """An object that cannot be kept, such as a function or a model."""


_RUNS = {"l": list, "t": tuple, "s": set, "z": frozenset}


class Freezer:
    """Turns objects into JSON and tensors.

    Parameters
    ----------
    known
        Objects that are not written but named: they are there again when the rest is read.

    Examples
    --------
    >>> freezer = Freezer({})
    >>> node = freezer.freeze({"a": (1, float("inf")), 2: np.arange(3)})
    >>> node
    ['m', 'a', ['t', 1, ['f', 'inf']], 2, ['a', '0']]
    >>> thaw(node, freezer.tensors, freezer.classes, {})
    {'a': (1, inf), 2: array([0, 1, 2])}
    """

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.classes: list[str] = []
        self._known = {id(value): name for name, value in known.items()}
        # The first kind that fits writes a value.
        self._kinds: tuple[tuple[type, Callable[[Any], list[Any]]], ...] = (
            (Tensor, lambda value: ["T", self._tensor(value)]),
            (np.ndarray, self._array),
            (np.generic, lambda value: ["g", *self._array(np.asarray(value)[None])]),
            (pd.DataFrame, self._frame),
            (Path, lambda value: ["P", str(value)]),
            (Mapping, lambda value: ["m", *(self.freeze(part) for pair in value.items() for part in pair)]),
        )

    def freeze(self, value: Any) -> Any:
        """The object as JSON; its arrays are in `tensors`, its classes in `classes`.

        Raises
        ------
        FreezeError
            For an object of another kind.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else ["f", repr(value)]
        if id(value) in self._known:
            return ["c", self._known[id(value)]]
        return self._composed(value)

    def _composed(self, value: Any) -> list[Any]:
        for tag, kind in _RUNS.items():
            if type(value) is kind:
                return [tag, *(self.freeze(entry) for entry in value)]
        if is_dataclass(value) and not isinstance(value, type):
            parts = (self.freeze(getattr(value, field.name)) for field in fields(value))
            return ["d", self._class(type(value)), *parts]
        write = next((write for kind, write in self._kinds if isinstance(value, kind)), None)
        if write is None:
            raise FreezeError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be kept")
        return write(value)

    def _array(self, value: np.ndarray) -> list[Any]:
        if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            return ["a", self._tensor(torch.from_numpy(np.array(value, order="C")))]
        if value.dtype.kind in "OUT":
            return [
                "o",
                str(value.dtype),
                list(value.shape),
                *(self.freeze(entry) for entry in value.ravel().tolist()),
            ]
        raise FreezeError(f"an array of {value.dtype} cannot be kept")

    def _frame(self, value: pd.DataFrame) -> list[Any]:
        columns = [self.freeze(value.iloc[:, i].to_numpy()) for i in range(value.shape[1])]
        plain = isinstance(value.index, pd.RangeIndex) and value.index.equals(pd.RangeIndex(len(value)))
        index = None if plain else self.freeze(value.index.to_numpy())
        return ["p", self.freeze(list(value.columns)), [str(kind) for kind in value.dtypes], columns, index]

    def _tensor(self, value: Tensor) -> str:
        name = str(len(self.tensors))
        self.tensors[name] = value
        return name

    def _class(self, kind: type) -> int:
        name = f"{kind.__module__}:{kind.__qualname__}"
        if _own(name) is not kind:
            raise FreezeError(f"a {name} cannot be kept")
        if name not in self.classes:
            self.classes.append(name)
        return self.classes.index(name)


def thaw(node: Any, tensors: Mapping[str, Tensor], classes: list[str], known: Mapping[str, Any]) -> Any:
    """Undo `Freezer.freeze`.

    Raises
    ------
    PatchclampError
        For data of a class that is none of the package's, and for what `freeze` did not write.
    """
    try:
        return _thawed(node, tensors, classes, known)
    except PatchclampError:
        raise
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ImportError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        raise PatchclampError(
            f"damaged: {type(error).__name__}, {str(error)[:100] or 'nothing more is known'}"
        ) from error


def _thawed(node: Any, tensors: Mapping[str, Tensor], classes: list[str], known: Mapping[str, Any]) -> Any:
    if not isinstance(node, list):
        return node
    tag, rest = node[0], node[1:]

    def inner(part: Any) -> Any:
        return _thawed(part, tensors, classes, known)

    if tag in _RUNS:
        return _RUNS[tag](inner(part) for part in rest)
    if tag == "m":
        parts = [inner(part) for part in rest]
        return dict(zip(parts[::2], parts[1::2], strict=True))
    make: Callable[[], Any] = {
        "f": lambda: float(rest[0]),
        "c": lambda: known[rest[0]],
        "T": lambda: tensors[rest[0]],
        "a": lambda: np.asarray(tensors[rest[0]]),
        "g": lambda: inner(rest)[0],
        "o": lambda: _objects(rest[0], rest[1], [inner(part) for part in rest[2:]]),
        "p": lambda: _framed(inner(rest[0]), rest[1], [inner(c) for c in rest[2]], inner(rest[3])),
        "P": lambda: Path(rest[0]),
        "d": lambda: _made(classes[rest[0]], [inner(part) for part in rest[1:]]),
    }[tag]
    return make()


def _objects(dtype: str, shape: list[int], values: list[Any]) -> np.ndarray:
    flat = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):  # at once, NumPy would unpack lists
        flat[place] = value
    return flat.reshape(shape).astype(dtype)


def _framed(names: list[Any], kinds: list[str], columns: list[Any], index: Any) -> pd.DataFrame:
    parts = [pd.Series(c, index=index).astype(kind) for c, kind in zip(columns, kinds, strict=True)]
    frame = pd.concat(parts, axis=1) if parts else pd.DataFrame(index=index)
    frame.columns = pd.Index(names)
    return frame


def _made(name: str, values: list[Any]) -> Any:
    kind = _own(name)
    if kind is None:
        raise PatchclampError(f"{name}: no data class of patchclamp, so it is not made; begin anew")
    made = object.__new__(kind)
    for field, value in zip(fields(kind), values, strict=True):
        object.__setattr__(made, field.name, value)
    return made


def _own(name: str) -> Any:
    """The package's data class of this name, or None."""
    module, _, inner = name.partition(":")
    if module.split(".")[0] != "patchclamp" or not inner.isidentifier():
        return None
    found = getattr(importlib.import_module(module), inner, None)
    return found if isinstance(found, type) and is_dataclass(found) else None
