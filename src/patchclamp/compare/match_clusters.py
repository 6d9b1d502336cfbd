"""Groups of units of both networks that span the same subspace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import check_seed, numpy_rng
from patchclamp.compare.inputs import Matrix, pair
from patchclamp.compare.matching import _standard
from patchclamp.compare.result import Comparison
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.matrix import MatrixLike, Reading


@shown
@dataclass(frozen=True)
class ClusterMatching(Comparison):
    """Clusters of the units of two populations together.

    Attributes
    ----------
    a, b : (unit,)
        Cluster of each unit; -1 for units that do not vary.
    table : DataFrame
        Columns cluster, a, b (numbers of units), r2 (mean of the two directions: units of one side predicted
        from the other side's units of the same cluster, by least squares on the samples that were clustered),
        null (the same with samples permuted).
    value : float
        Mean r2 over units; clusters of one side only count as 0.
    meta : dict
        ``reading``: how each population was read.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    table: pd.DataFrame
    value: float
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        both = int(((self.table["a"] > 0) & (self.table["b"] > 0)).sum())
        return f"{len(self.table)} clusters, {both} with units of both: r2 {self.value:.3f}"


def match_clusters(
    a: MatrixLike, b: MatrixLike, n_clusters: int | None = None, *, seed: int = 0, **reading: Unpack[Reading]
) -> ClusterMatching:
    """Cluster the units of both populations by their squared correlations (spectral clustering).

    Finds what one-to-one matching cannot: subspaces that both networks have, each in a basis of its own.

    Parameters
    ----------
    a, b
        (sample, unit), or recordings of one site.
    n_clusters
        Default: where the eigenvalues of the normalised Laplacian have their largest gap.
    seed
        Of k-means.
    reading
        As in `cka`.

    Notes
    -----
    Li et al. 2016. The affinity of two units is r^2 less what independent samples give on average, 1 / (n - 1),
    and not below 0.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(400, 3))
    >>> found = match_clusters(x, x[:, [2, 0, 1]], 3)
    >>> bool((found.b == found.a[[2, 0, 1]]).all())
    True
    """
    x, y, about = pair(a, b, least=4, **reading)
    wide = (x.shape[1], y.shape[1])
    x, keep_x = _standard(x)
    y, keep_y = _standard(y)
    both = np.hstack([x, y])
    if n_clusters is not None and not 1 <= n_clusters <= both.shape[1]:
        raise PatchclampError(f"n_clusters={n_clusters}: 1 to {both.shape[1]}, the units of both populations")
    member = _spectral(
        np.clip((both.T @ both / len(both)) ** 2 - 1 / (len(both) - 1), 0, None), n_clusters, seed
    )
    left, right = member[: x.shape[1]], member[x.shape[1] :]
    shuffled = y[numpy_rng(seed).permutation(len(y))]
    rows, total = [], 0.0
    for cluster in np.unique(member):
        p, q = x[:, left == cluster], y[:, right == cluster]
        r2 = _both_ways(p, q)
        null = _both_ways(p, shuffled[:, right == cluster])
        rows.append({"cluster": int(cluster), "a": p.shape[1], "b": q.shape[1], "r2": r2, "null": null})
        total += r2 * (p.shape[1] + q.shape[1])
    out_a, out_b = (np.full(width, -1, np.int64) for width in wide)
    out_a[keep_x], out_b[keep_y] = left, right
    return ClusterMatching(out_a, out_b, pd.DataFrame(rows), total / both.shape[1], {"reading": about})


def _spectral(affinity: Matrix, k: int | None, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    degree = affinity.sum(1)
    scaled = affinity / np.sqrt(degree[:, None] * degree[None])
    values, vectors = np.linalg.eigh(scaled)
    values, vectors = values[::-1], vectors[:, ::-1]
    if k is None:
        # At least two and at most half of the units: the gap at the very end is that of single units.
        most = max(2, len(values) // 2)
        k = 2 + int(np.argmax(values[1:most] - values[2 : most + 1])) if most > 2 else 2
    embedded = vectors[:, :k]
    embedded = embedded / np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-12)
    return np.asarray(
        KMeans(k, n_init=10, random_state=check_seed(seed, 2**32 - 1)).fit_predict(embedded), np.int64
    )


def _both_ways(p: Matrix, q: Matrix) -> float:
    if not p.shape[1] or not q.shape[1]:
        return 0.0
    shares = []
    for source, target in ((p, q), (q, p)):
        left = target - source @ np.linalg.lstsq(source, target, rcond=None)[0]
        shares.append(1 - float((left**2).mean()))
    return float(np.mean(shares))
