"""How well each layer's features do on each region, with the same draws of stimuli for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import Blocked
from patchclamp.base.seeds import numpy_rng
from patchclamp.compare.cka import debiased, gram_matrix
from patchclamp.compare.dissimilarity import dissimilarities
from patchclamp.compare.encoding.ceiling import half_means, spearman_brown, split_half
from patchclamp.compare.encoding.ridge import Ridge
from patchclamp.compare.inputs import Matrix
from patchclamp.compare.layers.regions import Region
from patchclamp.compare.resampled import draw_counts, resampled
from patchclamp.compare.rsa import COMPARATORS, ceilings

_SPLITS = 5  # into halves, for the interval of a lower bound
Scores = tuple[Matrix, Matrix]  # (layer, region) and (draw, layer, region)


@dataclass(frozen=True)
class Draws:
    """Bootstrap of stimuli: counts (draw, stimulus), and the seed for what else is drawn."""

    n: int
    n_boot: int
    seed: int

    def counts(self) -> Matrix:
        return draw_counts(self.n, self.n_boot, 1, self.seed)[0]


@dataclass
class Scorer(ABC):
    """Takes layers one by one, so that their features need not be held together."""

    regions: Sequence[Region]
    draws: Draws
    values: list[list[float]] = field(default_factory=list, init=False)
    found: list[Matrix] = field(default_factory=list, init=False)
    scale = "similarity"

    @abstractmethod
    def add(self, features: Any) -> None:
        """Score one more layer."""

    def finish(self) -> Scores:
        """Values and draws of all layers."""
        return np.array(self.values), np.stack(self.found, 1)

    @abstractmethod
    def ceiling(self, region: Region) -> tuple[float, float] | None:
        """Lower and upper bound for a region."""

    @abstractmethod
    def halves(self, a: Matrix, b: Matrix, counts: Matrix) -> Matrix:
        """(draw,) agreement of two halves of the repeats (stimulus, target) under counts (draw, stimulus)."""

    def floor(self, region: Region) -> Matrix:
        """(draw,) the lower bound on the same stimuli as the layers' draws; empty without draws or bound."""
        if region.trials is None or not self.draws.n_boot:
            return np.empty(0)
        pairs = half_means(region.trials, _SPLITS, [self.draws.seed, 3])
        return np.asarray(np.mean([self.halves(a, b, self.draws.counts()) for a, b in pairs], axis=0))


@dataclass
class RSAScorer(Scorer):
    """Dissimilarities of a layer against those of each region; several subjects are drawn together with stimuli."""

    kind: str = "correlation"
    comparator: str = "spearman"
    held: list[Matrix] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.targets = [_vectors(region, self.kind) for region in self.regions]

    def add(self, features: Any) -> None:
        self.held.append(dissimilarities(features, self.kind))  # type: ignore[arg-type]

    def finish(self) -> Scores:
        models, score = np.stack(self.held), COMPARATORS[self.comparator]
        values = np.array([[np.mean([score(m, s) for s in t]) for t in self.targets] for m in models])
        found = np.full((self.draws.n_boot, len(models), len(self.targets)), np.nan)
        if self.draws.n_boot:
            every = resampled(models, np.concatenate(self.targets), self.draws.counts(), self.comparator)
            rng, start = numpy_rng([self.draws.seed, 1]), 0
            for r, target in enumerate(self.targets):
                people = rng.multinomial(
                    len(target), np.full(len(target), 1 / len(target)), size=self.draws.n_boot
                )
                mine = every[:, :, start : start + len(target)]
                found[:, :, r] = (mine * people[:, None]).sum(2) / len(target)
                start += len(target)
        return values, found

    def ceiling(self, region: Region) -> tuple[float, float] | None:
        vectors = self.targets[list(self.regions).index(region)]
        if len(vectors) > 1:
            return ceilings(vectors, self.comparator)  # type: ignore[arg-type]
        if region.trials is None:
            return None
        score = COMPARATORS[self.comparator]
        halves = [
            score(dissimilarities(a, self.kind), dissimilarities(b, self.kind))  # type: ignore[arg-type]
            for a, b in half_means(region.trials, 20, [self.draws.seed, 3])
        ]
        return _bounds(float(np.mean(halves)))

    def halves(self, a: Matrix, b: Matrix, counts: Matrix) -> Matrix:
        one, other = (dissimilarities(part, self.kind)[None] for part in (a, b))  # type: ignore[arg-type]
        return resampled(one, other, counts, self.comparator)[:, 0, 0]

    def floor(self, region: Region) -> Matrix:
        vectors = self.targets[list(self.regions).index(region)]
        if len(vectors) < 2 or not self.draws.n_boot:
            return super().floor(region)
        seen = np.stack([np.delete(vectors, k, 0).mean(0) for k in range(len(vectors))])
        each = [
            resampled(seen[[k]], vectors[[k]], self.draws.counts(), self.comparator)[:, 0, 0]
            for k in range(len(vectors))
        ]
        return np.asarray(np.mean(each, axis=0))


