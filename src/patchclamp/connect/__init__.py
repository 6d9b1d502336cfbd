"""Connect: how do units act on each other?"""

from patchclamp.connect.glm import glm_coupling
from patchclamp.connect.graph import Graph
from patchclamp.connect.switching_glm import switching_glm

METHODS = {
    "glm_coupling": glm_coupling,
    "switching_glm": switching_glm,
}

__all__ = ["METHODS", "Graph", "glm_coupling", "switching_glm"]
