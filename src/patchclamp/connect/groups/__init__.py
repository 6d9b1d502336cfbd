"""groups: which units belong together: communities, bi-clusters, motifs in time."""

from __future__ import annotations

from patchclamp.connect.groups.affinity import Affinities, affinities
from patchclamp.connect.groups.biclustering import BiClusters, biclustering
from patchclamp.connect.groups.blocks import Blocks, weighted_blocks
from patchclamp.connect.groups.connectome import DynamicConnectome
from patchclamp.connect.groups.functional_connectome import dynamic_connectome
from patchclamp.connect.groups.tensor_factorisation import Factors, tensor_factorisation

__all__ = [
    "Affinities",
    "BiClusters",
    "Blocks",
    "DynamicConnectome",
    "Factors",
    "affinities",
    "biclustering",
    "dynamic_connectome",
    "tensor_factorisation",
    "weighted_blocks",
]
