"""From what a person hands over (recording, array, tensor) to matrices of samples by units."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Recording

Matrix = NDArray[np.float64]
Population = Recording | torch.Tensor | ArrayLike


def matrix(population: Any, what: str = "population") -> Matrix:
    """Read a population as (sample, unit) in float64; units marked as not present are left out.

    Raises
    ------
    PatchclampError
        For a recording of several sites, another number of dimensions, NaN or Inf, or no unit.
    """
    if isinstance(population, Recording):
        values = _of_recording(population)
    elif isinstance(population, torch.Tensor):
        values = population.detach().cpu().double().numpy()
    else:
        values = np.asarray(population, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] == 0:
        raise PatchclampError(f"{what}: wanted samples x units, got shape {values.shape}")
    if not np.isfinite(values).all():
        row, unit = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise PatchclampError(
            f"{what}: sample {row}, unit {unit} is not a finite number; leave it out or mask the unit"
        )
    return values


def _of_recording(recording: Recording) -> Matrix:
    if len(recording.sites) != 1:
        raise PatchclampError(
            f"this recording has {len(recording.sites)} sites; select one, such as {recording.sites[0]}"
        )
    site = recording.sites[0]
    values = recording.to_torch()[site].double().numpy()
    values = values.reshape(len(values), -1) if values.ndim > 2 else values
    table = recording.units(site)
    if "present" in table.columns and values.shape[1] == len(table):
        values = values[:, table["present"].to_numpy(bool)]
    return values


def pair(a: Any, b: Any, least: int = 2) -> tuple[Matrix, Matrix]:
    """Two populations of the same samples.

    Raises
    ------
    PatchclampError
        If they do not have as many samples, or fewer than `least`.
    """
    x, y = matrix(a, "the first population"), matrix(b, "the second population")
    if len(x) != len(y):
        raise PatchclampError(
            f"the populations have {len(x)} and {len(y)} samples; both must be recorded on the same inputs, in order"
        )
    if len(x) < least:
        raise PatchclampError(f"{len(x)} samples: this comparison is defined from {least} on")
    return x, y
