"""Any statistic of a set of units among the same statistic of matched random sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null
from patchclamp.base.seeds import numpy_rng
from patchclamp.evaluate.circuits.draws import draw_sets
from patchclamp.nouns.units import Site, Units, UnitsLike
from patchclamp.subjects.clamp.matching import UnitOrSite, collect, members, strata

Array = NDArray[np.float64]


def matched_null(
    statistic: Callable[[Units], float],
    units: UnitsLike,
    pool: Any,
    covariate: Mapping[Site, Any] | None = None,
    *,
    n_sets: int = 199,
    seed: int = 0,
) -> Estimate:
    """Rank a set of units among random sets with as many units of each site and stratum of a covariate.

    Parameters
    ----------
    statistic
        Units -> number, large where the claim holds; any verb's result can be made into one.
    units
        The claimed set.
    pool
        All units it was chosen from, indices given (``"mlp_act.3[0:512]"``), or `Units`.
    covariate
        Site -> (unit,) number by which units are matched in ten quantiles of each site, such as mean activity
        (``Reference.activity``); None matches the site alone.
    n_sets, seed
        Random sets (at least 19; 199 for a p of .005), and seed.

    Returns
    -------
    MatchedNull

    Raises
    ------
    PatchclampError
        For units outside the pool.

    Examples
    --------
    >>> found = matched_null(lambda s: sum(sum(i or ()) for i in s.values()), "mlp_act.0[98,99]", "mlp_act.0[0:100]")
    >>> found.p
    0.005
    """
    chosen, candidates = members(Units.parse(units)), members(Units.parse(pool))
    lost = [member for member in chosen if member not in set(candidates)]
    if lost:
        raise PatchclampError(
            f"{collect(lost[:1])}: is not in the pool; list the pool's units, such as mlp_act.3[0:512]"
        )
    if n_sets < 19:
        raise PatchclampError(f"n_sets={n_sets}: with fewer than 19 sets p cannot reach .05")
    keys = strata(candidates, None if covariate is None else _values(candidates, covariate))
    drawn = draw_sets(candidates, chosen, keys, n_sets, numpy_rng(seed))
    known: dict[Units, float] = {}

    def value(one: list[UnitOrSite]) -> float:
        group = collect(one)
        if group not in known:
            known[group] = float(statistic(group))
        return known[group]

    null = np.array([value(one) for one in drawn])
    own = value(chosen)
    how = "site" if covariate is None else "site and covariate"
    kind = f"random sets matched by {how}"
    return Estimate(own, n=len(chosen), null=Null.of(null, kind, own, sides=1))


def _values(pool: list[UnitOrSite], covariate: Mapping[Site, Any]) -> Array:
    lost = [site for site, _ in pool if site not in covariate]
    if lost:
        raise PatchclampError(f"{lost[0]}: has no covariate; give one number a unit")
    return np.array([0.0 if i is None else float(covariate[s][i]) for s, i in pool])
