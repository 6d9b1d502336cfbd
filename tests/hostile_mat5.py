"""Hostile ``.mat`` and ``.set`` files of version 5 and 4: a little of zlib, or a tag, that claims gigabytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

Arguments = tuple[str, tuple[str, ...]]
HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
CELL, STRUCT, CHAR, SPARSE, DOUBLE, OPAQUE = 1, 2, 4, 5, 6, 17


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    """A tag and its content, with the size that it has or another."""
    return struct.pack("<2I", kind, len(data) if size is None else size) + data + bytes(-len(data) % 8)


def array(cls: int, shape: tuple[int, ...], body: bytes, name: bytes = b"activity", flags: int = 0) -> bytes:
    """An array: flags, sizes and name, then its content."""
    head = element(6, struct.pack("<2I", cls | flags << 8, 0)) + element(
        5, struct.pack(f"<{len(shape)}i", *shape)
    )
    return element(14, head + element(1, name) + body)


def packed(data: bytes) -> bytes:
    return struct.pack("<2I", 15, len(part := zlib.compress(data, 9))) + part


def nested(depth: int) -> bytes:
    """Cells in cells: all but the outermost have no name."""
    inner = array(DOUBLE, (1, 1), element(9, bytes(8)), b"")
    for level in range(depth):
        inner = array(CELL, (1, 1), inner, b"activity" if level == depth - 1 else b"")
    return inner


def files() -> dict[str, bytes]:
    """Name -> content; none of them holds a recording."""
    numbers, names = (
        element(9, bytes(64)),
        element(5, struct.pack("<i", 8)) + element(1, b"a".ljust(8, b"\0")),
    )
    empty = element(14, b"")
    made = {
        "tag huge": array(DOUBLE, (8, 1), element(9, bytes(64), 0xFFFFFF00)),
        "packed tag huge": packed(array(DOUBLE, (8, 1), element(9, bytes(64), 0xFFFFFF00))),
        "outer tag huge": packed(struct.pack("<2I", 14, 0xFFFFFF00) + array(DOUBLE, (8, 1), numbers)[8:]),
        "80 terabytes": array(DOUBLE, (10**7, 10**6), numbers),
        "cells": array(CELL, (10**6, 10**6), empty),
        "packed cells": packed(array(CELL, (3 * 10**6, 1), empty * (3 * 10**6))),
        "blanks": array(CHAR, (10**5, 10**5), element(16, b"")),
        "structs": array(STRUCT, (10**6, 10**6), names + empty),
        "structs without fields": array(
            STRUCT, (10**6, 10**6), element(5, struct.pack("<i", 8)) + element(1, b"")
        ),
        "many structs": packed(array(STRUCT, (2 * 10**6, 1), names + empty * (2 * 10**6))),
        "deep": packed(nested(30_000)),
        "sparse": array(
            SPARSE, (10**9, 10**9), element(5, bytes(8)) + element(5, bytes(8)) + element(9, bytes(16))
        ),
        "negative": array(DOUBLE, (-8, 1), numbers),
        "dims many": array(DOUBLE, (1,) * 4000, numbers),
        "cut": packed(array(DOUBLE, (80, 100), element(9, bytes(64000))))[:60],
        "tags end": packed(array(CELL, (50, 1), empty * 3)),
        "no array": element(9, bytes(64)),
        "names of no letters": array(STRUCT, (1, 1), element(5, struct.pack("<i", 0)) + element(1, b"abc")),
        "half a tag": array(DOUBLE, (8, 1), b"\x09\x00\x00"),
    }  # fmt: skip
    found = {f"{name}.mat": HEAD + data for name, data in made.items()}
    claim = struct.pack("<5i", 0, 10**9, 10**3, 0, 9) + b"activity\0" + bytes(64)
    found["version 4 huge.mat"] = claim
    found["version 4 name.mat"] = struct.pack("<5i", 0, 2, 4, 0, 2 * 10**9) + bytes(64)
    letters = element(
        14, element(6, struct.pack("<2I", CHAR, 0)) + element(5, struct.pack("<2i", 1, 2**31 - 1))
    )
    found["order of its own.mat"] = HEAD[:126] + b"XX" + letters
    found |= {
        f"{name}.set": HEAD + made[name] for name in ("outer tag huge", "cells", "blanks", "deep", "tag huge")
    }
    return found


def mat5_cases(folder: Path) -> Iterator[Arguments]:
    for name, data in files().items():
        path = folder / name
        path.write_bytes(data)
        yield name, ("open", str(path))
        yield name, ("measure", str(path))


MAKERS = [mat5_cases]
