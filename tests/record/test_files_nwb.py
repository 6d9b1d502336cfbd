"""NWB: units, calcium, behaviour, trials and epochs come back, lazily; damage is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.record import file_contents, open_recording

pytestmark = pytest.mark.filterwarnings("ignore")
pynwb = pytest.importorskip("pynwb")

RNG = np.random.default_rng(0)
SPIKES = [np.sort(RNG.uniform(0, 20, n)) for n in (50, 3, 20)]
CALCIUM = RNG.normal(size=(400, 3)).astype("float32")
SPEED = np.linspace(0, 3, 2001)


def session() -> Any:
    file = pynwb.NWBFile("a test", "id-1", datetime(2024, 1, 1, tzinfo=UTC), lab="ours")
    file.subject = pynwb.file.Subject(subject_id="m1", species="Mus musculus", age="P90D", sex="F")
    return file


def with_units(file: Any, spikes: list[np.ndarray]) -> None:
    file.add_unit_column("region", "where")
    for i, times in enumerate(spikes):
        file.add_unit(spike_times=times, region=["CA1", "CA3"][i % 2])
    file.add_trial_column("choice", "what it did")
    for i in range(4):
        file.add_trial(start_time=4.0 * i + 1, stop_time=4.0 * i + 3, choice=["left", "right"][i % 2])
    file.add_epoch(0.0, 10.0, ["light"])
    file.add_epoch(10.0, 20.0, ["dark"])


def with_behaviour(file: Any) -> None:
    module = file.create_processing_module("behavior", "what the animal did")
    speed = pynwb.TimeSeries("speed", data=SPEED, unit="cm/s", rate=100.0, starting_time=0.0, conversion=2.0)
    place = pynwb.behavior.SpatialSeries(
        "place", data=np.stack([SPEED, -SPEED], 1), timestamps=np.arange(2001) / 100, reference_frame="corner"
    )
    module.add(pynwb.behavior.BehavioralTimeSeries(time_series=speed))
    module.add(pynwb.behavior.Position(spatial_series=place))


def with_calcium(file: Any, data: np.ndarray, rois: int) -> None:
    device = file.create_device("scope")
    channel = pynwb.ophys.OpticalChannel("green", "light", 510.0)
    plane = file.create_imaging_plane(
        "plane", channel, "V1 layer 2", device, 920.0, "GCaMP", "V1", imaging_rate=20.0
    )
    segments = pynwb.ophys.ImageSegmentation()
    table = segments.create_plane_segmentation("cells", plane, "rois")
    table.add_column("quality", "of the cell")
    for i in range(rois):
        table.add_roi(image_mask=np.zeros((4, 4)), quality=0.1 * i)
    region = table.create_roi_table_region("all", region=list(range(rois)))
    series = pynwb.ophys.RoiResponseSeries("dff", data, "1", region, rate=20.0, starting_time=0.5)
    module = file.create_processing_module("ophys", "calcium")
    module.add(segments)
    module.add(pynwb.ophys.DfOverF(roi_response_series=series))


def written(path: Path, file: Any) -> Path:
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = session()
    with_units(file, SPIKES)
    with_behaviour(file)
    with_calcium(file, CALCIUM, 3)
    return written(tmp_path_factory.mktemp("nwb") / "full.nwb", file)


def test_what_it_holds(full: Path) -> None:
    held = file_contents(full)
    assert {(i.name, i.kind, i.shape) for i in held.items} == {
        ("units", "spikes", (3,)), ("dff", "activity", (400, 3)),
    }  # fmt: skip
    assert dict(held.tables) == {"epochs": 2, "trials": 4}
    assert dict(held.behaviour) == {"speed": (2001,), "place": (2001, 2)}
    assert held.about["subject"]["species"] == "Mus musculus"
    with pytest.raises(PatchclampError, match=r"holds several recordings; say what=NAME, one of units, dff"):
        open_recording(full)
    with pytest.raises(PatchclampError, match=r"holds no 'unit'.*did you mean units"):
        open_recording(full, "unit")


def test_units(full: Path) -> None:
    trains = open_recording(full, "units")
    assert isinstance(trains, SpikeTrains)
    assert all(np.array_equal(trains[i], SPIKES[i]) for i in range(3))
    assert trains.units()["region"].tolist() == ["CA1", "CA3", "CA1"]
    trials = trains.table("trials")
    assert trials["start"].tolist() == [1.0, 5.0, 9.0, 13.0]
    assert trials["choice"].tolist() == ["left", "right", "left", "right"]
    counts = trains.bin(0.5, within="epochs")
    assert counts.manifest["label_names"] == ["dark", "light"]
    assert counts["units"][:].sum(0).tolist() == [50, 3, 20]
    time = counts.column("time")
    speed = np.interp(time, np.arange(2001) / 100, SPEED)
    assert np.allclose(counts.column("speed"), 2 * speed)
    assert np.allclose(counts.column("place_1"), -speed)
    cut = trains.epoch(trials.rename(columns={"choice": "label"}), (0.0, 2.0), 1.0)
    assert cut.samples.label.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_calcium(full: Path) -> None:
    found = open_recording(full, "dff", groups="epochs")
    assert isinstance(found, Recording)
    assert np.array_equal(found["dff"].numpy(), CALCIUM)
    assert np.array_equal(found["dff"][[300, 2]].numpy(), CALCIUM[[300, 2]])
    time = 0.5 + np.arange(400) / 20
    assert np.allclose(found.column("time"), time)
    assert found.time_step == pytest.approx(0.05)
    table = found.units()
    assert table["quality"].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert set(table["location"]) == {"V1"}
    assert found.samples.group.tolist() == [0 if t < 10 else (1 if t < 20 else -1) for t in time]
    inside = [next((i for i in range(4) if 4 * i + 1 <= t < 4 * i + 3), -1) for t in time]
    assert found.column("trial").tolist() == inside
    assert sorted(np.concatenate([f.test for f in found.split(gap=0)])) == [
        i for i, t in enumerate(time) if t < 20
    ]
    with pytest.raises(PatchclampError, match=r"groups='epoch'; tables: .*did you mean epochs"):
        open_recording(full, "dff", groups="epoch")


def test_a_recording_of_a_file_is_saved_and_opened(full: Path, tmp_path: Path) -> None:
    found = open_recording(full, "dff")
    again = found.save(tmp_path / "store")
    assert np.array_equal(again["dff"].numpy(), CALCIUM)
    assert again.tables == found.tables
    assert np.allclose(again.column("speed"), found.column("speed"), equal_nan=True)


def test_nothing_is_read_on_opening(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import h5py

    large = []
    original = h5py.Dataset.__getitem__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.name.endswith(("dff/data", "speed/data", "place/data")):
            large.append(self.name)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    found = open_recording(full, "dff")
    assert found.samples.doc.tolist() == [0] * 400
    assert not large
    assert found["dff"][:3].shape == (3, 3)
    assert len(large) == 1


def test_what_is_wrong_is_refused(tmp_path: Path) -> None:
    file = session()
    with_units(file, [np.array([0.3, 0.1])])
    path = written(tmp_path / "unsorted.nwb", file)
    with pytest.raises(PatchclampError, match=r"unsorted\.nwb, units, unit 0: spikes are not sorted"):
        open_recording(path)
    assert open_recording(path, sort=True)[0].tolist() == [0.1, 0.3]
    with pytest.raises(PatchclampError, match=r"a spike at 0\.3 s is outside the recording, 0 to 0\.2 s"):
        open_recording(path, sort=True, span=(0.0, 0.2))
    path = written(tmp_path / "bare.nwb", session())
    with pytest.raises(PatchclampError, match=r"bare\.nwb: a readable NWB file, but it holds no spike times"):
        open_recording(path)
    whole = (tmp_path / "unsorted.nwb").read_bytes()
    (tmp_path / "cut.nwb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PatchclampError, match=r"cut\.nwb: not readable as NWB.*is the file complete"):
        open_recording(tmp_path / "cut.nwb")


def test_calcium_the_wrong_way_round_and_with_nan(tmp_path: Path) -> None:
    file = session()
    with_calcium(file, CALCIUM.T.copy(), 3)
    path = written(tmp_path / "turned.nwb", file)
    with pytest.raises(
        PatchclampError, match=r"turned\.nwb, dff: 400 columns of data for 3 units.*first axis"
    ):
        open_recording(path, "dff")
    holes = CALCIUM.copy()
    holes[100:, 1] = np.nan
    file = session()
    with_calcium(file, holes, 3)
    path = written(tmp_path / "nan.nwb", file)
    with pytest.raises(PatchclampError, match=r"nan\.nwb, dff: nan at sample 100, unit 1.*missing='mask'"):
        open_recording(path)["dff"][:]
    masked = open_recording(path, missing="mask")
    assert masked.present("dff").tolist() == [True, False, True]
    assert np.array_equal(masked["dff"].numpy()[:, [0, 2]], CALCIUM[:, [0, 2]])


def test_rates_are_over_obs_intervals(tmp_path: Path) -> None:
    """Unit 0 was lost after 90 of 100 s: 200 spikes are 2.22 Hz, not 2.00."""
    file = session()
    times = [np.sort(RNG.uniform(0, stop, 200)) for stop in (90, 100)]
    for one, stop in zip(times, (90.0, 100.0), strict=True):
        file.add_unit(spike_times=one, obs_intervals=[[0.0, 40.0], [40.0, stop]])
    path = written(tmp_path / "lost.nwb", file)
    trains = open_recording(path)
    assert isinstance(trains, SpikeTrains)
    assert trains.units()["rate"].tolist() == pytest.approx([200 / 90, 2.0])
    assert trains.bin(10.0).column("content").tolist() == [True] * 9 + [False]
    without = open_recording(path, observed=False)
    assert without.units()["rate"].tolist() == pytest.approx([2.0, 2.0], rel=0.02)
    file = session()
    file.add_unit(spike_times=[1.0, 95.0], obs_intervals=[[0.0, 90.0]])
    file.add_unit(spike_times=[1.0, 99.0], obs_intervals=[[0.0, 100.0]])
    path = written(tmp_path / "outside.nwb", file)
    with pytest.raises(PatchclampError, match=r"unit 0: a spike at 95 s is outside the time.*observed=False"):
        open_recording(path)
    assert open_recording(path, observed=False).counts.tolist() == [2, 2]
