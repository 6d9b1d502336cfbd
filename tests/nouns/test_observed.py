"""Units that were lost for a while: rates are over the time in which each was observed, and nothing is counted as silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchclamp import PatchclampError, SpikeTrains
from patchclamp.record import open_recording

RNG = np.random.default_rng(0)
TIMES = [np.sort(RNG.uniform(0, 90, 200)), np.sort(RNG.uniform(0, 100, 200))]
SEEN: list[Any] = [[(40.0, 90.0), (0.0, 40.0)], [(0.0, 100.0)]]


def trains(**more: Any) -> SpikeTrains:
    return SpikeTrains.from_times(TIMES, observed=SEEN, **more)


def test_rates_are_over_the_time_observed() -> None:
    found = trains()
    assert found.span == (0.0, 100.0)
    assert found.units()["rate"].tolist() == pytest.approx([200 / 90, 2.0])
    assert found.units()["observed"].tolist() == [90.0, 100.0]
    assert found.select([1]).units()["rate"].tolist() == [2.0]
    assert SpikeTrains.from_times(TIMES, span=(0, 100)).units()["rate"].tolist() == [2.0, 2.0]
    assert "observed" not in SpikeTrains.from_times(TIMES).units()


def test_bins_in_which_a_unit_was_lost_are_not_content() -> None:
    counts = trains().bin(7.0)
    assert counts.column("content").tolist() == [7 * (i + 1) <= 90 for i in range(15)]
    assert counts["units"][:].sum(0).tolist() == [200, 200]
    assert trains().select([1]).bin(7.0).column("content").tolist() == [True] * 14 + [False]
    apart = SpikeTrains.from_times([[1.0], [8.0]], observed=[[(0, 5)], [(6, 9)]])
    with pytest.raises(PatchclampError, match=r"in no bin of 1 s were all 2 units observed; select\(\)"):
        apart.bin(1.0)
    assert apart.select([0]).bin(1.0).column("content").sum() == 5


def test_windows_that_leave_it_are_refused() -> None:
    with pytest.raises(PatchclampError, match=r"event 1 at 89\.5 s.*where all units were observed"):
        trains().epoch([10.0, 89.5], (-1.0, 1.0), 0.5)
    assert len(np.unique(trains().epoch([10.0, 89.5], (-1, 1), 0.5, outside="drop").column("trial"))) == 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(
        PatchclampError, match=r"unit 0: a spike at .* outside the time in which the unit was observed"
    ):
        SpikeTrains.from_times(TIMES, observed=[[(0.0, 50.0)], None], span=(0, 100))
    with pytest.raises(PatchclampError, match="from 5 to 5 s, which is no interval"):
        SpikeTrains.from_times([[1.0]], observed=[[(5.0, 5.0)]])
    with pytest.raises(PatchclampError, match="observed has 1 entries for 2 units"):
        SpikeTrains.from_times(TIMES, observed=[None])


def test_it_is_saved(tmp_path: Path) -> None:
    again = open_recording(trains().save(tmp_path / "s.npz"))
    assert isinstance(again, SpikeTrains)
    assert again.units().equals(trains().units())
    np.savez(
        tmp_path / "bad.npz", spike_times=[1.0], spike_units=[0], observed=[[0, 2.0]], observed_units=[3]
    )
    with pytest.raises(PatchclampError, match=r"observed is \(1, 2\) with 1 observed_units"):
        open_recording(tmp_path / "bad.npz")


pairs = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(pairs, min_size=1, max_size=3), st.integers(1, 4))
def test_against_a_grid(units: list[list[tuple[int, int]]], width: int) -> None:
    """Whole seconds, one by one: a bin is content where every second of it was observed in every unit."""
    intervals = [[(a, a + n) for a, n in one] or None for one in units]
    grid = np.array(
        [[one is None or any(a <= t < b for a, b in one) for t in range(28)] for one in intervals]
    )
    found = SpikeTrains.from_times([[]] * len(units), span=(0.0, 28.0), observed=intervals)
    assert found.units()["observed"].tolist() == grid.sum(1).tolist()
    whole = [bool(grid[:, i : i + width].all()) and i + width <= 28 for i in range(0, 28, width)]
    if any(whole):
        assert found.bin(float(width)).column("content").tolist() == whole
