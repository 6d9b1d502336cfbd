"""Pictures of graphs and of what connects in time, by matplotlib (optional)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.optional import new_figure

Array = NDArray[np.float64]


def components_figure(
    time: Array,
    animals: Array,
    weights: Sequence[Array],
    blocks: Sequence[NDArray[np.int64]],
    intervals: Sequence[Sequence[tuple[int, int]]],
    kinds: Sequence[str],
    band: float,
    band_name: str,
) -> Any:
    """A figure with a row a component: loading on time with the null band, on animals, pairs ordered by block.

    Parameters
    ----------
    time, animals
        (sample, component), (animal, component) loadings.
    weights, blocks
        Of each component: (node, node) loadings on pairs, (node,) block of each node.
    intervals
        Of each component: the (start, stop) to shade.
    kinds
        Of each component: the second line of its label.
    """
    rows = time.shape[1]
    figure = new_figure(11, 2.2 * rows)
    axes = figure.subplots(rows, 3, squeeze=False, width_ratios=(3, 1.2, 1))
    for k in range(rows):
        line, bar, square = axes[k]
        line.plot(time[:, k], lw=1)
        line.axhline(band, ls=":", color="grey")
        for start, stop in intervals[k]:
            line.axvspan(start, stop, alpha=0.15)
        line.set_ylabel(f"component {k}\n{kinds[k]}")
        bar.bar(range(len(animals)), animals[:, k])
        order = np.argsort(blocks[k], kind="stable")
        image = square.imshow(weights[k][np.ix_(order, order)], cmap="magma", vmin=0)
        for edge in np.flatnonzero(np.diff(blocks[k][order])) + 0.5:
            square.axhline(edge, color="w", lw=0.5)
            square.axvline(edge, color="w", lw=0.5)
        square.set(xticks=[], yticks=[])
        figure.colorbar(image, ax=square)
    axes[0][0].set_title(f"loading on time (dotted: 95 % of {band_name})")
    axes[0][1].set_title("on animals")
    axes[0][2].set_title("on pairs, by block")
    axes[-1][0].set_xlabel("sample")
    return figure


def weights_figure(weights: Sequence[Array], titles: Sequence[str], order: ArrayLike | None = None) -> Any:
    """A figure of (target, source) weights side by side, targets down; NaN and the diagonal are blank.

    Parameters
    ----------
    order
        (node,) order of nodes, such as the argsort of a region or community.
    """
    figure = new_figure(4.6 * len(weights), 4)
    axes = figure.subplots(1, len(weights), squeeze=False)[0]
    places = np.arange(len(weights[0])) if order is None else np.asarray(order)
    for matrix, title, axis in zip(weights, titles, axes, strict=True):
        values = matrix.copy()
        np.fill_diagonal(values, np.nan)
        most = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 1.0
        signed = np.nanmin(values) < 0 if np.isfinite(values).any() else False
        image = axis.imshow(
            values[np.ix_(places, places)],
            cmap="RdBu_r" if signed else "magma",
            vmin=-most if signed else 0,
            vmax=most,
        )
        axis.set(title=title, xlabel="source", ylabel="target")
        figure.colorbar(image, ax=axis)
    return figure
