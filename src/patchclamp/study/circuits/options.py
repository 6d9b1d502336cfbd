"""How much a study of a circuit measures."""

from __future__ import annotations

from dataclasses import dataclass

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.study.options import StudyOptions

__all__ = ["CircuitOptions"]


@dataclass(frozen=True)
class CircuitOptions(StudyOptions):
    """The sizes of a study of a circuit. The defaults fit four minutes on two cores for SmolLM2-135M and short prompts.

    Further parameters are those of `StudyOptions`, of which ``kind="patch"`` and ``direction="denoising"`` stay as they
    are: what is not in the circuit has its activity on the item's corrupted input.

    Parameters
    ----------
    head_sizes, neuron_sizes, both_sizes
        Sizes of circuit that are tried for each kind of nodes; at most a third of the candidates of each point.
    within
        How far from 1 the part that a circuit keeps may be, on validation items, for its size to be chosen.
    gone
        What may be left without the first nodes for their number to be chosen.
    n_measured, measured_items
        First nodes that are patched one by one, and items of each split that they are patched on.
    n_splits
        Random halves of the train items between which the circuits are compared.
    graph_nodes, graph_items, n_edges
        Nodes of the graph, items of each split that its edges are taken on, and edges of the circuit.
    """

    kind: str = "patch"
    direction: str = "denoising"
    n_validation: int = 40
    method: str = "relevance_patching"
    head_sizes: tuple[int, ...] = (1, 2, 5, 10, 20, 40, 80)
    neuron_sizes: tuple[int, ...] = (10, 30, 100, 300, 1000)
    both_sizes: tuple[int, ...] = (100, 300, 1000)
    within: float = 0.2
    gone: float = 0.1
    n_measured: int = 30
    measured_items: int = 24
    n_splits: int = 20
    graph_nodes: int = 30
    graph_items: int = 24
    n_edges: int = 60

    def __post_init__(self) -> None:
        check_choice("ablation of a circuit", self.kind, ("patch",))
        check_choice("direction of a circuit", self.direction, ("denoising",))
        super().__post_init__()
        for name in ("n_measured", "n_splits", "graph_nodes", "graph_items", "n_edges", "measured_items"):
            if getattr(self, name) < 2:
                raise PatchclampError(f"{name}={getattr(self, name)}: give at least 2")

    def sizes(self, kind: str, candidates: int) -> list[int]:
        """The sizes tried of a kind that has so many nodes: at most a third of them."""
        tried: dict[str, tuple[int, ...]] = {
            "heads": self.head_sizes, "neurons": self.neuron_sizes, "both": self.both_sizes,
        }  # fmt: skip
        return [k for k in tried[kind] if k <= max(1, candidates // 3)]
