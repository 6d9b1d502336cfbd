"""PSTH, reliability, tuning, decoding and spike-triggered averages, each against a closed form or a planted answer."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.measure import Measure
from patchclamp.measure.brain import (
    PSTH,
    Reliability,
    decode_behaviour,
    plot_psth,
    plot_reliability,
    psth,
    raster,
    spike_triggered_average,
    split_half,
    tuning,
)
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.nouns.recording.spikes import SpikeTrains


def trials(values: np.ndarray, label: np.ndarray) -> Recording:
    """(trial, time, unit) with a label a trial."""
    n, length, width = values.shape
    doc = torch.arange(n).repeat_interleave(length)
    samples = Samples.of(doc, torch.arange(length).repeat(n), label=torch.tensor(label)[doc])
    return Recording.from_arrays({"v1": values.reshape(-1, width)}, samples)


def drawn(plot: Callable[[], Any], axes: int | None = None) -> None:
    """The picture is drawn, where matplotlib is installed."""
    if find_spec("matplotlib") is not None:
        assert len(plot().axes) == (axes or len(plot().axes))
        assert plot().axes[0].has_data()


def planted(seed: int, conditions: int, repeats: int, noise: float, units: int = 4) -> Recording:
    """Signal of variance 1 for each condition, and noise of variance `noise` on each repeat."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(conditions, 1, units))
    values = np.repeat(signal, repeats, 0) + noise**0.5 * rng.normal(size=(conditions * repeats, 1, units))
    return trials(values, np.repeat(np.arange(conditions), repeats))


def run(measure: Measure, r: Recording, cuts: list[int]) -> Measure:
    for start, end in zip([0, *cuts], [*cuts, len(r)], strict=True):
        if end > start:
            measure.update(r["v1"][start:end], r.samples[start:end])
    return measure


@pytest.mark.parametrize("kind", [PSTH, Reliability])
def test_parts_merge_to_the_whole_in_any_order(kind: type[Measure]) -> None:
    rng = np.random.default_rng(1)
    r = trials(rng.normal(size=(12, 5, 3)), np.arange(12) % 3)
    whole = run(kind(), r, []).result()
    order = torch.from_numpy(rng.permutation(len(r)))
    mixed = Recording.from_arrays({"v1": r["v1"][order].numpy()}, r.samples[order])
    parts = []
    for start in (40, 0, 13):
        end = {40: 60, 0: 13, 13: 40}[start]
        part = kind()
        part.update(mixed["v1"][start:end], mixed.samples[start:end])
        parts.append(kind.from_state(part.state()))
    joined = parts[0].merge(parts[1]).merge(parts[2]).result()
    batches = run(kind(), r, [1, 7, 33]).result()
    for name in whole.data_vars:
        assert np.allclose(joined[name], whole[name], rtol=1e-10, equal_nan=True)
        assert np.allclose(batches[name], whole[name], rtol=1e-10, equal_nan=True)


def test_psth_is_the_mean_over_trials() -> None:
    rng = np.random.default_rng(0)
    values, label = rng.normal(size=(10, 6, 3)), np.array([0, 1] * 5)
    found = run(PSTH(step=0.1, start=-0.2), trials(values, label), [7]).result()
    for c in (0, 1):
        own = values[label == c]
        assert np.allclose(found["mean"].sel(condition=c), own.mean(0))
        assert np.allclose(found["sem"].sel(condition=c), own.std(0, ddof=1) / 5**0.5)
    assert np.allclose(found["time"], np.arange(6) * 0.1 - 0.2)
    assert found["count"].values.tolist() == [[5] * 6] * 2


