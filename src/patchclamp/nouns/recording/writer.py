"""Filling a store chunk by chunk, so that it can be killed at any moment and resumed."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
import zarr
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording import store as _store
from patchclamp.nouns.recording.integrity import Chunk, Journal, chunks, guarded, has_checksums, scan
from patchclamp.nouns.recording.lazy import from_disk, storage_dtype, to_disk
from patchclamp.nouns.recording.samples import COLUMNS, Samples
from patchclamp.nouns.recording.sparse import SparseArray, SparseCodes
from patchclamp.nouns.recording.store import Layout
from patchclamp.nouns.units import Site

try:
    import fcntl
except ImportError:  # Windows: no lock, the rest works
    fcntl = None  # type: ignore[assignment]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LOCK = "lock"


class StoreWriter:
    """Appends samples to a store; only whole chunks are written, each in one step, then the journal.

    Parameters
    ----------
    path
        Folder of the store; created, or resumed if it holds an unfinished one of the same manifest.
    manifest
        Where the activity comes from; a store with another one is refused.
    layout
        Sites, number of samples, dtype and chunks.
    labels
        Labels of each site's units.

    Attributes
    ----------
    rows : int
        Samples safely on disk; after a crash, go on from here.
    complete : bool
        Whether the store was finished before.
    """

    def __init__(
        self,
        path: str | Path,
        manifest: Mapping[str, Any],
        layout: Layout,
        labels: Mapping[Site, Mapping[str, Any]] | None = None,
    ) -> None:
        self.path, self.layout = Path(path), layout
        self.rows, self.complete = 0, False
        self._lock: IO[str] | None = None
        if not self.path.exists():
            with _disk(self):
                self._create(manifest, labels)
        stored = _store.read_attributes(self.path)
        _store.refuse_mismatch(self.path, stored, layout, manifest)
        if not stored["complete"]:
            self._lock = _lock(self.path)
            # Whoever had the lock before may have finished the store since it was looked at.
            stored = _store.read_attributes(self.path)
        self.complete = bool(stored["complete"])
        with ExitStack() as undo:
            undo.callback(self.close)
            self._open()
            undo.pop_all()

    def _create(self, manifest: Mapping[str, Any], labels: Mapping[Site, Mapping[str, Any]] | None) -> None:
        try:
            _store.create(self.path, manifest, self.layout, labels)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # else another process made it meanwhile, which is as good

    def _open(self) -> None:
        """Open the arrays, and go back to the last sample before which every chunk is there."""
        layout, path = self.layout, self.path
        if self.complete:
            self._end_lock()
        else:
            _store.clean(path)
        with (
            _store.reading(path),
            # Else each chunk is compared with its filler.
            zarr.config.set({"array.write_empty_chunks": True}),
        ):
            group: Any = zarr.open_group(str(path), mode="r+", zarr_format=3, use_consolidated=False)
            sources, columns = _store.open_sources(path, layout, group, further=False)
        self._columns = {name: columns[name] for name in COLUMNS}
        self._arrays = {site: source for site, source in sources.items() if site not in layout.sparse}
        self._codes: dict[Site, SparseArray] = {site: sources[site] for site in layout.sparse}
        self._checksums = has_checksums(self._columns[COLUMNS[0]])
        if self.complete:
            self.rows = layout.n_samples
        else:
            self._journal = Journal(path)
            self.rows = self._safe()
            self._journal.cut(self.rows)
        self._dtype = storage_dtype(layout.dtype)
        self._fill = 0
        self._buffers: dict[Site, Tensor] = {}
        self._parts: dict[Site, list[SparseCodes]] = {site: [] for site in layout.sparse}
        self._labels: dict[str, Tensor] = {}

    def _safe(self) -> int:
        """Samples before which nothing is lost or changed, in whole chunks; what is wrong behind them is removed."""
        rows = self._journal.rows
        if not 0 <= rows <= self.layout.n_samples:
            raise PatchclampError(
                f"{self.path}: its journal says {rows} samples of {self.layout.n_samples}; it is damaged, record again "
                "into another folder"
            )
        sources = [*self._columns.values(), *self._arrays.values(), *self._codes.values()]
        plain = [*self._columns.values(), *self._arrays.values()]
        plain += [a for codes in self._codes.values() for a in (codes.indptr, codes.unit, codes.value)]
        changed = self._journal.changed({array.path: array for array in plain}, complete=False)
        found = scan(sources, rows, changed)
        if not found.faults:
            return rows
        for chunk, _ in found.faults:
            chunk.file.unlink(missing_ok=True)
        step = self.layout.chunk_rows
        return found.first // step * step

    @property
    def taken(self) -> int:
        """Samples on disk and in the unfinished chunk."""
        return self.rows + self._fill

    def append(self, samples: Samples, arrays: Mapping[Site, Tensor]) -> None:
        """Add samples and their activity, in the store's dtype; whole chunks go to disk.

        Raises
        ------
        PatchclampError
            When the disk is full: what is on it stays, and the run can be resumed.
        """
        if self.taken + len(samples) > self.layout.n_samples:
            raise PatchclampError(
                f"{self.path}: {len(samples)} samples after {self.taken} are more than its {self.layout.n_samples}"
            )
        if not self._labels:
            self._allocate()
        done = 0
        while done < len(samples):
            step = min(self.layout.chunk_rows - self._fill, len(samples) - done)
            to, part = slice(self._fill, self._fill + step), slice(done, done + step)
            for site, buffer in self._buffers.items():
                buffer[to] = arrays[site][part]
            for site, parts in self._parts.items():
                parts.append(SparseCodes.from_dense(arrays[site][part].to(self._dtype)))
            for name, column in samples.columns():
                self._labels[name][to] = column[part]
            self._fill, done = self._fill + step, done + step
            if self._fill == self.layout.chunk_rows or self.taken == self.layout.n_samples:
                self._flush()

    def _allocate(self) -> None:
        rows = min(self.layout.chunk_rows, self.layout.n_samples)
        for site in self._arrays:
            self._buffers[site] = torch.empty(rows, *self.layout.shapes[site], dtype=self._dtype)
        for name in COLUMNS:
            self._labels[name] = torch.empty(rows, dtype=torch.bool if name == "content" else torch.int64)

    def _flush(self) -> None:
        where = slice(self.rows, self.rows + self._fill)
        with _disk(self):
            written: list[Chunk] = []
            for name, array in self._columns.items():
                array[where] = self._labels[name][: self._fill].numpy()
                written += chunks(array, where.start, where.stop)
            for site, array in self._arrays.items():
                array[where] = to_disk(self._buffers[site][: self._fill])
                written += chunks(array, where.start, where.stop)
            for site, source in self._codes.items():
                written += source.append(self.rows, SparseCodes.concat(self._parts[site]))
                self._parts[site] = []
            self._journal.add(where.stop, written, self._checksums)
        self.rows, self._fill = where.stop, 0

    def read(self, site: Site, start: int, stop: int) -> Tensor:
        """Activity already taken, wherever it is."""
        if site in self._codes:
            return self._read_codes(site, start, stop)
        parts = []
        if start < self.rows:
            parts.append(
                from_disk(guarded(self._arrays[site], slice(start, min(stop, self.rows))), self._dtype)
            )
        if stop > self.rows:
            parts.append(self._buffers[site][max(start - self.rows, 0) : stop - self.rows])
        return torch.cat(parts) if len(parts) > 1 else parts[0].clone()

    def _read_codes(self, site: Site, start: int, stop: int) -> Tensor:
        written = self._codes[site].codes(min(start, self.rows), min(stop, self.rows))
        if stop <= self.rows:
            return written.to_dense()
        waiting = SparseCodes.concat(self._parts[site]).rows(max(start - self.rows, 0), stop - self.rows)
        return written.append(waiting).to_dense()

    def finish(self) -> None:
        """Mark the store complete and remove journal and lock; refused while samples are missing."""
        if self.taken != self.layout.n_samples:
            raise PatchclampError(
                f"{self.path}: {self.taken} of {self.layout.n_samples} samples were written; it is not complete"
            )
        if not self.complete:
            with _disk(self):
                for source in self._codes.values():
                    source.cut()
                _store.mark_complete(self.path)
            self._journal.end()
        self.complete = True
        self._end_lock()

    def _end_lock(self) -> None:
        """Nothing is left to write: the lock goes for good."""
        if self._lock is not None:
            (self.path / LOCK).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Give the lock back; an unfinished store can be resumed."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _disk:
    """Turns the system's word for a full disk into one a person can act on."""

    def __init__(self, writer: StoreWriter) -> None:
        self.writer = writer

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno in _FULL:
            layout = self.writer.layout
            raise PatchclampError(
                f"{self.writer.path}: the disk is full ({os.strerror(error.errno or 0)}) after {self.writer.rows} "
                f"of {layout.n_samples} samples, which are safe; free about {layout.nbytes / 1e9:.2f} GB less what "
                "is there, and make the same call again: it goes on from there"
            ) from error


def _lock(path: Path) -> IO[str]:
    """Hold the store for this writer; the system lets go when its process ends, however it ends."""
    while True:
        handle = (path / LOCK).open("w")
        if fcntl is None:
            return handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.close()
            raise PatchclampError(
                f"{path}: another process is writing to this store (or another thread of this one); wait for it, or "
                "choose another path"
            ) from error
        # Whoever finished the store in between has removed the file that is locked here.
        try:
            if os.fstat(handle.fileno()).st_ino == os.stat(path / LOCK).st_ino:
                return handle
        except FileNotFoundError:
            pass
        handle.close()
