"""The head of a NIfTI file and the list of its extensions, read before nibabel reads what they name."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.record.files.base import need, unreadable

MOST_HEAD = 64 << 20  # bytes of a head with its extensions
_CIFTI = 32  # code of the extension that is CIFTI-2's XML
_WAY_OUT = "read it with nibabel and pass samples x units to Recording.from_arrays, or convert it to .nii.gz"


def refuse_head(path: Path | str) -> None:
    """Refuse what is not NIfTI, a head that contradicts itself, and extensions beyond `MOST_HEAD` bytes.

    CIFTI-2 is refused by its head, so that its XML, of any size and with any entities, is not even read.

    Raises
    ------
    PatchclampError
        Naming the entry of the head.
    """
    nibabel = need("nibabel")
    name = str(path)
    with contextlib.suppress(nibabel.filebasedimages.ImageFileError):
        if ".nii" not in Path(path).suffixes[-2:]:  # the head may be in a file of its own
            name = nibabel.Nifti1Pair.filespec_to_file_map(name)["header"].filename
    if not Path(name).is_file():
        raise PatchclampError(f"{path}: its head, {name}, is not there")
    with nibabel.openers.ImageOpener(name) as file:
        raw = file.read(nibabel.Nifti2Header.template_dtype.itemsize)
        found = [
            (one, single)
            for one, single in ((nibabel.Nifti2Header, b"n+2"), (nibabel.Nifti1Header, b"n+1"))
            if one.may_contain_header(raw)
        ]
        if not found:
            raise unreadable(path, "NIfTI", ValueError("its head is that of something else"))
        klass, single = found[0]
        size = klass.template_dtype.itemsize
        head = klass(raw[:size], check=False)
        if 3000 <= int(head["intent_code"]) < 3100:
            raise PatchclampError(f"{path}: CIFTI-2, not NIfTI volumes; {_WAY_OUT}")
        _bits(path, head)
        first = float(head["vox_offset"])
        within = head["magic"].item().startswith(single)
        file.seek(size)
        told = file.read(4)
        if len(told) == 4 and told[0]:
            _extensions(path, file, head, size + 4, first if within else None)


def _bits(path: Path | str, head: Any) -> None:
    """Refuse a type of voxels and a number of bits that differ: which of the two is right nobody can tell."""
    try:
        dtype = np.dtype(head.get_data_dtype())
    except need("nibabel").spatialimages.HeaderDataError:  # an unknown type, which nibabel names
        return
    bits = int(head["bitpix"])
    if bits and dtype.kind in "iufc" and bits != 8 * dtype.itemsize:
        raise PatchclampError(
            f"{path}: its head says that voxels are {dtype.name}, of {8 * dtype.itemsize} bits, and that they have {bits} bits; "
            "write it again with the one that is right"
        )


def _extensions(path: Path | str, file: IO[bytes], head: Any, at: int, end: float | None) -> None:
    """Walk over the extensions up to the voxels, or up to the end of a head in a file of its own."""
    if end is not None and not at <= end <= MOST_HEAD:
        where = "inside the head" if end < at else f"beyond {MOST_HEAD >> 20} MB of head"
        raise PatchclampError(
            f"{path}: its head says that voxels begin at byte {end:g}, {where}; it is damaged, write it again"
        )
    order = ">" if head.endianness == ">" else "<"
    while end is None or end - at >= 16:
        told = file.read(8)
        if len(told) < 8:
            return  # nibabel says what is missing, or that this was all
        size, code = (int(n) for n in np.frombuffer(told, f"{order}i4"))
        if code == _CIFTI:
            raise PatchclampError(
                f"{path}: holds an extension of CIFTI-2, so it is not NIfTI volumes; {_WAY_OUT}"
            )
        if size < 16 or at + size > (MOST_HEAD if end is None else end):
            raise PatchclampError(
                f"{path}: says that the extension at byte {at} of its head has {size:,} bytes; it is damaged, write it "
                "again without extensions"
            )
        at += size
        file.seek(at)
