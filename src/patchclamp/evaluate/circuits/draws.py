"""Random sets of units as large as a given one: from the whole pool, or with as many of each site and activity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.matching import UnitOrSite
from patchclamp.subjects.clamp.reference import Reference

Array = NDArray[np.float64]
STRATA = 10
FEWEST = 20
CONTROLS = ("random", "matched")


def strata(
    pool: Sequence[UnitOrSite], covariate: Array | None = None, parts: int = STRATA
) -> NDArray[np.int64]:
    """A number for each unit's site and, with a covariate, its quantile there (at least 20 units each, so that there are sets enough).

    A whole site has no equal in its layer: whole sites of one point form a stratum.
    """
    keys: dict[object, int] = {}
    site = np.array(
        [keys.setdefault(s if i is not None else s.point, len(keys)) for s, i in pool], dtype=np.int64
    )
    if covariate is None:
        return site
    found = np.empty(len(pool), dtype=np.int64)
    for key in range(len(keys)):
        places = np.flatnonzero(site == key)
        rank = np.argsort(np.argsort(covariate[places], kind="stable"), kind="stable")
        many = max(1, min(parts, len(places) // FEWEST))
        found[places] = key * parts + rank * many // len(places)
    return found


def activity_of(pool: Sequence[UnitOrSite], subject: Subject, reference: Reference) -> Array:
    """Mean |activity| x output norm of each unit; 0 for whole sites."""
    sites = list(dict.fromkeys(site for site, index in pool if index is not None))
    known = reference.activity(sites) if sites else {}
    return np.array([0.0 if i is None else float(known[s][i]) for s, i in pool])


def draw_sets(
    pool: Sequence[UnitOrSite],
    chosen: Sequence[UnitOrSite],
    keys: NDArray[np.int64],
    n: int,
    rng: np.random.Generator,
) -> list[list[UnitOrSite]]:
    """`n` sets of as many units of each stratum as `chosen` has, drawn from the whole pool, `chosen` included.

    That the set under test can be drawn too is what makes the rank of a random set among them uniform.
    """
    own = set(chosen)
    inside = np.array([member in own for member in pool])
    wanted = [
        (np.flatnonzero(keys == key), int(inside[keys == key].sum())) for key in np.unique(keys[inside])
    ]
    return [
        [pool[int(i)] for places, k in wanted for i in np.sort(rng.choice(places, k, replace=False))]
        for _ in range(n)
    ]
