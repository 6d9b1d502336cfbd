"""Sizes that a ``.mat`` of version 4 or 5 claims, element by element, before scipy allocates for any of them.

A file of version 5 is a row of elements, each a tag (type, bytes) and its content, packed with zlib or not; a cell or a
struct holds elements of its own. scipy believes the tags: it allocates what one says, and a little of zlib can say
gigabytes. Here the tags alone are read, what is packed is unpacked in steps, and an element may not be larger than what
it lies in.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import IO, Protocol

from patchclamp.base.errors import PatchclampError
from patchclamp.base.memory import refuse_unpacking
from patchclamp.record.files.base import unreadable

MOST_CELLS = 100_000  # or one a byte of the file, whatever is more
DEEPEST = 100
_STEP = 1 << 18
_MATRIX, _PACKED = 14, 15
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _FUNCTION, _OPAQUE = 1, 2, 3, 4, 5, 16, 17
_WIDTHS = (8, 4, 4, 2, 2, 1)  # bytes a number, by the tens of a version-4 type


def refuse_sizes(path: Path, kind: str = "a MATLAB file") -> None:
    """Refuse a file whose elements claim more than the file, memory, or what they lie in can hold.

    Parameters
    ----------
    path, kind
        The file, and what it is meant to be.

    Raises
    ------
    PatchclampError
        Naming the variable and both sizes; of a damaged file that it is not readable.
    """
    with path.open("rb") as file:
        head = file.read(128)
        stored = path.stat().st_size
        if 0 in head[:4]:
            _version_4(file, path, stored, kind)
        elif len(head) == 128:
            if head[126:128] not in (b"IM", b"MI"):  # scipy takes any other mark for big-endian
                wrong = ValueError(f"its mark of byte order is {head[126:128]!r}, neither IM nor MI")
                raise unreadable(path, kind, wrong)
            _Version5(file, path, stored, kind, "<" if head[126:128] == b"IM" else ">").walk()


def _version_4(file: IO[bytes], path: Path, stored: int, named: str) -> None:
    """Heads of 20 bytes, each before its name and its numbers."""
    at = 0
    while stored - at >= 20:
        file.seek(at)
        head = file.read(20)
        order = "<" if 0 <= struct.unpack("<i", head[:4])[0] <= 5000 else ">"
        kind, rows, columns, imaginary, name = struct.unpack(f"{order}5i", head)
        width = _WIDTHS[kind // 10 % 10] if 0 <= kind // 10 % 10 < len(_WIDTHS) else 8
        size = rows * columns * width * (2 if imaginary else 1)
        if min(rows, columns, name) < 0 or at + 20 + name + size > stored:
            raise _beyond(
                path, named, f"{rows} x {columns} numbers at byte {at}", size + name, stored - at - 20
            )
        at += 20 + name + size


class _Stream(Protocol):
    """Bytes from front to end; `at` counts those that were passed."""

    at: int

    def take(self, n: int) -> bytes: ...

    def skip(self, n: int) -> None: ...


class _Plain:
    """Bytes of a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.at = file, file.tell()

    def take(self, n: int) -> bytes:
        self.at += n
        return self.file.read(n)

    def skip(self, n: int) -> None:
        self.at += n
        self.file.seek(self.at)


class _Unpacked:
    """What the next `left` bytes of a file unpack to, never more than a step of it at a time."""

    def __init__(self, file: IO[bytes], left: int) -> None:
        self.file, self.left, self.at = file, left, 0
        self.zlib, self.ready, self.begun = zlib.decompressobj(), b"", 0

    def take(self, n: int) -> bytes:
        parts: list[bytes] = []
        wanted = n
        while wanted:
            if self.begun == len(self.ready) and not self._more():
                break
            part = self.ready[self.begun : self.begun + wanted]
            parts.append(part)
            self.begun, wanted = self.begun + len(part), wanted - len(part)
        self.at += n - wanted
        return b"".join(parts)

    def skip(self, n: int) -> None:
        while n:
            passed = len(self.take(min(n, _STEP)))
            if not passed:
                return
            n -= passed

    def _more(self) -> bool:
        """Unpack another step; False at the end."""
        while not self.zlib.eof:
            tail = self.zlib.unconsumed_tail
            if not tail:
                tail = self.file.read(min(self.left, 1 << 14))
                self.left -= len(tail)
            self.ready, self.begun = self.zlib.decompress(tail, _STEP), 0
            if self.ready:
                return True
            if not tail:
                return False
        return False