@dataclass
class EncodingScorer(Scorer):
    """Ridge from a layer to the units of each region; held-out correlation over stimuli, mean over units."""

    cv: Any = 5
    groups: Any = None
    model: Ridge | None = None
    scale = "r"

    def __post_init__(self) -> None:
        self.activity = [_activity(region, "encoding") for region in self.regions]
        n = self.draws.n
        plain = self.groups is None and not hasattr(self.cv, "split")
        # Stimuli in random order are exchangeable; series and groups keep theirs.
        self.order = numpy_rng([self.draws.seed, 2]).permutation(n) if plain else np.arange(n)
        splitter = Blocked.of(self.cv)
        ordered = None if self.groups is None else np.asarray(self.groups)[self.order]
        self.folds = list(splitter.split(np.zeros((n, 1)), None, ordered))

    def add(self, features: Any) -> None:
        x = np.asarray(features, np.float64)[self.order]
        counts = self.draws.counts()[:, self.order] if self.draws.n_boot else np.zeros((0, len(x)))
        one = np.ones((1, len(x)))
        values, found = [], []
        for y in self.activity:
            predicted, seen = self._held_out(x, y[self.order])
            values.append(float(_correlations(predicted, seen, one)[0]))
            found.append(_correlations(predicted, seen, counts))
        self.values.append(values)
        self.found.append(np.stack(found, -1))

    def _held_out(self, x: Matrix, y: Matrix) -> tuple[Matrix, Matrix]:
        """Predictions of stimuli not fitted, and those stimuli's responses, both less the mean of the fitted ones.

        Without that, the changing mean of the fitted ones, low where held-out responses are high, would
        correlate negatively with them.
        """
        predicted, seen = np.full_like(y, np.nan), np.full_like(y, np.nan)
        for train, test in self.folds:
            model = self.model or Ridge()
            labels = None if self.groups is None else np.asarray(self.groups)[self.order][train]
            fitted = Ridge(model.alphas, model.cv, model.scale).fit(x[train], y[train], labels)
            mean = y[train].mean(0)
            predicted[test], seen[test] = fitted.predict(x[test]) - mean, y[test] - mean
        if np.isnan(predicted).any():
            raise PatchclampError("cv: the folds do not test every stimulus once; pass a splitter that does")
        return predicted, seen

    def ceiling(self, region: Region) -> tuple[float, float] | None:
        if region.trials is None:
            return None
        with np.errstate(invalid="ignore"):
            full = np.asarray(split_half(region.trials, seed=self.draws.seed))
        half = full / (2 - full)  # the correction undone; units without reliability must be able to cancel
        return float(np.nanmean(half)), float(np.nanmean(np.sqrt(np.clip(full, 0, 1))))

    def halves(self, a: Matrix, b: Matrix, counts: Matrix) -> Matrix:
        return _correlations(a, b, counts)


