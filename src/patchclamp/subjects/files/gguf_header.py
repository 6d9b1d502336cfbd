"""The head of a GGUF file, held against the size of the file before a reader believes it.

A header says how many metadata entries and tensors follow, how long each text and array is, and where each tensor lies.
The gguf package takes such numbers as they are: a file of 100 bytes that declares 2**60 entries keeps it busy for hours,
and past the end of the file it reads empty arrays. Here everything that is declared must have room in the file. What is
walked over is only the head, each byte of it once.

Layout (versions 2 and 3, little-endian, or big-endian where the version reads so): magic, version, number of tensors,
number of entries; an entry is a text (its length, its bytes), a type and a value; a tensor is a name, its sizes, a type and
an offset into what follows the head.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any

from patchclamp.base.errors import PatchclampError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_TEXT, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value -> its bytes; texts and arrays aside."""
_DEEPEST = 4  # arrays within arrays; files of models have none
_MOST_AXES = 8
_SMALLEST = {"entry": 13, "tensor": 24}  # bytes that the shortest takes


def check_head(path: str | Path) -> None:
    """Refuse a GGUF file whose head declares more than the file has.

    Raises
    ------
    PatchclampError
        For a file that is not there, is not GGUF, or is cut short, with what it declares.
    """
    path = Path(path)
    if not path.is_file():
        raise PatchclampError(f"{path}: there is no such file")
    if path.stat().st_size < 24:
        raise PatchclampError(f"{path}: not a readable GGUF file: it has {path.stat().st_size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Head(path, data).walk()


class _Head:
    """A place in the head that moves on, and refuses to move past the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at = path, data, len(data), 4
        self.order = "<"

    def walk(self) -> None:
        """All of the head, and where each tensor ends."""
        if self.data[:4] != _MAGIC:
            raise self.error("its first bytes are those of something else")
        if self.data[4:6] == b"\0\0":
            self.order = ">"
        version = self.number("I")
        if version not in _VERSIONS:
            raise self.error(f"it is of version {version}; 2 and 3 are read")
        tensors, entries = self.number("Q"), self.number("Q")
        self.room("metadata entries", entries, _SMALLEST["entry"])
        names: set[str] = set()
        for _ in range(entries):
            names.add(self.name("the name of a metadata entry"))
            self.value(self.number("I"))
        self.room("tensors", tensors, _SMALLEST["tensor"])
        found: set[str] = set()
        for _ in range(tensors):
            found.add(self.tensor())
        if len(names) < entries or len(found) < tensors:
            raise self.error("two of its entries or tensors have the same name")

    def number(self, kind: str) -> int:
        """One unsigned number."""
        size = struct.calcsize(f"<{kind}")
        self.need(size, "a number")
        value: int = struct.unpack_from(self.order + kind, self.data, self.at)[0]
        self.at += size
        return value

    def text(self, what: str) -> bytes:
        """The bytes of a text."""
        length = self.number("Q")
        self.need(length, f"{what} of {length:,} bytes")
        self.at += length
        return self.data[self.at - length : self.at]

    def name(self, what: str) -> str:
        """A text that names something."""
        try:
            return self.text(what).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is no text ({error})") from error

    def value(self, kind: int, depth: int = 0) -> None:
        """Step over a value."""
        if kind in _SIZES:
            self.need(_SIZES[kind], "a value")
            self.at += _SIZES[kind]
        elif kind == _TEXT:
            self.text("a text")
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, length = self.number("I"), self.number("Q")
            self.room("values of an array", length, _SIZES.get(inner, 8))
            if inner in _SIZES:
                self.at += length * _SIZES[inner]
                return
            for _ in range(length):
                self.value(inner, depth + 1)
        else:
            raise self.error(
                f"a value of type {kind}, which is none of GGUF" if kind != _ARRAY else "arrays nested deep"
            )

    def tensor(self) -> str:
        """Step over what is said of a tensor, which must have room in the file; its name."""
        name = self.name("the name of a tensor")
        axes = self.number("I")
        if axes > _MOST_AXES:
            raise self.error(f"tensor {name!r} has {axes:,} axes")
        shape = [self.number("Q") for _ in range(axes)]
        kind, offset = self.number("I"), self.number("Q")
        size = _bytes(kind, math.prod(shape))
        if size is None:
            raise self.error(f"tensor {name!r} is of type {kind}, which the gguf package does not know")
        if offset + size > self.size:
            raise self.error(
                f"tensor {name!r} of shape {tuple(shape)} takes {size:,} bytes from {offset:,} on"
            )
        return name

    def room(self, what: str, count: int, each: int) -> None:
        """Refuse a number of things that cannot all be in the rest of the file."""
        if count > (self.size - self.at) // each:
            raise self.error(f"it declares {count:,} {what}")

    def need(self, size: int, what: str) -> None:
        """Refuse to go past the end."""
        if size > self.size - self.at:
            raise self.error(f"its head is cut short within {what}")

    def error(self, what: str) -> PatchclampError:
        """The refusal, with the size of the file."""
        return PatchclampError(
            f"{self.path}: not a readable GGUF file: {what}, and the file has {self.size:,} bytes; fetch it again"
        )


def _bytes(kind: int, elements: int) -> int | None:
    """Bytes of a tensor of a quantisation; None for a type that is not known."""
    from gguf import GGMLQuantizationType
    from gguf.constants import GGML_QUANT_SIZES

    known: dict[Any, tuple[int, int]] = GGML_QUANT_SIZES
    try:
        block, size = known[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        return None
    return elements * size // block
