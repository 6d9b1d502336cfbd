"""Parts of a recording that do not leak: whole groups, or blocks in time with a gap around them.

`Fold` is one division of the samples and a list of them is scikit-learn's ``cv``; `Blocked` is the same as a splitter.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng

Ints = NDArray[np.int64]
SHUFFLE = "leaks"
WIDTHS = 2.5  # a gap is this many widths of the autocorrelation
SPLITS: dict[str, float] = {"train": 0.5, "validation": 0.25, "test": 0.25}
"""Names of the splits and the fraction of items that each gets."""


CROSSED = " × "
"""Between the labels of a group that shares each of them with others: ``"Ann × Tom"`` and ``"Tom × Zoe"``."""


def group_codes(groups: Sequence[str] | None, n: int, fewest: int = 1) -> Ints:
    """(n,) number of each item's group, the unit of dependence; an item whose group has no name is one of its own.

    Without groups, and with fewer than `fewest` of them, each item is its own.

    Examples
    --------
    >>> group_codes(["a", "", "a", "b"], 4).tolist()
    [1, 0, 1, 2]
    """
    if not groups:
        return np.arange(n)
    names, member = np.unique([group or f"\0{i}" for i, group in enumerate(groups)], return_inverse=True)
    return np.arange(n) if len(names) < fewest else member.astype(np.int64)


def drawn_groups(groups: ArrayLike, n: int, seed: int | Sequence[int]) -> NDArray[np.bool_]:
    """True for the samples of `n` groups drawn at random; a group is never cut.

    Examples
    --------
    >>> drawn_groups([7, 7, 8, 9], 2, 0).tolist()
    [True, True, False, True]
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.isin(member, numpy_rng(seed).permutation(len(names))[:n])


def split_groups(
    groups: Sequence[str], fractions: Mapping[str, float] = SPLITS, seed: int = 0
) -> dict[str, tuple[int, ...]]:
    """Deal whole groups to splits, in the proportion of `fractions`; every split gets one if there are enough.

    Parameters
    ----------
    groups
        Group of each item; an empty name means that the item is a group of its own.
    fractions
        Split name -> fraction of the items.
    seed
        Order in which groups are dealt.

    Examples
    --------
    >>> {name: len(places) for name, places in split_groups(["a", "a", "b", "c", "d"]).items()}
    {'train': 3, 'validation': 1, 'test': 1}
    """
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group or f"\0{place}", []).append(place)
    order = list(members)
    random.Random(f"split:{seed}").shuffle(order)
    order.sort(key=lambda g: -len(members[g]))
    dealt: dict[str, list[int]] = {name: [] for name in fractions}
    for group in order:
        name = min(fractions, key=lambda s: (len(dealt[s]) + len(members[group]) / 2) / fractions[s])
        dealt[name].extend(members[group])
    return {name: tuple(sorted(places)) for name, places in dealt.items()}


@dataclass(frozen=True)
class Fold:
    """One division of the samples; ``train, test = fold``, so a list of folds is scikit-learn's ``cv``.

    Parameters
    ----------
    train, test
        Indices of samples of the recording, sorted.
    held_out
        Groups whose samples are tested (whole-group folds), or the first and last sample of the block.
    """

    train: Ints
    test: Ints
    held_out: tuple[int, ...]

    def __iter__(self) -> Any:
        return iter((self.train, self.test))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, which: int) -> Ints:
        return (self.train, self.test)[which]

    def __repr__(self) -> str:
        return f"Fold({len(self.train)} train, {len(self.test)} test, held out {self.held_out})"


def group_folds(
    groups: Ints, run: Ints, position: Any, n_splits: int | None, gap: float, use: NDArray[np.bool_]
) -> list[Fold]:
    """Folds of whole groups; training samples nearer than `gap` to a test sample of their own run are dropped.

    `run` is what time goes on within (the document), `position` the time or index of each sample.
    """
    names = np.unique(groups[use])
    n = len(names) if n_splits is None else n_splits
    if not 2 <= n <= len(names):
        raise PatchclampError(
            f"split: {n} folds of {len(names)} groups; a group is never cut, so 2 to {len(names)} folds are possible"
            + ("; use by='time' for blocks of one session" if len(names) < 2 else "")
        )
    # Samples that no test block comes near to: groups in runs of their own need no gap.
    shared = gap > 0 and any(len(np.unique(groups[use & (run == r)])) > 1 for r in np.unique(run))
    folds = []
    for held in np.array_split(names, n):
        test = use & np.isin(groups, held)
        train = use & ~test
        if shared:
            train &= ~_near(test, run, position, gap)
        folds.append(_fold(train, test, tuple(int(g) for g in held), gap))
    return folds


