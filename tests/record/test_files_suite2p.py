"""suite2p's arrays are cells x frames; `iscell` beside them tells, and what it cannot tell is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from patchclamp import PatchclampError, Recording
from patchclamp.record import file_contents, open_recording

TRACES = np.random.default_rng(0).normal(size=(219, 2000)).astype("float32")
CELLS = np.stack([np.arange(219) < 20, np.linspace(1, 0, 219)], 1)


@pytest.fixture
def plane(tmp_path: Path) -> Path:
    np.save(tmp_path / "iscell.npy", CELLS)
    return tmp_path


def opened(path: Path, *what: str, **options: str) -> Recording:
    found = open_recording(path, *what, **options)
    assert isinstance(found, Recording)
    return found


@pytest.mark.parametrize("name", ["F.npy", "F.mat", "F.npz", "Fall.mat"])
def test_cells_are_the_units(plane: Path, name: str) -> None:
    if name == "F.npy":
        np.save(plane / name, TRACES)
    elif name == "F.npz":
        np.savez(plane / name, activity=TRACES)
    else:
        savemat(
            plane / name, {"activity": TRACES} if name == "F.mat" else {"activity": TRACES, "iscell": CELLS}
        )
    if name == "Fall.mat":
        (plane / "iscell.npy").unlink()
    found = opened(plane / name)
    assert found["activity"].shape == (2000, 219)
    assert np.array_equal(found["activity"][:5].numpy(), TRACES[:, :5].T)
    assert found.units()["iscell"].tolist() == [True] * 20 + [False] * 199
    assert found.units()["iscell_probability"][0] == 1
    assert found.manifest["axes"].startswith("unit sample, by the 219 entries of iscell")
    held = file_contents(plane / name)
    assert held.items[0].shape == (2000, 219)
    assert held.about["axes"] == found.manifest["axes"]


def test_a_variable_of_many(plane: Path) -> None:
    (plane / "iscell.npy").unlink()
    savemat(plane / "Fall.mat", {"F": TRACES, "Fneu": TRACES * 2, "iscell": CELLS})
    found = opened(plane / "Fall.mat", "Fneu")
    assert found["activity"].shape == (2000, 219)
    assert np.array_equal(found["activity"][0].numpy(), TRACES[:, 0] * 2)


def test_what_the_caller_says_is_done(plane: Path) -> None:
    np.save(plane / "F.npy", TRACES)
    assert opened(plane / "F.npy", axes="sample unit")["activity"].shape == (219, 2000)
    assert opened(plane / "F.npy", axes="unit sample").units()["iscell"].sum() == 20
    np.save(plane / "T.npy", TRACES.T)
    assert opened(plane / "T.npy")["activity"].shape == (2000, 219)
    np.save(plane / "other.npy", TRACES[:100])
    assert opened(plane / "other.npy")["activity"].shape == (100, 2000)


def test_doubt_is_refused(plane: Path) -> None:
    np.save(plane / "F.npy", TRACES[:, :219])
    for call in (open_recording, file_contents):
        with pytest.raises(PatchclampError, match=r"F\.npy: activity is 219 x 219 .* axes=\"unit sample\""):
            call(plane / "F.npy")
        assert call(plane / "F.npy", axes="unit sample")
    (plane / "iscell.npy").write_bytes(b"\x93NUMPY cut")
    with pytest.raises(
        PatchclampError, match=r"iscell\.npy: not readable .* which axis of F\.npy is the cells"
    ):
        open_recording(plane / "F.npy")
