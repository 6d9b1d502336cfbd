"""circuits: how units inside a live network act on each other."""

from __future__ import annotations

from patchclamp.connect.circuits.edge_attribution import edge_attribution
from patchclamp.connect.circuits.heads import head_connectome
from patchclamp.connect.circuits.neuron_graph import neuron_graph
from patchclamp.connect.circuits.node_masks import NodeMasks, node_masks
from patchclamp.connect.circuits.path_patching import edge_patching, path_patching
from patchclamp.connect.circuits.paths import causal_path_graph
from patchclamp.connect.circuits.qk_attribution import QKAttribution, qk_attribution

# (subject, task, ...) -> CircuitGraph
METHODS = {
    "edge_attribution": edge_attribution,
    "edge_patching": edge_patching,
    "path_patching": path_patching,
    "neuron_graph": neuron_graph,
    "causal_path_graph": causal_path_graph,
}
# Beside the table, with results of their own.
TOOLS = {
    "node_masks": node_masks,
    "qk_attribution": qk_attribution,
}

__all__ = [
    "METHODS",
    "TOOLS",
    "NodeMasks",
    "QKAttribution",
    "causal_path_graph",
    "edge_attribution",
    "edge_patching",
    "head_connectome",
    "neuron_graph",
    "node_masks",
    "path_patching",
    "qk_attribution",
]
