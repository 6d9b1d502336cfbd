"""Splits that never cut a group, for held-out likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.connect._series import Series
from patchclamp.errors import PatchclampError
from patchclamp.recording import Recording

Ints = NDArray[np.int64]


def group_of(data: Any, groups: Sequence[Any] | None, units: Series) -> Ints:
    """(sample,) the group of every sample of a series: as given, else the recording's, else its segment."""
    if groups is not None:
        return np.asarray(pd.factorize(np.asarray(groups))[0], np.int64)
    if isinstance(data, Recording):
        samples = data.samples.numpy()
        return np.asarray(pd.factorize(samples["group"][samples["content"]])[0], np.int64)
    out = np.zeros(len(units.values), np.int64)
    for place, part in enumerate(units.segments):
        out[part] = place
    return out


def folds(group: Ints, rows: Ints, n: int, gap: int) -> list[tuple[Ints, Ints]]:
    """Pairs (train, test) of places in `rows`.

    Whole groups, each fold as many as the next, where there are at least `n`. With fewer groups, stretches of time that follow
    each other, and `gap` samples on both sides of the stretch held out are in neither.
    """
    if n < 2:
        raise PatchclampError(f"folds={n}: at least two are needed to hold anything out")
    present = pd.unique(group[rows])
    out = []
    if len(present) >= n:
        for part in np.array_split(present, n):
            test = np.isin(group[rows], part)
            out.append((np.flatnonzero(~test), np.flatnonzero(test)))
        return out
    for block in np.array_split(np.arange(len(rows)), n):
        far = (rows < rows[block[0]] - gap) | (rows > rows[block[-1]] + gap)
        out.append((np.flatnonzero(far), block))
    return out
