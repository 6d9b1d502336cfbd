"""fMRI by nibabel: volumes of one or more runs to voxels of a mask or regions of an atlas, with BIDS' side files."""

from __future__ import annotations

import csv
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import read_json
from patchclamp.base.memory import refuse_unpacking
from patchclamp.nouns.recording.lazy import Rows
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.sources import Read, Stacked, stretches
from patchclamp.record.files.base import Contents, FileItem, build, checked, existing, foreign, need, sized
from patchclamp.record.files.header import text_table
from patchclamp.record.files.nifti_head import refuse_head

_LOOK = 48  # volumes that the default mask looks at
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


def contents(path: Path) -> Contents:
    """What the file holds."""
    image = _image(path)
    with _reading(path):
        return _contents(path, image)


def _contents(path: Path, image: Any) -> Contents:
    zooms = [float(z) for z in image.header.get_zooms()]
    shape = image.shape
    about: dict[str, Any] = {"grid": list(shape[:3]), "voxel_mm": [round(z, 3) for z in zooms[:3]]}
    if len(shape) != 4:
        return Contents(str(path), "NIfTI", (), {}, {}, {**about, "note": "one volume: a mask or an atlas"})
    about["tr"] = _repetition(path) or _header_tr(image)
    events = _beside(path, "events.tsv")
    tables = {"events": len(_table(events))} if events else {}
    item = FileItem(
        "bold", "activity", (shape[3], int(np.prod(shape[:3]))), "volumes x voxels of the whole grid"
    )
    return Contents(str(path), "NIfTI", (item,), tables, {}, about)


def read(
    path: Path | Sequence[Path],
    what: str | None = None,
    *,
    mask: Any = None,
    atlas: Any = None,
    regions: Mapping[int, str] | None = None,
    tr: float | None = None,
    runs: Sequence[Any] | None = None,
    labels: Sequence[Any] | None = None,
    events: Any = None,
    delay: float = 0.0,
    confounds: Sequence[str] = (),
    regress: bool = False,
    resample: bool = False,
) -> Recording:
    """Open 4-D images: volumes x voxels, or volumes x regions; every run is a document and a group.

    Parameters
    ----------
    path
        A file, or one a run.
    what
        ``"bold"``, the only thing in such a file.
    mask
        File, image or array of the grid's shape: voxels where it is not zero. Default: voxels that vary over time.
    atlas
        File, image or array of whole numbers: units are regions, each the mean of its voxels (0 is outside).
    regions
        Names of the atlas' numbers.
    tr
        Seconds between volumes; by default from the BIDS sidecar, else the header. Refused where both are zero.
    runs
        Run of each volume, for a file that holds several; by default every file is a run.
    labels
        Condition of each volume; by default the event that covers it, ``delay`` seconds before.
    events
        BIDS table of events (a file or a table; of several runs a list); by default the file beside the image.
    delay
        Seconds by which a volume lags behind the event whose label it gets (the haemodynamic delay is about 5).
    confounds
        Columns of the BIDS confounds table to keep as columns of the samples.
    regress
        Take those confounds out of every unit, run by run, by least squares (reads the run when it is first needed).
    resample
        Bring a mask or atlas of another grid onto the image's by nearest neighbour (nilearn); refused otherwise.
    """
    paths = [path] if isinstance(path, (str, Path)) else [existing(one) for one in path]
    paths = [Path(one) for one in paths]
    if what not in (None, "bold"):
        raise PatchclampError(f"{paths[0]}: what={what!r}; a NIfTI file holds one recording, 'bold'")
    images = [_image(one) for one in paths]
    where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    for one, image in zip(paths, images, strict=True):
        if len(image.shape) != 4 or image.shape[:3] != images[0].shape[:3]:
            raise PatchclampError(
                f"{one}: {image.shape}; wanted 4-D with the grid {images[0].shape[:3]} of the first run"
            )
    step = _tr(paths[0], images[0], tr)
    files = [_File(str(one), image) for one, image in zip(paths, images, strict=True)]
    pool, units = _units(files, images[0], mask, atlas, regions, resample)
    n = [int(image.shape[3]) for image in images]
    run = _runs(runs, n, where)
    tables = [_event_table(p, events, i, len(paths)) for i, p in enumerate(paths)]
    within = np.arange(sum(n)) - stretches([run])[0]
    time = within * step
    if labels is None:
        labels = _labels(tables, np.repeat(np.arange(len(n)), n), time, delay)
    else:
        sized(labels, sum(n), "labels", where)
    side = [_confounds(p, confounds, size) for p, size in zip(paths, n, strict=True)]
    sources = [
        _source(
            file,
            pool,
            len(units["index_in_grid"]),
            size,
            table.to_numpy() if regress and len(confounds) else None,
        )
        for file, size, table in zip(files, n, side, strict=True)
    ]
    columns = {name: np.concatenate([t[name].to_numpy(np.float64) for t in side]) for name in confounds}
    found = [table.assign(doc=i) for i, table in enumerate(tables) if table is not None]
    return build(
        "bold", Stacked(tuple(sources)) if len(sources) > 1 else sources[0], where=where, time=time, step=step,
        run=run, label=labels, columns=columns, units=units,
        tables={"events": pd.concat(found, ignore_index=True)} if found else None,
        manifest={"tr": step, "affine": np.asarray(images[0].affine).tolist(), "grid": list(images[0].shape[:3])},
    )  # fmt: skip


