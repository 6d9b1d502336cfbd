"""Bricks: a balanced partition of a layer's units into groups that are active together, or read alike.

Units are points; groups of equal size are found by balanced k-means (each round assigns units to places in groups at the
least total squared distance, exactly). How much a partition can be believed is said by how far restarts and disjoint halves
of the data agree (adjusted Rand index), beside partitions of shuffled activity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.assignment import match
from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import drawn_groups
from patchclamp.base.seeds import numpy_rng
from patchclamp.decompose.base import activity
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.matrix import ActivityMatrix, Reading
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.units import Site, Units

Labels = NDArray[np.int64]
_ROUNDS = 50


@shown
@dataclass(frozen=True)
class Bricks:
    """A partition of a site's units.

    Attributes
    ----------
    site : Site
    labels : array of int
        (units,) brick of each unit; bricks are numbered by their lowest unit.
    within, between : float
        Mean co-activation (phi coefficient) of pairs in one brick, and of pairs in two. NaN for `partition_weights`.
    restarts : float
        Mean adjusted Rand index of the partition with those of other starting points: 1 where all agree, 0 by chance.
    halves : float
        Adjusted Rand index of the partitions of two halves of the groups of samples. NaN for `partition_weights`.
    chance : float
        The same after each unit's activity was shifted against the others': what the method finds in nothing.
    meta : dict
    """

    site: Site
    labels: Labels
    within: float
    between: float
    restarts: float
    halves: float
    chance: float
    meta: dict[str, Any]

    @property
    def n_bricks(self) -> int:
        """Number of bricks."""
        return int(self.labels.max()) + 1

    def units(self, brick: int) -> Units:
        """The units of a brick, ready to be ablated or described."""
        if not 0 <= brick < self.n_bricks:
            raise PatchclampError(f"brick {brick}: there are bricks 0..{self.n_bricks - 1}")
        return Units({self.site: np.flatnonzero(self.labels == brick).tolist()})

    def activity(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch brick"]:
        """Sum of |activity| in each brick: what a router has to predict."""
        member = torch.from_numpy(np.eye(self.n_bricks)[self.labels]).to(activity.device, activity.dtype)
        return activity.abs() @ member

    def __str__(self) -> str:
        return (
            f"{self.n_bricks} bricks of {self.site}: co-activation {self.within:.3f} within, {self.between:.3f} between; "
            f"agreement of restarts {self.restarts:.2f}, of halves of the data {self.halves:.2f} (chance {self.chance:.2f})"
        )


@dataclass(frozen=True)
class Partition:
    """Estimator of bricks from co-activation.

    Parameters
    ----------
    n_bricks
        How many; their sizes differ by at most one unit.
    active
        Share of units that count as active in a sample: those with the largest |activity| (times `norms`).
    restarts
        Starting points; the tightest partition is kept.
    seed
        Of starting points and of the halves.

    Notes
    -----
    After MoEfication (Zhang et al. 2022: balanced k-means on weights, or a graph partition of co-activation counts) and
    Configurable Foundation Models (Xiao et al. 2024). Here units are embedded by the leading eigenvectors of their
    matrix of phi coefficients (which, unlike counts, do not make a brick of the busiest units), times the root of the
    eigenvalue. Memory grows with the square of the number of units, not with the samples.

    Examples
    --------
    >>> bricks = Partition(n_bricks=16).fit(recording, "mlp_act.15")                # doctest: +SKIP
    >>> effect(subject, task, Intervention(bricks.units(3), "mean"))                # doctest: +SKIP
    """

    n_bricks: int
    active: float = 0.1
    restarts: int = 5
    seed: int = 0

    def fit(
        self,
        recording: Recording,
        site: Site | str | None = None,
        *,
        norms: Float[Tensor, " unit"] | None = None,
        rows: int | None = None,
        **reading: Unpack[Reading],
    ) -> Bricks:
        """Partition a site's units.

        Parameters
        ----------
        recording, site
            Activity, read once.
        norms
            Norm of what each unit writes (`subject.output_norms`), by which |activity| is weighed.
        rows
            Samples at a time.
        reading
            As in `Decomposer.fit`.

        Raises
        ------
        PatchclampError
            For fewer units than bricks, a share of active units outside (0, 1), activity that never varies.
        """
        units = activity(recording, recording.sites[0] if site is None else site, **reading)
        source, width = units.site, units.width
        if not 2 <= self.n_bricks <= width:
            raise PatchclampError(f"n_bricks={self.n_bricks}: {source} has {width} units; give 2 to {width}")
        if not 0 < self.active < 1:
            raise PatchclampError(
                f"active={self.active}: give the share of units that count as active, such as 0.1"
            )
        counts = self._counts(units, norms, rows or recording.chunk_rows)
        phi = _phi(counts[0] + counts[1])
        if not (np.abs(phi - np.diag(np.diag(phi))) > 0).any():
            raise PatchclampError(
                f"{source}: no two units are ever active apart from each other; record more samples"
            )
        labels, others = self._partition(phi)
        halves = [self._partition(_phi(part))[0] for part in counts[:2]]
        shifted = [self._partition(_phi(part))[0] for part in counts[2:]]
        inside = labels[:, None] == labels
        off = ~np.eye(width, dtype=bool)
        return Bricks(
            source,
            labels,
            float(phi[inside & off].mean()),
            float(phi[~inside].mean()),
            agreement(labels, others),
            agreement(halves[0], halves[1:]),
            agreement(shifted[0], shifted[1:]),
            {
                "method": "bricks",
                "reading": units.about,
                **{name: getattr(self, name) for name in self.__dataclass_fields__},
            },
        )

    def _counts(self, units: ActivityMatrix, norms: Tensor | None, rows: int) -> list[Any]:
        """Co-activation counts of two halves of the groups, and of the same with every unit's samples shifted."""
        width, group = units.width, units.group
        k = max(1, round(self.active * width))
        counts = [(0, np.zeros((width, width))) for _ in range(4)]
        first = np.unique(group[drawn_groups(group, len(np.unique(group)) // 2, self.seed)])
        shifts = torch.from_numpy(numpy_rng([self.seed, 1]).integers(1, 1 << 30, width))
        for low in range(0, units.n, rows):
            x = units[low : low + rows].abs().float()
            x = x if norms is None else x * norms.to(x.device)
            on = torch.zeros_like(x).scatter(1, x.topk(k, dim=1).indices, 1.0) * (x > 0)
            half = torch.from_numpy(np.isin(group[low : low + rows], first))
            for number, chosen in enumerate((half, ~half)):
                part = on[chosen]
                if not len(part):
                    continue
                turned = part.gather(0, (torch.arange(len(part))[:, None] + shifts) % len(part))
                for place, table in ((number, part), (number + 2, turned)):
                    n, total = counts[place]
                    counts[place] = n + len(table), total + (table.T @ table).double().numpy()
        return [np.append(total.ravel(), n) for n, total in counts]

    def _partition(self, phi: NDArray[np.float64]) -> tuple[Labels, list[Labels]]:
        points = _embedded(phi, self.n_bricks)
        return best_partition(points, self.n_bricks, self.restarts, self.seed)


def _phi(packed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Phi coefficients of pairs of units from counts of samples in which both are active; 0 for units that never vary."""
    n, width = packed[-1], round((len(packed) - 1) ** 0.5)
    both = packed[:-1].reshape(width, width) / max(n, 1)
    rate = np.diag(both)
    spread = np.sqrt(rate * (1 - rate))
    with np.errstate(divide="ignore", invalid="ignore"):
        phi = (both - np.outer(rate, rate)) / np.outer(spread, spread)
    return np.where(np.isfinite(phi), phi, 0.0)


def _embedded(phi: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Coordinates of units on the `n` leading eigenvectors of their phi coefficients."""
    values, vectors = np.linalg.eigh(phi)
    values, vectors = values[-n:].clip(min=0), vectors[:, -n:]
    return np.asarray(vectors * np.sqrt(values))


def partition_weights(
    weights: Float[Tensor, "unit input"], site: Site | str, n_bricks: int, *, restarts: int = 5, seed: int = 0
) -> Bricks:
    """Partition units by what they read: balanced k-means on input weights of length 1.

    Parameters
    ----------
    weights
        One row a unit (of the gate, where there is one).
    """
    from patchclamp.nouns.recording.recording import named

    rows = weights.detach().double().cpu().numpy()
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    if not 2 <= n_bricks <= len(rows) or not (size > 0).all():
        raise PatchclampError(
            f"{site}: {len(rows)} units with n_bricks={n_bricks}; no row of weights may be zero"
        )
    labels, others = best_partition(rows / size, n_bricks, restarts, seed)
    shuffled = numpy_rng([seed, 1]).permuted(rows / size, axis=0)
    chance = agreement(*best_partition(shuffled, n_bricks, restarts, seed))
    nan = float("nan")
    meta = {"method": "bricks", "by": "weights", "n_bricks": n_bricks, "restarts": restarts, "seed": seed}
    return Bricks(named(site), labels, nan, nan, agreement(labels, others), nan, chance, meta)


def best_partition(
    points: NDArray[np.float64], n: int, restarts: int, seed: int
) -> tuple[Labels, list[Labels]]:
    """The tightest of several balanced partitions, and the others."""
    found = [balanced_kmeans(points, n, seed=[seed, number]) for number in range(max(2, restarts))]
    found.sort(key=lambda pair: pair[1])
    return found[0][0], [labels for labels, _ in found[1:]]


def balanced_kmeans(points: NDArray[np.float64], n: int, *, seed: Any = 0) -> tuple[Labels, float]:
    """K-means whose clusters differ in size by at most one; returns labels and the sum of squared distances.

    Examples
    --------
    >>> labels, loss = balanced_kmeans(np.array([[0.0], [0.1], [5.0], [5.1], [0.2], [5.2]]), 2)
    >>> labels.tolist(), round(loss, 2)
    ([0, 0, 1, 1, 0, 1], 0.04)
    """
    rng = numpy_rng(seed)
    centres = _spread_out(points, n, rng)
    place = np.arange(len(points)) % n  # the cluster that each place belongs to: sizes differ by at most one
    labels, loss = np.zeros(len(points), dtype=np.int64), np.inf
    for _ in range(_ROUNDS):
        distance = ((points**2).sum(1)[:, None] - 2 * points @ centres.T + (centres**2).sum(1)).clip(min=0)
        found = match(-distance[:, place])
        new, now = place[found.columns], -float(found.values.sum())
        if now >= loss - 1e-12 * max(now, 1e-300):
            break
        labels, loss = new, now
        centres = np.stack([points[labels == c].mean(0) for c in range(n)])
    first = np.array([np.flatnonzero(labels == c)[0] for c in range(n)])
    return np.argsort(np.argsort(first))[labels].astype(np.int64), loss


def _spread_out(points: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Starting centres as in k-means++."""
    chosen = [int(rng.integers(len(points)))]
    near = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < n:
        total = near.sum()
        free = np.setdiff1d(np.arange(len(points)), chosen)
        one = int(rng.choice(len(points), p=near / total)) if total > 0 else int(rng.choice(free))
        chosen.append(one)
        near = np.minimum(near, ((points - points[one]) ** 2).sum(1))
    return points[chosen]


def agreement(labels: Labels, others: list[Labels]) -> float:
    """Mean adjusted Rand index of one partition with others."""
    from sklearn.metrics import adjusted_rand_score  # slow to import, and needed here alone

    return float(np.mean([adjusted_rand_score(labels, other) for other in others]))


__all__ = ["Bricks", "Partition", "balanced_kmeans", "partition_weights"]
