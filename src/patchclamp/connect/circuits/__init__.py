"""circuits: how units inside a live network act on each other."""

from __future__ import annotations

from patchclamp.connect.circuits.heads import head_connectome
from patchclamp.connect.circuits.paths import causal_path_graph

__all__ = ["causal_path_graph", "head_connectome"]
