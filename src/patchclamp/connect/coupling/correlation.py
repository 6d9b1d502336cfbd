"""Zero-lag correlation: what goes together. The baseline of everything else, and blind to direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import numpy as np
from scipy.stats import rankdata

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.nulls import Array, Correction, Options, graph_with_null
from patchclamp.connect.series import Series, series
from patchclamp.connect.surrogates import Null
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

LIMITS = "direction, direct connection (a common input or a chain correlates too), causation"


def correlation(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    kind: Literal["pearson", "spearman"] = "pearson",
    null: Null | None = "auto",
    null_samples: int = 200,
    correction: Correction = "max",
    seed: int = 0,
    **reading: Unpack[Reading],
) -> Graph:
    """Correlation of every pair of units at the same time.

    r_ij = sum_t x_i(t) x_j(t) / sqrt(sum_t x_i(t)^2 sum_t x_j(t)^2), each unit centred in each group.

    Parameters
    ----------
    data
        A `Recording` or (samples, units).
    groups
        Runs, trials, animals: one entry a sample; by default those of the recording.
    kind
        ``"spearman"`` ranks each unit over all samples first.
    null, null_samples, correction, seed
        Surrogates (``"circular_shift"``, ``"block_permuted"``, ``"phase_randomised"``, ``"permutation"`` or None; ``"auto"``:
        the first of these that is valid here, named in ``graph.null["name"]``), their number, how pairs are adjusted
        (``"max"`` family-wise, ``"bh"`` false discoveries), the seed.
    reading
        How a recording is read (see `matrix`), kept in ``params["reading"]``: ``heads="norm"`` (default: a head is one
        unit, the norm of its parts) or ``"join"``; ``content=True``; ``missing="refuse"`` (default) or ``"drop"``.

    Returns
    -------
    Graph
        Undirected; weights are r. It has no baseline: it is the others' baseline.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 3))
    >>> x[:, 1] += x[:, 0]
    >>> correlation(x).edges(significant=0.05)[["source", "target"]].values.tolist()
    [['unit[0]', 'unit[1]']]
    """
    if kind not in ("pearson", "spearman"):
        raise PatchclampError(f"kind={kind!r}: 'pearson' or 'spearman'")
    units = series(data, groups, what="correlation", **reading)
    if kind == "spearman":
        units = units.with_values(rankdata(units.values, axis=0))
    return _correlation(units, kind, (null, null_samples, correction, seed))


def _correlation(units: Series, kind: str, options: Options) -> Graph:
    n, groups = len(units.values), len(units.segments)
    return graph_with_null(
        pearson, units, "correlation", LIMITS, options, kind=kind, samples=n, groups=groups
    )


def pearson(units: Series) -> Array:
    """(unit, unit) correlations of units centred in each group; the diagonal is 0."""
    x = units.centred().values
    norm = np.sqrt((x**2).sum(0))
    x = x / np.where(norm > 0, norm, 1)
    out = x.T @ x
    out = (out + out.T) / 2
    np.fill_diagonal(out, 0)
    return out


def as_baseline(units: Series) -> Graph:
    """Zero-lag correlation without a null, to stand beside another method's graph."""
    return _correlation(units, "pearson", (None, 0, "max", 0))
