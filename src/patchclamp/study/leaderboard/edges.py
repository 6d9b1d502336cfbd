"""connect on circuits: are the edges of the mechanism found among all that a network has?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.areas import area_over_items, area_over_pairs, permuted_area, roc_auc, rounded
from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import METHODS
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.study.leaderboard.base import Adaptor, Outcome, Variant
from patchclamp.subjects.clamp.relevance_rules import DEFAULT_RULES
from patchclamp.subjects.transformer import Transformer
from patchclamp.truth.base import Circuit, Truth

Array = NDArray[np.float64]
ALL = 10_000
EDGES = frozenset(METHODS) - {"causal_path_graph"}
"""Methods that score edges between given ends; a path graph is made of a chain of sites, which these systems are not."""


def edge_variants(name: str, method: Any, system: Circuit) -> list[Variant]:
    """Ways of calling a method on a system; none where the edges are no pairs of names, or not those that it knows.

    Edges that are modules of their own are scored by the methods of `attribute`, as sites.
    """
    ends = _ends(_truths(system))
    if not isinstance(system.subject, Transformer) or not ends:
        return []
    neurons = any(end.startswith("mlp_act") for pair in ends for end in pair)
    if name == "neuron_graph":
        heads = any(a.startswith("head") or b[:2] in ("q.", "k.", "v.") for a, b in ends)
        return [] if heads else [Variant("", {"neurons": ALL, "heads": 0, "senders": 0})]
    targets = {
        "receivers": list(dict.fromkeys(b for _, b in ends)),
        "senders": list(dict.fromkeys(a for a, _ in ends)),
    }
    known: Mapping[str, list[Variant]] = {
        "edge_attribution": [
            Variant("EAP", {"steps": 0}), Variant("EAP-IG", {"steps": 5}),
            Variant("RelP", {"steps": 0, "rules": DEFAULT_RULES}),
        ],
        "edge_patching": [Variant(d, {"edges": ends, "direction": d}) for d in ("denoising", "noising")],
        "path_patching": [Variant(d, {**targets, "direction": d}) for d in ("denoising", "noising")],
    }  # fmt: skip
    return [] if neurons and name == "edge_attribution" else list(known.get(name, []))


def connect_edges(method: Any, system: Circuit, variant: Variant, seed: int) -> Any:
    """Call the method on the system's subject and task."""
    return method(system.subject, system.task, **variant.options)


def judge_edges(
    name: str, result: Any, system: Circuit, variant: Variant, truth: Truth, seed: int
) -> Outcome:
    """AUROC of |weight| over all edges against the truth, resampling items; of a control against the edges that are gone."""
    truths = _truths(system)
    values = edge_values(result, list(truths))
    real = np.array(list(truths.values()), dtype=bool)
    groups = result.groups
    if truth.control:
        value = float(roc_auc(rounded(values.mean(0)), real))
        p = permuted_area(values, real, seed)
        note = f"against the edges that are gone; p = {p:.3g} (edges permuted)"
        return Outcome("clean" if p > 0.05 else "false positive", "AUROC", value, chance=0.5, note=note)
    if len(values) > 1:
        value, low, high = area_over_items(values, real, groups, seed=seed)
    else:
        value, low, high = area_over_pairs(values[0], real)
    note = f"{int(real.sum())} of {len(real)} edges belong to it"
    over = "items" if len(values) > 1 else "edges"
    return Outcome("recovered" if low > 0.5 else "missed", "AUROC", value, low, high, over, 0.5, note=note)


def edge_values(result: Any, names: Sequence[str]) -> Array:
    """(item, edge) weights by ``"source->target"``; tokens of all roles count as the embeddings, both signs as one neuron.

    An edge that the graph does not have weighs 0.

    Raises
    ------
    PatchclampError
        For what is no graph of a circuit, and one without any of these edges.
    """
    if not isinstance(result, CircuitGraph):
        raise PatchclampError(f"a {type(result).__name__} came back; give a CircuitGraph")
    place = {name: i for i, name in enumerate(names)}
    values, met = np.zeros((len(result.items), len(names))), 0
    for column, (target, source) in enumerate(result.ends.tolist()):
        at = place.get(f"{_plain(result.nodes[source])}->{_plain(result.nodes[target])}")
        if at is not None:
            values[:, at] += result.items[:, column]
            met += 1
    if not met:
        raise PatchclampError(f"{names[0]}: the graph has none of the {len(names)} edges")
    return values


def _plain(node: str) -> str:
    return "embeddings" if node.startswith("tokens:") else node.removesuffix("+").removesuffix("-")


def _truths(system: Circuit) -> Mapping[str, bool]:
    """Edge -> whether it belongs to the mechanism; of a control, to the one that is gone."""
    if any(system.edges.values()):
        return system.edges
    gone: Mapping[str, bool] = system.data.get("original", {}).get("edges", {})
    return gone


def _ends(truths: Mapping[str, bool]) -> list[tuple[str, str]]:
    """Pairs of names; none where an edge has a name of another form."""
    pairs = [tuple(name.split("->")) for name in truths]
    return [(p[0], p[1]) for p in pairs] if all(len(p) == 2 for p in pairs) else []


CONNECT = Adaptor(
    "connect",
    "circuit",
    edge_variants,
    connect_edges,
    judge_edges,
    fits=lambda name, method, truth: name in METHODS,
)
