"""Arrays, MATLAB files and tables: what is written comes back, lazily, and what is wrong is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.record import file_contents, open_recording

RNG = np.random.default_rng(0)
ACTIVITY = RNG.normal(size=(60, 4))
FIELDS: dict[str, Any] = {
    "activity": ACTIVITY,
    "time": np.tile(np.arange(30) * 0.02, 2),
    "run": np.repeat([3, 7], 30),
    "group": np.repeat([0, 1, 2], 20),
    "label": np.arange(60) % 3,
    "trial": np.arange(60) // 10,
    "repeat": np.arange(60) // 5,
    "speed": np.linspace(0, 1, 60),
    "unit_x": np.array([0.5, 1.5, 2.5, 3.5]),
}


def same(found: Any, named: bool = True) -> None:
    """Everything of FIELDS is where it belongs."""
    assert isinstance(found, Recording)
    assert np.array_equal(found["activity"].numpy(), ACTIVITY)
    for name in ("time", "trial", "repeat", "speed"):
        assert np.allclose(found.column(name), FIELDS[name])
    assert found.samples.doc.tolist() == [0] * 30 + [1] * 30
    assert found.manifest["doc_names"] == ["3", "7"]
    assert found.samples.group.tolist() == FIELDS["group"].tolist()
    assert found.samples.label.tolist() == FIELDS["label"].tolist()
    assert found.time_step == pytest.approx(0.02)
    if named:
        assert found.units()["x"].tolist() == FIELDS["unit_x"].tolist()


def write_73(path: Path, fields: dict[str, Any], cells: dict[str, list[Any]] | None = None) -> None:
    """A MATLAB 7.3 file as MATLAB writes it: HDF5 behind a block of text, arrays with their axes in reverse."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in fields.items():
            array = np.atleast_2d(np.asarray(value, np.float64))
            data = file.create_dataset(name, data=array.transpose())
            data.attrs["MATLAB_class"] = np.bytes_("double")
        for name, parts in (cells or {}).items():
            refs = np.empty((len(parts), 1), dtype=h5py.ref_dtype)
            for i, part in enumerate(parts):
                refs[i, 0] = file.create_dataset(f"#refs#/{name}{i}", data=np.atleast_2d(part).T).ref
            file.create_dataset(name, data=refs, dtype=h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_(
                "cell"
            )
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file")


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **FIELDS)
    same(open_recording(tmp_path / "a.npz"))
    held = file_contents(tmp_path / "a.npz")
    assert [(i.name, i.kind, i.shape) for i in held.items] == [("activity", "activity", (60, 4))]
    assert dict(held.behaviour) == {"speed": (60,)}


