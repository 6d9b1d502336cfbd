"""Pictures of graphs and connectomes, by matplotlib (optional)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp._optional import new_figure

if TYPE_CHECKING:
    from patchclamp.connect.connectome import DynamicConnectome
    from patchclamp.connect.graph import Graph


def plot_connectome(found: DynamicConnectome) -> Any:
    """A figure with a row a component: loading on time with the null band, on animals, pairs ordered by block."""
    rows = found.rank
    figure = new_figure(11, 2.2 * rows)
    axes = figure.subplots(rows, 3, squeeze=False, width_ratios=(3, 1.2, 1))
    facts = found.components()
    for k in range(rows):
        line, bar, square = axes[k]
        line.plot(found.activity[:, k], lw=1)
        line.axhline(found.null["time"], ls=":", color="grey")
        for start, stop in found.intervals(k):
            line.axvspan(start, stop, alpha=0.15)
        kind = "motif" if facts["motif"][k] else "background"
        line.set_ylabel(f"component {k}\n{kind}")
        bar.bar(range(len(found.animals)), found.factors.animals[:, k])
        order = np.argsort(found.blocks[k].labels, kind="stable")
        image = square.imshow(found.graphs[k].weights[np.ix_(order, order)], cmap="magma", vmin=0)
        edges = np.flatnonzero(np.diff(found.blocks[k].labels[order])) + 0.5
        for edge in edges:
            square.axhline(edge, color="w", lw=0.5)
            square.axvline(edge, color="w", lw=0.5)
        square.set(xticks=[], yticks=[])
        figure.colorbar(image, ax=square)
    axes[0][0].set_title(f"loading on time (dotted: 95 % of {found.null['name']})")
    axes[0][1].set_title("on animals")
    axes[0][2].set_title("on pairs, by block")
    axes[-1][0].set_xlabel("sample")
    return figure


def plot_graph(graph: Graph, *, order: Any = None, significant: float | None = None) -> Any:
    """A figure of the weights (targets down, sources across), its baseline beside it.

    Parameters
    ----------
    order
        (node,) order of nodes, such as the argsort of a region or community.
    significant
        Blank what is not below this adjusted p.
    """
    graphs = [graph] if graph.baseline is None else [graph, graph.baseline]
    figure = new_figure(4.6 * len(graphs), 4)
    axes = figure.subplots(1, len(graphs), squeeze=False)[0]
    places = np.arange(graph.n) if order is None else np.asarray(order)
    for one, axis in zip(graphs, axes, strict=True):
        values = one.weights.copy()
        np.fill_diagonal(values, np.nan)
        if significant is not None and one is graph:
            values[~graph.significant(significant)] = np.nan
        most = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 1.0
        signed = np.nanmin(values) < 0 if np.isfinite(values).any() else False
        image = axis.imshow(
            values[np.ix_(places, places)],
            cmap="RdBu_r" if signed else "magma",
            vmin=-most if signed else 0,
            vmax=most,
        )
        axis.set(title=one.method, xlabel="source", ylabel="target")
        figure.colorbar(image, ax=axis)
    return figure
