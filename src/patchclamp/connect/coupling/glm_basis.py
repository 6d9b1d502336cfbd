"""What has just happened, as columns of a regression: basis functions of the past, and the design made with them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.series import Series

Array = NDArray[np.float64]
Basis = Literal["cosine", "bins", "exponential"]


def history_basis(kind: Basis = "cosine", n: int = 3, window: int = 10) -> Array:
    """Functions of the lag, each with sum 1 over lags.

    ``"cosine"``: raised cosines on a logarithmic axis of lags, narrow at short and broad at long ones (Pillow et al.
    2008); ``"bins"``: one lag each (`n` is then `window`); ``"exponential"``: exp(-k / tau) with time constants tau from
    one sample on, doubling; with n = 1 the kernel exp(-k) of the switching GLM.

    Parameters
    ----------
    kind
        Which functions.
    n
        How many.
    window
        Number of lags, in samples: 1 .. window.

    Returns
    -------
    (window, n) array; row k is lag k + 1.

    Examples
    --------
    >>> history_basis("exponential", 1, 5)[:, 0].round(4).tolist()
    [0.6364, 0.2341, 0.0861, 0.0317, 0.0117]
    """
    if window < 1 or n < 1 or (kind == "cosine" and n > window):
        raise PatchclampError(f"n={n} functions over window={window} lags: give 1 <= n <= window")
    lags = np.arange(1, window + 1, dtype=np.float64)
    if kind == "bins":
        out = np.eye(window)
    elif kind == "exponential":
        out = np.exp(-lags[:, None] / 2.0 ** np.arange(n))
    elif kind == "cosine":
        out = _cosines(lags, n)
    else:
        raise PatchclampError(f"basis {kind!r}: give cosine, bins or exponential")
    return np.asarray(out / out.sum(0))


def _cosines(lags: Array, n: int) -> Array:
    if n == 1:
        return np.ones((len(lags), 1))
    axis = np.log(lags)
    centres = np.linspace(axis[0], axis[-1], n)
    phase = (axis[:, None] - centres) * np.pi / (2 * (centres[1] - centres[0]))
    return np.asarray((1 + np.cos(np.clip(phase, -np.pi, np.pi))) / 2 + 1e-12)


def design(units: Series, basis: Array) -> tuple[Array, NDArray[np.int64]]:
    """The past of every unit in every sample that has a whole past in its own segment.

    Column j K + k of row t is sum_l basis[l, k] x_j(t - 1 - l). The first `window` samples of a segment have no row:
    what came before them was not recorded, and the end of the segment before is not their past.

    Returns
    -------
    columns, rows
        (row, unit * function) and the sample of each row.
    """
    window, n = basis.shape
    parts, rows = [], []
    for part in units.segments:
        length = part.stop - part.start
        if length <= window:
            continue
        x = units.values[part]
        past = np.zeros((length - window, units.n_units, n))
        for lag in range(window):
            if basis[lag].any():
                past += x[window - 1 - lag : length - 1 - lag, :, None] * basis[lag]
        parts.append(past.reshape(len(past), -1))
        rows.append(np.arange(part.start + window, part.stop))
    if not parts:
        longest = max(part.stop - part.start for part in units.segments)
        raise PatchclampError(f"window={window}: the longest group has {longest} samples, all of them past")
    return np.concatenate(parts), np.concatenate(rows)