def test_mat_5(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", FIELDS)
    same(open_recording(tmp_path / "a.mat"))
    savemat(tmp_path / "lab.mat", {"data": {"lfp": ACTIVITY.T, "fs": 50.0}, "notes": "of the lab"})
    found = open_recording(tmp_path / "lab.mat", "data.lfp", axes="unit sample", step=0.02)
    assert np.array_equal(found["activity"].numpy(), ACTIVITY)


def test_mat_73_is_read_lazily(tmp_path: Path) -> None:
    write_73(tmp_path / "a.mat", FIELDS)
    found = open_recording(tmp_path / "a.mat")
    same(found)
    assert np.array_equal(found["activity"][[7, 3, 50]].numpy(), ACTIVITY[[7, 3, 50]])
    trains = [np.array([0.1, 0.4]), np.array([0.2, 0.3, 0.9])]
    write_73(tmp_path / "s.mat", {}, {"spikes": trains})
    spikes = open_recording(tmp_path / "s.mat")
    assert isinstance(spikes, SpikeTrains)
    assert [spikes[i].tolist() for i in range(2)] == [t.tolist() for t in trains]


def test_cells_of_version_5(tmp_path: Path) -> None:
    from scipy.io import savemat

    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.array([0.1, 0.4]), np.array([0.2])
    savemat(tmp_path / "s.mat", {"spikes": cells})
    spikes = open_recording(tmp_path / "s.mat")
    assert [spikes[i].tolist() for i in range(2)] == [[0.1, 0.4], [0.2]]
    nested = np.empty((1, 1), object)
    nested[0, 0] = cells
    savemat(tmp_path / "n.mat", {"spikes": nested})
    with pytest.raises(PatchclampError, match=r"n\.mat: entry 0 of spikes is of type object.*from_times"):
        open_recording(tmp_path / "n.mat")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_wide_tables(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame({name: FIELDS[name] for name in FIELDS if FIELDS[name].shape == (60,)})
    table = table.assign(**{f"cell{i}": ACTIVITY[:, i] for i in range(4)})
    file = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        table.to_parquet(file, row_group_size=7)
    else:
        table.to_csv(file, sep="\t" if suffix == ".tsv" else ",", index=False)
    found = open_recording(file, behaviour=["speed"])
    same(found, named=False)
    assert found.units()["name"].tolist() == ["cell0", "cell1", "cell2", "cell3"]
    assert np.array_equal(found["activity"][[59, 6, 7]].numpy(), ACTIVITY[[59, 6, 7]])
    with pytest.raises(PatchclampError, match=r"no such columns"):
        open_recording(file, behaviour=["pupil"])


def test_long_tables_are_spike_trains(tmp_path: Path) -> None:
    pd.DataFrame({"unit": ["b", "a", "a"], "time": [0.5, 0.1, 0.9]}).to_csv(tmp_path / "s.csv", index=False)
    found = open_recording(tmp_path / "s.csv")
    assert found.units()["name"].tolist() == ["a", "b"]
    assert found[0].tolist() == [0.1, 0.9]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.permutations(["trial", "time", "unit"]))
def test_trials_in_any_order_of_axes(tmp_path: Path, a: int, b: int, c: int, order: list[str]) -> None:
    x = np.random.default_rng(a * b * c).normal(size=(a, b, c)).astype("float32")
    place = [("trial", "time", "unit").index(name) for name in order]
    np.save(tmp_path / "x.npy", x.transpose(place))
    found = open_recording(tmp_path / "x.npy", axes=" ".join(order), step=0.1)
    assert np.array_equal(found["activity"].numpy(), x.reshape(-1, c))
    assert found.samples.doc.tolist() == np.repeat(np.arange(a), b).tolist()
    assert np.allclose(found.column("time"), np.tile(np.arange(b) * 0.1, a))
    if a * b > 2:
        assert np.array_equal(found["activity"][1:3].numpy(), x.reshape(-1, c)[1:3])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000))