def test_psth_of_spikes_is_a_rate() -> None:
    """Spikes at a rate of 50 Hz that doubles after the event."""
    rng = np.random.default_rng(0)
    events = np.arange(1.0, 199.0, 2.0)
    base = np.sort(rng.uniform(0, 200, 10_000))
    extra = np.sort(np.concatenate([rng.uniform(e, e + 0.5, rng.poisson(25)) for e in events]))
    trains = SpikeTrains.from_times([np.sort(np.r_[base, extra]), base], span=(0.0, 200.0))
    cut = trains.epoch({"start": events, "label": ["go"] * len(events)}, (-0.5, 0.5), 0.1)
    found = psth(cut)
    before, after = found["mean"].sel(time=slice(None, 0)), found["mean"].sel(time=slice(0, None))
    assert before.mean("time")[0].values == pytest.approx([50, 50], rel=0.06)
    assert after.mean("time")[0].values == pytest.approx([100, 50], rel=0.06)
    assert found["condition"].values.tolist() == ["go"]
    pytest.importorskip("matplotlib")
    figure = plot_psth(found)
    assert figure.axes[0].get_ylabel() == "rate (Hz)"
    rows = raster(trains, events, (-0.5, 0.5)).axes[0].collections
    assert len([c for c in rows if len(c.get_paths()) or c.get_positions()]) == len(events)


def test_the_noise_ceiling_of_the_card() -> None:
    """Signal variance 1, noise 4, three repeats: a trial repeats at .2, and the ceiling of r2 is .4286."""
    found = run(Reliability(), planted(0, 20_000, 3, 4.0), [999]).result()
    assert found["single"].values == pytest.approx([0.2] * 4, abs=0.015)
    assert found["ceiling_r2"].values == pytest.approx([3 / 7] * 4, abs=0.015)
    assert found["ceiling_r"].values == pytest.approx(found["ceiling_r2"].values ** 0.5)
    ncsnr = found["ncsnr"].values
    assert found["ceiling_r2"].values == pytest.approx(ncsnr**2 / (ncsnr**2 + 1 / 3))
    single = found["single"].values
    assert found["ceiling_r2"].values == pytest.approx(3 * single / (1 + 2 * single))
    more = run(Reliability(repeats=12), planted(0, 20_000, 3, 4.0), []).result()
    assert more["ceiling_r2"].values == pytest.approx([12 / 16] * 4, abs=0.02)
    drawn(lambda: plot_reliability(found))


def test_the_ceiling_is_what_an_oracle_reaches() -> None:
    rng = np.random.default_rng(3)
    signal = rng.normal(size=20_000)
    mean = signal + rng.normal(size=(3, 20_000)).mean(0) * 2
    assert np.corrcoef(signal, mean)[0, 1] ** 2 == pytest.approx(3 / 7, abs=0.015)


def test_unequal_repeats_and_nothing_to_repeat() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(3000), rng.integers(1, 6, 3000))
    values = rng.normal(size=(3000, 1, 2))[label] + rng.normal(size=(len(label), 1, 2))
    found = run(Reliability(), trials(values, label), []).result()
    assert found["single"].values == pytest.approx([0.5, 0.5], abs=0.04)
    noise = run(Reliability(), trials(rng.normal(size=(6000, 1, 2)), np.arange(6000) % 2000), []).result()
    assert noise["single"].values == pytest.approx([0, 0], abs=0.04)
    with pytest.raises(PatchclampError, match="2 conditions with 2 samples"):
        run(Reliability(), trials(values[:2], np.arange(2)), []).result()


def test_split_half_agrees_with_the_variances() -> None:
    r = planted(1, 2000, 6, 4.0)
    found = split_half(r, n_splits=20)
    full = 6 * 0.2 / (1 + 5 * 0.2)
    assert found["reliability"].values == pytest.approx([full] * 4, abs=0.04)
    assert np.array_equal(found["half"], split_half(r, n_splits=20)["half"])
    with pytest.raises(PatchclampError, match="label 1 has a single trial"):
        split_half(trials(np.zeros((4, 3, 1)), np.array([0, 0, 1, 0])))


