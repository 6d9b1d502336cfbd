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


def test_a_task_without_bound_is_refused() -> None:
    with pytest.raises(PatchclampError, match="at most 100,000 items"):
        load_task("ioi", n=999999999)
