"""A recording as labelled arrays of xarray, read lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp import _store
from patchclamp._lazy import SiteArray, lazy_variable
from patchclamp._samples import COLUMNS
from patchclamp._time import TimeAxis
from patchclamp.units import Site


class Labelled(TimeAxis):
    """The axes of a recording with all their labels."""

    if TYPE_CHECKING:

        def site(self, site: Site | str) -> Site: ...
        def units(self, site: Site | str | None = None) -> Any: ...
        def unit_index(self, site: Site | str) -> np.ndarray: ...

    def to_xarray(self, site: Site | str | None = None) -> Any:
        """Return a lazy `xarray.DataArray` (sample, unit) of one site, or a `Dataset` of all.

        The sample axis carries all its labels, the unit axis the address, index and labels of each unit. In the
        data set each site has a unit axis of its own, `unit.SITE`.
        """
        import xarray as xr

        if site is not None:
            found = self.site(site)
            array = self._data_array(found, "unit", "part")
            return array.assign_coords(self._unit_coords(found, "unit"))
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
        columns = {name: ("sample", column) for name, column in self.samples.numpy().items()}
        columns |= {name: ("sample", self.column(name)) for name in self.columns if name not in COLUMNS}
        return xr.DataArray(lazy_variable(array, dims), coords=columns, name=str(site))

    def _unit_coords(self, site: Site, dim: str) -> dict[str, Any]:
        table = self.units(site)
        taken = self.columns
        return {
            name if name not in taken else f"unit_{name}": (dim, np.asarray(table[name]))
            for name in table.columns
        }
