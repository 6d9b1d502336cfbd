"""Activation codes: which units are on, read as a hash of the input."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import check_seed
from patchclamp.measure.activity.firing import count_above
from patchclamp.nouns.measure import Measure, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples


class ActivationCodes(Measure):
    """How many distinct on/off codes a site gives to its samples.

    ``redundancy`` = (n - distinct) / n: 0 when every sample has a code of its own, near 1 when few codes serve
    all. ``entropy`` of the codes' frequencies in bits, its ``ceiling`` log2 n; ``largest`` = samples of the commonest
    code. Units that are always on or always off change nothing. Of m hyperplanes in a plane no more than
    1 + m + m (m - 1) / 2 codes can come. A redundancy depends on n: compare at equal numbers of samples.

    Codes are kept as 128-bit hashes (24 bytes for each distinct one); two codes share a hash with a chance of
    1e-27 among a million. The count is exact and the same whatever the order.

    Parameters
    ----------
    threshold
        Activity above it is on.
    memory_limit
        Bytes of hashes; more is refused.

    References
    ----------
    He et al. (2023), Neural networks behave as hash encoders.

    Examples
    --------
    >>> from patchclamp.nouns.recording.recording import Samples
    >>> codes = ActivationCodes()
    >>> codes.update(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), Samples.of(torch.arange(3), torch.zeros(3)))
    >>> int(codes.result()["distinct"]), round(float(codes.result()["redundancy"]), 3)
    (2, 0.333)
    """

    name = "codes"
    fields = ("hashes", "counts", "active")

    active: Tensor

    def __init__(self, *, threshold: float = 0.0, memory_limit: int = 2**30) -> None:
        self.threshold, self.memory_limit = float(threshold), int(memory_limit)
        self.hashes = torch.zeros(0, 2, dtype=torch.int64)
        self.counts = torch.zeros(0, dtype=torch.int64)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        packed = np.packbits((values > self.threshold).cpu().numpy(), axis=1)
        rows, counts = np.unique(packed, axis=0, return_counts=True)
        digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
        hashes = torch.from_numpy(np.frombuffer(digests, dtype="<i8").reshape(-1, 2).copy())
        found = self._joined(hashes, torch.from_numpy(counts))
        if len(found[1]) * 24 > self.memory_limit:
            raise PatchclampError(
                f"{self._who}: {len(found[1])} distinct codes need more than memory_limit="
                f"{self.memory_limit} bytes; measure fewer samples, or raise it"
            )
        self.hashes, self.counts = found
        self._add(active=count_above(values, self.threshold))

    def _joined(self, hashes: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([self.hashes, hashes])
        distinct, place = both.unique(dim=0, return_inverse=True)
        total = torch.zeros(len(distinct), dtype=torch.int64)
        return distinct, total.index_add_(0, place, torch.cat([self.counts, counts]))

    def _merge(self, other: Self) -> None:
        self.hashes, self.counts = self._joined(other.hashes, other.counts)
        self._add(active=other.active)

    def result(self) -> xr.Dataset:
        """Dataset: distinct, redundancy, entropy, ceiling (bits), largest; constant (unit): always on, or always off."""
        self._need_data()
        n = self.n_samples
        p = self.counts.double() / n
        return self._dataset(
            {
                "distinct": ((), len(self.counts)),
                "redundancy": ((), (n - len(self.counts)) / n),
                "entropy": ((), max(0.0, float(-torch.special.xlogy(p, p).sum() / math.log(2)))),
                "ceiling": ((), math.log2(n)),
                "largest": ((), int(self.counts.max())),
                "constant": (("unit",), (self.active == 0) | (self.active == n)),
            },
            threshold=self.threshold,
        )


def code_accuracy(
    train: Tensor,
    train_label: Tensor,
    test: Tensor,
    test_label: Tensor,
    *,
    threshold: float = 0.0,
    neighbours: int = 9,
    seed: int = 0,
) -> dict[str, float]:
    """How well labels can be read from on/off codes, by three readers fitted on the training codes alone.

    Units that are constant over the training samples are dropped. Memory: the codes, and distances of test to train.

    Parameters
    ----------
    train, test
        Samples x units of activity.
    train_label, test_label
        Labels.
    threshold
        Activity above it is on.
    neighbours
        Of the nearest-neighbour reader.
    seed
        Of k-means.

    Returns
    -------
    dict
        ``kmeans``: clusters as many as labels, each named by the majority of its *training* samples; ``neighbours``: by
        Hamming distance; ``logistic``: one against one; ``chance``: share of the commonest training label in the test.
        A reader fitted on the test codes, or clusters named by test labels, would not give a test accuracy.

    References
    ----------
    He et al. (2023), Neural networks behave as hash encoders.
    """
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsOneClassifier
    from sklearn.neighbors import KNeighborsClassifier

    seen, held = (np.asarray(values > threshold).astype(np.float64) for values in (train, test))
    y, truth = np.asarray(train_label), np.asarray(test_label)
    _check_codes(seen, y, held, truth)
    varies = seen.min(0) < seen.max(0)
    require(bool(varies.any()), "code_accuracy: every unit is constant over the training samples")
    seen, held = seen[:, varies], held[:, varies]
    names = np.unique(y)
    clusters = KMeans(len(names), n_init=10, random_state=check_seed(seed, 2**32 - 1)).fit(seen)
    named = _majority(clusters.labels_, y, len(names))
    hamming = KNeighborsClassifier(min(neighbours, len(y)), metric="hamming").fit(seen, y)
    logistic = OneVsOneClassifier(LogisticRegression(max_iter=1000)).fit(seen, y)
    found = {
        "kmeans": named[clusters.predict(held)],
        "neighbours": hamming.predict(held),
        "logistic": logistic.predict(held),
        "chance": np.full(len(truth), _majority(np.zeros(len(y), dtype=int), y, 1)[0]),
    }
    return {name: float((guess == truth).mean()) for name, guess in found.items()}


def _check_codes(
    seen: NDArray[np.float64], y: NDArray[np.int64], held: NDArray[np.float64], truth: NDArray[np.int64]
) -> None:
    require(
        seen.ndim == held.ndim == 2 and seen.shape[1] == held.shape[1],
        f"code_accuracy: training activity of shape {seen.shape}, test activity of shape {held.shape}",
    )
    require(
        len(seen) == len(y) and len(held) == len(truth) and len(held) > 0,
        f"code_accuracy: {len(y)} labels for {len(seen)} training samples, {len(truth)} for {len(held)} test samples",
    )
    require(len(np.unique(y)) > 1, "code_accuracy: the training samples have one label; needs two")


def _majority(cluster: NDArray[np.int64], y: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Commonest label in each cluster (the smallest of those that tie)."""
    names, place = np.unique(y, return_inverse=True)
    table = np.zeros((count, len(names)), dtype=np.int64)
    np.add.at(table, (cluster, place), 1)
    return np.asarray(names[table.argmax(1)])
