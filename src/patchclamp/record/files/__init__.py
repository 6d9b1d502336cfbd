"""Files to recordings: one call for NWB, M/EEG, NIfTI, MATLAB, NumPy and tables; lazy, times in seconds.

`FORMATS` names the readers, each a module with ``contents(path)`` and ``read(path, what, **options)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from patchclamp.base.errors import PatchclampError, check_choice, did_you_mean
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.nouns.recording.store import checksummed
from patchclamp.record.files import arrays, mat, meeg, nifti, nwb, tables
from patchclamp.record.files.base import Contents, FileItem, existing

FORMATS: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
    "nwb": (nwb, (".nwb",)),
    "meeg": (meeg, (".fif", ".fif.gz", ".edf", ".bdf", ".vhdr", ".vmrk", ".eeg", ".set", ".fdt")),
    "nifti": (nifti, (".nii", ".nii.gz")),
    "mat": (mat, (".mat",)),
    "numpy": (arrays, (".npz", ".npy")),
    "table": (tables, (".csv", ".tsv", ".parquet")),
}
_MAGIC = (
    (b"\x93NUMPY", "numpy", "NumPy"),
    (b"PK\x03\x04", "numpy", "an archive (.npz)"),
    (b"PAR1", "table", "Parquet"),
    (b"MATLAB 5.0", "mat", "MATLAB"),
    (b"MATLAB 7.3", "mat", "MATLAB"),
    (b"Brain Vision", "meeg", "BrainVision"),
    (b"\xffBIOSEMI", "meeg", "BDF"),
)


def open_recording(
    path: str | Path | Sequence[str | Path],
    what: str | None = None,
    *,
    format: str | None = None,
    **options: Any,
) -> Recording | SpikeTrains:
    """Open a file of recorded activity: a `Recording` of sampled activity, or `SpikeTrains`.

    Data are read when they are sliced. Times are in seconds. What is unreadable, empty, of the wrong shape, not
    finite, unsorted or outside the recording is refused with the file, the place and the way out.

    Parameters
    ----------
    path
        A file: NWB; FIF, EDF, BDF, BrainVision, EEGLAB's ``.set`` (M/EEG); NIfTI (several files are runs); ``.mat``, ``.npz``, ``.npy``;
        CSV, TSV, Parquet. Or the folder of a store that `record` or `Recording.save` wrote.
    what
        What to open in a file that holds several things; `file_contents` lists them.
    format
        ``"nwb"``, ``"meeg"``, ``"nifti"``, ``"mat"``, ``"numpy"`` or ``"table"``, where the suffix misleads.
    **options
        Those of the format's reader, ``patchclamp.record.files.FORMATS[name][0].read``.

    Raises
    ------
    PatchclampError
        See above; also for an option that the format does not have, and where its package is not installed.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "lfp.npz"
    >>> np.savez(file, activity=np.zeros((100, 4)), step=0.01, unit_region=["CA1", "CA1", "CA3", "CA3"])
    >>> open_recording(file)
    Recording(100 samples; activity: 4 units)
    """
    several = isinstance(path, (list, tuple))
    first = existing(path[0] if isinstance(path, (list, tuple)) else path)  # type: ignore[arg-type]
    if first.is_dir():
        return _folder(first, **options)
    name = chosen(first, format)
    if several and name != "nifti":
        raise PatchclampError(
            f"{first}: several files are runs of one NIfTI recording; open {name} files one by one"
        )
    reader = FORMATS[name][0].read
    _known(first, name, list(inspect.signature(reader).parameters)[2:], options)
    found: Recording | SpikeTrains = reader(
        [Path(one) for one in path] if isinstance(path, (list, tuple)) else first, what, **options
    )
    return found


def _known(path: Path, name: str, known: list[str], options: dict[str, Any]) -> None:
    wrong = [option for option in options if option not in known]
    if wrong:
        raise PatchclampError(
            f"{path}: {name} files have no option {wrong[0]!r}; they have {', '.join(known)}{did_you_mean(wrong[0], known)}"
        )


def file_contents(path: str | Path, *, format: str | None = None, **options: Any) -> Contents:
    """What a file holds that can be opened, without reading its data.

    Parameters
    ----------
    path, format, **options
        As for `open_recording`; options that change nothing of what there is are left aside.
    """
    found = existing(path)
    if found.is_dir():
        recording = _folder(found)
        items = [FileItem(str(site), "activity", recording[site].shape) for site in recording.sites]
        about: dict[str, Any] = {"samples": recording.n_samples, "complete": recording.complete}
        about["checksums"] = "crc32c" if checksummed(found) else "no checksums"
        return Contents(str(found), "patchclamp store", tuple(items), {}, {}, about)
    name = chosen(found, format)
    module = FORMATS[name][0]
    _known(found, name, list(inspect.signature(module.read).parameters)[2:], options)
    asked = set(inspect.signature(module.contents).parameters)
    contents: Contents = module.contents(found, **{k: v for k, v in options.items() if k in asked})
    return contents


def chosen(path: Path, format: str | None = None) -> str:
    """The format of a file: as said, by its suffix, else by its first bytes; refused where these two disagree."""
    if format is not None:
        check_choice("format", format, FORMATS)
        return format
    with path.open("rb") as file:
        head = file.read(64)
    seen, kind = next(((name, kind) for magic, name, kind in _MAGIC if head.startswith(magic)), (None, ""))
    for name, (_, suffixes) in FORMATS.items():
        if path.name.lower().endswith(suffixes):
            text = path.name.lower().endswith((".csv", ".tsv"))
            same = seen in (None, name) or (name, seen) == ("meeg", "mat")  # EEGLAB writes MATLAB's format
            if not same or (text and kind == "Parquet"):
                raise PatchclampError(
                    f"{path}: its first bytes are those of {kind}; give it that suffix, or say format={seen!r}"
                )
            return name
    if seen is not None:
        return seen
    if head.startswith(b"\x89HDF"):
        raise PatchclampError(f"{path}: HDF5, of which kind is not clear; say format='nwb' or format='mat'")
    every = ", ".join(suffix for _, suffixes in FORMATS.values() for suffix in suffixes)
    raise PatchclampError(f"{path}: of no known format; suffixes are {every}; format=... overrides")


def _folder(path: Path, **options: Any) -> Recording:
    if not (path / "zarr.json").is_file():
        images = sorted(path.rglob("*_bold.nii*"))
        hint = (
            f"it holds images such as {images[0]}; open those, one a run" if images else "open a file in it"
        )
        raise PatchclampError(f"{path}: a folder, but no store that record() or save() wrote; {hint}")
    if set(options) - {"lost"}:
        raise PatchclampError(f"{path}: a store has no option {min(set(options) - {'lost'})!r}; it has lost=")
    return Recording.open(path, **options)


__all__ = ["FORMATS", "Contents", "FileItem", "chosen", "file_contents", "open_recording"]
