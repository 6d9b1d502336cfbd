"""M/EEG: FIF, EDF, BDF and BrainVision written here byte by byte or by MNE come back; damage is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.record import file_contents, open_recording

mne = pytest.importorskip("mne")
pytestmark = pytest.mark.filterwarnings("ignore")

RATE, N = 100, 500
RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(3, N)) * 1e-5


def raw(notes: bool = True) -> Any:
    info = mne.create_info(["Fz", "Cz", "Pz", "STI"], RATE, ["eeg", "eeg", "eeg", "stim"])
    stim = np.zeros((1, N))
    stim[0, [100, 300]] = [1, 2]
    found = mne.io.RawArray(np.concatenate([DATA, stim]), info, verbose="error")
    found.set_montage("standard_1020")
    found.info["bads"] = ["Cz"]
    if notes:
        found.set_annotations(
            mne.Annotations([0.5, 2.0, 3.0], [0.2, 0.5, 0.0], ["tone", "BAD_blink", "tone"])
        )
    return found


def edf(path: Path, values: np.ndarray, physical: float, bits: int = 16) -> Path:
    """EDF (16 bits) or BDF (24 bits), one record a second, all by the published layout."""
    channels, n = values.shape
    top = 2 ** (bits - 1) - 1
    records = n // RATE

    def fields(width: int, entries: list[str]) -> bytes:
        return b"".join(entry.ljust(width)[:width].encode() for entry in entries)

    head = b"0       " if bits == 16 else b"\xffBIOSEMI"
    head += fields(80, ["X X X X", "Startdate 01-JAN-2024 X X X"]) + b"01.01.2400.00.00"
    head += fields(8, [str(256 * (channels + 1))]) + fields(44, [""]) + fields(8, [str(records), "1"])
    head += fields(4, [str(channels)])
    head += fields(16, [f"EEG {i}" for i in range(channels)]) + fields(80, [""] * channels)
    head += fields(8, ["uV"] * channels)
    head += fields(8, [f"{-physical:g}"] * channels) + fields(8, [f"{physical:g}"] * channels)
    head += fields(8, [str(-top)] * channels) + fields(8, [str(top)] * channels)
    head += fields(80, [""] * channels) + fields(8, [str(RATE)] * channels) + fields(32, [""] * channels)
    digital = np.rint(values * 1e6 / physical * top).astype("<i4").reshape(channels, records, RATE)
    body = digital.transpose(1, 0, 2).ravel()
    raw_bytes = (
        body.astype("<i2").tobytes() if bits == 16 else body.view("u1").reshape(-1, 4)[:, :3].tobytes()
    )
    path.write_bytes(head + raw_bytes)
    return path


def brainvision(folder: Path, onset: int = 101) -> Path:
    (folder / "a.eeg").write_bytes(DATA.T.astype("<f4").tobytes())
    names = "\n".join(f"Ch{i + 1}={name},,1,V" for i, name in enumerate(["Fz", "Cz", "Pz"]))
    (folder / "a.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\nDataFile=a.eeg\n"
        "MarkerFile=a.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\nNumberOfChannels=3\n"
        f"SamplingInterval={1e6 / RATE:g}\n[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n[Channel Infos]\n{names}\n"
    )
    (folder / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\nDataFile=a.eeg\n"
        f"[Marker Infos]\nMk1=Stimulus,S  1,{onset},1,0\n"
    )
    return folder / "a.vhdr"


def test_fif(tmp_path: Path) -> None:
    raw().save(tmp_path / "a_raw.fif", verbose="error")
    found = open_recording(tmp_path / "a_raw.fif")
    assert np.allclose(found["meeg"].numpy(), DATA.T, rtol=1e-5)
    assert np.allclose(found["meeg"][[7, 450]].numpy(), DATA.T[[7, 450]], rtol=1e-5)
    assert np.allclose(found.column("time"), np.arange(N) / RATE)
    table = found.units()
    assert table["name"].tolist() == ["Fz", "Cz", "Pz"]
    assert found.present("meeg").tolist() == [True, False, True]
    assert table["y"][0] > table["y"][1] > table["y"][2]  # the front is in front
    events = found.table("events")
    assert events["start"].tolist() == [0.5, 2.0, 3.0]
    assert (~found.column("content")).nonzero()[0].tolist() == list(range(200, 250))
    cut = found.epoch(events[events["label"] == "tone"], (-0.1, 0.2))
    assert np.allclose(cut["meeg"][:30].numpy(), DATA.T[40:70], rtol=1e-5)
    by_trigger = open_recording(tmp_path / "a_raw.fif", stim_channel="STI").table("events")
    assert by_trigger["start"].tolist() == [1.0, 3.0]
    assert by_trigger["label"].tolist() == ["1", "2"]
    held = file_contents(tmp_path / "a_raw.fif")
    assert held.items[0].shape == (N, 4)
    assert held.about["channels"] == {"eeg": 3, "stim": 1}
    with pytest.raises(PatchclampError, match=r"picks='meg' selects no channel; types: eeg, stim"):
        open_recording(tmp_path / "a_raw.fif", picks="meg")


def test_epochs_and_averages(tmp_path: Path) -> None:
    events = np.array([[100, 0, 1], [250, 0, 2], [300, 0, 1]])
    epochs = mne.Epochs(
        raw(False), events, {"left": 1, "right": 2}, -0.1, 0.2, baseline=None, preload=True, verbose="error"
    )
    epochs.save(tmp_path / "a-epo.fif", verbose="error")
    found = open_recording(tmp_path / "a-epo.fif")
    trials = found.to_trials()
    expected = np.stack([DATA.T[e - 10 : e + 21] for e in (100, 250, 300)])
    assert np.allclose(trials.values, expected, rtol=1e-4, atol=1e-12)
    assert np.allclose(trials["time"], np.arange(-10, 21) / RATE)
    assert found.manifest["label_names"] == ["left", "right"]
    assert trials["trial_label"].values.tolist() == ["left", "right", "left"]
    mne.write_evokeds(
        tmp_path / "a-ave.fif", [epochs["left"].average(), epochs["right"].average()], verbose="error"
    )
    average = open_recording(tmp_path / "a-ave.fif").to_trials()
    assert np.allclose(average[0], expected[[0, 2]].mean(0), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("bits", [16, 24])
def test_edf_and_bdf(tmp_path: Path, bits: int) -> None:
    file = edf(tmp_path / ("a.edf" if bits == 16 else "a.bdf"), DATA, 100.0, bits)
    found = open_recording(file)
    assert np.abs(found["meeg"].numpy() - DATA.T).max() < 1.01 * 100e-6 / 2 ** (bits - 1) / 2 + 1e-11
    assert found.time_step == pytest.approx(1 / RATE)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(PatchclampError, match=rf"{file.name}: "):
        open_recording(file)


def test_brainvision(tmp_path: Path) -> None:
    found = open_recording(brainvision(tmp_path))
    assert np.allclose(found["meeg"].numpy(), DATA.T, rtol=1e-5)
    events = found.table("events")
    assert events["start"].tolist() == pytest.approx([1.0])
    with pytest.raises(PatchclampError, match=r"a\.eeg: a part of a BrainVision recording; open .*a\.vhdr"):
        open_recording(tmp_path / "a.eeg")


def test_events_outside_the_recording_are_refused(tmp_path: Path) -> None:
    file = brainvision(tmp_path, onset=9000)
    with pytest.raises(PatchclampError, match=r"a\.vhdr: .*outside.*tolerate=True"):
        open_recording(file)
    assert open_recording(file, tolerate=True).n_samples == N
