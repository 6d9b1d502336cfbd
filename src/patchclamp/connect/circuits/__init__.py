"""circuits: how units inside a live network act on each other."""

from __future__ import annotations

from patchclamp.connect.circuits.edge_attribution import edge_attribution
from patchclamp.connect.circuits.groups import NodeGroups, group_effects, group_nodes
from patchclamp.connect.circuits.heads import head_connectome
from patchclamp.connect.circuits.neuron_graph import neuron_graph
from patchclamp.connect.circuits.path_patching import edge_patching, path_patching
from patchclamp.connect.circuits.paths import causal_path_graph

# (subject, task, ...) -> CircuitGraph
METHODS = {
    "edge_attribution": edge_attribution,
    "edge_patching": edge_patching,
    "path_patching": path_patching,
    "neuron_graph": neuron_graph,
    "causal_path_graph": causal_path_graph,
}

__all__ = [
    "METHODS",
    "NodeGroups",
    "causal_path_graph",
    "edge_attribution",
    "edge_patching",
    "group_effects",
    "group_nodes",
    "head_connectome",
    "neuron_graph",
    "path_patching",
]
