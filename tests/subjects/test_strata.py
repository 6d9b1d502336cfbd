"""Strata: sites, divided by a covariate; and orders that keep them."""

from __future__ import annotations

from typing import Any

import numpy as np

from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.matching import activity_of, matched_order, strata

POOL: list[Any] = [(Site("mlp_act", layer), i) for i in range(60) for layer in range(2)]
POOL += [(Site(point, layer), None) for layer in range(30) for point in ("mlp_out", "attn_out")]


class Known:
    """Activity that rises with the unit's index."""

    def activity(self, sites: list[Site]) -> dict[Site, np.ndarray]:
        return {site: np.arange(60.0) for site in sites}


def test_sites_are_strata_and_whole_sites_of_one_point_are_one():
    keys = strata(POOL)
    assert len(np.unique(keys)) == 4
    assert all(len({keys[i] for i, m in enumerate(POOL) if m[0] == Site("mlp_act", n)}) == 1 for n in (0, 1))
    divided = strata(POOL, activity_of(POOL, None, Known()), parts=10, fewest=20)  # type: ignore[arg-type]
    assert len(np.unique(divided)) == 2 * 3 + 2
    first = [divided[i] for i, m in enumerate(POOL) if m[0] == Site("mlp_act", 0)]
    assert np.bincount(np.unique(first, return_inverse=True)[1]).tolist() == [20, 20, 20]
    assert first == sorted(first)


def test_a_matched_order_has_as_many_of_each_stratum_among_its_first():
    order = matched_order(POOL, None, Known(), np.random.default_rng(0))  # type: ignore[arg-type]
    assert sorted(order, key=str) == sorted(POOL, key=str) and order != POOL
    for (one, i), (other, j) in zip(POOL, order, strict=True):
        assert one.point == other.point
        if i is not None:
            assert one == other and i // 6 == j // 6