@dataclass
class CKAScorer(Scorer):
    """Debiased alignment of a layer with each region; draws are those of the linearised bootstrap.

    A stimulus drawn twice would be compared with itself, which the debiased estimate must not see. The draws
    are theta + sum_i (c_i - 1) u_i / n with the jackknife's influences u_i = (n - 1) (theta - theta without i).
    """

    def __post_init__(self) -> None:
        self.grams = [gram_matrix(_activity(region, "cka")) for region in self.regions]

    def add(self, features: Any) -> None:
        own = gram_matrix(np.asarray(features, np.float64))
        n = len(own)
        values, found = [], []
        for gram in self.grams:
            value = debiased(own, gram)
            without = leave_one_out(own, gram)
            influence = (n - 1) * (value - without)
            counts = self.draws.counts() if self.draws.n_boot else np.zeros((0, n))
            values.append(value)
            found.append(value + (counts - 1) @ influence / n)
        self.values.append(values)
        self.found.append(np.stack(found, -1))

    def ceiling(self, region: Region) -> tuple[float, float] | None:
        if region.trials is None:
            return None
        halves = half_means(region.trials, 20, [self.draws.seed, 3])
        return float(np.mean([debiased(gram_matrix(a), gram_matrix(b)) for a, b in halves])), 1.0

    def halves(self, a: Matrix, b: Matrix, counts: Matrix) -> Matrix:
        one, other = gram_matrix(a), gram_matrix(b)
        value, n = debiased(one, other), len(one)
        return np.asarray(value + (counts - 1) @ ((n - 1) * (value - leave_one_out(one, other))) / n)


def leave_one_out(k: Matrix, m: Matrix) -> Matrix:
    """Debiased alignment without each sample in turn, from sums over whole matrices."""
    n = len(k) - 1

    def criterion(a: Matrix, b: Matrix) -> Matrix:
        a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
        row_a, row_b, shared = a.sum(1), b.sum(1), (a * b).sum(1)
        trace = shared.sum() - 2 * shared
        whole = (row_a.sum() - 2 * row_a) * (row_b.sum() - 2 * row_b) / ((n - 1) * (n - 2))
        rows = row_a @ row_b - row_a * row_b - b @ row_a - a @ row_b + shared
        return np.asarray((trace + whole - 2 / (n - 2) * rows) / (n * (n - 3)))

    under = criterion(k, k) * criterion(m, m)
    return np.asarray(criterion(k, m) / np.sqrt(np.where(under > 0, under, np.nan)))


def _correlations(p: Matrix, y: Matrix, counts: Matrix) -> Matrix:
    """Mean over units of the correlation under each row of counts (draw, stimulus); constant units are left out."""
    total = counts.sum(1, keepdims=True)
    means = [counts @ part / total for part in (p, y, p * p, y * y, p * y)]
    spread = (means[2] - means[0] ** 2) * (means[3] - means[1] ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (means[4] - means[0] * means[1]) / np.sqrt(np.where(spread > 1e-24, spread, np.nan))
    some = ~np.isnan(r)
    return np.asarray(np.where(some.any(1), np.nansum(r, 1) / np.maximum(some.sum(1), 1), np.nan))


def _vectors(region: Region, kind: str) -> Matrix:
    if region.vectors is not None:
        return region.vectors
    return dissimilarities(region.activity, kind)[None]  # type: ignore[arg-type]


def _activity(region: Region, method: str) -> Matrix:
    if region.activity is None:
        raise PatchclampError(
            f"{region.name}: method {method!r} needs activity, and this region has dissimilarities; take 'rsa'"
        )
    return region.activity


def _bounds(half: float) -> tuple[float, float]:
    """Correlation of half the repeats with the other half, and the root of the reliability of all."""
    return half, float(np.sqrt(max(0.0, float(spearman_brown(half, 2)))))
