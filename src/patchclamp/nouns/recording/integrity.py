"""Whether a store is whole: chunks that are lost or cut short, checksums in the chunks, digests in the journal."""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import write_text
from patchclamp.base.memory import refuse_unpacking
from patchclamp.draw.cards import shown

OLD_JOURNAL = "journal.json"  # of stores without checksums: the number of samples alone
JOURNAL = "journal.jsonl"
CHECKSUM = Crc32cCodec()


def crc(data: bytes) -> str:
    """CRC-32 as eight hexadecimal digits."""
    return f"{zlib.crc32(data):08x}"


# ---- chunks on disk


@dataclass(frozen=True)
class Chunk:
    """One chunk of an array in a store.

    Parameters
    ----------
    array
        Path of the array in the store.
    key
        Its place in the grid of chunks; the first entry counts along the samples (or entries).
    file
        Where it lies.
    size
        Bytes that it must have; None where it is compressed.
    """

    array: str
    key: tuple[int, ...]
    file: Path
    size: int | None

    @property
    def fault(self) -> str:
        """What is wrong with the file, without reading it; empty if nothing is."""
        try:
            found = os.stat(self.file).st_size
        except FileNotFoundError:
            return "lost"
        return "" if self.size in (None, found) else f"{found} bytes instead of {self.size}"

    def tail(self) -> str:
        """The checksum that the file ends with, or what is there in its place."""
        with self.file.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4))
            return file.read().hex()


def has_checksums(array: Any) -> bool:
    """Whether the chunks of a Zarr array carry checksums."""
    return any(isinstance(codec, Crc32cCodec) for codec in array.metadata.codecs)


