"""The same change made to what should not matter: matched random units, or random directions."""

from __future__ import annotations

import numpy as np

from patchclamp.base.seeds import numpy_rng
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.units import Units
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.matching import MATCHED_BY, collect, how_near, matched_maps, members
from patchclamp.subjects.clamp.reference import Reference

MATCHED_DIRECTION = "site, norm and number of directions"
Change = tuple[Intervention, ...]


def matched_sets(
    units: Units, subject: Subject, reference: Reference, n_sets: int = 20, seed: int = 0
) -> list[Units]:
    """Draw random sets of units matched one to one with the given ones; see `matched_maps` for how.

    Parameters
    ----------
    units
        The set under test.
    subject, reference
        The model, and the items on which activity is measured.
    n_sets, seed
        How many sets, and the seed of the draws.
    """
    return [collect(list(one.values())) for one in matched_maps(units, subject, reference, n_sets, seed)]


def control_changes(
    change: Change, subject: Subject, reference: Reference, n_sets: int, seed: int
) -> tuple[list[Change], str]:
    """The same change `n_sets` times, elsewhere, and in words what was held equal, and how nearly.

    Interventions on units act on matched random units, the same ones wherever one unit is changed twice.
    Interventions along directions act at their own site along random directions of equal norm.
    """
    of_units = [i for i in change if i.vector is None]
    whole = Units.parse([i.units for i in of_units]) if of_units else None
    named = list(dict.fromkeys(m for i in of_units for m in members(i.units)))
    maps = matched_maps(whole, subject, reference, n_sets, seed) if whole is not None else [{}] * n_sets
    rng = numpy_rng([seed, 1])
    drawn = []
    for one in maps:
        places = {m: one[m] if m in one else (one[m[0], None][0], m[1]) for m in named}
        drawn.append(
            tuple(
                _random_direction(i, rng)
                if i.vector is not None
                else i.on(collect([places[m] for m in members(i.units)]))
                for i in change
            )
        )
    near = f"{MATCHED_BY} ({how_near(maps, subject, reference)})" if whole is not None else ""
    words = [near] * bool(of_units) + [MATCHED_DIRECTION] * (len(of_units) < len(change))
    return drawn, "; directions: ".join(words)


def _random_direction(change: Intervention, rng: np.random.Generator) -> Intervention:
    """The change along Gaussian random directions with the norms of its own."""
    vector = np.asarray(change.vector)
    drawn = rng.standard_normal(vector.shape)
    sizes = np.linalg.norm(vector, axis=-1, keepdims=True) / np.linalg.norm(drawn, axis=-1, keepdims=True)
    return change.along(drawn * sizes)
