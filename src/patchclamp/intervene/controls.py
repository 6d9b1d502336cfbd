"""Random sets of units that resemble the ones under test in everything but the finding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from patchclamp.errors import PatchclampError
from patchclamp.subjects.base import Subject
from patchclamp.subjects.reference import Reference
from patchclamp.units import Site, Units

NEIGHBOURS = 10
MATCHED_BY = "point, layer (the nearest ones where a layer has too few units) and activity x output norm"


def matched_sets(
    units: Units, subject: Subject, reference: Reference, n_sets: int = 20, seed: int = 0
) -> list[Units]:
    """Draw random sets of units matched one to one with the given ones.

    Each unit is replaced by one of the `NEIGHBOURS` units (or more, for large sets) of the same point that are
    nearest in layer first and, within those layers, in mean activity x output norm on the reference items; never by
    a unit of the set itself. A whole site is replaced by the same point of another layer.

    Parameters
    ----------
    units
        The set under test.
    n_sets
        How many sets; each has as many units as `units`.
    seed
        Of the draws; the same seed gives the same sets.

    Raises
    ------
    PatchclampError
        Where a model has too few other units to draw from.
    """
    rng = np.random.default_rng(seed)
    pools = {site: _pool(site, indices, units, subject, reference) for site, indices in units.items()}
    return [_draw(units, pools, rng) for _ in range(n_sets)]


Candidate = tuple[Site, int | None]


def _pool(
    site: Site, indices: tuple[int, ...] | None, units: Units, subject: Subject, reference: Reference
) -> dict[int | None, list[Candidate]]:
    """Candidates for each unit of a site, nearest first."""
    others = [
        s for s in subject.known_sites() if s.point == site.point and s.io == site.io and s.layer is not None
    ]
    others.sort(key=lambda s: (abs((s.layer or 0) - (site.layer or 0)), s.layer or 0))
    if site.layer is None:
        others = [site]
    if indices is None:
        return {None: [(s, None) for s in others if s not in units]}
    near: list[Site] = []
    free = 0
    for other in others:
        near.append(other)
        free += subject.width(other) - len(units.get(other) or ())
        if free >= max(NEIGHBOURS, 3 * len(indices)):
            break
    activity = reference.activity([*dict.fromkeys([site, *near])])
    candidates: list[Candidate] = [
        (s, i) for s in near for i in range(subject.width(s)) if i not in (units.get(s) or ())
    ]
    sizes = np.array([float(activity[s][i or 0]) for s, i in candidates])
    wanted = max(NEIGHBOURS, 3 * len(indices))
    found: dict[int | None, list[Candidate]] = {}
    for index in indices:
        order = np.argsort(np.abs(sizes - float(activity[site][index])), kind="stable")
        found[index] = [candidates[j] for j in order[:wanted]]
    return found


def _draw(
    units: Units, pools: Mapping[Site, Mapping[int | None, list[Candidate]]], rng: np.random.Generator
) -> Units:
    chosen: list[Candidate] = []
    for site, indices in units.items():
        for index in indices or (None,):
            free = [c for c in pools[site][index] if c not in chosen]
            if not free:
                raise PatchclampError(
                    f"{site}: the model has too few other {site.point} units to draw a matched control of "
                    f"{units.count}; test fewer units, or pass control=None"
                )
            chosen.append(free[int(rng.integers(len(free)))])
    members: dict[Site, list[int] | None] = {}
    for site, number in chosen:
        if number is None:
            members[site] = None
        else:
            known = members.setdefault(site, [])
            assert known is not None
            known.append(number)
    return Units(members)
