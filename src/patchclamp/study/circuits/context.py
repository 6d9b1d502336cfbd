"""What the stages of a study of a circuit share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Unit, Units
from patchclamp.study.behaviour import Behaviour
from patchclamp.study.circuits.options import CircuitOptions
from patchclamp.study.share import Measured
from patchclamp.study.stages import Cover
from patchclamp.subjects.clamp.matching import UnitOrSite, collect

__all__ = ["NODES", "CircuitStudy", "Choice", "Nodes", "top_units"]

NODES: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "neurons": (("mlp_act",), "MLP neurons", "attention recomputes"),
    "heads": (("head",), "attention heads", "MLPs recompute"),
    "both": (("head", "mlp_act"), "heads and neurons", "nothing else recomputes but norms and patterns"),
}
"""Kind of nodes -> points, what they are in words, and what is free to follow where only these are held."""

LIMITS: tuple[str, ...] = (
    (
        "That these nodes do the same on other prompts, or under another corruption. A circuit carries what differs between "
        "the two inputs of an item: another corruption, another circuit."
    ),
    (
        "That what is not a node takes no part. Attention patterns, norms and the kind of units that is no candidate are free "
        "to follow what the nodes do, and whatever the two inputs have in common is in both runs."
    ),
    (
        "That an edge is a cause. Edges are first-order, with attention patterns, norm scales and the MLPs between held as "
        "they are; what the nodes do together was measured, what a single edge does was not."
    ),
    "What the nodes compute. That they carry the behaviour does not say how.",
    (
        "That no other set would do as well. Nodes were taken in order of one score; halves of the items give other sets, and "
        "how far these overlap is printed."
    ),
)


@dataclass(frozen=True)
class Choice:
    """A kind of nodes on the validation items.

    Parameters
    ----------
    kind, candidates
        Key of `NODES`, and how many nodes of it there are.
    table
        Columns size, kept, low, high, left: what the first nodes keep, and what is left without them.
    carried
        Share of the difference between the two runs that is gone with every node of the kind patched.
    k, m
        Nodes chosen, and the fewest without which next to nothing is left; 0 where there are none.
    enough
        Whether `k` of them keep all of it, within the options' tolerance.
    refused
        Why there is no curve.
    """

    kind: str
    candidates: int
    table: pd.DataFrame = field(repr=False)
    carried: float
    k: int = 0
    m: int = 0
    enough: bool = False
    refused: str = ""

    @property
    def points(self) -> tuple[str, ...]:
        """Points of its nodes."""
        return NODES[self.kind][0]

    @property
    def words(self) -> str:
        """Its nodes in words."""
        return NODES[self.kind][1]

    @property
    def among(self) -> tuple[str, ...]:
        """Addresses of all candidates."""
        return tuple(f"{point}.*" for point in self.points)

    def kept(self, size: int) -> float:
        """What the first so many keep on the validation items."""
        return float(self.table.set_index("size").loc[size, "kept"])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        names = ("kind", "candidates", "carried", "k", "m", "enough", "refused")
        return {**{name: getattr(self, name) for name in names}, "curve": self.table.to_dict("records")}


@dataclass(frozen=True)
class Nodes:
    """The candidates of the chosen kind in order of |score|.

    Parameters
    ----------
    order, scores
        All of them, and the scores that put them there.
    estimated
        The first of them by estimate -> (estimate, exact effect on train items, on validation items).
    """

    order: tuple[Unit, ...]
    scores: tuple[float, ...]
    estimated: Mapping[Unit, tuple[float, float, float]] = field(default_factory=dict)

    def first(self, k: int) -> Units:
        """The first k."""
        return top_units([(unit.site, unit.index) for unit in self.order], k)


@dataclass(repr=False)
class CircuitStudy(Behaviour):
    """A study of the circuit of a task.

    Parameters
    ----------
    choices, choice, nodes
        Every kind of nodes on validation items, the chosen one, and its nodes in order.
    joint
        What the circuit keeps and what its removal takes, on test items.
    curve
        Kept and removed on test items, by size.
    shares
        Node -> share of the halves of the train items in whose circuit it was.
    graph, held
        Edges between the nodes on train items, and on test items.
    """

    choices: list[Choice] = field(init=False)
    choice: Choice = field(init=False)
    nodes: Nodes = field(init=False)
    joint: dict[str, Measured] = field(init=False)
    curve: pd.DataFrame = field(init=False)
    shares: dict[Unit, float] = field(init=False)
    graph: CircuitGraph | None = field(init=False)
    held: CircuitGraph | None = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.basis = replace(self.basis, quantity="fraction of the difference")

    @property
    def sizes(self) -> CircuitOptions:
        """The options, as those of a circuit."""
        assert isinstance(self.options, CircuitOptions)
        return self.options

    def folder(self) -> str:
        """Where the study is written unless the caller says otherwise."""
        return f"{super().folder()}-circuit"

    def cover(self) -> Cover:
        """What frames the sections."""
        cover = super().cover()
        title = self.basis.title
        return replace(
            cover,
            kind="study of a circuit",
            question=(f"Which units of {self.subject.name} carry ", title, ", and which acts on which?"),
            note=f"{cover.note} What is not in a circuit has its activity on the item's corrupted input.",
            limits=LIMITS,
            command=f"{cover.command} --circuit",
        )


def top_units(ranked: Sequence[UnitOrSite], k: int) -> Units:
    """The first k nodes of a ranking."""
    return collect(list(ranked[:k]))


def score_matrix(scores: Scores, points: Sequence[str]) -> tuple[list[Unit], NDArray[np.float64]]:
    """All units scored at some points, and their scores by item: (item, unit)."""
    sites = [site for site in scores.sites if site.point in points]
    units = [Unit(site, i) for site in sites for i in scores.index(site) if i is not None]
    values = scores.summed().values
    return units, np.concatenate([values[site] for site in sites], axis=1).astype(np.float64)
