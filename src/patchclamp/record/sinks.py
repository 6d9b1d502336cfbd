"""Where recorded samples go: memory, a store written by a second thread, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.lazy import SiteArray, storage_dtype
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.nouns.recording.sparse import SparseArray, SparseCodes
from patchclamp.nouns.recording.store import Layout
from patchclamp.nouns.recording.writer import StoreWriter
from patchclamp.nouns.units import Site


class Sink(Protocol):
    """Takes the samples of one window after another."""

    rows: int
    complete: bool

    def append(self, samples: Samples, arrays: Mapping[Site, Tensor]) -> None:
        """Take a window's samples."""

    def read(self, site: Site, start: int, stop: int) -> Tensor:
        """Activity taken before."""

    def finish(self) -> Recording | None:
        """End; the recording, where one was made."""

    def close(self) -> None:
        """End early; what was taken stays."""


class MemorySink:
    """Keeps the recording in memory."""

    def __init__(self, layout: Layout, manifest: Mapping[str, Any]) -> None:
        dtype = storage_dtype(layout.dtype)
        self.rows, self.complete = 0, False
        self._layout, self._manifest = layout, manifest
        self._parts: list[Samples] = []
        self._arrays = {
            site: torch.empty(layout.n_samples, *shape, dtype=dtype)
            for site, shape in layout.shapes.items()
            if site not in layout.sparse
        }
        self._codes: dict[Site, list[SparseCodes]] = {site: [] for site in layout.sparse}

    def append(self, samples: Samples, arrays: Mapping[Site, Tensor]) -> None:
        """Copy a window's samples."""
        where = slice(self.rows, self.rows + len(samples))
        for site, values in arrays.items():
            if site in self._codes:
                self._codes[site].append(SparseCodes.from_dense(values))
            else:
                self._arrays[site][where] = values
        self._parts.append(samples)
        self.rows = where.stop

    def read(self, site: Site, start: int, stop: int) -> Tensor:
        """Activity taken before."""
        if site in self._codes:
            return self._joined(site).rows(start, stop).to_dense()
        return self._arrays[site][start:stop]

    def _joined(self, site: Site) -> SparseCodes:
        self._codes[site] = [SparseCodes.concat(self._codes[site])]
        return self._codes[site][0]

    def finish(self) -> Recording:
        """The recording in memory."""
        rows = range(self.rows)
        codes = {site: SparseArray.of(self._joined(site)) for site in self._codes}
        views = {
            site: SiteArray(site, source, source.dtype, rows)
            for site in self._layout.shapes
            for source in [codes[site] if site in codes else self._arrays[site]]
        }
        columns = dict(Samples.concat(self._parts).columns())
        return Recording(views, columns, rows, self._manifest, {}, None, self._layout.chunk_rows)

    def close(self) -> None:
        """Nothing to let go of."""


class StoreSink:
    """A store on disk, written by a second thread while the model computes the next window.

    At most two windows are in memory: one being computed, one being written.
    """

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self.rows, self.complete = writer.rows, writer.complete
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="patchclamp-writer")
        self._job: Future[None] | None = None

    def _wait(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def append(self, samples: Samples, arrays: Mapping[Site, Tensor]) -> None:
        """Hand a window over; waits until the one before is on disk."""
        self._wait()
        self._job = self._thread.submit(self._writer.append, samples, arrays)

    def read(self, site: Site, start: int, stop: int) -> Tensor:
        """Activity taken before."""
        self._wait()
        return self._writer.read(site, start, stop)

    def finish(self) -> Recording:
        """Wait for the last window, mark the store complete and open it."""
        self._wait()
        self._writer.finish()
        self.close()
        return Recording.open(self._writer.path)

    def close(self) -> None:
        """Stop the thread and give the lock back; an unfinished store can be resumed."""
        self._thread.shutdown(wait=True)
        self._writer.close()


class NoSink:
    """Keeps no activity: for measures alone."""

    def __init__(self) -> None:
        self.rows, self.complete = 0, False

    def append(self, samples: Samples, arrays: Mapping[Site, Tensor]) -> None:
        """Nothing is kept."""
        self.rows += len(samples)

    def read(self, site: Site, start: int, stop: int) -> Tensor:
        """Nothing was kept."""
        raise PatchclampError(f"{site}: no activity was kept")

    def finish(self) -> None:
        """Nothing to end."""

    def close(self) -> None:
        """Nothing to let go of."""
