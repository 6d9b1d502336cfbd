"""M/EEG files of other kinds: metadata of epochs, EEGLAB, FIF that holds no activity, and files cut short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from patchclamp.base.errors import PatchclampError
from patchclamp.record import file_contents, open_recording

mne = pytest.importorskip("mne")
pytestmark = pytest.mark.filterwarnings("ignore")

RATE, N = 100, 500
DATA = np.random.default_rng(0).normal(size=(3, N)) * 1e-5


def raw() -> Any:
    return mne.io.RawArray(DATA, mne.create_info(["Fz", "Cz", "Pz"], RATE, "eeg"), verbose="error")


def epochs(metadata: pd.DataFrame | None) -> Any:
    events = np.array([[100, 0, 1], [250, 0, 2], [300, 0, 1]])
    return mne.Epochs(
        raw(), events, {"left": 1, "right": 2}, -0.1, 0.2, baseline=None, preload=True, verbose="error", metadata=metadata
    )  # fmt: skip


def test_metadata_of_epochs_are_kept(tmp_path: Path) -> None:
    about = pd.DataFrame({"rt": [0.3, np.nan, 0.5], "word": ["a", "b", "c"], "hit": [True, False, True], "start": [7, 8, 9],
                          "time": [1, 2, 3]})  # fmt: skip
    epochs(about).save(tmp_path / "a-epo.fif", verbose="error")
    found = open_recording(tmp_path / "a-epo.fif")
    assert np.array_equal(found.column("rt"), np.repeat(about["rt"], 31), equal_nan=True)
    assert found.column("hit").tolist() == np.repeat(about["hit"], 31).tolist()
    trials = found.table("trials")
    assert trials["word"].tolist() == ["a", "b", "c"]
    assert trials["label"].tolist() == ["left", "right", "left"]
    assert trials["onset"].tolist() == [1.0, 2.5, 3.0]
    assert trials["metadata_start"].tolist() == [7, 8, 9]
    assert np.allclose(found.column("time"), np.tile(np.arange(-10, 21) / RATE, 3))
    assert trials["word"][found.select(where={"rt": slice(0.4, None)}).column("trial")].unique().tolist() == [
        "c"
    ]
    assert file_contents(tmp_path / "a-epo.fif").tables == {"trials": 3}
    again = found.save(tmp_path / "store")
    assert again.table("trials").equals(trials)
    epochs(None).save(tmp_path / "b-epo.fif", verbose="error")
    assert open_recording(tmp_path / "b-epo.fif").tables == []


def eeglab(path: Path, data: np.ndarray) -> Path:
    """A ``.set`` as EEGLAB writes it: channels x points, or channels x points x trials, in microvolts."""
    trials = data.shape[2] if data.ndim == 3 else 1

    def table(**columns: list[Any]) -> np.ndarray:
        return np.array(list(zip(*columns.values(), strict=True)), dtype=[(name, "O") for name in columns])

    each = range(trials)
    event = table(
        type=["go"] * trials, latency=[10.0 + i * data.shape[1] for i in each], epoch=[i + 1.0 for i in each]
    )
    epoch = table(event=[i + 1 for i in each], eventtype=["go"] * trials, eventlatency=[0.0] * trials)
    eeg = {"setname": "x", "nbchan": len(data), "trials": trials, "pnts": data.shape[1], "srate": float(RATE)}
    eeg |= {"xmin": 0.0, "xmax": (data.shape[1] - 1) / RATE, "data": data, "event": event}
    eeg |= {"chanlocs": table(labels=[f"C{i}" for i in range(len(data))])}
    eeg |= {"epoch": epoch if trials > 1 else np.array([])}
    eeg |= {name: np.array([]) for name in ("icaweights", "icasphere", "icawinv")}
    savemat(path, {"EEG": eeg}, appendmat=False)
    return path


def test_eeglab_by_its_suffix(tmp_path: Path) -> None:
    found = open_recording(eeglab(tmp_path / "a.set", DATA * 1e6))
    assert np.allclose(found["meeg"].numpy(), DATA.T, rtol=1e-5)
    assert found.table("events")["label"].tolist() == ["go"]
    assert file_contents(tmp_path / "a.set").items[0].shape == (N, 3)
    cut = open_recording(eeglab(tmp_path / "e.set", DATA.reshape(3, 10, 50).transpose(0, 2, 1) * 1e6))
    assert np.allclose(cut.to_trials().values, DATA.reshape(3, 10, 50).transpose(1, 2, 0), rtol=1e-5)
    (tmp_path / "a.fdt").write_bytes(b"x")
    with pytest.raises(PatchclampError, match=r"a\.fdt: a part of an EEGLAB recording; open .*a\.set"):
        open_recording(tmp_path / "a.fdt")
    whole = (tmp_path / "a.set").read_bytes()
    (tmp_path / "a.set").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PatchclampError, match=r"a\.set: not readable as M/EEG"):
        open_recording(tmp_path / "a.set")


def test_fif_without_activity_is_told_what_it_is(tmp_path: Path) -> None:
    mne.compute_raw_covariance(raw(), verbose="error").save(tmp_path / "a-cov.fif", verbose="error")
    mne.write_trans(tmp_path / "a-trans.fif", mne.Transform("head", "mri"))
    for name, what in {
        "a-cov.fif": "a noise covariance",
        "a-trans.fif": "a coordinate transformation",
    }.items():
        for call in (open_recording, file_contents):
            with pytest.raises(PatchclampError, match=rf"{name}: a readable FIF file, but it holds {what}"):
                call(tmp_path / name)
    whole = (tmp_path / "a-cov.fif").read_bytes()
    (tmp_path / "a-cov.fif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PatchclampError, match=r"a-cov\.fif: .*is the file complete"):
        open_recording(tmp_path / "a-cov.fif")


@pytest.mark.parametrize("kind", ["raw", "epo", "ave"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_compressed_fif_cut_short(tmp_path: Path, kind: str, share: float) -> None:
    file = tmp_path / f"a-{kind}.fif.gz"
    what = {"raw": raw, "epo": lambda: epochs(None), "ave": lambda: epochs(None).average()}[kind]()
    what.save(file, verbose="error")
    assert open_recording(file).n_samples == {"raw": N, "epo": 93, "ave": 31}[kind]
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    for call in (open_recording, file_contents):
        with pytest.raises(
            PatchclampError, match=rf"{file.name}: not readable as M/EEG .*is the file complete"
        ):
            call(file)
