"""Columns of samples beyond the fixed ones (time, trial, repeat, behaviour) in a store."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from patchclamp._samples import COLUMNS

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
            compressors=None,
            dimension_names=("sample",),
            attributes={_MARK: True},
        )
        array[:] = values
    with warnings.catch_warnings():
        # As when the store was made: xarray looks for consolidated metadata, and Zarr warns of it.
        warnings.simplefilter("ignore", UserWarning)
        zarr.consolidate_metadata(str(path))


def read_columns(group: Any) -> dict[str, Any]:
    """The columns of a store, lazily: the fixed ones and what `write_columns` put there."""
    columns = {name: group[name] for name in COLUMNS}
    for name, member in group.arrays():
        if member.attrs.get(_MARK):
            columns[name] = member
    return columns
