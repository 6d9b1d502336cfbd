"""Random sets of units as large as a given one: from the whole pool, or with as many of each site and activity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchclamp.subjects.clamp.matching import UnitOrSite

CONTROLS = ("random", "matched")


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
