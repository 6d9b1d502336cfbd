"""A circuit in the report of a study."""

from __future__ import annotations

from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.study.stages import Figure

__all__ = ["circuit_figure"]


def circuit_figure(
    graph: CircuitGraph,
    *,
    n: int = 40,
    links: int | None = None,
    title: str = "",
    caption: str = "",
    below: bool = False,
) -> Figure:
    """A circuit as a figure of a section: drawn in layers, its groups open on a click, each node with what is known of it.

    Parameters
    ----------
    graph
        Columns of `node_data` that are shown where present: score, role, group, label, written, exemplars.
    n, links
        Nodes and edges at most, as in `CircuitGraph.picture`.
    title, caption, below
        As in `Figure`.
    """
    picture = graph.picture(n=n, links=links, title=title)
    return Figure("circuit", [picture], title=title, caption=caption, below=below)
