"""Random numbers of NumPy and torch from a seed that is one: the one place where the package makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from patchclamp.base.errors import PatchclampError

MOST = 2**63 - 1


def check_seed(seed: int | np.integer, most: int = MOST) -> int:
    """The seed, where it is a whole number from 0 to `most`.

    Raises
    ------
    PatchclampError
        With the value.

    Examples
    --------
    >>> check_seed(7)
    7
    >>> check_seed(-1)
    Traceback (most recent call last):
    ...
    patchclamp.base.errors.PatchclampError: seed -1: give a whole number from 0 to 9,223,372,036,854,775,807
    """
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed <= most:
        raise PatchclampError(f"seed {seed!s:.60}: give a whole number from 0 to {most:,}")
    return int(seed)


def numpy_rng(
    seed: int | np.integer | Sequence[int | np.integer] | np.random.Generator | None,
) -> np.random.Generator:
    """NumPy's generator of a seed, or of a seed and the numbers of what it is for; a generator stays itself.

    Raises
    ------
    PatchclampError
        See `check_seed`.

    Examples
    --------
    >>> numpy_rng([0, 3]).integers(10) == numpy_rng([0, 3]).integers(10)
    True
    """
    if seed is None or isinstance(seed, np.random.Generator):
        return np.random.default_rng(seed)
    if isinstance(seed, (list, tuple)):
        return np.random.default_rng([check_seed(part) for part in seed])
    return np.random.default_rng(check_seed(seed))  # type: ignore[arg-type]


def torch_rng(seed: int | np.integer) -> torch.Generator:
    """Torch's generator of a seed, on the CPU, so that every device gets the same numbers.

    Raises
    ------
    PatchclampError
        See `check_seed`.
    """
    return torch.Generator().manual_seed(check_seed(seed))
