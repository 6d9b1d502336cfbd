"""coupling: which units act on which, from their activity in time."""

from __future__ import annotations

from patchclamp.connect.coupling.attention_connectivity import attention_connectivity
from patchclamp.connect.coupling.cd_nod import cd_nod
from patchclamp.connect.coupling.correlation import correlation
from patchclamp.connect.coupling.glm import glm_coupling
from patchclamp.connect.coupling.lagged import lagged_correlation
from patchclamp.connect.coupling.partial import compositional_partial_correlation, partial_correlation
from patchclamp.connect.coupling.stimulus_filter import stimulus_filter
from patchclamp.connect.coupling.switching_glm import state_graphs, switching_glm
from patchclamp.connect.coupling.transfer_entropy import transfer_entropy

__all__ = [
    "attention_connectivity",
    "cd_nod",
    "compositional_partial_correlation",
    "correlation",
    "glm_coupling",
    "lagged_correlation",
    "partial_correlation",
    "state_graphs",
    "stimulus_filter",
    "switching_glm",
    "transfer_entropy",
]
