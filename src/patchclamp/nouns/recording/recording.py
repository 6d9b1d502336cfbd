"""Recordings: activity, samples x units, labelled on both axes, the same object for a model and a brain.

On disk a recording is a Zarr (version 3) group that `xarray.open_zarr` opens: an array for each site with dims
(sample, unit.SITE), or (sample, unit.SITE, part.SITE) for heads (for features a group of compressed rows), and one
for each label of the sample axis (doc, position, token, content, label, group). The attribute `patchclamp` holds the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
import zarr
from torch import Tensor

from patchclamp.base.arrays import as_tensor
from patchclamp.base.errors import PatchclampError, check_choice, did_you_mean
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording import store as _store
from patchclamp.nouns.recording.integrity import has_checksums, refuse_lost, scan
from patchclamp.nouns.recording.lazy import DTYPES, Rows, SiteArray, lazy_variable, pick, storage_dtype
from patchclamp.nouns.recording.samples import COLUMNS, STEP, Samples, Where, matching, named_column
from patchclamp.nouns.recording.sources import take_column
from patchclamp.nouns.recording.sparse import SparseArray, SparseCodes
from patchclamp.nouns.recording.store import Layout, write_columns
from patchclamp.nouns.recording.time import TimeAxis
from patchclamp.nouns.recording.writer import StoreWriter
from patchclamp.nouns.units import Site, Units, UnitsLike, parse_site


class Labelled(TimeAxis):
    """The axes of a recording with all their labels."""

    if TYPE_CHECKING:

        def unit_index(self, site: Site | str) -> np.ndarray: ...

    def to_xarray(self, site: Site | str | None = None) -> Any:
        """Return a lazy `xarray.DataArray` (sample, unit) of one site, or a `Dataset` of all.

        The sample axis carries all its labels, the unit axis the address, index and labels of each unit. In the
        data set each site has a unit axis of its own, `unit.SITE`.
        """
        return self._data_set() if site is None else self._of_site(self.site(site))

    def _of_site(self, site: Site) -> Any:
        return self._data_array(site, "unit", "part").assign_coords(self._unit_coords(site, "unit"))

    def _data_set(self) -> Any:
        import xarray as xr

        names = {_store.array_name(one): one for one in self.sites}
        arrays = {
            name: self._data_array(one, f"unit.{name}", f"part.{name}").assign_coords(
                {f"unit.{name}": self.unit_index(one)}
            )
            for name, one in names.items()
        }
        return xr.Dataset(arrays, attrs={"manifest": str(self.manifest)})

    def _data_array(self, site: Site, unit: str, part: str) -> Any:
        import xarray as xr

        array: SiteArray = self._arrays[site]
        dims = ("sample", unit, part)[: array.ndim]
        columns = {
            name: ("sample", named_column(name, column, self.manifest))
            for name, column in self.samples.numpy().items()
        }
        columns |= {name: ("sample", self.column(name)) for name in self.columns if name not in COLUMNS}
        return xr.DataArray(lazy_variable(array, dims), coords=columns, name=str(site))

    def _unit_coords(self, site: Site, dim: str) -> dict[str, Any]:
        table = self.units(site)
        taken = self.columns
        return {
            name if name not in taken else f"unit_{name}": (dim, np.asarray(table[name]))
            for name in table.columns
        }


def named(site: Site | str) -> Site:
    """A site by its address, or any name as a site of its own."""
    return site if isinstance(site, Site) else (parsed(site) or Site(site))


def parsed(text: str) -> Site | None:
    try:
        return parse_site(text)
    except PatchclampError:
        return None


def default_samples(values: Tensor) -> Samples:
    if values.ndim == 3:
        trials, time = values.shape[:2]
        return Samples.of(torch.arange(trials).repeat_interleave(time), torch.arange(time).repeat(trials))
    return Samples.of(torch.arange(len(values)), torch.zeros(len(values), dtype=torch.int64))


def check_trials(arrays: Mapping[Site, Tensor]) -> None:
    """Refuse (2, 3, units) beside (3, 2, units), whose samples would be paired one by one."""
    shapes = {site: tuple(values.shape[:2]) for site, values in arrays.items() if values.ndim == 3}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{site} has {trials} x {time}" for site, (trials, time) in shapes.items())
        raise PatchclampError(f"trials x time differ: {found}; sites of one recording share their samples")


def unit_columns(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    return {name: np.asarray(column).tolist() for name, column in columns.items()}


def check_marks(what: str, marks: Mapping[str, Any], width: int) -> None:
    """Refuse labels of units that are not one a unit, `present` that is not true or false, `index` that names a unit twice."""
    for name, column in marks.items():
        if not isinstance(column, list) or len(column) != width:
            found = f"{len(column)} entries" if isinstance(column, list) else f"{column!r:.40}"
            raise PatchclampError(f"{what}: {found} of {name} for {width} units")
    if any(type(one) not in (bool, int, float) or one not in (0, 1) for one in marks.get("present", ())):
        raise PatchclampError(
            f"{what}: present is {str(marks['present'])[:60]}; wanted true or false, one a unit"
        )
    index = marks.get("index", ())
    if any(type(one) is not int or not 0 <= one < 1 << 63 for one in index) or len(set(index)) < len(index):
        raise PatchclampError(
            f"{what}: index is {str(index)[:60]}; wanted the number of each unit, each once"
        )


def check_array(site: Site, values: Tensor, n_samples: int, marks: Mapping[str, Sequence[Any]]) -> None:
    if values.ndim != 2 or not values.is_floating_point():
        raise PatchclampError(
            f"{site}: activity is {tuple(values.shape)} of {values.dtype}; "
            "wanted floating samples x units or trials x time x units"
        )
    if len(values) != n_samples:
        raise PatchclampError(f"{site}: {len(values)} samples, but there are labels for {n_samples}")
    check_marks(str(site), marks, values.shape[1])
    present = torch.tensor(marks.get("present", [True] * values.shape[1]), dtype=torch.bool)
    bad = (~torch.isfinite(values) & present).nonzero()
    if len(bad):
        row, unit = (int(i) for i in bad[0])
        raise PatchclampError(
            f"{site}[{unit}]: {float(values[row, unit])} at sample {row}; mark missing units with the label "
            "`present`, and fix or leave out the sample otherwise"
        )


@shown
class Recording(Labelled):
    """Activity of units at one or more sites, with the labels of every sample and unit.

    Nothing is read before it is asked for, so a recording may be larger than memory; a selection is a view.
    Make one with `patchclamp.record.record`, `Recording.open` or `Recording.from_arrays`.

    Examples
    --------
    >>> rec = Recording.from_arrays({"lfp": np.arange(12.0, dtype="float32").reshape(2, 3, 2)})  # trials x time x units
    >>> rec
    Recording(6 samples; lfp: 2 units)
    >>> rec.select(where={"doc": 1}, units={"lfp": [1]})["lfp"][:].T
    tensor([[ 7.,  9., 11.]])
    """

    def __init__(
        self,
        arrays: Mapping[Site, SiteArray],
        columns: Mapping[str, Any],
        rows: Rows,
        manifest: Mapping[str, Any],
        labels: Mapping[Site, Mapping[str, Any]],
        path: Path | None = None,
        chunk_rows: int = STEP,
        complete: bool = True,
    ) -> None:
        self._arrays = dict(arrays)
        self._columns = columns
        self._rows = rows
        self._labels = {site: dict(labels.get(site, {})) for site in arrays}
        self._cached: Samples | None = None
        self.manifest: dict[str, Any] = dict(manifest)
        self.path = path
        self.chunk_rows = chunk_rows
        self.complete = complete

    # ---- making one

    @classmethod
    def open(cls, path: str | Path, lost: Literal["refuse", "drop"] = "refuse") -> Recording:
        """Open a store. Of an unfinished one, the samples written so far are shown and `complete` is False.

        Parameters
        ----------
        path
            Folder of the store.
        lost
            Samples of which a chunk is lost or cut short: ``"refuse"`` or ``"drop"``. Bytes that changed are found
            when they are read, and by ``patchclamp check STORE``.

        Raises
        ------
        PatchclampError
            If the folder is missing or holds something else, or chunks are lost, or its description is damaged.
        """
        path = Path(path)
        check_choice("lost", lost, ("refuse", "drop"))
        stored = _store.read_attributes(path)
        layout = Layout.from_json(stored)
        with _store.reading(path):
            group: Any = zarr.open_group(str(path), mode="r", zarr_format=3)
            sources, columns = _store.open_sources(path, layout, group)
            labels = {site: dict(group[_store.array_name(site)].attrs["unit_labels"]) for site in sources}
        complete, dtype = bool(stored["complete"]), storage_dtype(layout.dtype)
        n = layout.n_samples if complete else min(layout.n_samples, _store.rows_written(path))
        # Stores without checksums left out chunks of further columns that hold nothing but zeros.
        kept = [column for name, column in columns.items() if name in COLUMNS or has_checksums(column)]
        found = scan([*kept, *sources.values()], n)
        if lost == "refuse" or found.lost.all():
            refuse_lost(path, found)
        rows: Rows = np.flatnonzero(~found.lost) if found.faults else range(n)
        arrays = {site: SiteArray(site, source, dtype, rows) for site, source in sources.items()}
        return cls(arrays, columns, rows, stored["manifest"], labels, path, layout.chunk_rows, complete)

    @staticmethod
    def create(
        path: str | Path,
        manifest: Mapping[str, Any],
        sites: Mapping[Site | str, tuple[int, ...]],
        n_samples: int,
        dtype: str = "float32",
        chunk_rows: int | None = None,
        labels: Mapping[Site, Mapping[str, Any]] | None = None,
    ) -> StoreWriter:
        """Begin a store of `n_samples` samples (or resume one) and return its writer.

        Parameters
        ----------
        path
            Folder of the store.
        manifest
            Where the activity comes from; a store with another manifest is refused.
        sites
            For each site (units,) or (heads, d_head).
        n_samples
            Number of samples that will be appended in all.
        dtype
            ``"float32"``, ``"float16"``, ``"bfloat16"`` (stored as its 16 bits in uint16) or ``"float64"``.
        chunk_rows
            Samples a chunk; chosen where None.
        labels
            For each site, columns with one entry a unit (region, sensor position, identity, present ...).
        """
        shapes = {named(site): shape for site, shape in sites.items()}
        return StoreWriter(path, manifest, Layout.of(n_samples, shapes, dtype, chunk_rows), labels)

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[Site | str, Any],
        samples: Samples | None = None,
        manifest: Mapping[str, Any] | None = None,
        labels: Mapping[Site | str, Mapping[str, Sequence[Any]]] | None = None,
    ) -> Recording:
        """Make a recording of activity in memory: of a brain, a simulation, any network.

        Parameters
        ----------
        arrays
            Site or name -> (samples, units), or (trials, time, units): then trial becomes `doc` and time
            `position`. Any name goes; NaN is allowed only in units that are not present.
        samples
            Labels of the samples; by default each sample (or trial) is its own document and group.
        manifest
            Where the activity comes from.
        labels
            For each site, columns with one entry a unit. The column `present` (bool) masks units that are missing
            in this session; the others are kept as they are (region, sensor position, identity ...).
        """
        values = {named(site): as_tensor(array, str(site)) for site, array in arrays.items()}
        marks = {named(site): unit_columns(columns) for site, columns in (labels or {}).items()}
        if not values:
            raise PatchclampError("no activity was given; pass {name: array of samples x units}")
        check_trials(values)
        samples = samples or default_samples(next(iter(values.values())))
        views = {}
        for site, array in values.items():
            flat = array.flatten(0, 1) if array.ndim == 3 else array
            check_array(site, flat, len(samples), marks.get(site, {}))
            views[site] = SiteArray(site, flat, flat.dtype, range(len(samples)))
        columns = dict(samples.columns())
        return cls(views, columns, range(len(samples)), manifest or {}, marks)

    # ---- looking at it

    @property
    def sites(self) -> list[Site]:
        """The sites recorded."""
        return list(self._arrays)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Size of the activity if all of it were read."""
        return sum(array.nbytes for array in self._arrays.values())

    @property
    def samples(self) -> Samples:
        """Labels of all samples, read once (41 bytes a sample)."""
        if self._cached is None:
            self._cached = self._samples(slice(None))
        return self._cached

    def _samples(self, key: Any) -> Samples:
        rows = pick(self._rows, key)
        return Samples.from_numpy({name: take_column(self._columns[name], rows) for name in COLUMNS})

    def site(self, site: Site | str) -> Site:
        """Find a site of this recording by its address."""
        names = {str(known): known for known in self._arrays}
        if str(site) in names:
            return names[str(site)]
        alias = site if isinstance(site, Site) else parsed(site)
        if alias in self._arrays:
            return alias
        raise PatchclampError(
            f"{site}: not in this recording, which has {', '.join(names)}{did_you_mean(str(site), names)}"
        )

    def __getitem__(self, site: Site | str) -> SiteArray:
        """Activity of one site, read when it is sliced."""
        return self._arrays[self.site(site)]

    def __contains__(self, site: object) -> bool:
        return str(site) in {str(known) for known in self._arrays}

    def __len__(self) -> int:
        return self.n_samples

    def __repr__(self) -> str:
        sites = ", ".join(f"{site}: {array.shape[1]} units" for site, array in self._arrays.items())
        unfinished = "" if self.complete else " so far, unfinished"
        return f"Recording({self.n_samples} samples{unfinished}; {sites})"

    def _card(self) -> dict[str, Any]:
        sites = {
            str(site): f"{array.shape[1]:,} units, {array.dtype}" for site, array in self._arrays.items()
        }
        shown_sites = dict(list(sites.items())[:8]) | (
            {"and": f"{len(sites) - 8} sites more"} if len(sites) > 8 else {}
        )
        labels = sorted({name for table in self._labels.values() for name in table})
        return {
            "samples": self.n_samples, **shown_sites, "size": f"{self.nbytes / 1e6:,.1f} MB",
            **({"model": str(self.manifest["model"])} if self.manifest.get("model") else {}),
            **({"unit labels": ", ".join(labels)} if labels else {}), **({"path": self.path} if self.path else {}),
            **({} if self.complete else {"unfinished": True}),
        }  # fmt: skip

    def _preview(self) -> pd.DataFrame:
        """The first samples: where they are, and the first units of the first site."""
        few = slice(0, min(4, self.n_samples))
        samples = self._samples(few)
        table = pd.DataFrame({name: getattr(samples, name).tolist() for name in ("doc", "position", "token")})
        site = self.sites[0]
        values = torch.as_tensor(self._arrays[site][few]).flatten(1)[:, :3]
        for place, column in enumerate(values.T.tolist()):
            table[f"{site}[{self.unit_index(site)[place]}]" if values.ndim == 2 else str(place)] = column
        return table

    def present(self, site: Site | str) -> Tensor:
        """Bool (units,): False for units that are missing in this recording."""
        site = self.site(site)
        marks = self._labels[site].get("present")
        places = self._arrays[site].unit_index
        if marks is None:
            return torch.ones(len(places), dtype=torch.bool)
        return torch.tensor(marks, dtype=torch.bool)[places]

    def unit_index(self, site: Site | str) -> np.ndarray:
        """Index in its site of each unit recorded; not 0, 1, 2 ... where only some units were kept."""
        site = self.site(site)
        places, known = self._arrays[site].unit_index, self._labels[site].get("index")
        return places if known is None else np.asarray(known, dtype=np.int64)[places]

    def units(self, site: Site | str | None = None) -> pd.DataFrame:
        """A pandas table of the units: unit (address), site, point, layer, index, present and their labels."""
        tables = []
        for one in self.sites if site is None else [self.site(site)]:
            index, places = self.unit_index(one), self._arrays[one].unit_index
            table = pd.DataFrame({"unit": [f"{one}[{i}]" for i in index], "site": str(one)})
            table = table.assign(point=one.point, layer=-1 if one.layer is None else one.layer, index=index)
            table["present"] = self.present(one).numpy()
            for name, column in self._labels[one].items():
                if name not in ("present", "index"):
                    table[name] = [column[i] for i in places]
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    # ---- selecting

    def select(self, units: UnitsLike | None = None, where: Where | None = None) -> Recording:
        """Return a view with some of the units and samples; nothing is copied.

        Parameters
        ----------
        units
            Addresses (text, `Site`, `Units`, lists of those), or a mapping from site to unit indices or None.
        where
            A function of `Samples` that returns a mask, or a mapping from column to a value, a list of values or a
            slice (from, up to but not including). Labels and groups may be given by name; further columns (time,
            trial, a behaviour) too.

        Raises
        ------
        PatchclampError
            When nothing matches, or a column, site or unit does not exist.
        """
        arrays = self._arrays if units is None else self._pick_units(units)
        rows: Rows = self._rows
        if where is not None:
            chosen = self._chosen(where)
            arrays = {site: array.take(chosen) for site, array in arrays.items()}
            rows = pick(rows, chosen)
        view = self._like(arrays=arrays, rows=rows)
        view._cached = self._cached if where is None else None
        return view

    def _chosen(self, where: Where) -> np.ndarray:
        own = (
            {name: v for name, v in where.items() if name in self.columns[len(COLUMNS) :]}
            if isinstance(where, Mapping)
            else {}
        )
        if not own:
            return matching(where, self._samples, self.n_samples, self.manifest)
        assert isinstance(where, Mapping)
        rest = {name: value for name, value in where.items() if name not in own}
        mask = self._mask(own)
        if rest:
            mask[np.setdiff1d(np.arange(len(mask)), self._chosen(rest))] = False
        if not mask.any():
            raise PatchclampError(f"where={where!r} matches none of the {self.n_samples} samples")
        return np.flatnonzero(mask)

    def _pick_units(self, units: UnitsLike) -> dict[Site, SiteArray]:
        if isinstance(units, Mapping) and not isinstance(units, Units):
            wanted = {self.site(site): index for site, index in units.items()}
        elif isinstance(units, str) and units in self:
            wanted = {self.site(units): None}
        else:
            wanted = {self.site(site): index for site, index in Units.parse(units).items()}
        out = {}
        for site, index in wanted.items():
            array = self._arrays[site]
            places = {int(unit): place for place, unit in enumerate(self.unit_index(site))}
            lost = [i for i in (index if index is not None else ()) if int(i) not in places]
            if lost:
                raise PatchclampError(
                    f"{site}[{lost[0]}]: this recording has {len(places)} units of {site}, "
                    f"{min(places)}..{max(places)}"
                )
            out[site] = (
                array if index is None else array.take(None, np.array([places[int(i)] for i in index]))
            )
        if not out:
            raise PatchclampError(f"units={units!r} selects nothing; name a site such as {self.sites[0]}")
        return out

    # ---- reading

    def chunks(self, rows: int | None = None) -> Iterator[tuple[Samples, dict[Site, Tensor]]]:
        """Iterate over (samples, {site: activity}) pieces of at most `rows` samples, along the chunks on disk."""
        step = rows or self.chunk_rows
        if step < 1:
            raise PatchclampError(f"rows={rows}: a chunk has at least one sample")
        for start in range(0, self.n_samples, step):
            part = slice(start, min(start + step, self.n_samples))
            yield self._samples(part), {site: array[part] for site, array in self._arrays.items()}

    def to_torch(self) -> dict[Site, Tensor]:
        """Read everything selected into memory."""
        return {site: array[:] for site, array in self._arrays.items()}

    def codes(self, name: str | Site) -> SparseCodes:
        """Compressed rows of a site (of features, without making them dense), or codes put into the store by name."""
        if str(name) in self:
            array = self._arrays[self.site(name)]
            sparse = isinstance(array.source, SparseArray) and array.units is None
            return array.source.pick(array.rows) if sparse else SparseCodes.from_dense(array[:])
        if self.path is None:
            raise PatchclampError(f"{name}: this recording is in memory and keeps no codes")
        return SparseCodes.load(zarr.open_group(str(self.path), mode="r", use_consolidated=False), str(name))

    def save(self, path: str | Path) -> Recording:
        """Write what is selected to a new store and open it; a path that exists is refused."""
        return Recording.open(self._write(path))

    def _write(self, path: str | Path) -> str | Path:
        dtypes = {array.dtype for array in self._arrays.values()}
        name = str(next(iter(dtypes))).removeprefix("torch.")
        if len(dtypes) != 1 or name not in DTYPES:
            raise PatchclampError(f"{path}: a store holds one type of {', '.join(DTYPES)}; here are {dtypes}")
        if Path(path).exists():
            raise PatchclampError(f"{path}: exists already; choose another path, or delete it first")
        labels = {site: self._kept_labels(site) for site in self.sites}
        sparse = [s for s, a in self._arrays.items() if isinstance(a.source, SparseArray)]
        shapes = {s: a.shape[1:] for s, a in self._arrays.items()}
        layout = Layout.of(self.n_samples, shapes, name, None, sparse)
        with StoreWriter(path, self.manifest, layout, labels) as writer:
            for samples, arrays in self.chunks():
                writer.append(samples, arrays)
            writer.finish()
        write_columns(path, {name: self.column(name) for name in self.columns if name not in COLUMNS})
        return path

    def _kept_labels(self, site: Site) -> dict[str, Any]:
        """Labels of the units of this view alone, for a recording whose arrays begin at unit 0."""
        places = self._arrays[site].unit_index
        labels = {name: [column[i] for i in places] for name, column in self._labels[site].items()}
        index = self.unit_index(site)
        if not np.array_equal(index, np.arange(len(index))):
            labels["index"] = index.tolist()
        return labels


__all__ = ["Recording", "Samples"]
