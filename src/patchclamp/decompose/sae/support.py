"""Where codes are not zero, and the four products of a training step that touch only those entries.

An autoencoder's step has five products of (batch, units, features) size. The encoder's must see every feature. The
other four (decode, gradient of the codes, of the decoder and of the encoder) need only the active entries, with k
of F features active k / F of the work. `Sparse` carries them out on compressed rows: decode and both weight
gradients are `embedding_bag` sums (over a row's features, over a feature's rows), the codes' gradient is a sampled
product. Each sum runs in one fixed order, so results do not depend on the number of threads.

`Dense` is the same arithmetic as whole matrix products with a mask; it wins where many entries are active, or few
exist. Values off the support are zero there.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

# Measured on one and two AVX-512 cores: below this density the sparse products win, above it the dense ones do.
SPARSE_BELOW = 0.15
SPARSE_FROM = 1 << 18


class Support(ABC):
    """A set of (row, feature) entries; `values` below are numbers on it, in the form that `take` returns."""

    @abstractmethod
    def take(self, dense: Float[Tensor, "batch feature"]) -> Tensor:
        """Values of a dense matrix on the support."""

    @abstractmethod
    def per_feature(self, vector: Float[Tensor, " feature"]) -> Tensor:
        """A number per feature, at each entry of that feature."""

    @abstractmethod
    def decode(self, values: Tensor, weight: Float[Tensor, "feature unit"]) -> Float[Tensor, "batch unit"]:
        """Codes times rows."""

    @abstractmethod
    def dots(self, rows: Float[Tensor, "batch unit"], weight: Float[Tensor, "feature unit"]) -> Tensor:
        """Inner product of each entry's row and its feature's weight row."""

    @abstractmethod
    def gradient(self, values: Tensor, rows: Float[Tensor, "batch unit"]) -> Float[Tensor, "feature unit"]:
        """For each feature the sum of value times row over its entries: codes transposed times rows."""

    @abstractmethod
    def totals(self, values: Tensor) -> Float[Tensor, " feature"]:
        """Sum of the values of each feature."""

    @abstractmethod
    def part(self, low: int, high: int) -> tuple[Support, Any]:
        """The support within features low..high, and the index of its values among these."""

    @abstractmethod
    def dense(self, values: Tensor) -> Float[Tensor, "batch feature"]:
        """Values as a dense matrix."""


class Dense(Support):
    """A support as a mask; values are dense matrices that are zero off it."""

    def __init__(self, mask: Bool[Tensor, "batch feature"], dtype: torch.dtype = torch.float32) -> None:
        self.mask = mask.to(dtype)

    def take(self, dense: Tensor) -> Tensor:
        """See `Support.take`."""
        return dense * self.mask

    def per_feature(self, vector: Tensor) -> Tensor:
        """See `Support.per_feature`."""
        return vector * self.mask

    def decode(self, values: Tensor, weight: Tensor) -> Tensor:
        """See `Support.decode`."""
        return values @ weight

    def dots(self, rows: Tensor, weight: Tensor) -> Tensor:
        """See `Support.dots`."""
        return (rows @ weight.T).mul_(self.mask)

    def gradient(self, values: Tensor, rows: Tensor) -> Tensor:
        """See `Support.gradient`."""
        return values.T @ rows

    def totals(self, values: Tensor) -> Tensor:
        """See `Support.totals`."""
        return values.sum(0)

    def part(self, low: int, high: int) -> tuple[Support, Any]:
        """See `Support.part`."""
        return Dense(self.mask[:, low:high] > 0, self.mask.dtype), (slice(None), slice(low, high))

    def dense(self, values: Tensor) -> Tensor:
        """See `Support.dense`."""
        return values


class Sparse(Support):
    """A support in compressed rows; values are vectors, one number an entry.

    Parameters
    ----------
    starts
        (batch + 1,) first entry of each row, and the number of entries.
    feature
        Feature of each entry; rows one after another.
    n_features
        Number of columns.
    """

    def __init__(self, starts: Int[Tensor, " n"], feature: Int[Tensor, " nnz"], n_features: int) -> None:
        self.starts = starts
        self.feature = feature
        self.n_features = n_features

    @cached_property
    def row(self) -> Int[Tensor, " nnz"]:
        """Row of each entry."""
        counts = self.starts.diff()
        index = torch.arange(len(counts), device=counts.device)
        return index.repeat_interleave(counts, output_size=len(self.feature))

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """The transpose: order of the entries by feature, row of each, first entry of each feature."""
        order = self.feature.argsort(stable=True)
        counts = torch.bincount(self.feature, minlength=self.n_features)
        return order, self.row[order], counts.cumsum(0) - counts

    def take(self, dense: Tensor) -> Tensor:
        """See `Support.take`."""
        return dense.reshape(-1)[self.row * self.n_features + self.feature]

    def per_feature(self, vector: Tensor) -> Tensor:
        """See `Support.per_feature`."""
        return vector[self.feature]

    def decode(self, values: Tensor, weight: Tensor) -> Tensor:
        """See `Support.decode`."""
        return embedding_bag(self.feature, weight, self.starts[:-1], mode="sum", per_sample_weights=values)

    def dots(self, rows: Tensor, weight: Tensor) -> Tensor:
        """See `Support.dots`."""
        with warnings.catch_warnings():
            # torch calls all compressed tensors beta, once a process.
            warnings.simplefilter("ignore")
            shape = (len(self.starts) - 1, self.n_features)
            zeros = rows.new_zeros(len(self.feature))
            pattern = torch.sparse_csr_tensor(self.starts, self.feature, zeros, shape, check_invariants=False)
            dots: Tensor = torch.sparse.sampled_addmm(pattern, rows, weight.T, beta=0.0).values()
            return dots

    def gradient(self, values: Tensor, rows: Tensor) -> Tensor:
        """See `Support.gradient`."""
        order, row, starts = self.by_feature
        return embedding_bag(row, rows, starts, mode="sum", per_sample_weights=values[order])

    def totals(self, values: Tensor) -> Tensor:
        """See `Support.totals`."""
        return torch.zeros(self.n_features, dtype=values.dtype, device=values.device).index_add_(
            0, self.feature, values
        )

    def part(self, low: int, high: int) -> tuple[Support, Any]:
        """See `Support.part`."""
        inside = (self.feature >= low) & (self.feature < high)
        before = torch.zeros(len(inside) + 1, dtype=torch.int64, device=inside.device)
        torch.cumsum(inside, 0, out=before[1:])
        index = inside.nonzero().view(-1)
        return Sparse(before[self.starts], self.feature[index] - low, high - low), index

    def dense(self, values: Tensor) -> Tensor:
        """See `Support.dense`."""
        out = values.new_zeros(len(self.starts) - 1, self.n_features)
        out.view(-1)[self.row * self.n_features + self.feature] = values
        return out


def of_mask(mask: Bool[Tensor, "batch feature"], dtype: torch.dtype, products: str = "auto") -> Support:
    """The support of a mask, in the form that is faster (`products`: "auto", or "sparse" or "dense")."""
    if products == "dense" or (products == "auto" and mask.numel() < SPARSE_FROM):
        return Dense(mask, dtype)
    places = _true(mask)
    if products == "auto" and len(places) > SPARSE_BELOW * mask.numel():
        return Dense(mask, dtype)
    return _of_places(places, mask.shape)


def _of_places(places: Int[Tensor, " nnz"], shape: torch.Size) -> Sparse:
    """The support whose entries have these ascending places in the flattened matrix."""
    batch, width = shape
    edges = torch.arange(0, (batch + 1) * width, width, device=places.device)
    return Sparse(torch.searchsorted(places, edges), places.remainder(width), width)


def _true(mask: Tensor) -> Int[Tensor, " nnz"]:
    """Flat places of True, ascending; NumPy's search is several times torch's on a CPU."""
    if mask.device.type != "cpu":
        return mask.reshape(-1).nonzero().view(-1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def of_topk(
    values: Float[Tensor, "batch feature"], k: int, dtype: torch.dtype, products: str = "auto"
) -> Support:
    """The support of the k largest entries of each row; fewer in rows where fewer are positive.

    On a CPU NumPy's partition finds each row's k-th largest entry, in half the time of `torch.topk`.
    """
    if k >= values.shape[1]:
        return of_mask(values > 0, dtype, products)
    small = values.numel() < SPARSE_FROM
    if values.device.type == "cpu" and products != "dense" and not (small and products == "auto"):
        kth = np.partition(values.numpy(), values.shape[1] - k, axis=1)[:, values.shape[1] - k, None]
        places = _true(values >= torch.from_numpy(kth).clamp(min=torch.finfo(values.dtype).tiny))
        found = _of_places(places, values.shape)
        # Ties at the k-th place would keep more than k; the sort below breaks them.
        if k < SPARSE_BELOW * values.shape[1] and int(found.starts.diff().max()) <= k:
            return found
    top = values.topk(k, dim=1, sorted=False)
    columns = torch.where(top.values > 0, top.indices, values.shape[1])
    # Entries that are not positive fall into a spare column, which is cut off.
    mask = torch.zeros(len(values), values.shape[1] + 1, dtype=torch.bool, device=values.device)
    return of_mask(mask.scatter_(1, columns, True)[:, :-1].contiguous(), dtype, products)


def of_largest(
    values: Float[Tensor, "batch feature"], n: int, dtype: torch.dtype, products: str = "auto"
) -> Support:
    """The support of the n largest entries of the whole matrix; fewer where fewer are positive.

    A threshold taken from every 61st entry leaves few candidates to search; one that proves too high is dropped.
    """
    flat = values.reshape(-1)
    sample = flat[::61]
    low = sample.topk(min(len(sample), int(1.25 * n / 61) + 16)).values[-1].clamp(min=0)
    places = _true(flat > low)
    if len(places) < n:
        places = _true(flat > 0)
    if len(places) > n:
        places = places[flat[places].topk(n, sorted=False).indices].sort().values
    if products == "sparse" or (
        products == "auto" and len(flat) >= SPARSE_FROM and n < SPARSE_BELOW * len(flat)
    ):
        return _of_places(places, values.shape)
    mask = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    mask[places] = True
    return Dense(mask.view(values.shape), dtype)