def time_folds(run: Ints, position: Any, n_splits: int, gap: float, use: NDArray[np.bool_]) -> list[Fold]:
    """Contiguous blocks of equal size; training samples nearer than `gap` to the block are dropped."""
    samples = np.flatnonzero(use)
    if len(samples) < 2 * n_splits:
        raise PatchclampError(f"split: {len(samples)} samples: too few for {n_splits} folds")
    folds = []
    for block in np.array_split(samples, n_splits):
        test = np.zeros(len(run), bool)
        test[block] = True
        train = use & ~test
        if gap > 0:
            train &= ~_near(test, run, position, gap)
        folds.append(_fold(train, test, (int(block[0]), int(block[-1])), gap))
    return folds


def shuffled_folds(
    allowed: bool | str, n_splits: int, use: NDArray[np.bool_], seed: int, leak: tuple[float, int] | None
) -> list[Fold]:
    """Folds of samples drawn at random: refused for a time series unless `allowed` is ``"leaks"``, and then warned of.

    `leak` is (autocorrelation at lag 1, width in samples) where the samples are a time series, else None.
    """
    if leak is not None:
        at_one, width = leak
        figure = f"neighbouring samples correlate at {at_one:.2f} (mean over units, half-width {width}), "
        alike = at_one >= 0.1
        figure += (
            "so a shuffled fold tests on samples like those it trained on"
            if alike
            else "and groups would be cut"
        )
        if allowed != SHUFFLE:
            raise PatchclampError(
                f"split: shuffle={allowed!r} on a time series: {figure}; leave shuffle out for whole groups or blocks "
                f'with a gap, or say shuffle="{SHUFFLE}" to measure the leak'
            )
        warnings.warn(f"split: {figure}; scores from these folds are no evidence", UserWarning, stacklevel=4)
    order = numpy_rng(seed).permutation(np.flatnonzero(use))
    folds = []
    for part in np.array_split(order, n_splits):
        test = np.zeros(len(use), bool)
        test[part] = True
        folds.append(_fold(use & ~test, test, (), 0))
    return folds


def _near(test: NDArray[np.bool_], run: Ints, position: Any, gap: float) -> NDArray[np.bool_]:
    """Samples within `gap` of a test sample of the same run."""
    near = np.zeros(len(test), bool)
    where = np.asarray(position, np.float64)
    slack = 1e-9 * max(1.0, float(np.abs(where).max(initial=0)))
    for r in np.unique(run[test]):
        mine = np.flatnonzero(run == r)
        held = np.sort(where[mine[test[mine]]])
        after = np.searchsorted(held, where[mine])
        before = np.clip(after - 1, 0, len(held) - 1)
        after = np.clip(after, 0, len(held) - 1)
        distance = np.minimum(np.abs(where[mine] - held[before]), np.abs(where[mine] - held[after]))
        near[mine] = distance <= gap + slack
    return near


def _fold(train: NDArray[np.bool_], test: NDArray[np.bool_], held: tuple[int, ...], gap: float) -> Fold:
    if not train.any() or not test.any():
        raise PatchclampError(
            f"split: a fold has {train.sum()} training and {test.sum()} test samples: gap={gap:g} leaves nothing to "
            "train on; take a smaller gap or fewer folds"
        )
    return Fold(np.flatnonzero(train), np.flatnonzero(test), held)


def blocked_folds(groups: ArrayLike, position: ArrayLike, n_splits: int, gap: float = 0) -> list[Fold]:
    """Whole groups, in the order they come in, where there are at least `n_splits`; else blocks of one series with a gap.

    Parameters
    ----------
    groups
        Group of each sample.
    position
        Place of each sample in time, rising; blocks follow each other and samples within `gap` of one are left out.

    Examples
    --------
    >>> [fold.train.tolist() for fold in blocked_folds([0] * 6, range(6), 2, gap=1)]
    [[4, 5], [0, 1]]
    """
    if n_splits < 2:
        raise PatchclampError(f"folds={n_splits}: at least two are needed to hold anything out")
    import pandas as pd

    codes, names = pd.factorize(np.asarray(groups))
    one, use = np.zeros(len(codes), np.int64), np.ones(len(codes), bool)
    if len(names) >= n_splits:
        return group_folds(codes.astype(np.int64), one, position, n_splits, 0, use)
    return time_folds(one, position, n_splits, gap, use)


