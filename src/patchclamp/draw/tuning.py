"""Pictures of single neurons by matplotlib (optional): tuning curves and fields, decoding errors, averages before a spike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.optional import new_figure

Floats = NDArray[np.float64]


def curves_figure(curves: Sequence[xr.DataArray], titles: Sequence[str], columns: int) -> Any:
    """A figure with one panel a unit: a line over one behaviour, an image over two."""
    rows = -(-len(curves) // columns)
    flat = all(one.ndim == 1 for one in curves)
    figure = new_figure(2.5 * columns, (1.9 if flat else 2.2) * rows)
    for i, (one, title) in enumerate(zip(curves, titles, strict=True)):
        ax = figure.add_subplot(rows, columns, i + 1)
        if flat:
            ax.plot(one[one.dims[0]], one, lw=1.4)
            ax.set_xlabel(str(one.dims[0]), fontsize=8)
            ax.spines[["top", "right"]].set_visible(False)
        else:
            x, y = one.dims
            image = ax.pcolormesh(one[x], one[y], one.values.T, cmap="viridis", vmin=0, rasterized=True)
            bar = figure.colorbar(image, ax=ax, shrink=0.8)
            bar.ax.tick_params(labelsize=6)
            ax.set_aspect("equal")
            ax.set(xticks=[], yticks=[])
        ax.tick_params(labelsize=7)
        ax.set_title(title, fontsize=8)
    return figure


def errors_figure(error: Floats, median: float, null: Floats, ax: Any = None) -> Any:
    """The distribution of decoding errors, its median, and the medians of shifted data."""
    figure = new_figure(4.8, 3.0) if ax is None else ax.figure
    ax = figure.subplots() if ax is None else ax
    ax.hist(error[np.isfinite(error)], bins=40, color="0.75", density=True)
    ax.axvline(median, color="tab:blue", lw=1.6, label=f"median {median:.1f}")
    for i, value in enumerate(null):
        ax.axvline(value, color="tab:red", lw=0.6, alpha=0.5, label="shifted, medians" if not i else None)
    ax.set(xlabel="error", yticks=[])
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return figure


def triggered_figure(
    lag: Floats, average: ArrayLike, low: ArrayLike, high: ArrayLike, spikes: int, peak: float, ax: Any = None
) -> Any:
    """A spike-triggered average over `lag` (ms) with the null's band at each lag, and where its `peak` (ms) is."""
    figure = new_figure(5.2, 3.2) if ax is None else ax.figure
    ax = figure.subplots() if ax is None else ax
    ax.fill_between(lag, low, high, color="0.85", lw=0, label="null, 95 % at each lag")
    ax.plot(lag, average, color="tab:blue", lw=1.5, label=f"{spikes} spikes")
    ax.axvline(0, color="0.5", lw=0.8, ls="--")
    ax.axvline(peak, color="tab:red", lw=0.8, label=f"peak {peak:.1f} ms")
    ax.set(xlabel="time from the spike (ms)", ylabel="stimulus - mean")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
