"""Connect: how do units act on each other?"""

from patchclamp.connect.attention_connectivity import attention_connectivity
from patchclamp.connect.cd_nod import cd_nod
from patchclamp.connect.glm import glm_coupling
from patchclamp.connect.graph import Graph
from patchclamp.connect.stimulus_filter import stimulus_filter
from patchclamp.connect.switching_glm import state_graphs, switching_glm

METHODS = {
    "attention_connectivity": attention_connectivity,
    "cd_nod": cd_nod,
    "glm_coupling": glm_coupling,
    "switching_glm": switching_glm,
}

__all__ = [
    "METHODS",
    "Graph",
    "attention_connectivity",
    "cd_nod",
    "glm_coupling",
    "state_graphs",
    "stimulus_filter",
    "switching_glm",
]
