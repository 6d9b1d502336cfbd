"""The largest and smallest entries of each row of a product that is too large to keep.

A block of units times a block of tokens is written once into one buffer. Its largest and smallest entry in every
group of 64 tokens say which groups can hold one of the k extremes: the k groups with the largest maxima do. Only those
are looked at again, so that nearly all of the time goes into the product itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Best", "Block", "VocabularyRows", "extremes"]

GROUP = 64
_ROWS_BYTES = 1 << 28
BUFFER_BYTES = 1 << 26


@dataclass(frozen=True)
class Best:
    """(units, k) scores, logits and token ids, best first; ties go to the smaller id."""

    z: Float[Tensor, "units k"]
    logit: Float[Tensor, "units k"]
    ids: Int[Tensor, "units k"]


@dataclass(frozen=True)
class Block:
    """Part of the vocabulary: ids, rows scaled to give z at once, and what takes a z back to a logit."""

    ids: Int[Tensor, " rows"]
    rows: Float[Tensor, "rows d_model"]
    scale: Float[Tensor, " rows"]


class VocabularyRows:
    """The rows e_t of the vocabulary, a block at a time: gain applied, short ones dropped, centred over those kept."""

    def __init__(self, weights: Tensor, gain: Tensor | None, min_norm: float, chunk: int | None) -> None:
        self._weights, self._gain = weights, gain
        self._chunk = chunk or max(GROUP, _ROWS_BYTES // (4 * weights.shape[1]))
        norms = torch.cat([block.norm(dim=1) for _, block in self._raw()])
        self._keep = norms >= min_norm * norms.median()
        self.kept = int(self._keep.sum())
        total = torch.zeros(weights.shape[1], dtype=torch.float64, device=weights.device)
        for start, block in self._raw():
            total += block[self._keep[start : start + len(block)]].double().sum(0)
        self._mean = (total / max(self.kept, 1)).float()

    def _raw(self) -> Iterator[tuple[int, Tensor]]:
        step = min(self._chunk, 8192)
        for start in range(0, len(self._weights), step):
            block = self._weights[start : start + step].detach().float()
            yield start, block if self._gain is None else block * self._gain.float()

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start, block in self._raw():
            keep = self._keep[start : start + len(block)]
            yield keep.nonzero()[:, 0] + start, block[keep] - self._mean

    def blocks(self) -> Iterator[Block]:
        """Yield the tokens kept, `chunk` at a time (the last block has fewer)."""
        ids: list[Tensor] = []
        rows: list[Tensor] = []
        for own, part in self._parts():
            ids.append(own)
            rows.append(part)
            if sum(map(len, ids)) >= self._chunk:
                yield _scaled(torch.cat(ids), rows)
                ids, rows = [], []
        if sum(map(len, ids)):
            yield _scaled(torch.cat(ids), rows)


def _scaled(ids: Tensor, parts: list[Tensor]) -> Block:
    """Scale rows so that their product with a direction of length 1 is z."""
    rows = torch.cat(parts) if len(parts) > 1 else parts[0].clone()
    parts.clear()
    scale = rows.norm(dim=1).clamp_min_(1e-12) / math.sqrt(rows.shape[1])
    return Block(ids, rows.div_(scale[:, None]), scale)


def extremes(unit: Float[Tensor, "n d_model"], rows: VocabularyRows, k: int) -> dict[str, Best]:
    """The k tokens with the largest and with the smallest z for each direction."""
    parts: dict[str, list[Best]] = {"promotes": [], "suppresses": []}
    for block in rows.blocks():
        whole = -(-len(block.ids) // GROUP) * GROUP
        step = max(1, min(len(unit), BUFFER_BYTES // (4 * whole)))
        buffer = torch.empty(step, whole, device=unit.device)
        found: dict[str, list[Best]] = {"promotes": [], "suppresses": []}
        for start in range(0, len(unit), step):
            own = unit[start : start + step]
            z = buffer[: len(own)]
            torch.mm(own, block.rows.T, out=z[:, : len(block.ids)])
            z[:, len(block.ids) :] = torch.nan
            low, high = z[:, : len(block.ids) // GROUP * GROUP].unflatten(1, (-1, GROUP)).aminmax(dim=2)
            rest = z[:, len(block.ids) // GROUP * GROUP : len(block.ids)]
            if rest.shape[1]:
                low = torch.cat([low, rest.amin(1, keepdim=True)], 1)
                high = torch.cat([high, rest.amax(1, keepdim=True)], 1)
            for way, bound, sign in (("promotes", high, 1.0), ("suppresses", -low, -1.0)):
                found[way].append(_picked(z, bound, sign, block, k))
        for way, lists in found.items():
            parts[way].append(_stacked(lists))
    return {way: _merged(lists, 1.0 if way == "promotes" else -1.0, k) for way, lists in parts.items()}


def _picked(z: Tensor, bound: Tensor, sign: float, block: Block, k: int) -> Best:
    """The k best of each row of z, found in the groups with the best bounds; NaN pads the last group."""
    want = min(k, bound.shape[1])
    level, groups = bound.topk(min(want + 1, bound.shape[1]), dim=1)
    # Where the next group is as good as the last one taken, which tokens stand in them decides: take the first groups.
    if level.shape[1] > want:
        tied = (level[:, want - 1] == level[:, want]).nonzero()[:, 0]
        groups = groups[:, :want].clone()
        if len(tied):
            groups[tied] = bound[tied].argsort(dim=1, descending=True, stable=True)[:, :want]
    groups = groups.sort(1).values
    places = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=z.device)).flatten(1)
    values = (sign * z.gather(1, places)).nan_to_num_(nan=-math.inf)
    order = values.argsort(dim=1, descending=True, stable=True)[:, : min(k, len(block.ids))]
    best, at = sign * values.gather(1, order), places.gather(1, order)
    return Best(best, best * block.scale[at], block.ids[at])


def _stacked(lists: list[Best]) -> Best:
    return Best(*(torch.cat([getattr(one, name) for one in lists]) for name in ("z", "logit", "ids")))


def _merged(lists: list[Best], sign: float, k: int) -> Best:
    """The best of the bests of the blocks, which come in the order of the ids."""
    z, logit, ids = (torch.cat([getattr(one, name) for one in lists], 1) for name in ("z", "logit", "ids"))
    order = (sign * z).argsort(dim=1, descending=True, stable=True)[:, :k]
    return Best(z.gather(1, order), logit.gather(1, order), ids.gather(1, order))
