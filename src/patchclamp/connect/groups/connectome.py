"""What the dynamic functional connectome is: components, their graphs, blocks and nulls, and the table of motifs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.statistics import permutation_p
from patchclamp.connect.groups.blocks import Blocks
from patchclamp.connect.groups.tensor_factorisation import Factors
from patchclamp.draw.cards import shown
from patchclamp.draw.graphs import components_figure
from patchclamp.nouns.graph import Graph

Array = NDArray[np.float64]
COLUMNS = (
    "component",
    "start",
    "stop",
    "animals",
    "community",
    "size",
    "within",
    "between",
    "p_community",
    "p_motif",
    "stability",
)


SLACK = 1e-12  # rounding does not tell a draw from the value


@shown
@dataclass(frozen=True, eq=False)
class DynamicConnectome:
    """Components of a recording's functional connectivity, each held against a null.

    Parameters
    ----------
    factors
        Loadings on time, animals and pairs, error, stability over restarts.
    graphs
        One undirected graph a component: the affinity of each pair in it.
    blocks
        The block model of each graph.
    null
        ``name``, ``samples``; per draw ``error``, and ``structure`` and ``motif`` (largest over components); ``time`` is
        the 95 % quantile of `activity` over times and components.
    ranks
        rank, error, null_error, gain: by how much more a component lowers the error of the data than of the null.
    baseline
        Zero-lag correlation, mean over animals.
    animals
        Names.
    limits
        What it is not evidence for.
    params
        Settings.
    """

    factors: Factors
    graphs: tuple[Graph, ...]
    blocks: tuple[Blocks, ...]
    null: Mapping[str, Any]
    ranks: pd.DataFrame
    baseline: Graph
    animals: tuple[str, ...]
    limits: str
    params: Mapping[str, Any]

    @property
    def rank(self) -> int:
        """Number of components."""
        return len(self.graphs)

    @property
    def activity(self) -> Array:
        """(time, component) loading on time x size of the component: how much affinity it brings at each time."""
        return activity_of(self.factors)

    def components(self) -> pd.DataFrame:
        """One row a component.

        Returns
        -------
        DataFrame
            component; share of energy; stability; blocks and their evidence gain over one block (nats); structure: the
            share of the tensor's energy in differences between blocks; modulation: 1 - sum(T)^2 / length, the share of
            the time loading that is not flat (0 .. 1); p_community, of the structure, and p_motif, of structure x
            modulation, both against the largest of each draw; motif (p_motif at most .05 and two blocks or more).
        """
        energy = (self.factors.pairs**2).sum(0)
        structure = np.array([one.structure for one in self.blocks]) / self.factors.energy
        modulation = modulation_of(self.factors.time)
        p_motif = permutation_p(structure * modulation - SLACK, self.null["motif"])
        blocks = np.array([one.n for one in self.blocks])
        return pd.DataFrame(
            {
                "component": range(self.rank),
                "share": energy / energy.sum(),
                "stability": self.factors.stability,
                "blocks": blocks,
                "gain": [one.gain for one in self.blocks],
                "structure": structure,
                "modulation": modulation,
                "p_community": permutation_p(structure - SLACK, self.null["structure"]),
                "p_motif": p_motif,
                "motif": (p_motif <= 0.05) & (blocks > 1),
            }
        )

    @property
    def p_error(self) -> float:
        """p of the error of the first restart against that of each draw: is there anything beyond the null at all?"""
        return permutation_p(-self.factors.errors[0] - SLACK, -np.asarray(self.null["error"]))

    def table(self, *, all_components: bool = False) -> pd.DataFrame:
        """Motifs: one row for each interval of each motif and each of its communities.

        Parameters
        ----------
        all_components
            Also components that are not beyond the null.

        Returns
        -------
        DataFrame
            component, start, stop (samples; active where the time loading exceeds the null band), animals,
            community (names of neurons), size, within and between (mean affinity), p_community, p_motif, stability.
        """
        facts = self.components()
        rows = []
        for k in range(self.rank):
            if not (all_components or facts["motif"][k]):
                continue
            for start, stop in self.intervals(k):
                found: list[int | None] = [*self.blocks[k].dense()]
                for block in found or [None]:
                    rows.append(self._row(k, start, stop, block, facts))
        columns = [*COLUMNS]
        return pd.DataFrame(rows, columns=columns)

    def _row(self, k: int, start: int, stop: int, block: int | None, facts: pd.DataFrame) -> list[Any]:
        names, model = np.array(self.graphs[k].nodes), self.blocks[k]
        inside = np.ones(len(names), bool) if block is None else model.labels == block
        within = self.graphs[k].weights[np.ix_(inside, inside)][~np.eye(int(inside.sum()), dtype=bool)]
        outside = self.graphs[k].weights[np.ix_(inside, ~inside)]
        between = float(np.nanmean(outside)) if outside.size else np.nan
        tail = [facts[name][k] for name in ("p_community", "p_motif", "stability")]
        members = tuple(names[inside].tolist())
        return [
            k,
            start,
            stop,
            self.engaged(k),
            members,
            len(members),
            float(np.nanmean(within)),
            between,
            *tail,
        ]

    def intervals(self, component: int) -> list[tuple[int, int]]:
        """(start, stop) of the stretches in which the time loading exceeds the null band; gaps of two smoothing widths are closed."""
        width = max(1, round(self.params["smooth_affinity"]))
        loud = np.flatnonzero(self.activity[:, component] > self.null["time"])
        if not len(loud):
            return []
        cuts = np.flatnonzero(np.diff(loud) > 2 * width)
        starts, stops = loud[np.r_[0, cuts + 1]], loud[np.r_[cuts, len(loud) - 1]] + 1
        return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True) if b - a > width]

    def engaged(self, component: int, least: float = 0.25) -> tuple[str, ...]:
        """Animals whose loading is at least this share of the largest."""
        loading = self.factors.animals[:, component]
        return tuple(
            name for name, x in zip(self.animals, loading, strict=True) if x >= least * loading.max()
        )

    def plot(self) -> Any:
        """A matplotlib figure: a row a component with its time, animals, and pairs ordered by block."""
        return components_figure(
            self.activity,
            self.factors.animals,
            [graph.weights for graph in self.graphs],
            [blocks.labels for blocks in self.blocks],
            [self.intervals(k) for k in range(self.rank)],
            ["motif" if motif else "background" for motif in self.components()["motif"]],
            self.null["time"],
            self.null["name"],
        )

    def __str__(self) -> str:
        motifs = int(self.components()["motif"].sum())
        return (
            f"dynamic connectome: {self.rank} components, {motifs} beyond {self.null['name']} "
            f"({self.null['samples']} draws), error {self.factors.error:.3f} (null {np.mean(self.null['error']):.3f})"
        )

    __repr__ = __str__


def activity_of(factors: Factors) -> Array:
    """(sample, component) loadings on time, in units of the norm of the component's pairs."""
    return np.asarray(factors.time * np.linalg.norm(factors.pairs, axis=0))


def modulation_of(time: Array) -> Array:
    """Share of unit-norm columns that is not flat."""
    return np.asarray(np.maximum(1 - time.sum(0) ** 2 / len(time), 0))


def motif_of(factors: Factors, blocks: Sequence[Blocks]) -> float:
    """Largest structure x modulation of the components."""
    structure = np.array([one.structure for one in blocks])
    return float((structure * modulation_of(factors.time)).max() / factors.energy)
