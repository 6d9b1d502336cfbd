"""Connect: how do units act on each other?"""

from patchclamp.connect.affinity import Affinities, affinities
from patchclamp.connect.against import Against, against
from patchclamp.connect.biclustering import BiClusters, biclustering
from patchclamp.connect.blocks import Blocks, weighted_blocks
from patchclamp.connect.connectome import DynamicConnectome
from patchclamp.connect.correlation import correlation
from patchclamp.connect.functional_connectome import dynamic_connectome
from patchclamp.connect.graph import Graph
from patchclamp.connect.heads import head_connectome
from patchclamp.connect.lagged import lagged_correlation
from patchclamp.connect.partial import compositional_partial_correlation, partial_correlation
from patchclamp.connect.pictures import plot_graph
from patchclamp.connect.tensor_factorisation import Factors, tensor_factorisation
from patchclamp.connect.transfer_entropy import transfer_entropy

METHODS = {
    "correlation": correlation,
    "partial_correlation": partial_correlation,
    "compositional_partial_correlation": compositional_partial_correlation,
    "lagged_correlation": lagged_correlation,
    "transfer_entropy": transfer_entropy,
    "dynamic_connectome": dynamic_connectome,
    "biclustering": biclustering,
    # models of dynamics: docs/connect-models.md
}

__all__ = [
    "METHODS",
    "Affinities",
    "Against",
    "BiClusters",
    "Blocks",
    "DynamicConnectome",
    "Factors",
    "Graph",
    "affinities",
    "against",
    "biclustering",
    "compositional_partial_correlation",
    "correlation",
    "dynamic_connectome",
    "head_connectome",
    "lagged_correlation",
    "partial_correlation",
    "plot_graph",
    "tensor_factorisation",
    "transfer_entropy",
    "weighted_blocks",
]
