"""suite2p's arrays, cells x frames: told by ``iscell``, which has an entry a cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError

_FILE = "iscell.npy"


def turned(
    found: Mapping[str, Any], path: Path, axes: str | None
) -> tuple[dict[str, Any], str | None, dict[str, str]]:
    """Fields, axes of the activity and facts, where ``iscell`` is a field or ``iscell.npy`` lies beside the file.

    suite2p writes cells x frames and says so nowhere. An activity with as many rows as ``iscell`` has entries is of axes
    ``"unit sample"``; the units get the labels `iscell` and `iscell_probability`. Anything else stays as it is.

    Raises
    ------
    PatchclampError
        For as many rows as columns as cells, without `axes`.
    """
    out = dict(found)
    own = out.pop("iscell", None) if "activity" in out else None
    cells, source = (_beside(path), _FILE) if own is None else (np.asarray(own), "iscell")
    shape = tuple(np.shape(out.get("activity", ())))
    if cells is None or len(shape) != 2 or len(cells) not in shape:
        return (out if own is None else dict(found)), axes, {}
    n, facts = len(cells), {}
    if axes is None:
        if shape[0] == shape[1]:
            raise PatchclampError(
                f"{path}: activity is {shape[0]} x {shape[1]} beside {source} of {n} cells, so either axis may be the cells; say "
                'axes="unit sample" (as suite2p writes) or axes="sample unit"'
            )
        axes = "unit sample" if shape[0] == n else "sample unit"
        facts["axes"] = f"{axes}, by the {n} entries of {source}"
    names = axes.replace(",", " ").split()
    if sorted(names) == ["sample", "unit"] and shape[names.index("unit")] == n:
        out["unit_iscell"] = cells[:, 0] > 0.5 if cells.ndim == 2 else cells > 0.5
        if cells.ndim == 2 and cells.shape[1] > 1:
            out["unit_iscell_probability"] = cells[:, 1]
    return out, axes, facts


def _beside(path: Path) -> NDArray[Any] | None:
    file = path.with_name(_FILE)
    if path.name == _FILE or not file.is_file():
        return None
    try:
        cells = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PatchclampError(
            f"{file}: not readable ({error}), so which axis of {path.name} is the cells is not known; mend it or move it away"
        ) from error
    return cells if cells.ndim in (1, 2) and cells.dtype.kind in "iufb" else None
