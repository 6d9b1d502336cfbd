"""Attention sinks: tokens that draw more attention than uniform attention would give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.measure import HasOutputs, Measure, host, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

_COLUMNS = ("excess", "doc", "position", "token")


class AttentionSinks(Measure):
    """Sink score of every head at every position, over what uniform causal attention gives.

    For key s: score = mean over queries t >= s (the token itself included) of A(t, s); baseline = the mean
    over the same queries of 1 / (number of keys that t can see); excess = score - baseline. Uniform attention
    has excess 0, where the bare score of the first of 64 tokens would already be .074. Means over documents
    weigh every query alike.

    Sinks away from the first token are listed: the `keep` tokens with the largest excess, averaged over
    heads, among those that at least `min_queries` queries see.

    Parameters
    ----------
    positions
        Positions in the window that get a row in the result; later ones are only searched for the list.
    keep
        Length of the list.
    min_queries
        Fewest queries that a listed token must be seen by.
    causal
        False for encoders, where every token sees every other.

    References
    ----------
    Xiao et al. (2023), Efficient streaming language models with attention sinks; Sun et al. (2024), Massive
    activations.
    """

    name = "sinks"
    fields = ("score", "base", "queries", *_COLUMNS)
    windows = True  # takes whole windows with their padding; `record` gives it these at attn_probs

    score: Tensor  # heads x positions, sums over queries
    base: Tensor
    queries: Tensor
    excess: Tensor
    doc: Tensor
    position: Tensor
    token: Tensor

    def __init__(
        self, *, positions: int = 16, keep: int = 100, min_queries: int = 8, causal: bool = True
    ) -> None:
        require(
            positions > 0 and keep > 0 and min_queries > 0,
            f"AttentionSinks: positions={positions}, keep={keep}, min_queries={min_queries} must be positive",
        )
        self.positions, self.keep = int(positions), int(keep)
        self.min_queries, self.causal = int(min_queries), bool(causal)

    def update(
        self,
        activity: Float[Tensor, "batch heads query key"],
        samples: Samples,
        mask: Bool[Tensor, "batch key"] | None = None,
    ) -> None:
        """Add the attention probabilities of a batch of windows.

        Parameters
        ----------
        activity
            `attn_probs.L`, padding included.
        samples
            Labels of the real tokens (all of them, BOS too), row after row.
        mask
            True at real tokens, padding on either side; None = no padding.
        """
        if activity.ndim != 4 or activity.shape[2] != activity.shape[3]:
            raise PatchclampError(
                f"{self._who}: activity of shape {tuple(activity.shape)}; wanted attn_probs, "
                "(batch, heads, query, key) with as many queries as keys"
            )
        batch, heads, _, keys = activity.shape
        real = torch.ones(batch, keys, dtype=torch.bool) if mask is None else mask
        real = real.to(activity.device)
        if real.shape != (batch, keys) or int(real.sum()) != len(samples):
            raise PatchclampError(
                f"{self._who}: {len(samples)} samples and a mask of {tuple(real.shape)} with "
                f"{int(real.sum())} real tokens; wanted one sample a real token of {(batch, keys)}"
            )
        self._check_units(heads)
        if len(samples):
            self._windows(activity.detach(), real, samples)
            self.n_samples += len(samples)

    def _update(self, values: Float[Tensor, "batch heads query key"], samples: Samples) -> None:
        self._windows(values, values.new_ones(len(values), values.shape[3], dtype=torch.bool), samples)

    @classmethod
    def _needs(cls, subject: HasOutputs, site: Any) -> dict[str, Any]:
        return {"causal": bool(subject.row.causal)}

    def _windows(self, probs: Tensor, real: Tensor, samples: Samples) -> None:
        place = real.cumsum(1) - 1  # position in the window, padding not counted
        sees = real[:, :, None] & real[:, None, :]  # batch, query, key
        if self.causal:
            sees &= place[:, :, None] >= place[:, None, :]
        seen = sees.double()
        uniform = seen / seen.sum(2, keepdim=True).clamp_min(1)
        base, queries = uniform.sum(1)[real], seen.sum(1)[real]
        weights = torch.where(sees[:, None], probs, 0).sum(2, dtype=torch.float64)  # batch, heads, key
        score = weights.transpose(1, 2)[real]  # tokens x heads
        if not bool(score.isfinite().all()):
            self._raise_nonfinite(score, samples)
        place, excess = place[real].cpu(), ((score.mean(1) - base) / queries).cpu()
        score, base, queries = host(score), host(base), queries.cpu().long()
        near = place < self.positions
        sums = {
            name: values.new_zeros(self.positions, *values.shape[1:]).index_add_(0, place[near], values[near])
            for name, values in (("score", score), ("base", base), ("queries", queries))
        }
        fit = queries >= self.min_queries
        columns = {name: getattr(samples, name).cpu()[fit] for name in ("doc", "position", "token")}
        self._add(**{**sums, "score": sums["score"].T}, excess=excess[fit], **columns)

    def _add(self, **part: Tensor) -> None:
        table = self._behind({name: part.pop(name) for name in _COLUMNS})
        super()._add(**part)
        keys = (table["position"].numpy(), table["doc"].numpy(), -table["excess"].numpy())
        order = torch.from_numpy(np.lexsort(keys)[: self.keep])
        for name in _COLUMNS:
            setattr(self, name, table[name][order])

    def result(self) -> xr.Dataset:
        """Dataset: score, excess (head, window_position); baseline (window_position); the list over
        `found`."""
        heads = self._need_data()
        count = self.queries.double()
        baseline, score = self.base / count, self.score / count
        found = ("found",)
        return self._dataset(
            {
                "score": (("head", "window_position"), score),
                "baseline": (("window_position",), baseline),
                "excess": (("head", "window_position"), score - baseline),
                "found_excess": (found, self.excess),
                "found_doc": (found, self.doc),
                "found_position": (found, self.position),
                "found_token": (found, self.token),
            },
            {"head": np.arange(heads), "window_position": np.arange(self.positions)},
        )
