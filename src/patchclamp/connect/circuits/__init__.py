"""circuits: how units inside a live network act on each other."""

from __future__ import annotations

from patchclamp.connect.circuits.circuit_reuse import CircuitReuse, circuit_recovery, circuit_reuse
from patchclamp.connect.circuits.edge_attribution import edge_attribution
from patchclamp.connect.circuits.factual_recall import FactualRecall, factual_recall
from patchclamp.connect.circuits.groups import NodeGroups, group_effects, group_nodes
from patchclamp.connect.circuits.head_subspace import HeadSubspace, choices, head_subspace, subspace_of
from patchclamp.connect.circuits.heads import head_connectome
from patchclamp.connect.circuits.mlp_terms import MLPTerms, fit_terms, mlp_terms
from patchclamp.connect.circuits.neuron_graph import neuron_graph
from patchclamp.connect.circuits.node_masks import NodeMasks, node_masks
from patchclamp.connect.circuits.path_patching import edge_patching, path_patching
from patchclamp.connect.circuits.paths import causal_path_graph
from patchclamp.connect.circuits.qk_attribution import QKAttribution, qk_attribution
from patchclamp.connect.circuits.retrieval_heads import RetrievalHeads, copied, retrieval_heads, span_of
from patchclamp.connect.circuits.thought_anchors import (
    ReceiverHeads,
    Rollout,
    counterfactual_importance,
    excess_kurtosis,
    received_attention,
    receiver_heads,
    sentence_matrix,
    sentence_suppression,
    sentences,
)

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
    "group_nodes": group_nodes,
    "group_effects": group_effects,
    "node_masks": node_masks,
    "qk_attribution": qk_attribution,
    "head_subspace": head_subspace,
    "circuit_reuse": circuit_reuse,
    "circuit_recovery": circuit_recovery,
    "retrieval_heads": retrieval_heads,
    "mlp_terms": mlp_terms,
    "factual_recall": factual_recall,
    "receiver_heads": receiver_heads,
    "sentence_suppression": sentence_suppression,
    "counterfactual_importance": counterfactual_importance,
}

__all__ = [
    "METHODS",
    "TOOLS",
    "CircuitReuse",
    "FactualRecall",
    "HeadSubspace",
    "MLPTerms",
    "NodeMasks",
    "QKAttribution",
    "ReceiverHeads",
    "RetrievalHeads",
    "Rollout",
    "NodeGroups",
    "causal_path_graph",
    "choices",
    "circuit_recovery",
    "circuit_reuse",
    "copied",
    "counterfactual_importance",
    "edge_attribution",
    "edge_patching",
    "excess_kurtosis",
    "factual_recall",
    "fit_terms",
    "group_effects",
    "group_nodes",
    "head_connectome",
    "head_subspace",
    "mlp_terms",
    "neuron_graph",
    "node_masks",
    "path_patching",
    "qk_attribution",
    "received_attention",
    "receiver_heads",
    "retrieval_heads",
    "sentence_matrix",
    "sentence_suppression",
    "sentences",
    "span_of",
    "subspace_of",
]
