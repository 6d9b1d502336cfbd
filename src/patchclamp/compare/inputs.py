"""What a person hands over as a population: `matrix` with the parts of heads side by side, in memory."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.matrix import ActivityMatrix, MatrixLike, Reading
from patchclamp.nouns.recording.matrix import matrix as read_matrix
from patchclamp.nouns.recording.recording import Recording

Matrix = NDArray[np.float64]
READING: Reading = {"heads": "join", "content": True, "missing": "refuse"}  # this verb's defaults


def read(population: MatrixLike, what: str = "population", **reading: Unpack[Reading]) -> ActivityMatrix:
    """A population as (sample, unit), lazily; a vector is one unit.

    Raises
    ------
    PatchclampError
        For a recording of several sites, another number of dimensions, no unit, and as `matrix`.
    """
    how: Reading = {**READING, **reading}
    if isinstance(population, (Recording, ActivityMatrix)):
        return read_matrix(population, **how)
    values = as_array(population, what)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] == 0:
        raise PatchclampError(f"{what}: wanted samples x units, got shape {values.shape}")
    return read_matrix(np.ascontiguousarray(values), what, **how)


def matrix(population: MatrixLike, what: str = "population", **reading: Unpack[Reading]) -> Matrix:
    """A population as (sample, unit) in float64.

    Raises
    ------
    PatchclampError
        As `read`, and for NaN or Inf.
    """
    return read(population, what, **reading).numpy()


def pair(
    a: MatrixLike, b: MatrixLike, least: int = 2, **reading: Unpack[Reading]
) -> tuple[Matrix, Matrix, list[dict[str, Any]]]:
    """Two populations of the same samples, and how each was read (`ActivityMatrix.about`).

    Raises
    ------
    PatchclampError
        If they do not have as many samples, or fewer than `least`.
    """
    x, y = read(a, "the first population", **reading), read(b, "the second population", **reading)
    if len(x) != len(y):
        raise PatchclampError(
            f"the populations have {len(x)} and {len(y)} samples; both must be recorded on the same inputs, in order"
        )
    if len(x) < least:
        raise PatchclampError(f"{len(x)} samples: this comparison is defined from {least} on")
    return x.numpy(), y.numpy(), [x.about, y.about]