def chunks(array: Any, first: int = 0, stop: int | None = None) -> Iterator[Chunk]:
    """The chunks of a Zarr array that hold rows `first` up to `stop`."""
    rows = array.shape[0] if stop is None else min(stop, array.shape[0])
    if rows <= first or 0 in array.shape:
        return
    shape = array.metadata.chunk_grid.chunk_shape
    top = Path(str(array.store.root)) / array.path
    plain = all(isinstance(codec, (BytesCodec, Crc32cCodec)) for codec in array.metadata.codecs)
    size = int(np.prod(shape)) * array.dtype.itemsize + (4 if has_checksums(array) else 0)
    grid = [range(-(-n // step)) for n, step in zip(array.shape[1:], shape[1:], strict=True)]
    for row in range(first // shape[0], -(-rows // shape[0])):
        for rest in itertools.product(*grid):
            key = (row, *rest)
            yield Chunk(array.path, key, top / array.metadata.encode_chunk_key(key), size if plain else None)


def refuse_packed(array: Any) -> None:
    """Refuse chunks that unpack to far more than is stored; plain ones have the size of their file (`Chunk.fault`)."""
    size = int(np.prod(array.metadata.chunk_grid.chunk_shape)) * array.dtype.itemsize
    chunk = next(chunks(array, 0, 1), None)
    if chunk is not None and chunk.size is None and chunk.file.is_file():
        refuse_unpacking(f"{array.store.root}, a chunk of {array.path}", size, chunk.file.stat().st_size)


def faults(array: Any, stop: int | None = None) -> list[tuple[Chunk, str]]:
    """Chunks of an array that are lost or of the wrong size, with what is wrong."""
    return [(chunk, fault) for chunk in chunks(array, 0, stop) if (fault := chunk.fault)]


def guarded(array: Any, key: Any, orthogonal: bool = False) -> NDArray[Any]:
    """Read from a Zarr array.

    Raises
    ------
    PatchclampError
        Where a chunk does not agree with its checksum.
    """
    try:
        return np.asarray(array.oindex[key] if orthogonal else array[key])
    except ValueError as error:
        if "checksum" not in str(error):
            raise
        store = array.store.root
        raise PatchclampError(
            f"{store}: a chunk of {array.path} is damaged (its checksum does not match); `patchclamp check {store}` "
            "says which samples, select the others or record again into another folder"
        ) from error


def fault_inside(array: Any, chunk: Chunk) -> str:
    """What is wrong in a chunk, which is read for it."""
    step = array.metadata.chunk_grid.chunk_shape
    try:
        guarded(array, tuple(slice(k * n, (k + 1) * n) for k, n in zip(chunk.key, step, strict=True)))
    except PatchclampError:
        return "its checksum does not match"
    return ""


# ---- which samples are lost


@dataclass
class Scan:
    """What a look at the files of a store finds, without reading them.

    Parameters
    ----------
    faults
        Chunks that are lost or of the wrong size, with what is wrong.
    lost
        For each sample whether one of its chunks is among them.
    """

    lost: NDArray[np.bool_]
    faults: list[tuple[Chunk, str]] = field(default_factory=list)

    def note(self, found: Sequence[tuple[Chunk, str]], step: int) -> None:
        """Add faults of an array of which each chunk holds `step` samples."""
        self.faults.extend(found)
        for chunk, _ in found:
            self.lost[chunk.key[0] * step : (chunk.key[0] + 1) * step] = True

    @property
    def first(self) -> int:
        """The first sample that is lost; the number of samples if none is."""
        return int(self.lost.argmax()) if self.lost.any() else len(self.lost)


def scan(sources: Iterable[Any], rows: int, changed: Sequence[tuple[Chunk, str]] = ()) -> Scan:
    """Look at every chunk that the first `rows` samples of some sources need.

    Parameters
    ----------
    sources
        Zarr arrays with one row a sample, and sparse arrays (`indptr`, `unit`, `value`) that lie in a store.
    changed
        Further chunks that are not what they should be (`Journal.changed`).
    """
    found = Scan(np.zeros(rows, bool))
    more: dict[str, list[tuple[Chunk, str]]] = {}
    for chunk, fault in changed:
        more.setdefault(chunk.array, []).append((chunk, fault))
    for source in sources:
        if not isinstance(source, zarr.Array):
            _scan_sparse(source, rows, found, more)
        else:
            step = source.metadata.chunk_grid.chunk_shape[0]  # type: ignore[attr-defined]
            found.note([*faults(source, rows), *more.get(source.path, ())], step)
    return found


def _scan_sparse(
    source: Any, rows: int, found: Scan, more: Mapping[str, Sequence[tuple[Chunk, str]]]
) -> None:
    """Samples before whose end an entry of a lost chunk stands; a chunk of ends also ends the samples before it."""
    if not rows:
        return
    step = source.indptr.metadata.chunk_grid.chunk_shape[0]
    gone = [*faults(source.indptr, rows + 1), *more.get(source.indptr.path, ())]
    found.faults.extend(gone)
    for chunk, _ in gone:
        found.lost[max(0, chunk.key[0] * step - step) : (chunk.key[0] + 1) * step] = True
    whole = min([rows, *(max(0, chunk.key[0] * step - step) for chunk, _ in gone)])
    stop = int(guarded(source.indptr, slice(whole, whole + 1))[0])
    for array in (source.unit, source.value):
        each = array.metadata.chunk_grid.chunk_shape[0]
        bad = [*faults(array, stop), *more.get(array.path, ())]
        found.faults.extend(bad)
        ends = guarded(source.indptr, slice(0, whole + 1)).astype(np.int64) if bad else np.zeros(1, np.int64)
        for chunk, _ in bad:
            low, high = chunk.key[0] * each, (chunk.key[0] + 1) * each
            found.lost[:whole] |= (ends[1:] > low) & (ends[:-1] < high)


def refuse_lost(path: Path, found: Scan) -> None:
    """Refuse a store that has lost chunks, naming the first.

    Raises
    ------
    PatchclampError
        With how many chunks and samples, and the way out.
    """
    if not found.faults:
        return
    chunk, fault = found.faults[0]
    raise PatchclampError(
        f"{path}: {len(found.faults)} chunks are lost or cut short, first {chunk.file.relative_to(path)} ({fault}); "
        f"{int(found.lost.sum())} of {len(found.lost)} samples are gone: record again into another folder, or open "
        'the others with Recording.open(path, lost="drop")'
    )


# ---- the journal


class Journal:
    """How far an unfinished store is, and what its chunks end with: a line for each time something was written.

    A line is a checksum of itself, then JSON: ``rows`` (samples that are safe from here on) and ``chunks`` (array,
    place in its grid, checksum of the chunk). What a killed process left half-written at the end is dropped. Of a
    finished store it stays, for `check_store`.

    Parameters
    ----------
    path
        Folder of the store.

    Attributes
    ----------
    rows : int
        Samples that are safe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / JOURNAL
        old = path / OLD_JOURNAL
        self.old = old.is_file()
        self.lines: list[dict[str, Any]] = []
        if not self.old and self.file.is_file():
            self.lines = self._read()
        self.rows = _old_rows(old) if self.old else int(self.lines[-1]["rows"]) if self.lines else 0

    def _read(self) -> list[dict[str, Any]]:
        written = self.file.read_bytes()
        texts = written.split(b"\n")
        found: list[dict[str, Any]] = []
        for number, text in enumerate(texts[:-1], 1):
            mark, _, body = text.partition(b" ")
            line = _parsed(body) if mark == crc(body).encode() else None
            if line is None:
                raise PatchclampError(
                    f"{self.file}: line {number} is damaged (its checksum does not match, or it says no samples); delete the lines from "
                    f"there on, and the recording goes on from sample {found[-1]['rows'] if found else 0}"
                )
            found.append(line)
        return found

    @property
    def digests(self) -> dict[tuple[str, tuple[int, ...]], str]:
        """The last known checksum of each chunk."""
        return {
            (name, tuple(key)): tail
            for line in self.lines
            for name, entries in line["chunks"].items()
            for key, tail in entries
        }

    def cut(self, rows: int) -> None:
        """Forget what was written behind `rows` samples, and what was left half-written."""
        self.rows = min(rows, self.rows)
        if self.old:
            write_text(self.path / OLD_JOURNAL, json.dumps({"rows": self.rows}), sync=False)
            return
        self.lines = [line for line in self.lines if line["rows"] <= rows]
        text = "".join(map(_line, self.lines))
        if self.file.is_file() and self.file.read_bytes() != text.encode():
            write_text(self.file, text, sync=False)

    def add(self, rows: int, written: Sequence[Chunk], checksums: bool) -> None:
        """Say that `rows` samples are safe, after these chunks were written."""
        # Not synced: the chunks before it are not, and the journal must not outlive them in a power cut.
        self.rows = rows
        if not checksums:
            self.old = True
            write_text(self.path / OLD_JOURNAL, json.dumps({"rows": rows}), sync=False)
            return
        entries: dict[str, list[Any]] = {}
        for chunk in written:
            if chunk.file.is_file():
                entries.setdefault(chunk.array, []).append([list(chunk.key), chunk.tail()])
        with self.file.open("a", encoding="utf-8") as file:
            file.write(_line({"rows": rows, "chunks": entries}))

    def end(self) -> None:
        """The store is finished: digests stay, a number of samples does not."""
        (self.path / OLD_JOURNAL).unlink(missing_ok=True)

    def changed(self, arrays: Mapping[str, Any], complete: bool) -> list[tuple[Chunk, str]]:
        """Chunks whose file does not end with the checksum that the journal has of it.

        The last chunk of an array to which entries are appended may be ahead of the journal until it is complete; it
        is read, since the next entries go into it.
        """
        digests = self.digests
        last = {name: max(key for n, key in digests if n == name) for name in {n for n, _ in digests}}
        found = []
        for (name, key), tail in digests.items():
            array = arrays.get(name)
            chunk = (
                None
                if array is None
                else next((c for c in chunks(array, *_span(array, key)) if c.key == key), None)
            )
            if not chunk or chunk.fault:
                continue
            grows = not complete and "/" in name and key == last[name]
            fault = "not the chunk that was written" if not grows and chunk.tail() != tail else ""
            fault = fault_inside(array, chunk) if grows else fault
            if fault:
                found.append((chunk, fault))
        return found


def _parsed(body: bytes) -> dict[str, Any] | None:
    """A line of the journal, None if it is not what `Journal.add` writes."""
    try:
        line = json.loads(body)
        rows, chunks = line["rows"], line["chunks"]
        good = is_count(rows) and all(
            all(map(is_count, key)) and key and isinstance(tail, str)
            for entries in chunks.values()
            for key, tail in entries
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return line if good else None


def is_count(value: Any) -> bool:
    """Whether a value of JSON is a whole number from 0 on that an array can have."""
    return type(value) is int and 0 <= value < 1 << 63


def _line(line: Mapping[str, Any]) -> str:
    body = json.dumps(line, separators=(",", ":"))
    return f"{crc(body.encode())} {body}\n"


def _span(array: Any, key: tuple[int, ...]) -> tuple[int, int]:
    step = array.metadata.chunk_grid.chunk_shape[0]
    return key[0] * step, (key[0] + 1) * step


def _old_rows(file: Path) -> int:
    try:
        rows = json.loads(file.read_text())["rows"]
        if not is_count(rows):
            raise ValueError(rows)
        return int(rows)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise PatchclampError(
            f"{file}: damaged, it does not say how many samples are safe; delete it, and the recording begins anew"
        ) from error


# ---- a thorough look


@shown
@dataclass(frozen=True)
class StoreCheck:
    """What `check_store` found.

    Parameters
    ----------
    path
        Folder of the store.
    samples, complete
        Samples in it, and whether that is all of them.
    chunks, bytes
        Chunks that were looked at, and their size.
    checksums
        Whether they carry checksums; without, only loss is noticed.
    faults
        File, and what is wrong with it.
    """

    path: str
    samples: int
    complete: bool
    chunks: int
    bytes: int
    checksums: bool
    faults: tuple[tuple[str, str], ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        sums = "checksums agree" if self.checksums else "no checksums: only lost chunks are noticed"
        sums = "damaged" if self.faults else sums
        head = f"{self.path}: {self.samples:,} samples{'' if self.complete else ' so far, unfinished'}, "
        head += f"{self.chunks:,} chunks, {self.bytes / 1e6:,.1f} MB; {sums}"
        return "\n".join([head, *(f"- {file}: {fault}" for file, fault in self.faults)])


def check_arrays(
    path: Path, arrays: Mapping[str, Any], needed: Mapping[str, int | None], complete: bool
) -> StoreCheck:
    """Read every chunk of some arrays of a store and hold it against its checksum and the journal.

    Parameters
    ----------
    arrays
        By their path in the store.
    needed
        For each how many rows must be there; None: all. Chunks of arrays that are not named may be missing.
    complete
        Whether nothing will be written any more.
    """
    journal = Journal(path)
    found: list[tuple[Chunk, str]] = []
    count = size = 0
    for name, array in arrays.items():
        for chunk in chunks(array, 0, needed.get(name)):
            fault = chunk.fault
            if fault == "lost" and name not in needed:
                continue
            count += 1
            if not fault:
                size += chunk.file.stat().st_size
                fault = fault_inside(array, chunk)
            if fault:
                found.append((chunk, fault))
    bad = {chunk.file for chunk, _ in found}
    found += [(chunk, fault) for chunk, fault in journal.changed(arrays, complete) if chunk.file not in bad]
    listed = tuple((str(chunk.file.relative_to(path)), fault) for chunk, fault in found)
    every = all(has_checksums(arrays[name]) for name in needed)
    return StoreCheck(str(path), journal.rows, complete, count, size, every, listed)
