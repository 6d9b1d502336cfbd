"""Files that say more than they hold: refused by what they say, before anything is allocated."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

import hostile_mat5
from patchclamp import PatchclampError, load_task
from patchclamp.nouns.recording.recording import Recording
from patchclamp.record import file_contents, open_recording

h5py = pytest.importorskip("h5py")


def header(shape: tuple[int, ...]) -> bytes:
    """The head of a ``.npy`` of float32."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def zip_bomb(folder: Path) -> Path:
    """3.2 GB of zeros in a few MB."""
    path, zeros = folder / "bomb.npz", bytes(1 << 24)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("activity.npy", "w", force_zip64=True) as file,
    ):
        file.write(header((200 << 20, 4)))
        for _ in range(200):
            file.write(zeros)
    return path


def lying_head(folder: Path) -> Path:
    path = folder / "lying.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("activity.npy", header((10**9, 10**4)) + bytes(64))
    return path


def empty_mat(folder: Path) -> Path:
    """80 TB of which nothing was written."""
    path = folder / "empty.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("activity", shape=(10**7, 10**6), dtype="f8", chunks=(100, 100))
    return path


def linked_mat(folder: Path) -> Path:
    path = folder / "linked.mat"
    with h5py.File(folder / "other.h5", "w") as file:
        file["secret"] = np.ones((10, 3))
    with h5py.File(path, "w") as file:
        file["activity"] = h5py.ExternalLink(str(folder / "other.h5"), "/secret")
    return path


def external_mat(folder: Path) -> Path:
    path = folder / "external.mat"
    (folder / "secret.txt").write_bytes(bytes(240))
    with h5py.File(path, "w") as file:
        file.create_dataset("activity", (10, 3), dtype="f8", external=[(str(folder / "secret.txt"), 0, 240)])
    return path


def huge_image(folder: Path) -> Path:
    nibabel = pytest.importorskip("nibabel")
    path = folder / "huge.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 3), "int16"), np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[42:50] = struct.pack("<4h", 32767, 32767, 32767, 32767)
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lying_head, "and has .*cut short or made up"),
        (empty_mat, "unpacks to 80,000.0 GB"),
        (linked_mat, "/activity is a link to another file"),
        (external_mat, "/activity is kept in other files"),
        (huge_image, "unpacks to"),
        pytest.param(zip_bomb, "unpacks to 3.4 GB", marks=pytest.mark.slow),
    ],
)
def test_sizes_are_looked_at_first(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    path = make(tmp_path)
    for call in (open_recording, file_contents):
        with pytest.raises(PatchclampError, match=words):
            call(path)


def test_a_store_whose_chunks_unpack_to_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    Recording.from_arrays({"lfp": np.ones((3, 2), "float32")}).save(path)
    group = zarr.open_group(str(path), mode="a", use_consolidated=False)
    array = group.create_array(
        "lfp",
        shape=(3, 2),
        chunks=(10**6, 400),
        dtype="float32",
        overwrite=True,
        compressors=zarr.codecs.ZstdCodec(),
    )
    array.attrs["unit_labels"] = {}
    (path / "lfp" / "c" / "0").mkdir(parents=True)
    (path / "lfp" / "c" / "0" / "0").write_bytes(bytes(1000))
    zarr.consolidate_metadata(str(path))
    with pytest.raises(PatchclampError, match="a chunk of lfp: says that it unpacks to 1.6 GB"):
        Recording.open(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(PatchclampError, match="is a pipe or a device"):
        open_recording(tmp_path / "a.npz")


def test_the_name_of_an_open_file_and_of_a_pipe(tmp_path: Path) -> None:
    """What a shell writes for `<(...)` and `3< FILE`: a pipe is refused, an open file is a file."""
    np.save(tmp_path / "a.npy", np.ones((5, 2)))
    ends = os.pipe()
    with (tmp_path / "a.npy").open("rb") as file:
        assert open_recording(f"/dev/fd/{file.fileno()}")["activity"].shape == (5, 2)
        with pytest.raises(PatchclampError, match=f"/dev/fd/{ends[0]}: is a pipe or a device"):
            open_recording(f"/dev/fd/{ends[0]}")
    for end in ends:
        os.close(end)
    with pytest.raises(PatchclampError, match="no such file"):
        open_recording(f"/dev/fd/{ends[0]}")


MAT5 = {
    "outer tag huge.mat": "unpacks to 4.3 GB, and 0.0 MB are stored",
    "packed tag huge.mat": "says that it has 4,294,967,040 bytes, and 64 are left",
    "cells.mat": "variable activity: 1,000,000,000,000 cells",
    "packed cells.mat": "3,000,000 cells, more than 100,000 and than the file has bytes",
    "blanks.mat": "variable activity: says that it unpacks to 40.0 GB",
    "structs without fields.mat": "1,000,000,000,000 cells",
    "deep.mat": "more than 100 deep",
    "version 4 huge.mat": "8,000,000,000,009 bytes, and 73 are left",
    "outer tag huge.set": "unpacks to 4.3 GB",
    "deep.set": "more than 100 deep",
}


@pytest.fixture(scope="module")
def mat5() -> dict[str, bytes]:
    return hostile_mat5.files()


@pytest.mark.parametrize("name", MAT5)
def test_tags_of_a_mat_are_looked_at_first(tmp_path: Path, mat5: dict[str, bytes], name: str) -> None:
    """scipy believed them: gigabytes for a file of 100 bytes, and cells 30,000 deep ended the process."""
    if name.endswith(".set"):
        pytest.importorskip("mne")
    (tmp_path / name).write_bytes(mat5[name])
    with pytest.raises(PatchclampError, match=MAT5[name]):
        file_contents(tmp_path / name)


def test_tags_that_are_right_pass(tmp_path: Path) -> None:
    """All that scipy writes, packed and not: numbers, complex and sparse ones, text, cells and structs in each other."""
    from scipy.io import savemat
    from scipy.sparse import csc_array

    cells = np.empty((2, 3), object)
    cells[:] = [[1.0, "text", np.zeros(0)], [{"a": np.arange(5)}, np.empty((0, 0), object), True]]
    held = {"activity": np.ones((5, 2)), "c": np.ones(3) + 1j, "s": csc_array(np.eye(4) + 1j), "t": "x" * 300}
    held |= {"cells": cells, "struct": {"a": {"b": cells}, "n": np.zeros((2, 0))}}
    for packed in (True, False):
        savemat(tmp_path / "a.mat", held, do_compression=packed)
        assert len(file_contents(tmp_path / "a.mat").about["fields"]) > 5
    savemat(tmp_path / "a.mat", {"activity": np.ones((5, 2)), "z": 1j * np.ones(5), "t": "word"}, format="4")
    assert file_contents(tmp_path / "a.mat").items[0].shape == (5, 2)


def test_a_task_without_bound_is_refused() -> None:
    with pytest.raises(PatchclampError, match="at most 100,000 items"):
        load_task("ioi", n=999999999)
