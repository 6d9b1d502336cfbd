"""Compare: does this population say what that one says?"""

from patchclamp.compare.cca import cca, fit_cca, fit_stochastic_cca
from patchclamp.compare.cka import cka, cka_matrix
from patchclamp.compare.dissimilarity import dissimilarities, noise_covariance
from patchclamp.compare.layers.layers import layers
from patchclamp.compare.layers.profile import LayerProfile
from patchclamp.compare.match_clusters import match_clusters
from patchclamp.compare.matching import match_units
from patchclamp.compare.result import Result
from patchclamp.compare.rsa import ceilings, rsa
from patchclamp.compare.shape import bures, procrustes
from patchclamp.compare.sparse_match import sparse_match
from patchclamp.compare.stochastic_shape import stochastic_procrustes
from patchclamp.compare.topological_rsa import topological_rsa

# (a, b) -> Comparison; `layers` asks about a whole network at once.
METHODS = {
    "cka": cka,
    "rsa": rsa,
    "topological_rsa": topological_rsa,
    "procrustes": procrustes,
    "cca": cca,
    "match_units": match_units,
    "match_clusters": match_clusters,
    "sparse_match": sparse_match,
}

__all__ = [
    "METHODS",
    "LayerProfile",
    "Result",
    "bures",
    "cca",
    "ceilings",
    "cka",
    "cka_matrix",
    "dissimilarities",
    "fit_cca",
    "fit_stochastic_cca",
    "layers",
    "match_clusters",
    "match_units",
    "noise_covariance",
    "procrustes",
    "rsa",
    "sparse_match",
    "stochastic_procrustes",
    "topological_rsa",
]
