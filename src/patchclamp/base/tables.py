"""Tables and data sets from arrays: what the `save` and `to_xarray` of the nouns stand on."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import WRITTEN_BY, in_one_step, way_out, write_text
from patchclamp.base.memory import refuse_unpacking
from patchclamp.base.version import __version__


def write_table(path: str | Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Write arrays as Parquet (one row an item, one column an array, lists of numbers) and facts as `path`.json beside it."""
    path = Path(path)
    beside = way_out(path.with_name(path.name + ".json"), "file")
    write_frame(path, pd.DataFrame({name: list(a.reshape(len(a), -1)) for name, a in arrays.items()}))
    write_text(beside, json.dumps(facts, indent=1, default=str))


def write_frame(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet, in one step.

    Raises
    ------
    PatchclampError
        Where something lies that patchclamp did not write.
    """
    marked = frame.copy(deep=False)
    marked.attrs = {WRITTEN_BY: f"patchclamp {__version__}"}
    with in_one_step(way_out(path, "file")) as draft:
        marked.to_parquet(draft)


def read_frame(path: str | Path) -> pd.DataFrame:
    """Read a Parquet file as a table.

    Raises
    ------
    PatchclampError
        For a file that is no Parquet, or is cut short.
    """
    try:
        return pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise PatchclampError(f"{path}: not a whole Parquet file ({error})") from error


def write_arrays(path: str | Path, **arrays: ArrayLike) -> Path:
    """Write arrays to a new ``.npz`` file.

    Raises
    ------
    PatchclampError
        For another ending, or a file that exists.
    """
    path = Path(path)
    if path.suffix != ".npz" or path.exists():
        raise PatchclampError(
            f"{path}: " + ("exists already" if path.exists() else "the name must end in .npz")
        )
    with in_one_step(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


_NO_ARRAYS = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, LookupError, NotImplementedError),
    *(MemoryError, SyntaxError, TypeError, OverflowError, RuntimeError),  # heads that lie
)


def read_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file, by name; nothing is unpickled.

    Raises
    ------
    PatchclampError
        For a file that is not there, is no whole archive of arrays, or unpacks to more than it can hold.
    """
    path = Path(path)
    if not path.is_file():
        raise PatchclampError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        refuse_unpacking(str(path), size, path.stat().st_size)
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except PatchclampError:
        raise
    except _NO_ARRAYS as error:
        raise PatchclampError(f"{path}: not a whole .npz file of arrays ({error})") from error


def item_dataset(
    values: Mapping[str, NDArray[Any]], positions: Sequence[Hashable] | None, attrs: Mapping[str, Any]
) -> xr.Dataset:
    """A data set of arrays (item, unit) or, with `positions`, (item, unit, pos); each has a unit axis ``unit_NAME``."""
    last = [] if positions is None else ["pos"]
    variables = {name: xr.Variable(["item", f"unit_{name}", *last], a) for name, a in values.items()}
    return xr.Dataset(variables, {} if positions is None else {"pos": list(positions)}, attrs)


def edge_dataset(
    nodes: Sequence[str],
    arrays: Mapping[str, ArrayLike | None],
    node_data: pd.DataFrame | None,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """A data set of arrays (target, source); those that are None are left out, columns of nodes are labels of targets."""
    coords: dict[str, Any] = {"target": list(nodes), "source": list(nodes)}
    for name, column in ({} if node_data is None else node_data).items():
        coords[f"target_{name}"] = ("target", column.to_numpy())
    variables = {
        name: (("target", "source"), np.asarray(array, dtype=np.float64))
        for name, array in arrays.items()
        if array is not None
    }
    return xr.Dataset(variables, coords, attrs)
