"""One-to-one matching: which row goes with which column."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Assignment(NamedTuple):
    """Pairs (row, column), rows rising, as many as the smaller side has, and the similarity of each."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float64]


def match(similarity: ArrayLike) -> Assignment:
    """Pair rows with columns one to one so that the sum of similarities is largest (Hungarian algorithm).

    Parameters
    ----------
    similarity
        (row, column), finite.

    Examples
    --------
    >>> found = match([[0.9, 0.8], [0.7, 0.1]])
    >>> found.columns.tolist(), found.values.tolist()
    ([1, 0], [0.8, 0.7])
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    table = np.asarray(similarity, np.float64)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return Assignment(rows, columns, table[rows, columns])


def cosines(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """(row of a, row of b) cosines; 0 with a row of zeros.

    Examples
    --------
    >>> cosines([[3.0, 0.0], [0.0, 0.0]], [[1.0, 0.0]]).tolist()
    [[1.0], [0.0]]
    """
    sides = []
    for rows in (np.asarray(a, np.float64), np.asarray(b, np.float64)):
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        sides.append(np.divide(rows, length, out=np.zeros_like(rows), where=length > 0))
    return np.asarray(sides[0] @ sides[1].T)
