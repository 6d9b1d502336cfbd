"""When is a unit active? Activity of any kind as columns of yes and no, a few units at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.describe.tokens import Ints, Mask, Tokens
from patchclamp.nouns.recording.sparse import SparseCodes

__all__ = ["TokenActivity", "active", "check_threshold", "threshold_of"]


@dataclass(frozen=True)
class TokenActivity:
    """Activity (tokens, units): a tensor, an array, or sparse codes.

    Examples
    --------
    >>> import torch
    >>> TokenActivity(torch.tensor([[0.0, 1.0], [2.0, 0.0]])).columns([1]).tolist()
    [[1.0], [0.0]]
    """

    source: Any

    def __post_init__(self) -> None:
        if not isinstance(self.source, SparseCodes) and len(self.shape) != 2:
            raise PatchclampError(f"activity: shape {self.shape}; wanted (tokens, units)")

    @classmethod
    def on(cls, activity: Any, tokens: Tokens) -> TokenActivity:
        """Activity that has a row for each of these tokens."""
        found = cls(activity)
        if found.shape[0] != len(tokens):
            raise PatchclampError(
                f"activity: {found.shape[0]} rows for {len(tokens)} tokens; wanted one a token"
            )
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """(tokens, units)."""
        if isinstance(self.source, SparseCodes):
            return len(self.source), self.source.n_units
        return tuple(self.source.shape)

    @cached_property
    def _sparse(self) -> sparse.csc_matrix:
        codes = self.source
        value = codes.value.float().numpy()
        return sparse.csr_matrix((value, codes.unit.astype(np.int64), codes.indptr), shape=self.shape).tocsc()

    def columns(self, units: Sequence[int]) -> NDArray[np.float32]:
        """(tokens, len(units)), dense; NaN and Inf are refused by name."""
        chosen = list(units)
        if isinstance(self.source, SparseCodes):
            found = np.asarray(self._sparse[:, chosen].todense(), np.float32)
        elif isinstance(self.source, Tensor):
            found = self.source[:, chosen].detach().cpu().float().numpy()
        else:
            found = np.asarray(self.source[:, chosen], np.float32)
        bad = ~np.isfinite(found).all(0)
        if bad.any():
            raise PatchclampError(
                f"activity: unit {chosen[int(np.flatnonzero(bad)[0])]} has NaN or Inf; record it again or leave it out"
            )
        return found


def threshold_of(values: NDArray[np.float32], threshold: float | str, quantile: float = 0.99) -> float:
    """Above which activity a unit counts as active, from the tokens that make descriptions alone.

    ``"auto"``: 0 for a unit that is never negative and is positive on at most a fifth of the tokens (a feature of a
    dictionary); else the quantile `quantile` (a neuron). ``"quantile"``: always that. A number stands for itself.
    """
    if isinstance(threshold, int | float):
        return float(threshold)
    if threshold == "auto" and values.min() >= 0 and float((values > 0).mean()) <= 0.2:
        return 0.0
    return float(np.quantile(values, quantile))


def check_threshold(threshold: float | str, quantile: float) -> None:
    """Refuse what `threshold_of` cannot use."""
    if not isinstance(threshold, int | float) and threshold not in ("auto", "quantile"):
        raise PatchclampError(f'threshold={threshold!r}: give "auto", "quantile" or a number')
    if not 0 < quantile < 1:
        raise PatchclampError(f"quantile={quantile}: a share of the tokens, between 0 and 1")


def active(activity: TokenActivity, units: Sequence[int], rows: Ints, thresholds: Sequence[float]) -> Mask:
    """(rows, units) whether each unit is above its threshold."""
    return np.asarray(activity.columns(units)[rows] > np.asarray(thresholds, np.float32))