def test_spike_trains_come_back(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = [np.sort(rng.uniform(0, 9, rng.integers(0, 9))) for _ in range(4)]
    trains = SpikeTrains.from_times(times, span=(0.0, 9.0), labels={"region": ["a", "b", "c", "d"]})
    if not trains.counts[[3, 0, 1]].sum():
        return  # a file without a spike is refused
    file = tmp_path / "s.npz"
    file.unlink(missing_ok=True)
    again = open_recording(trains.select([3, 0, 1]).save(file))
    assert [again[i].tolist() for i in range(3)] == [times[i].tolist() for i in (3, 0, 1)]
    assert again.units()["region"].tolist() == ["d", "a", "b"]
    assert again.span == (0.0, 9.0)


def test_a_store_is_opened_too(tmp_path: Path) -> None:
    Recording.from_arrays({"lfp": ACTIVITY}).save(tmp_path / "store")
    assert open_recording(tmp_path / "store").n_samples == 60
    assert file_contents(tmp_path / "store").items[0].shape == (60, 4)


def bad(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**FIELDS, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (bad(activity=None), r"no field `activity`.*fields="),
        (bad(activity=np.zeros((0, 4))), r"activity is empty, 0 x 4"),
        (bad(activity=np.zeros(60)), r"activity is \(60,\).*wanted sample x unit"),
        (bad(activity=np.array(["a", "b"])), r"wanted numbers"),
        (bad(time=np.arange(59.0)), r"59 times for 60 samples"),
        (bad(time=np.zeros(60)), r"times do not increase: 0 s at sample 0"),
        (bad(run=np.arange(60) % 2), r"(one run are not neighbours|times do not increase)"),
        (bad(group=np.zeros(3)), r"3 entries of group for 60 samples"),
        (bad(unit_x=np.zeros(5)), r"5 entries of unit labels 'x' for 4 units"),
        (bad(speed=np.zeros(7)), r"field 'speed' is \(7,\).*skip="),
        (bad(trial=np.linspace(0, 1, 60)), r"trial must be whole numbers"),
        ({"spike_times": np.array([0.2, 0.1]), "spike_units": np.zeros(2)}, r"not sorted: 0\.2 s.*sort=True"),
        ({"spike_times": np.array([0.2, 0.1])}, r"without spike_units"),
        ({"spike_times": np.zeros(0), "spike_units": np.zeros(0)}, r"no spike"),
        ({"spike_times": np.array([5.0]), "spike_units": [0], "span": [0, 1]}, r"5 s is outside the recording, 0 to 1 s"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_file_place_and_way_out(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "bad.npz", **fields)
    with pytest.raises(PatchclampError, match=message) as caught:
        open_recording(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


def test_nan_is_refused_where_it_is_read(tmp_path: Path) -> None:
    x = ACTIVITY.copy()
    x[41, 2] = np.nan
    np.savez(tmp_path / "n.npz", activity=x)
    found = open_recording(tmp_path / "n.npz")
    assert np.array_equal(found["activity"][:30].numpy(), x[:30])
    with pytest.raises(PatchclampError, match=r"n\.npz: nan at sample 41, unit 2"):
        found["activity"][30:]
    assert np.isnan(open_recording(tmp_path / "n.npz", missing="keep")["activity"].numpy()[41, 2])


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.mat", "a.parquet", "a.nwb", "a.edf", "a.fif", "a.nii", "a.nii.gz", "a.vhdr", "a.bdf"])  # fmt: skip
def test_unreadable_files_are_refused(tmp_path: Path, name: str) -> None:
    for package in {"a.nwb": "pynwb", "a.nii": "nibabel", "a.nii.gz": "nibabel"}.get(name, "").split():
        pytest.importorskip(package)
    if name.split(".")[1] in ("edf", "fif", "vhdr", "bdf"):
        pytest.importorskip("mne")
    file = tmp_path / name
    with pytest.raises(PatchclampError, match="no such file"):
        open_recording(file)
    file.write_bytes(b"")
    with pytest.raises(PatchclampError, match=r"the file is empty \(0 bytes\)"):
        open_recording(file)
    file.write_bytes(b"this is no recording at all, but text" * 50)
    with pytest.raises(PatchclampError, match=rf"{name}: not readable as"):
        open_recording(file)


def test_no_pickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", activity=np.array([{"a": 1}], dtype=object))
    with pytest.raises(PatchclampError, match="only unpickling could read"):
        open_recording(tmp_path / "p.npz")


def test_the_choice_of_format(tmp_path: Path) -> None:
    file = tmp_path / "odd.dat"
    np.savez(tmp_path / "a.npz", **FIELDS)
    (tmp_path / "a.npz").rename(file)
    same(open_recording(file))
    with pytest.raises(PatchclampError, match=r"did you mean numpy"):
        open_recording(file, format="numpi")
    with pytest.raises(PatchclampError, match=r"no option 'axis'.*did you mean axes"):
        open_recording(file, axis="x")
    (tmp_path / "odd.xyz").write_text("what?")
    with pytest.raises(PatchclampError, match=r"of no known format; suffixes are \.nwb"):
        open_recording(tmp_path / "odd.xyz")
    with pytest.raises(PatchclampError, match="a folder, but no store"):
        open_recording(tmp_path)
    with pytest.raises(PatchclampError, match="several files are runs of one NIfTI"):
        open_recording([file, file])


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.nwb").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pynwb", None)
    with pytest.raises(PatchclampError, match=r"pynwb is not installed.*pip install patchclamp\[brain\]"):
        open_recording(tmp_path / "a.nwb")


def test_the_command(tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    from patchclamp.app.cli import app

    np.savez(tmp_path / "a.npz", **FIELDS)
    found = CliRunner().invoke(app, ["open", str(tmp_path / "a.npz"), "--json", "--what", "activity"])
    facts = json.loads(found.stdout)
    assert facts["items"] == [{"name": "activity", "kind": "activity", "shape": [60, 4], "about": "activity"}]
    assert len(facts["units"]) == 4
    shown = CliRunner().invoke(app, ["open", str(tmp_path / "a.npz")])
    assert shown.exit_code == 0
    assert "60 x 4" in shown.stdout
