"""Random units that resemble given ones in everything but the finding: what controls are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.nouns.units import Site, Units
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.reference import Reference

Array = NDArray[np.float64]

MATCHED_BY = "point, the nearest in layer and mean |activity| x output norm"
ALIKE = 2.0
"""Units whose activity differs by more than this factor are not called alike."""
UnitOrSite = tuple[Site, "int | None"]
_TRIES = 1000


def members(units: Units) -> list[UnitOrSite]:
    """The units one by one; (site, None) for a whole site."""
    return [(site, index) for site, indices in units.items() for index in indices or (None,)]


def collect(chosen: Sequence[UnitOrSite]) -> Units:
    """The selection made of these members."""
    found: dict[Site, list[int] | None] = {}
    for site, index in chosen:
        known = found.setdefault(site, [])
        if index is None or known is None:
            found[site] = None
        else:
            known.append(index)
    return Units(found)


def matched_maps(
    units: Units, subject: Subject, reference: Reference, n_sets: int = 20, seed: int = 0
) -> list[dict[UnitOrSite, UnitOrSite]]:
    """Draw random sets of units, one to one the nearest to the given ones; `how_near` says how near that is.

    A unit is replaced by one of the units of the same point that are nearest to it: in its own layer, or in the
    nearest layers where that has too few to choose from, those whose mean |activity| x output norm on the reference
    items is closest. At least `n_sets` candidates (3 for each unit of the site in large sets) are used where the
    model has them. A whole site is replaced by the same point of a near layer. No unit under test is ever drawn, and
    no set is drawn twice while others are left.

    Parameters
    ----------
    units
        The set under test.
    subject, reference
        The model, and the items on which activity is measured.
    n_sets
        How many sets.
    seed
        Of the draws; the same seed gives the same sets.

    Returns
    -------
    list of dict
        For each set, what replaces each member of `units`.

    Raises
    ------
    PatchclampError
        Where a model has too few other units.
    """
    rng = numpy_rng(seed)
    pools: dict[UnitOrSite, list[UnitOrSite]] = {}
    for site, indices in units.items():
        pools.update(_pools(site, indices, units, subject, reference, n_sets))
    drawn: list[dict[UnitOrSite, UnitOrSite]] = []
    seen: set[frozenset[UnitOrSite]] = set()
    tries = _TRIES
    for _ in range(n_sets):
        for _ in range(tries):
            one = _draw(pools, rng)
            if frozenset(one.values()) not in seen:
                break
        else:
            tries = 1  # there are no others left
        seen.add(frozenset(one.values()))
        drawn.append(one)
    return drawn


def _pools(
    site: Site,
    indices: tuple[int, ...] | None,
    units: Units,
    subject: Subject,
    reference: Reference,
    n_sets: int,
) -> dict[UnitOrSite, list[UnitOrSite]]:
    """Candidates for each member of a site, nearest first."""
    wanted = max(n_sets, 3 * len(indices or ()))
    layers = _nearest_layers(site, subject)
    if indices is None:
        whole: list[UnitOrSite] = [(s, None) for s in layers if s not in units]
        return {(site, None): whole[:wanted]}
    near: list[Site] = []
    free = 0
    for other in layers:
        taken = units.get(other, ())
        if taken is None:
            continue
        near.append(other)
        free += subject.width(other) - len(taken)
        if free >= wanted:
            break
    candidates = [(s, i) for s in near for i in range(subject.width(s)) if i not in set(units.get(s) or ())]
    activity = reference.activity(list(dict.fromkeys([site, *near])))
    sizes = np.array([float(activity[s][i]) for s, i in candidates])
    found: dict[UnitOrSite, list[UnitOrSite]] = {}
    for index in indices:
        order = np.argsort(np.abs(sizes - float(activity[site][index])), kind="stable")
        found[site, index] = [candidates[place] for place in order[:wanted]]
    return found


def _nearest_layers(site: Site, subject: Subject) -> list[Site]:
    """The sites of the same point, nearest layer first; without layers, the site alone."""
    if site.layer is None:
        return [site]
    layer = site.layer
    same = [s for s in subject.alike(site) if s.layer is not None]
    return sorted(same, key=lambda s: (abs((s.layer or 0) - layer), s.layer))


def _draw(
    pools: Mapping[UnitOrSite, Sequence[UnitOrSite]], rng: np.random.Generator
) -> dict[UnitOrSite, UnitOrSite]:
    """One candidate for each member, all different. A draw that runs into a dead end is begun anew."""
    for _ in range(_TRIES):
        found: dict[UnitOrSite, UnitOrSite] = {}
        used: set[UnitOrSite] = set()
        for member, pool in pools.items():
            free = [candidate for candidate in pool if candidate not in used]
            if not free:
                break
            found[member] = free[int(rng.integers(len(free)))]
            used.add(found[member])
        if len(found) == len(pools):
            return found
    site = next(member[0] for member in pools if member not in found)
    raise PatchclampError(
        f"{site}: the model has too few other {site.point} units to draw a matched control of {len(pools)}; "
        "test fewer units, or pass control=None"
    )


def how_near(maps: Sequence[Mapping[UnitOrSite, UnitOrSite]], subject: Subject, reference: Reference) -> str:
    """In words how well the drawn units match those that they stand for: share in the same layer, ratio of activity.

    The ratio is that of mean |activity| x output norm, drawn over own, and its range that of 90 % of the pairs. Where the
    median pair differs by more than a factor of 2, nothing alike exists.
    """
    pairs = [(own, other) for one in maps for own, other in one.items()]
    same = float(np.mean([own[0].layer == other[0].layer for own, other in pairs]))
    text = f"{same:.0%} in the same layer"
    single = [(own, other) for own, other in pairs if own[1] is not None and other[1] is not None]
    if not single:
        return f"{text}; whole sites, which have no equal" if same < 1 else text
    ours, theirs = (activity_of([pair[side] for pair in single], subject, reference) for side in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(ours == theirs, 1.0, theirs / ours)
    low, middle, high = np.quantile(ratio, (0.05, 0.5, 0.95), method="nearest")
    text += f", activity {low:.2f} to {high:.2f} times theirs"
    return text if 1 / ALIKE <= middle <= ALIKE else f"{text}; nothing alike exists"


def strata(
    pool: Sequence[UnitOrSite], covariate: Array | None = None, parts: int = 10, fewest: int = 20
) -> NDArray[np.int64]:
    """(unit,) number of its stratum: its site, divided by the quantiles of a covariate where there is one.

    A site has up to `parts` strata of at least `fewest` units. A whole site has no equal in its layer: whole sites of
    one point form a stratum.
    """
    keys: dict[object, int] = {}
    site = np.array(
        [keys.setdefault(s if i is not None else s.point, len(keys)) for s, i in pool], dtype=np.int64
    )
    if covariate is None:
        return site
    found = np.empty(len(pool), dtype=np.int64)
    for own, key in keys.items():
        places = np.flatnonzero(site == key)
        rank = np.argsort(np.argsort(covariate[places], kind="stable"), kind="stable")
        n = 1 if isinstance(own, str) else max(1, min(parts, len(places) // fewest))
        found[places] = key * parts + rank * n // len(places)
    return found


def activity_of(pool: Sequence[UnitOrSite], subject: Subject, reference: Reference) -> Array:
    """Mean |activity| x output norm of each unit; 0 for whole sites."""
    sites = list(dict.fromkeys(site for site, index in pool if index is not None))
    known = reference.activity(sites) if sites else {}
    return np.array([0.0 if i is None else float(known[s][i]) for s, i in pool])


def matched_order(
    ranking: Sequence[UnitOrSite],
    subject: Subject,
    reference: Reference,
    rng: np.random.Generator,
    parts: int = 10,
) -> list[UnitOrSite]:
    """A random order with as many units of each site and stratum of activity among its first k as the ranking has.

    Units are permuted within strata of their site (up to `parts` by mean |activity| x output norm, at least five
    units each), so that what differs from the ranking is which units come first, not where they are or how active.
    """
    keys = strata(ranking, activity_of(ranking, subject, reference), parts, fewest=5)
    whole = np.array([index is None for _, index in ranking])
    order = np.arange(len(ranking))
    for key in [*np.unique(keys[whole])[::-1], *np.unique(keys[~whole])]:
        places = np.flatnonzero(keys == key)
        order[places] = places[rng.permutation(len(places))]
    return [ranking[int(i)] for i in order]
