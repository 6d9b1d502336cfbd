"""circuits: how units inside a live network act on each other."""

from __future__ import annotations

from patchclamp.connect.circuits.heads import head_connectome

__all__ = ["head_connectome"]
