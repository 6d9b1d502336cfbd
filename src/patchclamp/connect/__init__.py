"""Connect: how do units act on each other?"""

from patchclamp.connect.against import Against, against
from patchclamp.connect.circuits.heads import head_connectome
from patchclamp.connect.coupling.attention_connectivity import attention_connectivity
from patchclamp.connect.coupling.cd_nod import cd_nod
from patchclamp.connect.coupling.correlation import correlation
from patchclamp.connect.coupling.glm import glm_coupling
from patchclamp.connect.coupling.lagged import lagged_correlation
from patchclamp.connect.coupling.partial import compositional_partial_correlation, partial_correlation
from patchclamp.connect.coupling.stimulus_filter import stimulus_filter
from patchclamp.connect.coupling.switching_glm import state_graphs, switching_glm
from patchclamp.connect.coupling.transfer_entropy import transfer_entropy
from patchclamp.connect.groups.affinity import affinities
from patchclamp.connect.groups.biclustering import biclustering
from patchclamp.connect.groups.blocks import weighted_blocks
from patchclamp.connect.groups.functional_connectome import dynamic_connectome
from patchclamp.connect.groups.tensor_factorisation import tensor_factorisation

# (data, groups) -> Graph
METHODS = {
    "correlation": correlation,
    "partial_correlation": partial_correlation,
    "compositional_partial_correlation": compositional_partial_correlation,
    "lagged_correlation": lagged_correlation,
    "transfer_entropy": transfer_entropy,
    # models of dynamics: docs/connect-models.md
    "attention_connectivity": attention_connectivity,
    "cd_nod": cd_nod,
    "glm_coupling": glm_coupling,
    "switching_glm": switching_glm,
}
# These find groups of units, and each returns what it finds.
TOOLS = {"dynamic_connectome": dynamic_connectome, "biclustering": biclustering}

__all__ = [
    "METHODS",
    "TOOLS",
    "Against",
    "affinities",
    "against",
    "attention_connectivity",
    "biclustering",
    "cd_nod",
    "correlation",
    "dynamic_connectome",
    "glm_coupling",
    "head_connectome",
    "lagged_correlation",
    "partial_correlation",
    "state_graphs",
    "stimulus_filter",
    "switching_glm",
    "tensor_factorisation",
    "transfer_entropy",
    "weighted_blocks",
]