def walk(seed: int = 0, seconds: float = 900.0) -> SpikeTrains:
    """An animal that runs to and fro on 100 cm, and cells with fields of 8 cm and a rate of 20 Hz; the last has none."""
    rng = np.random.default_rng(seed)
    t = np.arange(0, seconds, 0.05)
    x = 50 + 50 * np.sin(t / 6 + 1.5 * np.sin(t / 47))
    centres = np.linspace(5, 95, 10)
    rates = [0.05 + 20 * np.exp(-0.5 * ((x - c) / 8) ** 2) for c in centres] + [np.full(len(t), 3.0)]
    times = [
        np.sort(np.repeat(t, n) + rng.uniform(0, 0.05, n.sum()))
        for n in map(rng.poisson, np.array(rates) * 0.05)
    ]
    return SpikeTrains.from_times(times, span=(0, seconds + 0.1), behaviour={"x": (t, x)})


def test_fields_are_recovered_with_their_null() -> None:
    found = tuning(walk().bin(0.1), "x", 40, n_shifts=40)
    peaks = found.curves["x"].values[found.curves[:10].values.argmax(1)]
    assert np.abs(peaks - np.linspace(5, 95, 10)).max() < 5
    assert found.table["peak"][:10].mean() == pytest.approx(20, rel=0.15)
    assert (found.table["p"][:10] <= 1 / 41 + 1e-9).all()
    assert found.table["p"][10] > 0.05
    assert found.table["information"][10] < 0.05
    drawn(found.plot, 8)
    assert found.occupancy.sum() == pytest.approx(900, rel=0.01)


def test_tuning_of_activity_that_is_no_count_and_in_two_dimensions() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 4, 4000), rng.uniform(0, 2, 4000)
    r = Recording.from_arrays({"dff": np.stack([np.floor(x) + 10 * np.floor(y)], 1)}).with_columns(x=x, y=y)
    found = tuning(r, ["x", "y"], [4, 2], range_=[(0, 4), (0, 2)])
    assert np.allclose(found.curves[0].values, np.arange(4)[:, None] + 10 * np.arange(2))
    drawn(found.plot)
    with pytest.raises(PatchclampError, match="column 'z'"):
        tuning(r, "z")


def test_position_is_decoded_and_a_shift_is_not() -> None:
    counts = walk().bin(0.25)
    found = decode_behaviour(counts, "x", 40, n_shifts=10)
    assert found.median.value < 5
    assert np.median(found.median.null.draws) > 15
    assert min(found.median.null.draws) > 4 * found.median.value
    assert found.median.null.p == pytest.approx(1 / 11)
    assert np.array_equal(
        found.estimate, decode_behaviour(counts, "x", 40, n_shifts=0).estimate, equal_nan=True
    )
    drawn(found.plot)
    alone = counts.select(units={"units": [10]})
    assert decode_behaviour(alone, "x", 40, n_shifts=0).median.value > 15
    with pytest.raises(PatchclampError, match="must be counts"):
        decode_behaviour(counts.smooth(1.0), "x")


def test_the_spike_triggered_average_finds_the_filter() -> None:
    """Spikes where white noise filtered 12 ms before is large: the average has the filter's shape and lag."""
    rng = np.random.default_rng(0)
    stimulus = rng.normal(size=60_000)
    kernel = np.exp(-0.5 * ((np.arange(30) - 12) / 3) ** 2)
    drive = np.convolve(stimulus, kernel)[: len(stimulus)]
    fired = np.flatnonzero(drive > 2 * drive.std())
    random = np.sort(rng.choice(60_000, 1500, replace=False))
    trains = SpikeTrains.from_times([fired * 1e-3, random * 1e-3])
    found = spike_triggered_average(stimulus, trains, step=1e-3, window=(-0.04, 0.01), n_shuffles=100)
    assert found.data["peak_lag"][0] == pytest.approx(-0.012, abs=0.002)
    average = found.data["average"][0].sel(lag=slice(-0.0291, 0.0001)).values[::-1]
    assert np.corrcoef(average, kernel)[0, 1] > 0.98
    assert found.data["peak"][0] > 3 * found.data["band"][0]
    assert found.data["p"][0] == pytest.approx(1 / 101)
    assert found.data["p"][1] > 0.05
    drawn(found.plot)
    with pytest.raises(PatchclampError, match="none of 1 spikes has its window inside"):
        spike_triggered_average(stimulus, SpikeTrains.from_times([[900.0]]), step=1e-3)