@dataclass
class _File:
    """Volumes of one image; a compressed file, where seeking means reading, is kept once it was read."""

    name: str
    image: Any
    kept: Any = None

    def __getitem__(self, key: slice) -> NDArray[Any]:
        packed = self.name.endswith(".gz")
        with _reading(self.name):
            if packed and self.kept is None:
                self.kept = np.asanyarray(self.image.dataobj)
            return np.asarray(self.kept[..., key] if packed else self.image.dataobj[..., key])


@dataclass(frozen=True)
class _Voxels:
    """Picks voxels of volumes (x, y, z, time) into (time, units), or averages the voxels of each region."""

    flat: NDArray[np.int64]
    region: NDArray[np.int64] | None = None

    def __call__(self, volumes: NDArray[Any]) -> NDArray[np.float64]:
        values = volumes.reshape(-1, volumes.shape[-1])[self.flat].astype(np.float64)
        if self.region is None:
            return values.T
        size = np.bincount(self.region)
        out = np.zeros((len(size), values.shape[1]))
        np.add.at(out, self.region, values)
        return (out / size[:, None]).T


def _source(file: _File, pool: _Voxels, width: int, n: int, out: NDArray[np.float64] | None) -> Any:
    def rows(start: int, stop: int) -> NDArray[Any]:
        return checked(pool(file[start:stop]), start, file.name, None)

    plain = Read((n, width), rows)
    return plain if out is None else _Cleaned(plain, out)


class _Cleaned:
    """Activity of a run without what its confounds explain; the run's mean stays."""

    def __init__(self, source: Read, confounds: NDArray[np.float64]) -> None:
        self.source, self.confounds, self.shape, self.dtype = source, confounds, source.shape, source.dtype
        self.kept: torch.Tensor | None = None

    def dense(self, rows: Rows) -> torch.Tensor:
        if self.kept is None:
            values = self.source.dense(range(self.shape[0])).double().numpy()
            design = self.confounds - self.confounds.mean(0)
            weights = np.linalg.lstsq(design, values - values.mean(0), rcond=None)[0]
            self.kept = torch.from_numpy(values - design @ weights).to(self.dtype)
        return self.kept[torch.from_numpy(np.asarray(rows, np.int64))]


def _image(path: Path | str) -> Any:
    nibabel = need("nibabel")
    with _reading(path), _quietly(nibabel.imageglobals.logger):
        refuse_head(path)
        image = nibabel.load(str(path))
    if not hasattr(image.header, "get_xyzt_units"):
        raise PatchclampError(
            f"{path}: {type(image).__name__} {tuple(image.shape)}, not NIfTI volumes; read it with nibabel and pass "
            "samples x units to Recording.from_arrays, or convert it to .nii.gz"
        )
    with _reading(path):
        dtype, shape = image.get_data_dtype(), tuple(map(int, image.shape))
        _check_head(path, image, dtype, shape)
    refuse_unpacking(str(path), math.prod(shape) * dtype.itemsize, Path(path).stat().st_size)
    return image


