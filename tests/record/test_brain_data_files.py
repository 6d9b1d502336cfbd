"""Real recordings: what is known of them comes out. Skipped where the data are not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.measure.brain import decode_behaviour, spike_triggered_average, tuning
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.record import open_recording

DATA = Path(os.environ.get("PATCHCLAMP_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
pytestmark = pytest.mark.filterwarnings("ignore")


def folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"no data at {DATA / name}; set PATCHCLAMP_DATA")
    return DATA / name


@pytest.fixture(scope="module")
def haxby() -> Recording:
    pytest.importorskip("nibabel")
    place = folder("haxby")
    rows = [line.split() for line in (place / "attributes_literal.txt").read_text().splitlines()]
    found = open_recording(
        place / "bold.nii.gz", runs=[run for _, run in rows], labels=[name for name, _ in rows]
    )
    assert isinstance(found, Recording)
    return found


def accuracy(recording: Recording, folds: list[Any]) -> float:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import cross_val_score

    x, y = recording["bold"].numpy(), recording.column("label")
    return float(cross_val_score(RidgeClassifier(1000), x, y, cv=folds).mean())


def test_haxby_and_the_leak(haxby: Recording) -> None:
    assert haxby["bold"].shape == (1452, 530)
    names = [name for name in haxby.manifest["label_names"] if name != "rest"]
    seen = haxby.zscore(by="group").select(where={"label": names})
    folds = seen.split()
    assert len(folds) == 12
    honest = accuracy(seen, folds)
    assert 0.60 < honest < 0.70
    with pytest.raises(
        PatchclampError, match="shuffle=True on a time series: neighbouring samples correlate"
    ):
        seen.split(shuffle=True)
    with pytest.warns(UserWarning, match="no evidence"):
        leaky = seen.split(shuffle="leaks", n_splits=12)
    assert accuracy(seen, leaky) > honest + 0.15


def tetrodes(value: Any) -> list[np.ndarray]:
    """Times of every unit in the nested cells of the file."""
    if value.dtype == object:
        return [times for cell in value.ravel() for times in tetrodes(cell)]
    cells = value.ravel() if value.dtype.names else []
    return [t for t in (np.ravel(cell["time"]) for cell in cells) if len(t)]


@pytest.fixture(scope="module")
def place_cells() -> SpikeTrains:
    from scipy.io import loadmat

    place = folder("place-cells")
    raw = (place / "trajectory.videoPositionTracking").read_bytes()
    fields = [("t", "<u4"), ("x", "<u2"), ("y", "<u2"), ("x2", "<u2"), ("y2", "<u2")]
    frames = np.frombuffer(raw[raw.index(b"<End settings>") + 15 :], fields)
    t, first = np.unique(frames["t"] / 30_000, return_index=True)
    behaviour = {axis: (t, frames[axis][first].astype(float)) for axis in "xy"}
    run = {"run": {"start": [t[0]], "stop": [t[0] + 960]}}
    return SpikeTrains.from_times(
        tetrodes(loadmat(place / "spikes.mat")["spikes"]), tables=run, behaviour=behaviour
    )


def test_place_cells(place_cells: SpikeTrains) -> None:
    assert place_cells.n_units == 31
    fields = tuning(
        place_cells.bin(0.1, within="run"), ["x", "y"], 30, smooth=1.5, min_occupancy=0.3, n_shifts=50
    )
    assert (fields.table["p"] < 0.05).sum() >= 20
    found = decode_behaviour(place_cells.bin(1.0, within="run"), ["x", "y"], 30, smooth=1.5, n_shifts=10)
    assert 30 < found.median.value < 45
    assert min(found.median.null.draws) > 100


def test_the_nested_file_is_refused_with_the_way_out() -> None:
    with pytest.raises(PatchclampError, match=r"spikes\.mat: entry 0 of spikes is of type.*from_times"):
        open_recording(folder("place-cells") / "spikes.mat")


def test_grasshopper() -> None:
    nitime = pytest.importorskip("nitime")
    place = Path(nitime.__file__).parent / "data"
    stimulus = np.loadtxt(place / "grasshopper_stimulus1.txt")[:, 1]
    spikes = SpikeTrains.from_times([np.loadtxt(place / "grasshopper_spike_times1.txt") * 1e-6])
    found = spike_triggered_average(stimulus, spikes, step=50e-6, window=(-0.03, 0.01))
    assert found.data["peak_lag"][0] == pytest.approx(-0.006, abs=0.0005)
    assert found.data["peak"][0] > 5 * found.data["band"][0]


def test_nwb() -> None:
    pytest.importorskip("pynwb")
    found = open_recording(folder("nwb") / "A8604-211122.nwb")
    assert found.counts.tolist() == [11020, 4690, 5644]
    assert found.table("epochs")["label"].tolist() == ["wake"]


def test_calcium() -> None:
    place = folder("calcium")
    both = [open_recording(place / f, axes="unit sample", step=1 / 30) for f in ("F.npy", "Fneu.npy")]
    f, neuropil = (r["activity"].numpy() for r in both)
    each = [np.corrcoef(a, b)[0, 1] for a, b in zip(f.T, neuropil.T, strict=True) if a.std() and b.std()]
    assert np.mean(each) == pytest.approx(0.78, abs=0.05)


def test_meeg() -> None:
    pytest.importorskip("mne")
    place = folder("meeg")
    average = open_recording(place / "test-ave.fif.gz", picks="all")
    assert average.to_trials().shape == (4, 421, 376)
    assert average.units()["x"].notna().sum() > 300
    edf = open_recording(place / "test.edf")
    assert edf.n_samples == 3072
    assert edf.time_step == pytest.approx(1 / 512)
    assert len(edf.table("events")) == 5
    assert open_recording(place / "test.bdf").n_samples == 2048


def test_the_page_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of docs/recordings.md that need these files, and their outputs."""
    import contextlib
    import doctest
    import io

    from pages import ROOT, blocks

    for package in ("nibabel", "nitime", "matplotlib"):
        pytest.importorskip(package)
    folder("haxby"), folder("place-cells")
    monkeypatch.setenv("PATCHCLAMP_DATA", str(DATA.resolve()))
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    printed, checked = "", 0
    for block in blocks(ROOT / "docs" / "recordings.md"):
        if block.note == "not run: needs data":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("\n" * block.line + block.code, "recordings.md", "exec"), namespace)
            printed = out.getvalue()
        elif block.note == "data output":
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(block.code, printed, flags), printed
            checked += 1
    assert checked == 3
