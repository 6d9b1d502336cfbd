"""layers: one population against every layer of another, with ceilings and a picture."""

from __future__ import annotations

from patchclamp.compare.layers.layers import layers
from patchclamp.compare.layers.profile import LayerProfile

__all__ = ["LayerProfile", "layers"]