def _reading(path: Path | str) -> AbstractContextManager[None]:
    nibabel = need("nibabel")
    errors = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError)
    return foreign(path, "NIfTI", *errors)


@contextmanager
def _quietly(logger: logging.Logger) -> Iterator[None]:
    """What nibabel mends in a head it says on stderr; what matters is refused here."""
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _check_head(path: Path | str, image: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Refuse what nibabel reads all the same, and would read wrongly."""
    head, first = image.header, getattr(image.dataobj, "offset", None)
    if dtype.kind not in "iuf":
        raise PatchclampError(f"{path}: voxels are of type {dtype}; wanted real numbers")
    if not shape or min(shape) < 1:
        raise PatchclampError(
            f"{path}: says that it is {' x '.join(map(str, shape))}; it is empty or damaged"
        )
    if getattr(head, "is_single", False) and first is not None and first < head.sizeof_hdr:
        raise PatchclampError(
            f"{path}: its head says that voxels begin at byte {first}, inside the head; it is damaged, write it again"
        )


def _header_tr(image: Any) -> float:
    zooms, unit = image.header.get_zooms(), image.header.get_xyzt_units()[1]
    return float(zooms[3]) * _SECONDS.get(unit, 1.0) if len(zooms) > 3 else 0.0


def _tr(path: Path, image: Any, tr: float | None) -> float:
    with _reading(path):
        found = tr if tr is not None else _repetition(path) or _header_tr(image)
    if not 0.02 <= found <= 60:
        raise PatchclampError(f"{path}: a repetition time of {found:g} s cannot be; give tr= in seconds")
    return float(found)


def _beside(path: Path, ending: str) -> Path | None:
    """A side file of BIDS: the image's entities without those of processing, and another suffix."""
    stem = re.sub(r"_bold\.nii(\.gz)?$", "", path.name)
    if stem == path.name:
        return None
    plain = re.sub(r"_(space|desc|res|echo|part)-[A-Za-z0-9]+", "", stem)
    for name in (stem, plain):
        if (path.parent / f"{name}_{ending}").is_file():
            return path.parent / f"{name}_{ending}"
    return None


def _repetition(path: Path) -> float:
    """Seconds between volumes as the sidecar says; 0 where it does not."""
    file = _beside(path, "bold.json")
    about = read_json(file) if file else {}
    found = about.get("RepetitionTime") if isinstance(about, dict) else None
    if (
        not isinstance(about, dict)
        or isinstance(found, bool)
        or not isinstance(found, (int, float, type(None)))
    ):
        raise PatchclampError(
            f"{file}: RepetitionTime is {str(found)[:40]!r}; wanted seconds, in a JSON object"
        )
    return float(found or 0)


def _table(file: Path) -> pd.DataFrame:
    with foreign(file, "a table of BIDS", csv.Error):
        return text_table(existing(file), "\t", header=True)[0]


def _grid(what: Any, image: Any, name: str, resample: bool) -> NDArray[Any]:
    if isinstance(what, np.ndarray):
        values = what
    else:
        found = _image(existing(what)) if isinstance(what, (str, Path)) else what
        same = found.shape[:3] == image.shape[:3] and np.allclose(found.affine, image.affine, atol=1e-3)
        if not same and resample:
            nilearn = need("nilearn.image")
            found = nilearn.resample_to_img(found, image.slicer[..., :1], interpolation="nearest")
        elif not same:
            raise PatchclampError(
                f"{name} {what}: its grid {found.shape[:3]} or affine is not the image's {image.shape[:3]}; "
                "resample=True brings it there by nearest neighbour"
            )
        values = np.asarray(found.dataobj)
    values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    if values.shape != image.shape[:3]:
        raise PatchclampError(f"{name}: {values.shape}; wanted the image's grid {image.shape[:3]}")
    return values


def _units(
    files: list[_File], image: Any, mask: Any, atlas: Any, regions: Mapping[int, str] | None, resample: bool
) -> tuple[_Voxels, dict[str, list[Any]]]:
    grid = image.shape[:3]
    if mask is not None:
        keep = _grid(mask, image, "mask", resample).reshape(-1) != 0
    elif atlas is None:
        some = [
            file[i : i + 1] for file in files for i in _spread(file.image.shape[3], _LOOK // len(files) + 2)
        ]
        keep = np.ptp(np.concatenate([one.reshape(-1, 1) for one in some], 1), axis=1) > 0
    else:
        keep = np.ones(int(np.prod(grid)), bool)
    numbers = np.zeros(0, np.int64)
    region = None
    if atlas is not None:
        own = np.rint(_grid(atlas, image, "atlas", resample).reshape(-1)).astype(np.int64)
        keep &= own > 0
        numbers, region = np.unique(own[keep], return_inverse=True)
    flat = np.flatnonzero(keep)
    if not len(flat):
        raise PatchclampError(
            f"{files[0].name}: the mask or atlas selects no voxel; does it belong to this image?"
        )
    if region is None:
        ijk = np.stack(np.unravel_index(flat, grid), 1)
        labels: dict[str, list[Any]] = {"index_in_grid": flat.tolist()}
    else:
        every = np.stack(np.unravel_index(flat, grid), 1)
        ijk = np.stack([np.bincount(region, every[:, axis]) / np.bincount(region) for axis in range(3)], 1)
        labels = {"index_in_grid": numbers.tolist(), "voxels": np.bincount(region).tolist()}
        labels["region"] = [str((regions or {}).get(int(i), i)) for i in numbers]
    xyz = ijk @ np.asarray(image.affine)[:3, :3].T + np.asarray(image.affine)[:3, 3]
    labels |= {name: xyz[:, axis].tolist() for axis, name in enumerate("xyz")}
    return _Voxels(flat, region), labels


def _spread(n: int, k: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, n - 1, min(n, k))})


