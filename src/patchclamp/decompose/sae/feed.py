"""Batches of shuffled rows from activity that may be larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng

PIECE = 4096


class Feed:
    """Batch number n of an endless, shuffled run over the rows of one or more sources (paired row by row).

    Rows are cut into pieces of 4,096. An epoch puts the pieces into random order, and shuffles rows within groups of
    as many pieces as fit into `buffer_rows`; so no more than that is in memory, and with at least as many rows as the
    data have, an epoch is a plain permutation. Which rows a batch holds depends on seed, number of rows, batch size
    and `buffer_rows` alone, not on where the activity lies, so a run continues from any batch.

    Parameters
    ----------
    sources
        Tensors, matrices or `SiteArray`s of equal length: (samples, units), or (samples, heads, d_head), read flat.
    names
        Their sites, for messages.
    batch
        Rows a batch.
    buffer_rows
        Rows in memory.
    seed
        Of the order.
    device
        Where batches go.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        names: Sequence[str],
        batch: int,
        buffer_rows: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sources, self.names = list(sources), list(names)
        self.n = len(self.sources[0])
        self.batch = min(batch, self.n)
        self.seed, self.device = seed, device
        self.widths = [int(np.prod(source.shape[1:])) for source in self.sources]
        self._per_group = max(1, buffer_rows // PIECE)
        self._epoch = -1
        self._group = (-1, -1)
        self._buffers: list[Tensor] = []
        self._check()

    def _check(self) -> None:
        for source, name in zip(self.sources, self.names, strict=True):
            if source.ndim not in (2, 3) or not source.dtype.is_floating_point:
                raise PatchclampError(
                    f"{name}: activity is {tuple(source.shape)} of {source.dtype}; wanted floating samples x units"
                )
            if len(source) != self.n:
                raise PatchclampError(
                    f"{name} has {len(source)} samples and {self.names[0]} {self.n}; rows are paired one by one"
                )
            if self.n < 2:
                raise PatchclampError(
                    f"{name}: {self.n} sample; features are directions in which samples differ, so at least 2 are needed"
                )
            if isinstance(source, Tensor):
                finite(source, name, 0)

    @property
    def fingerprint(self) -> str:
        """Of the data: shapes and the first rows."""
        found = hashlib.sha256()
        for source in self.sources:
            found.update(str(tuple(source.shape)).encode())
            found.update(source[: min(256, self.n)].double().cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    # ---- order

    def _rng(self, *key: int) -> np.random.Generator:
        return numpy_rng([self.seed, *key])

    def _pieces(self, epoch: int) -> None:
        """Put the pieces of an epoch in order, and note where its groups begin."""
        if epoch == self._epoch:
            return
        order = self._rng(epoch).permutation(-(-self.n // PIECE))
        self._groups = [order[i : i + self._per_group] for i in range(0, len(order), self._per_group)]
        sizes = [sum(min(PIECE, self.n - int(p) * PIECE) for p in group) for group in self._groups]
        self._edges = np.cumsum([0, *sizes])
        self._epoch = epoch

    def _load(self, epoch: int, number: int) -> None:
        """Bring a group into memory and shuffle it."""
        if (epoch, number) == self._group:
            return
        pieces = sorted(int(p) for p in self._groups[number])
        spans = [(p * PIECE, min((p + 1) * PIECE, self.n)) for p in pieces]
        rows = np.concatenate([np.arange(*span) for span in spans])
        order = self._rng(epoch, number).permutation(len(rows))
        self._rows = torch.from_numpy(rows[order])
        self._places = torch.from_numpy(order)
        keep = len(self._groups) == 1 and self._buffers
        if not keep:
            self._buffers = []
            self._buffers = [self._read(i, spans) for i in range(len(self.sources))]
        self._group = (epoch, number)

    def _read(self, i: int, spans: list[tuple[int, int]]) -> Tensor:
        source = self.sources[i]
        if isinstance(source, Tensor):
            return source.flatten(1)
        parts = []
        for low, high in spans:
            part = source[low:high].flatten(1)
            finite(part, self.names[i], low)
            parts.append(part)
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    # ---- rows

    def __call__(self, number: int) -> list[Float[Tensor, "batch unit"]]:
        """Batch `number`: a float32 tensor for each source."""
        place, wanted = number * self.batch, self.batch
        parts: list[list[Tensor]] = []
        while wanted:
            epoch, offset = divmod(place, self.n)
            self._pieces(epoch)
            group = int(np.searchsorted(self._edges, offset, side="right")) - 1
            self._load(epoch, group)
            start = offset - int(self._edges[group])
            stop = min(start + wanted, len(self._rows))
            parts.append([self._take(i, start, stop) for i in range(len(self.sources))])
            place, wanted = place + stop - start, wanted - (stop - start)
        return [torch.cat(sides) if len(sides) > 1 else sides[0] for sides in zip(*parts, strict=True)]

    def _take(self, i: int, start: int, stop: int) -> Tensor:
        index: Int[Tensor, " n"] = self._rows if isinstance(self.sources[i], Tensor) else self._places
        buffer = self._buffers[i]
        return buffer[index[start:stop].to(buffer.device)].to(self.device, torch.float32)

    def sample(self, rows: int = 32768) -> list[Float[Tensor, "sample unit"]]:
        """The first rows of the run, for means and scales: all of them where there are fewer."""
        wanted = min(rows, self.n)
        batches = [self(i) for i in range(-(-wanted // self.batch))]
        return [torch.cat(sides)[:wanted] for sides in zip(*batches, strict=True)]


def finite(values: Tensor, name: str, first: int) -> None:
    """Refuse NaN and Inf, naming the first."""
    # A sum is finite only if all entries are (and an overflow of the sum alone is looked into).
    if bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all()):
        return
    row, *unit = (int(i) for i in (~torch.isfinite(values)).nonzero()[0])
    where = "".join(f"[{i}]" for i in unit)
    raise PatchclampError(
        f"{name}{where}: {float(values[(row, *unit)])} at sample {first + row}; fix it or leave the sample out"
    )
