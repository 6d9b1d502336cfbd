"""A recording's store on disk: layout, creation in one step, refusal of what does not match, the journal."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from patchclamp.base.checkpoint import differences
from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import PARTIAL, in_one_step, is_left_over, write_text
from patchclamp.nouns.recording.integrity import (
    CHECKSUM,
    Journal,
    StoreCheck,
    check_arrays,
    crc,
    guarded,
    has_checksums,
    is_count,
    refuse_packed,
)
from patchclamp.nouns.recording.lazy import on_disk, storage_dtype
from patchclamp.nouns.recording.samples import COLUMNS
from patchclamp.nouns.recording.sparse import SparseArray
from patchclamp.nouns.units import Site

FORMAT = "patchclamp-recording/1"
CHUNK_BYTES = 8 << 20
CARRY_BYTES = 64 << 20
GUESS = 64  # active features a sample, for the size of what is not known yet
_KIND = {"content": "bool"}


@dataclass(frozen=True)
class Layout:
    """What a store holds.

    Parameters
    ----------
    n_samples
        Number of samples, known before anything is written.
    shapes
        For each site its (units,) or (heads, d_head).
    dtype
        Storage type: float32, float16, bfloat16 or float64.
    chunk_rows
        Samples a chunk; every chunk is full but the last.
    sparse
        Sites of features, kept as compressed rows: `indptr`, `unit` and `value` in a group of the site's name.
    """

    n_samples: int
    shapes: dict[Site, tuple[int, ...]]
    dtype: str
    chunk_rows: int
    sparse: frozenset[Site] = frozenset()

    @classmethod
    def of(
        cls,
        n_samples: int,
        shapes: Mapping[Site, tuple[int, ...]],
        dtype: str,
        chunk_rows: int | None = None,
        sparse: Iterable[Site] = (),
    ) -> Layout:
        """Choose chunks of at most 8 MB a site and 64 MB in all, cut so that the last one is nearly full."""
        item, kept = storage_dtype(dtype).itemsize, frozenset(sparse)
        wide = [_row_bytes(shape, item, site in kept) for site, shape in shapes.items()]
        if n_samples < 1 or not wide:
            raise PatchclampError(f"a recording of {n_samples} samples at {len(wide)} sites holds nothing")
        most = chunk_rows or max(
            64, min(65536, CHUNK_BYTES // max(wide), CARRY_BYTES // (sum(wide) + sample_bytes()))
        )
        pieces = -(-n_samples // most)
        rows = chunk_rows or -(-n_samples // pieces)
        return cls(n_samples, dict(shapes), dtype, rows, kept)

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample in memory, all sites, without its labels."""
        item = storage_dtype(self.dtype).itemsize
        return sum(int(np.prod(shape)) for shape in self.shapes.values()) * item

    @property
    def nbytes(self) -> int:
        """Bytes on disk: full chunks of activity and labels, and the metadata.

        Of sparse sites an estimate (64 active features a sample): what it will be is known when it is written.
        """
        rows = -(-self.n_samples // self.chunk_rows) * self.chunk_rows
        item = storage_dtype(self.dtype).itemsize
        each = sum(_row_bytes(shape, item, site in self.sparse) for site, shape in self.shapes.items())
        units = sum(shape[0] for shape in self.shapes.values()) * 8
        metadata = 2048 * (len(self.shapes) * 3 + len(COLUMNS) * 2)
        return rows * (each + sample_bytes()) + units + metadata

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the store's attributes."""
        return {
            "n_samples": self.n_samples,
            "dtype": self.dtype,
            "chunk_rows": self.chunk_rows,
            "sites": [
                {
                    "name": str(site),
                    "point": site.point,
                    "layer": site.layer,
                    "dictionary": site.dictionary,
                    "io": site.io,
                    "shape": list(shape),
                    **({"sparse": True} if site in self.sparse else {}),
                }
                for site, shape in self.shapes.items()
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        """Undo `to_json`."""
        shapes = {
            Site(s["point"], s["layer"], s["dictionary"], s["io"]): tuple(s["shape"]) for s in data["sites"]
        }
        numbers = [data["n_samples"], data["chunk_rows"], *(n for shape in shapes.values() for n in shape)]
        if not all(is_count(n) and n for n in numbers) or not all(
            len(shape) in (1, 2) for shape in shapes.values()
        ):
            raise ValueError("its sizes are not whole numbers above 0")
        storage_dtype(data["dtype"])
        sparse = frozenset(s for s, entry in zip(shapes, data["sites"], strict=True) if entry.get("sparse"))
        return cls(data["n_samples"], shapes, data["dtype"], data["chunk_rows"], sparse)


def _row_bytes(shape: tuple[int, ...], item: int, sparse: bool) -> int:
    size = int(np.prod(shape))
    return min(size, GUESS) * (2 + item) + 8 if sparse else size * item


def sample_bytes() -> int:
    """Bytes of one sample's labels."""
    return sum(1 if name in _KIND else 8 for name in COLUMNS)


def array_name(site: Site) -> str:
    """Name of a site's array in the store: its address, with a slash written as a bar."""
    return str(site).replace("/", "|")


def source_of(group: Any, site: Site, layout: Layout) -> Any:
    """What a store holds of a site: an array, or compressed rows."""
    found = group[array_name(site)]
    if site not in layout.sparse:
        return found
    size = (layout.n_samples, layout.shapes[site][0])
    return SparseArray.open(found, size, storage_dtype(layout.dtype))


def create(
    path: Path,
    manifest: Mapping[str, Any],
    layout: Layout,
    labels: Mapping[Site, Mapping[str, Any]] | None = None,
) -> None:
    """Make an empty store of full size; it appears at `path` in one step or not at all."""
    attributes = {"format": FORMAT, "complete": False, **layout.to_json(), "manifest": dict(manifest)}
    attributes["digest"] = _digest(attributes)
    with in_one_step(path, sync=False) as draft:
        group = zarr.create_group(str(draft), zarr_format=3, attributes={"patchclamp": attributes})
        for name in COLUMNS:
            kind = _KIND.get(name, "int64")
            _array(group, name, (layout.n_samples,), layout.chunk_rows, kind, ("sample",), {})
        for site, shape in layout.shapes.items():
            _site_arrays(group, site, shape, layout, dict((labels or {}).get(site, {})))
        _consolidate(draft)


def _consolidate(path: str | Path) -> None:
    """Gather all metadata where xarray looks first; Zarr warns that its specification lacks the place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        zarr.consolidate_metadata(str(path))


def _site_arrays(
    group: zarr.Group, site: Site, shape: tuple[int, ...], layout: Layout, labels: dict[str, Any]
) -> None:
    name, dtype = array_name(site), storage_dtype(layout.dtype)
    dims = ("sample", f"unit.{name}", f"part.{name}")[: len(shape) + 1]
    attributes = {
        "coordinates": " ".join(COLUMNS),
        "site": str(site),
        "dtype": layout.dtype,
        "unit_labels": labels,
    }
    if dtype == torch.bfloat16:
        attributes["encoding"] = "uint16 holding the bits of bfloat16"
    if site in layout.sparse:
        SparseArray.create(group, name, (layout.n_samples, shape[0]), layout.chunk_rows, dtype, attributes)
    else:
        kind, full = str(on_disk(dtype)), (layout.n_samples, *shape)
        _array(group, name, full, layout.chunk_rows, kind, dims, attributes)
    index = _array(group, f"unit.{name}", shape[:1], shape[0], "int64", dims[1:2], {})
    index[:] = np.asarray(labels.get("index", range(shape[0])))


def _array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    rows: int,
    dtype: str,
    dims: tuple[str, ...],
    attributes: dict[str, Any],
) -> Any:
    fill: Any = {"float": float("nan"), "bool": False, "int64": -1}.get(dtype.rstrip("0123456789"), 0)
    fill = -1 if dtype == "int64" else fill
    return group.create_array(
        name,
        shape=shape,
        chunks=(min(rows, shape[0]), *shape[1:]),
        dtype=dtype,
        # Activity hardly compresses: float32 by 2 to 12 % with lz4 or zstd.
        compressors=CHECKSUM,
        fill_value=fill,
        dimension_names=dims,
        attributes=attributes,
        config={"write_empty_chunks": True},
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of whatever goes wrong with a store's metadata that they are damaged.

    Raises
    ------
    PatchclampError
        Naming the store and what was found.
    """
    try:
        yield
    except PatchclampError:
        raise
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
        FileNotFoundError,
    ) as error:
        told = f"no entry {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise PatchclampError(
            f"{path}: its metadata are damaged ({told or type(error).__name__}); put zarr.json back from a copy, or "
            "record again into another folder"
        ) from error


def read_attributes(path: Path) -> dict[str, Any]:
    """The store's description, or a PatchclampError for anything that is not a recording, or is damaged."""
    file = path / "zarr.json"
    if not file.is_file():
        there = "a folder without zarr.json" if path.exists() else "no such file or folder"
        raise PatchclampError(f"{path}: {there}; a recording is a folder that record() or save() wrote")
    with reading(path):
        attributes: dict[str, Any] | None = json.loads(file.read_text())["attributes"].get("patchclamp")
        if not attributes or attributes.get("format") != FORMAT:
            found = (attributes or {}).get("format", "a Zarr group of something else")
            raise PatchclampError(f"{path}: holds {found}, not {FORMAT}; choose another path")
        if attributes.get("digest", _digest(attributes)) != _digest(attributes):
            raise ValueError("they do not agree with their digest")
        _ = Layout.from_json(attributes), bool(attributes["complete"]), dict(attributes["manifest"])
    return attributes


def _digest(attributes: Mapping[str, Any]) -> str:
    """What the description of a store sums up to; whether it is complete is no part of it."""
    kept = {key: value for key, value in attributes.items() if key not in ("digest", "complete")}
    return crc(json.dumps(json.loads(json.dumps(kept)), sort_keys=True).encode())


def open_sources(
    path: Path, layout: Layout, group: Any, further: bool = True
) -> tuple[dict[Site, Any], dict[str, Any]]:
    """What a store holds of each site, and its columns (`further` ones too), of the shapes that its description says."""
    sources = {site: source_of(group, site, layout) for site in layout.shapes}
    columns = read_columns(group) if further else {name: group[name] for name in COLUMNS}
    for site, source in sources.items():
        if tuple(source.shape) != (layout.n_samples, *layout.shapes[site]):
            raise PatchclampError(
                f"{path}: its metadata are damaged ({site} is {tuple(source.shape)}, and should be "
                f"{(layout.n_samples, *layout.shapes[site])}); record again into another folder"
            )
    short = [name for name, column in columns.items() if column.shape[:1] != (layout.n_samples,)]
    if short:
        raise PatchclampError(
            f"{path}: its metadata are damaged ({short[0]} has {columns[short[0]].shape[0]} entries for "
            f"{layout.n_samples} samples); record again into another folder"
        )
    for source in [*columns.values(), *sources.values()]:
        for array in (
            (source.indptr, source.unit, source.value) if isinstance(source, SparseArray) else (source,)
        ):
            refuse_packed(array)
    return sources, columns


def mark_complete(path: Path) -> None:
    """Say in the store that every sample is there."""
    if '"sparse": true' in (path / "zarr.json").read_text():
        _consolidate(path)  # groups of codes were cut to their length
    file = path / "zarr.json"
    data = json.loads(file.read_text())
    data["attributes"]["patchclamp"]["complete"] = True
    write_text(file, json.dumps(data, indent=2))


def refuse_mismatch(
    path: Path, stored: Mapping[str, Any], layout: Layout, manifest: Mapping[str, Any]
) -> None:
    """Refuse to add to a store that was made from something else, naming both values.

    Raises
    ------
    PatchclampError
        With every differing entry: model, tokenizer, data, dtype, sites, BOS policy, batching, code version.
    """
    ours = json.loads(json.dumps({**layout.to_json(), "manifest": dict(manifest)}))
    ours["sites"] = [s["name"] for s in ours["sites"]]
    theirs = {key: stored[key] for key in ours}
    theirs["sites"] = [s["name"] for s in theirs["sites"]]
    found = [line.removeprefix("manifest.") for line in differences(theirs, ours)]
    if found:
        raise PatchclampError(
            f"{path}: this store does not belong to this run: {'; '.join(found)}; "
            "choose another path, or delete the store"
        )


def rows_written(path: Path) -> int:
    """Samples safely in an unfinished store."""
    return Journal(path).rows


_ZARRS_OWN = re.compile(rf".*\.[0-9a-f]{{32}}{re.escape(PARTIAL)}")


def clean(path: Path) -> None:
    """Remove the half-written files that a killed process left."""
    for file in path.rglob(f"*{PARTIAL}"):
        if _ZARRS_OWN.fullmatch(file.name) or is_left_over(file.name):
            file.unlink(missing_ok=True)


def check_store(path: str | Path) -> StoreCheck:
    """Read a whole store and say which chunks are lost, cut short, damaged or not those that were written.

    Parameters
    ----------
    path
        Folder of the store. Stores of older versions have no checksums: of them lost chunks alone are noticed.

    Raises
    ------
    PatchclampError
        If the folder is missing or holds something else, or if its description is damaged.

    Examples
    --------
    >>> print(check_store("acts.zarr"))                                          # doctest: +SKIP
    acts.zarr: 12,000 samples, 70 chunks, 36.9 MB; checksums agree
    """
    path = Path(path)
    stored = read_attributes(path)
    layout = Layout.from_json(stored)
    complete = bool(stored["complete"])
    rows = layout.n_samples if complete else rows_written(path)
    with reading(path):
        group: Any = zarr.open_group(str(path), mode="r", zarr_format=3, use_consolidated=False)
        sources, _ = open_sources(path, layout, group, further=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the journal is no part of a Zarr hierarchy
            members = dict(group.members(max_depth=None))
        arrays = {name: member for name, member in members.items() if isinstance(member, zarr.Array)}
    needed: dict[str, int | None] = {name: None for name, array in arrays.items() if has_checksums(array)}
    needed |= dict.fromkeys(COLUMNS, rows) | {array_name(s): rows for s in sources if s not in layout.sparse}
    for site in layout.sparse:
        name, source = array_name(site), sources[site]
        needed[f"{name}/indptr"] = rows + 1
        try:
            entries = int(guarded(source.indptr, slice(rows, rows + 1))[0])
        except (PatchclampError, IndexError):
            entries = source.unit.shape[0] if complete else 0
        needed |= {f"{name}/unit": entries, f"{name}/value": entries}
    found = check_arrays(path, arrays, needed, complete)
    return replace(found, samples=rows, complete=complete)


def checksummed(path: Path) -> bool:
    """Whether the chunks of a store carry checksums."""
    group: Any = zarr.open_group(str(path), mode="r", zarr_format=3)
    return has_checksums(group[COLUMNS[0]])


_MARK = "patchclamp_column"


def write_columns(path: str | Path, columns: Mapping[str, Any]) -> None:
    """Put columns with one entry a sample into a finished store, where xarray finds them as coordinates."""
    if not columns:
        return
    group = zarr.open_group(str(path), mode="a", zarr_format=3, use_consolidated=False)
    for name, column in columns.items():
        values = np.asarray(column[:])
        array: Any = group.create_array(
            name,
            shape=values.shape,
            chunks=(max(1, min(65536, len(values))),),
            dtype=str(values.dtype),
            compressors=CHECKSUM,
            dimension_names=("sample",),
            attributes={_MARK: True},
            config={"write_empty_chunks": True},
        )
        array[:] = values
    _consolidate(path)


def read_columns(group: Any) -> dict[str, Any]:
    """The columns of a store, lazily: the fixed ones and what `write_columns` put there."""
    columns = {name: group[name] for name in COLUMNS}
    for name, member in group.arrays():
        if member.attrs.get(_MARK):
            columns[name] = member
    return columns
