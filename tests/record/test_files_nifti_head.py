"""Heads of NIfTI that contradict themselves, and extensions that unpack to gigabytes: refused by the head alone."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from hostile import Case, child
from patchclamp import PatchclampError
from patchclamp.record import file_contents, open_recording

nibabel = pytest.importorskip("nibabel")
DATA = np.random.default_rng(0).normal(size=(3, 3, 2, 6)).astype("float32")
LAUGHS = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "' + "ha" * 20 + '">'
LAUGHS += "".join(f'<!ENTITY {b} "{f"&{a};" * 20}">' for a, b in zip("abcdefg", "bcdefgh", strict=True))
LAUGHS += ']><CIFTI Version="2"><Matrix>&h;</Matrix></CIFTI>'


def image(order: str = "<", kind: str = "Nifti1Image") -> bytearray:
    """The bytes of a whole file."""
    made = getattr(nibabel, kind)(DATA.astype(f"{order}f4"), np.eye(4))
    made.header.set_zooms((1, 1, 1, 2.0))
    made = type(made)(made.dataobj, None, made.header.as_byteswapped(order))
    return bytearray(made.to_bytes())


def extended(code: int, content: bytes, intent: int = 0) -> bytes:
    """A NIfTI-2 file with one extension and, of CIFTI, its intent."""
    whole = image(kind="Nifti2Image")
    size = -(-(len(content) + 8) // 16) * 16
    struct.pack_into("<q", whole, 168, 544 + size)
    struct.pack_into("<i", whole, 504, intent)
    extension = struct.pack("<2i", size, code) + content.ljust(size - 8, b"\0")
    return bytes(whole[:540]) + b"\1\0\0\0" + extension + bytes(whole[544:])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "words"), [(16, "float32, of 32 bits, and that they have 16"), (0, "")])
def test_a_type_and_its_bits_agree(tmp_path: Path, order: str, bits: int, words: str) -> None:
    """The type alone was believed: int16 read as float32 is other numbers. 0 bits say nothing."""
    whole = image(order)
    struct.pack_into(f"{order}h", whole, 72, bits)
    (tmp_path / "a.nii").write_bytes(bytes(whole))
    if words:
        with pytest.raises(PatchclampError, match=words):
            open_recording(tmp_path / "a.nii")
    else:
        assert np.allclose(open_recording(tmp_path / "a.nii")["bold"].numpy(), DATA.reshape(18, 6).T)


def test_the_xml_of_cifti_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(extended(32, LAUGHS.encode(), 3002))
    (tmp_path / "b.nii").write_bytes(extended(32, LAUGHS.encode()))
    for name, words in {"a": "CIFTI-2, not NIfTI volumes", "b": "an extension of CIFTI-2"}.items():
        with pytest.raises(PatchclampError, match=words):
            file_contents(tmp_path / f"{name}.nii")
    (tmp_path / "c.nii").write_bytes(extended(6, b"a comment"))
    assert np.allclose(open_recording(tmp_path / "c.nii")["bold"].numpy(), DATA.reshape(18, 6).T)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.nii.gz", "a.hdr.gz"])
def test_extensions_that_unpack_to_gigabytes(tmp_path: Path, name: str) -> None:
    """1.6 GB of them were read, from 1.6 MB."""
    whole, size = image(), 1600 << 20
    if ".nii" in name:
        struct.pack_into("<f", whole, 108, 352 + size)
    else:
        struct.pack_into("<f", whole, 108, 0)
        struct.pack_into("4s", whole, 344, b"ni1")
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
        file.write(bytes(whole[:348]) + b"\1\0\0\0" + struct.pack("<2i", size, 6))
        for _ in range(100):
            file.write(bytes(16 << 20))
    (tmp_path / "a.img.gz").write_bytes(gzip.compress(DATA.tobytes()))
    case = Case(name, ["open", str(tmp_path / name), "--format", "nifti"], files=[str(tmp_path)], ends=(2,))
    found = child("nibabel").run(case)
    assert not found.broken
    assert "voxels begin" in found.err or "has 1,677,721,600 bytes" in found.err


@pytest.mark.parametrize("size", [0, -16, 8, 1 << 20])
def test_an_extension_lies_in_the_head(tmp_path: Path, size: int) -> None:
    whole = bytearray(extended(6, b"a comment"))
    struct.pack_into("<i", whole, 544, size)
    (tmp_path / "a.nii").write_bytes(bytes(whole))
    with pytest.raises(PatchclampError, match=f"extension at byte 544 of its head has {size:,} bytes"):
        file_contents(tmp_path / "a.nii")


def test_a_head_in_a_file_of_its_own(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(DATA, np.eye(4)), tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        assert file_contents(tmp_path / name, format="nifti").items[0].shape == (6, 18)
    (tmp_path / "a.hdr").unlink()
    with pytest.raises(PatchclampError, match=r"its head, .*a\.hdr, is not there"):
        file_contents(tmp_path / "a.img", format="nifti")
