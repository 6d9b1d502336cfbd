"""The sample axis: bins add up, epochs by closed form, smoothing and z-scores stay in their group, folds do not leak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import autocorrelation
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.nouns.recording.spikes import SpikeTrains

STEP = 0.1


def recording(sizes: list[int], units: int = 3, seed: int = 0, groups: list[int] | None = None) -> Recording:
    """Runs of these lengths, each with times from zero."""
    n = sum(sizes)
    doc = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    position = torch.cat([torch.arange(size) for size in sizes])
    group = doc if groups is None else torch.tensor(groups)
    values = np.random.default_rng(seed).normal(size=(n, units)).astype("float32")
    samples = Samples.of(doc, position, group=group)
    return Recording.from_arrays({"lfp": values}, samples).with_columns(time=position.numpy() * STEP)


def spikes(seed: int, n: int = 200, units: int = 3, stop: float = 20.0) -> SpikeTrains:
    rng = np.random.default_rng(seed)
    return SpikeTrains.from_times([np.sort(rng.uniform(0, stop, n)) for _ in range(units)], span=(0.0, stop))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 99))
def test_bins_add_up(sizes: list[int], k: int, seed: int) -> None:
    r = recording(sizes, seed=seed)
    if max(sizes) == 1:
        return
    b = r.bin(k * STEP, how="sum")
    assert torch.allclose(b["lfp"][:].sum(0), r["lfp"][:].sum(0), atol=1e-4)
    assert [int((b.samples.doc == d).sum()) for d in range(len(sizes))] == [-(-s // k) for s in sizes]
    full = b.take(b.column("content"))["lfp"][:] if b.column("content").any() else torch.zeros(0, 3)
    whole = [
        r["lfp"][:][sum(sizes[:d]) :][: s // k * k].reshape(-1, k, 3).sum(1) for d, s in enumerate(sizes)
    ]
    assert torch.allclose(full, torch.cat(whole), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.013, 3.0), st.integers(0, 99))
def test_every_spike_is_in_one_bin(width: float, seed: int) -> None:
    trains = spikes(seed)
    counts = trains.bin(width)
    values = counts["units"][:]
    assert values.sum(0).tolist() == trains.counts.tolist()
    assert np.allclose(counts.column("time"), (np.arange(len(counts)) + 0.5) * width)
    inner = np.histogram(trains[1], bins=np.arange(len(counts)) * width)[0]
    assert values[: len(inner), 1].tolist() == inner.tolist()
    rows = np.random.default_rng(seed).permutation(len(counts))[:5]
    assert torch.equal(counts["units"][rows], values[rows])


def test_a_spike_on_the_last_edge_is_counted() -> None:
    trains = SpikeTrains.from_times([[0.0, 0.5, 1.0]])
    assert trains.bin(0.5)["units"][:, 0].tolist() == [1.0, 2.0]
    assert SpikeTrains.from_times([[0.0, 1.0]], span=(0.0, 1.0)).bin(0.25)["units"][:].sum() == 2


def test_bins_within_intervals_are_groups() -> None:
    trains = spikes(1)
    r = trains.bin(0.5, within=[(1.0, 3.0), (10.0, 11.2)])
    assert r.samples.group.tolist() == [0] * 4 + [1] * 3
    assert r.column("content").tolist() == [True] * 6 + [False]
    t = trains[0]
    assert float(r["units"][:, 0].sum()) == ((t >= 1) & (t < 3)).sum() + ((t >= 10) & (t < 11.2)).sum()
    with pytest.raises(PatchclampError, match=r"interval 1, 30 to 40 s, holds nothing.*0 to 20"):
        trains.bin(0.5, within=[(1.0, 3.0), (30.0, 40.0)])


@settings(max_examples=25, deadline=None)
@given(st.integers(-5, 0), st.integers(1, 6), st.floats(-0.049, 0.049))
def test_epochs_by_closed_form(before: int, after: int, jitter: float) -> None:
    r = recording([100])
    events = np.array([3.0, 4.2, 7.7]) + jitter
    cut = r.epoch({"start": events, "label": ["b", "a", "b"]}, (before * STEP, after * STEP))
    x = r["lfp"][:]
    expected = torch.stack([x[i + before : i + after] for i in (30, 42, 77)])
    assert torch.equal(cut["lfp"][:].reshape(expected.shape), expected)
    trials = cut.to_trials()
    assert trials.dims == ("trial", "time", "unit")
    assert np.allclose(trials["time"], np.arange(before, after) * STEP)
    assert trials["trial_label"].values.tolist() == ["b", "a", "b"]
    assert cut.manifest["label_names"] == ["a", "b"]
    assert set(cut.column("group")) == {0}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_spikes_are_aligned_to_the_event_itself(seed: int) -> None:
    trains = spikes(seed)
    events = np.random.default_rng(seed).uniform(2, 18, 5)
    cut = trains.epoch(events, (-0.5, 1.0), 0.25)
    for i, event in enumerate(events):
        edges = event + np.arange(-2, 5) * 0.25
        expected = np.searchsorted(trains[2], edges[1:]) - np.searchsorted(trains[2], edges[:-1])
        assert cut.select(where={"doc": i})["units"][:, 2].tolist() == expected.tolist()
        around = trains.around(2, events, (-0.5, 1.0))[i]
        assert len(around) == expected.sum()


def test_epochs_leave_neither_the_recording_nor_a_run() -> None:
    one = recording([50])
    with pytest.raises(PatchclampError, match=r"event 1 at 4\.8 s.*outside='drop'"):
        one.epoch([2.0, 4.8], (-0.2, 0.5))
    assert one.epoch([2.0, 4.8], (-0.2, 0.5), outside="drop").column("trial").tolist() == [0] * 7
    with pytest.raises(PatchclampError, match="no event"):
        one.epoch([900.0], (-0.2, 0.5), outside="drop")
    two = recording([50, 50])
    with pytest.raises(PatchclampError, match="needs its run"):
        two.epoch([2.0], (-0.2, 0.5))
    cut = two.epoch({"start": [2.0, 2.0], "doc": [0, 1]}, (0.0, 0.1))
    assert torch.equal(cut["lfp"][:], two["lfp"][:][[20, 70]])
    holed = one.take(np.r_[0:20, 30:50])
    with pytest.raises(PatchclampError, match="event 0"):
        holed.epoch([1.9], (-0.2, 0.5))


def test_smoothing_keeps_constants_and_never_crosses_a_border() -> None:
    r = recording([40, 60])
    r = Recording.from_arrays(
        {"lfp": np.repeat([[1.0], [5.0]], [40, 60], 0)}, r.samples
    ).with_columns(time=r.column("time"))  # fmt: skip
    assert torch.allclose(r.smooth(0.5)["lfp"][:], r["lfp"][:], atol=1e-12)
    pulse = np.zeros((101, 1))
    pulse[50] = 1
    one = Recording.from_arrays({"lfp": pulse}, Samples.of(torch.zeros(101), torch.arange(101)))
    found = one.with_columns(time=np.arange(101) * STEP).smooth(0.3)["lfp"][:, 0].numpy()
    shape = np.exp(-0.5 * ((np.arange(101) - 50) / 3.0) ** 2)
    assert np.allclose(found, shape / shape.sum(), atol=1e-4)


def test_zscore_by_group() -> None:
    r = recording([40, 60])
    z = r.zscore()
    for doc in (0, 1):
        own = z.select(where={"doc": doc})["lfp"][:].double()
        assert own.mean(0).abs().max() < 1e-6
        assert (own.std(0, correction=0) - 1).abs().max() < 1e-5
    flat = Recording.from_arrays({"a": np.full((10, 2), 7.7)}).zscore(by="token")
    assert torch.equal(flat["a"][:], torch.zeros(10, 2).double())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(2, 30), min_size=2, max_size=6), st.integers(2, 6), st.floats(0, 1.5), st.booleans()
)
def test_folds_never_cut_a_group_and_leave_the_gap(
    sizes: list[int], n: int, gap: float, one_run: bool
) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    r = recording([sum(sizes)], groups=group.tolist()) if one_run else recording(sizes)
    n = min(n, len(sizes))
    try:
        folds = r.split("group", n, gap=gap)
    except PatchclampError as error:
        assert "a fold has 0 training" in str(error)
        return
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(r)))
    time, doc = r.column("time"), r.column("doc")
    for train, test in folds:
        assert not set(group[train]) & set(group[test])
        apart = np.abs(time[train][:, None] - time[test][None, :])
        same = doc[train][:, None] == doc[test][None, :]
        assert apart[same].min(initial=np.inf) > gap
        if not one_run:
            assert len(train) + len(test) == len(r)


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 80), st.integers(2, 5), st.floats(0, 0.6))
def test_blocks_in_time_leave_the_gap(n: int, k: int, gap: float) -> None:
    r = recording([n])
    folds = r.split("time", k, gap=gap)
    assert np.concatenate([test for _, test in folds]).tolist() == list(range(n))
    time = r.column("time")
    for train, test in folds:
        assert np.ptp(test) == len(test) - 1
        assert np.abs(time[train][:, None] - time[test]).min() > gap
        dropped = n - len(train) - len(test)
        assert dropped <= 2 * (gap / STEP + 1)


def test_the_leak_of_the_card() -> None:
    """Independent smoothed noise: shuffled folds predict, the default folds do not."""
    from scipy.ndimage import gaussian_filter1d
    from sklearn.linear_model import Ridge

    scores: dict[str, list[float]] = {"shuffled": [], "default": []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x, y = (gaussian_filter1d(rng.normal(size=(600, k)), 8, axis=0) for k in (100, 50))
        r = Recording.from_arrays(
            {"x": x}, Samples.of(torch.zeros(600), torch.arange(600), group=torch.zeros(600))
        )
        r = r.with_columns(time=np.arange(600) * 1.0)
        with pytest.warns(UserWarning, match=r"correlate at 0\.99"):
            shuffled = r.split(shuffle="leaks")
        scale = x.std()
        for name, folds in (("shuffled", shuffled), ("default", r.split())):
            for train, test in folds:
                guess = Ridge(10.0 * scale**2).fit(x[train], y[train]).predict(x[test])
                a, b = guess - guess.mean(0), y[test] - y[test].mean(0)
                scores[name].append(float(((a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))).mean()))
    assert np.mean(scores["shuffled"]) > 0.9
    assert abs(np.mean(scores["default"])) < 0.03


def test_shuffled_folds_are_refused_with_the_figure() -> None:
    r = recording([50, 50])
    with pytest.raises(
        PatchclampError, match=r"shuffle=True on a time series.*correlate at .*shuffle=\"leaks\""
    ):
        r.split(shuffle=True)
    alone = Recording.from_arrays({"a": np.random.default_rng(0).normal(size=(20, 2))})
    folds = alone.split(shuffle=True, by="group", n_splits=4, seed=3)
    assert [f.test.tolist() for f in folds] == [
        f.test.tolist() for f in alone.split("group", 4, shuffle=True, seed=3)
    ]
    with pytest.raises(PatchclampError, match="3 folds of 2 groups"):
        r.split(n_splits=3)
    with pytest.raises(PatchclampError, match="gap='wide'"):
        r.split(gap="wide")


def test_autocorrelation_of_an_ar1() -> None:
    rng = np.random.default_rng(0)
    x = np.zeros((20_000, 4))
    noise = rng.normal(size=x.shape)
    for t in range(1, len(x)):
        x[t] = 0.9 * x[t - 1] + noise[t]
    at_one, width = autocorrelation(x, [(0, len(x))])
    assert at_one == pytest.approx(0.9, abs=0.02)
    assert abs(width - np.log(0.5) / np.log(0.9)) <= 1


def test_columns_are_selected_saved_and_opened(tmp_path: Path) -> None:
    r = recording([30, 30]).with_columns(speed=np.linspace(0, 1, 60), trial=np.arange(60) // 10)
    r.manifest["tables"] = {"trials": {"start": [0.0, 1.0], "label": ["a", "b"]}}
    part = r.select(where={"speed": slice(0.5, None), "doc": 1, "trial": [4, 5]})
    assert part.column("trial").min() == 4
    assert len(part) == 20
    with pytest.raises(PatchclampError, match="matches none"):
        r.select(where={"speed": slice(7, 8)})
    again = part.save(tmp_path / "part")
    for name in ("time", "speed", "trial", "position"):
        assert np.array_equal(again.column(name), part.column(name))
    assert again.table("trials")["label"].tolist() == ["a", "b"]
    assert torch.equal(again["lfp"][:], part["lfp"][:])
    opened = xr.open_zarr(tmp_path / "part")
    assert np.array_equal(opened["speed"].values, part.column("speed"))
    assert "speed" in again.to_xarray("lfp").coords
    with pytest.raises(PatchclampError, match="did you mean speed"):
        again.column("sped")


def test_derived_views_read_any_rows() -> None:
    r = recording([37, 23]).select(units={"lfp": [2, 0]})
    for view in (r.bin(0.3), r.smooth(0.2), r.zscore(), r.zscore().smooth(0.2).bin(0.3)):
        whole = view["lfp"][:]
        rows = [5, 3, 3, 11]
        assert torch.equal(view["lfp"][rows], whole[rows])
        assert view.units()["index"].tolist() == [2, 0]
        cat = torch.cat([arrays[view.sites[0]] for _, arrays in view.chunks(rows=7)])
        assert torch.allclose(cat, whole)
        assert torch.equal(view.select(where={"doc": 1})["lfp"][:], whole[view.samples.doc == 1])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([[0.3, 0.1]], r"unit 0: spikes are not sorted: 0\.3 s comes before 0\.1 s"),
        ([[0.1], [float("nan")]], "unit 1: spike 0 is at nan"),
        ([[0.5, 11.0]], r"a spike at 11 s is outside the recording, 0 to 10 s"),
        ([], "there is no unit"),
    ],
)
def test_bad_spikes_are_refused(times: list[list[float]], message: str) -> None:
    with pytest.raises(PatchclampError, match=message):
        SpikeTrains.from_times(times, span=(0.0, 10.0))


def test_unsorted_spikes_are_sorted_on_request() -> None:
    assert SpikeTrains.from_times([[0.3, 0.1]], sort=True)[0].tolist() == [0.1, 0.3]


def test_behaviour_is_interpolated_and_not_invented() -> None:
    t = np.r_[np.arange(0, 5, 0.1), np.arange(8, 10.05, 0.1)]
    trains = SpikeTrains.from_times(
        [[0.5, 9.0]], span=(0, 12.0), behaviour={"x": (t, 2 * t), "xy": (t, np.stack([t, -t], 1))}
    )
    r = trains.bin(0.5)
    x, time = r.column("x"), r.column("time")
    inside = ((time > 0) & (time < 4.9)) | ((time > 8) & (time < 10))
    assert np.allclose(x[inside], 2 * time[inside])
    assert np.isnan(x[(time > 5) & (time < 8)]).all()
    assert np.isnan(x[time > 10.2]).all()
    assert np.allclose(r.column("xy_1")[inside], -time[inside])
    with pytest.raises(PatchclampError, match=r"its times do not increase: 1 s, then 1 s"):
        SpikeTrains.from_times([[0.5]], span=(0, 1), behaviour={"x": ([1.0, 1.0], [0, 0])}).bin(0.5).column(
            "x"
        )