class _Version5:
    """One walk over the tags, as scipy will take them."""

    def __init__(self, file: IO[bytes], path: Path, stored: int, named: str, order: str) -> None:
        self.file, self.path, self.stored, self.named, self.order = file, path, stored, named, order
        self.held, self.cells = 0, 0

    def walk(self) -> None:
        at, number = 128, 0
        while self.stored - at >= 8:
            self.file.seek(at)
            number += 1
            stream: _Stream = _Plain(self.file)
            where = f"variable {number}"
            kind, size = self._full_tag(stream)
            at += 8 + size
            if at > self.stored:
                raise _beyond(self.path, self.named, where, size, self.stored - at + size)
            try:
                if kind == _PACKED:
                    stream = _Unpacked(self.file, size)
                    kind, size = self._full_tag(stream)
                if kind != _MATRIX:
                    raise self._damaged(f"{where} is an element of type {kind}")
                self._count(size, where)
                self._matrix(stream, stream.at + size, where, 0)
            except (zlib.error, UnicodeDecodeError) as error:
                raise unreadable(self.path, self.named, error) from error

    def _count(self, size: int, where: str) -> None:
        self.held += size
        refuse_unpacking(f"{self.path}, {where}", self.held, self.stored)

    def _matrix(self, stream: _Stream, end: int, where: str, depth: int) -> None:
        """An array, from behind its tag."""
        if stream.at == end:
            return
        if depth > DEEPEST:
            raise PatchclampError(
                f"{self.path}: {where}: cells in cells, more than {DEEPEST} deep; take it out"
            )
        head = stream.take(16)
        if len(head) < 16:
            raise self._damaged(f"{where} ends early")
        kind = struct.unpack(f"{self.order}I", head[8:12])[0] & 0xFF
        if kind == _OPAQUE:
            for _ in range(3):
                self._skip(stream, end, where)
            self._inner(stream, end, where, depth)
            return
        dims = self._content(stream, end, where, 32 * 4)
        shape = struct.unpack(f"{self.order}{len(dims) // 4}i", dims[: len(dims) // 4 * 4])
        name = self._content(stream, end, where, 1 << 16)
        if depth == 0 and name:
            where = f"variable {name[:60].decode('latin-1')}"
        if any(n < 0 for n in shape):
            raise self._damaged(f"{where} is {' x '.join(map(str, shape))}")
        n = math.prod(shape)
        if kind == _CELL:
            self._inners(stream, end, where, n, depth)
        elif kind in (_STRUCT, _OBJECT):
            self._struct(stream, end, where, n, depth, named=kind == _OBJECT)
        elif kind == _FUNCTION:
            self._inner(stream, end, where, depth)
        else:
            if kind == _CHAR:
                self._count(4 * n, where)  # where no letter is stored, scipy writes blanks
            for _ in range(3 if kind == _SPARSE else 1):
                self._skip(stream, end, where)
            if head[9 if self.order == "<" else 10] & 8:  # the imaginary part
                self._skip(stream, end, where)

    def _struct(self, stream: _Stream, end: int, where: str, n: int, depth: int, named: bool) -> None:
        """The fields of `n` structs, from behind their name; an object has the name of its class before them."""
        if named:
            self._skip(stream, end, where)
        width = self._content(stream, end, where, 4)
        names = self._content(stream, end, where, 1 << 22)
        length = struct.unpack(f"{self.order}i", width)[0] if len(width) == 4 else 0
        if length < 1 and names:
            raise self._damaged(f"{where} has names of {length} letters")
        if n > max(MOST_CELLS, self.stored):
            raise _too_many(self.path, where, n)
        self._inners(stream, end, where, n * (len(names) // length if names else 0), depth)

    def _inners(self, stream: _Stream, end: int, where: str, n: int, depth: int) -> None:
        """The elements of a cell or a struct."""
        self.cells += n
        if self.cells > max(MOST_CELLS, self.stored):
            raise _too_many(self.path, where, n)
        if 8 * n > end - stream.at:
            raise _beyond(self.path, self.named, f"{where}, {n:,} cells", 8 * n, end - stream.at)
        for number in range(n):
            self._inner(stream, end, f"{where}{{{number + 1}}}" if depth < 4 else where, depth)

    def _inner(self, stream: _Stream, end: int, where: str, depth: int) -> None:
        kind, size = self._full_tag(stream)
        if kind != _MATRIX:
            raise self._damaged(f"{where} holds an element of type {kind}")
        if stream.at + size > end:
            raise _beyond(self.path, self.named, where, size, end - stream.at)
        self._matrix(stream, stream.at + size, where, depth + 1)

    def _full_tag(self, stream: _Stream) -> tuple[int, int]:
        tag = stream.take(8)
        if len(tag) < 8:
            raise self._damaged(f"it ends in a tag, at byte {stream.at}")
        kind, size = struct.unpack(f"{self.order}2I", tag)
        return int(kind), int(size)

    def _tag(self, stream: _Stream, end: int, where: str) -> tuple[int, bytes | None]:
        """Bytes of the element that begins here, and what it holds where that lies in the tag itself."""
        tag = stream.take(8)
        if len(tag) < 8:
            raise self._damaged(f"{where} ends in a tag, at byte {stream.at}")
        kind, size = struct.unpack(f"{self.order}2I", tag)
        if kind >> 16:
            return kind >> 16, tag[4 : 4 + (kind >> 16)]
        if stream.at + size > end:
            raise _beyond(self.path, self.named, where, size, end - stream.at)
        return int(size), None

    def _skip(self, stream: _Stream, end: int, where: str) -> None:
        size, within = self._tag(stream, end, where)
        if within is None:
            stream.skip(size + -size % 8)

    def _content(self, stream: _Stream, end: int, where: str, most: int) -> bytes:
        size, within = self._tag(stream, end, where)
        if within is not None:
            return within
        if size > most:
            raise self._damaged(f"{where}: {size:,} bytes of names or sizes")
        return stream.take(size + -size % 8)[:size]

    def _damaged(self, why: str) -> PatchclampError:
        return unreadable(self.path, self.named, ValueError(why))


def _beyond(path: Path, named: str, where: str, size: int, left: int) -> PatchclampError:
    why = f"{where} says that it has {size:,} bytes, and {max(left, 0):,} are left"
    return unreadable(path, named, ValueError(why))


def _too_many(path: Path, where: str, n: int) -> PatchclampError:
    return PatchclampError(
        f"{path}: {where}: {n:,} cells, more than {MOST_CELLS:,} and than the file has bytes; save what is meant as plain "
        "variables"
    )