class Blocked:
    """`blocked_folds` as a splitter of scikit-learn: contiguous test blocks with a gap on both sides in neither part.

    Neighbouring samples of a slow signal are nearly the same sample: on independent smoothed noise (width 8 bins)
    shuffled folds predict with r = .99, contiguous ones without a gap with .17, with a gap of 20 bins with .01.

    Parameters
    ----------
    n_splits
        Number of folds.
    gap
        Samples left out on either side of a test block; at least 2.5 widths of the autocorrelation, or the longest
        delay. Groups (runs, sessions) end it: nothing leaks over their borders.
    groups
        Label of each sample; with it, folds are made of whole groups and `gap` is only used when there are fewer
        groups than folds.

    Examples
    --------
    >>> [test.tolist() for _, test in Blocked(2).split(np.zeros((4, 1)))]
    [[0, 1], [2, 3]]
    """

    def __init__(self, n_splits: int = 5, gap: int = 0, groups: Any = None) -> None:
        if n_splits < 2:
            raise PatchclampError(f"n_splits={n_splits}: at least 2")
        if gap < 0:
            raise PatchclampError(f"gap={gap}: must not be negative")
        self.n_splits, self.gap = n_splits, gap
        self.groups = None if groups is None else np.asarray(groups)

    @classmethod
    def of(cls, cv: Any) -> Any:
        """The splitter that `cv` is, or contiguous blocks, as many as it says."""
        return cv if hasattr(cv, "split") else cls(int(cv))

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of folds, as scikit-learn asks for it."""
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[Ints, Ints]]:
        """Indices of training and test samples of each fold."""
        n = len(X)
        given = self.groups if groups is None else groups
        labels = np.zeros(n) if given is None else np.asarray(given)
        if len(labels) != n:
            raise PatchclampError(f"{len(labels)} groups for {n} samples")
        return (
            (fold.train, fold.test) for fold in blocked_folds(labels, np.arange(n), self.n_splits, self.gap)
        )


def autocorrelation(
    activity: ArrayLike, runs: Sequence[tuple[int, int]] | None = None, at: float = 0.5
) -> tuple[float, int]:
    """Mean autocorrelation of the columns at lag 1, and the first lag at which it falls below `at`.

    Each run (first sample, one past the last; by default all is one) is centred by itself and no product crosses a
    border. Constant columns are left out; the width is the longest run where it never falls.
    """
    x = np.array(activity, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    runs = [(0, len(x))] if runs is None else runs
    longest = max(stop - start for start, stop in runs)
    size = 2 ** int(np.ceil(np.log2(max(2 * longest, 2))))
    total = np.zeros((longest, x.shape[1]))
    for start, stop in runs:
        part = x[start:stop] - x[start:stop].mean(0)
        power = np.abs(np.fft.rfft(part, size, axis=0)) ** 2
        total[: stop - start] += np.fft.irfft(power, size, axis=0)[: stop - start]
    some = total[0] > 1e-24 * (x**2).sum(0)  # what rounding leaves of a constant column is none
    if not some.any() or longest < 2:
        return 0.0, 1
    mean = (total[:, some] / total[0, some]).mean(1)
    below = np.flatnonzero(mean < at)
    return float(mean[1]), int(below[0]) if len(below) else longest


def autocorrelation_width(signal: ArrayLike, at: float = 0.5) -> int:
    """Smallest lag at which the mean autocorrelation of the columns falls below `at`; a gap is 2.5 of these or more.

    Examples
    --------
    >>> autocorrelation_width(np.random.default_rng(0).normal(size=(500, 3)))
    1
    """
    if np.ptp(np.asarray(signal, np.float64), axis=0).max(initial=0) == 0:
        raise PatchclampError("the signal does not vary, so it has no autocorrelation")
    return autocorrelation(signal, at=at)[1]


def even_odd(scores: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Means of the 1st, 3rd, ... and of the 2nd, 4th, ... row of (item, unit) scores; NaN where there is none.

    Examples
    --------
    >>> even_odd(np.array([[1.0], [2.0], [4.0]]))
    {'even': array([2.5]), 'odd': array([2.])}
    """
    nothing = np.full(scores.shape[1:], np.nan)
    return {
        name: scores[k::2].mean(0) if len(scores) > k else nothing for k, name in enumerate(("even", "odd"))
    }