def _runs(runs: Sequence[Any] | None, n: list[int], where: str) -> NDArray[Any]:
    if runs is None:
        return np.repeat(np.arange(len(n)), n)
    sized(runs, sum(n), "runs", where)
    return np.asarray(runs)


def _event_table(path: Path, events: Any, number: int, of: int) -> pd.DataFrame | None:
    if of > 1 and events is not None:
        if not isinstance(events, (list, tuple)) or len(events) != of:
            raise PatchclampError(f"{path}: {of} runs need {of} tables of events, in a list")
        events = events[number]
    file = _beside(path, "events.tsv") if events is None else events
    if file is None:
        return None
    table = file if isinstance(file, pd.DataFrame) else _table(file)
    lost = {"onset", "duration"} - set(table.columns)
    if lost:
        raise PatchclampError(
            f"{file}: BIDS events have the columns onset and duration; missing: {sorted(lost)}"
        )
    table = table.rename(columns={"onset": "start", "trial_type": "label"})
    with foreign(file, "a table of BIDS events"):
        table["start"] = pd.to_numeric(table["start"])
        table["stop"] = table["start"] + pd.to_numeric(table["duration"]).fillna(0.0)
    return table.drop(columns="duration")


def _labels(
    tables: list[pd.DataFrame | None], file: NDArray[np.int64], time: NDArray[Any], delay: float
) -> list[Any] | None:
    if not any(table is not None and "label" in table for table in tables):
        return None
    out = np.full(len(time), None, object)
    for number, table in enumerate(tables):
        length = float(time[file == number].max(initial=0))
        for start, stop, label in (
            () if table is None else zip(table["start"], table["stop"], table["label"], strict=True)
        ):
            if start > length + 1e-6 or start < -60:
                raise PatchclampError(
                    f"events of run {number}: {label} at {start:g} s is outside the run, 0 to {length:g} s; seconds?"
                )
            out[(file == number) & (time >= start + delay - 1e-6) & (time < stop + delay - 1e-6)] = label
    return out.tolist()


def _confounds(path: Path, names: Sequence[str], n: int) -> pd.DataFrame:
    if not len(names):
        return pd.DataFrame(index=range(n))
    file = _beside(path, "desc-confounds_timeseries.tsv") or _beside(path, "desc-confounds_regressors.tsv")
    if file is None:
        raise PatchclampError(f"{path}: no table of confounds beside it (..._desc-confounds_timeseries.tsv)")
    table = _table(file)
    lost = [name for name in names if name not in table]
    if lost or len(table) != n:
        raise PatchclampError(f"{file}: {len(table)} rows for {n} volumes, columns missing: {lost}")
    return table[list(names)].fillna(0.0)  # derivatives have no first value
