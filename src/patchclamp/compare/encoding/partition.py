"""Variance partitioning: what only one feature space explains, and what two share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.base.errors import PatchclampError
from patchclamp.compare.encoding.ridge import Ridge
from patchclamp.compare.inputs import matrix


def partition(
    spaces: Mapping[str, Any],
    Y: Any,
    test_spaces: Mapping[str, Any],
    Y_test: Any,
    *,
    model: Ridge | None = None,
) -> pd.DataFrame:
    """Unique and shared held-out R^2 of two or three feature spaces, from models of every union of them.

    For two: unique_1 = R2_12 - R2_2, shared = R2_1 + R2_2 - R2_12. Shared variance may be negative: one space then
    suppresses noise in the other.

    Returns
    -------
    DataFrame
        target x (R2 of each union, unique of each space, shared by all).
    """
    names = list(spaces)
    if len(names) not in (2, 3):
        raise PatchclampError(f"{len(names)} feature spaces: variance is partitioned among two or three")
    x = {n: matrix(spaces[n], f"feature space {n!r}") for n in names}
    held = {n: matrix(test_spaces[n], f"feature space {n!r}") for n in names}
    fitted = model or Ridge()
    found: dict[tuple[str, ...], Any] = {(): 0.0}
    for size in range(1, len(names) + 1):
        for union in combinations(names, size):
            one = Ridge(fitted.alphas, fitted.cv, fitted.scale)
            one.fit(np.hstack([x[n] for n in union]), Y)
            found[union] = one.score(np.hstack([held[n] for n in union]), Y_test)
    table = {f"R2 {'+'.join(union)}": value for union, value in found.items() if union}
    whole = tuple(names)
    for n in names:
        table[f"unique {n}"] = found[whole] - found[tuple(m for m in names if m != n)]
    table["shared by all"] = sum((-1) ** (len(union) + 1) * value for union, value in found.items() if union)
    return pd.DataFrame(table)
