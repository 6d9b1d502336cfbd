"""structure: decompositions by what a network does with its activity: interaction bases, partitions, codes."""

from __future__ import annotations

from patchclamp.decompose.structure.bricks import Bricks, Partition, partition_weights
from patchclamp.decompose.structure.dark_matter import DarkMatter, dark_matter
from patchclamp.decompose.structure.discrete import HeadCodes, discrete_codes
from patchclamp.decompose.structure.interaction import InteractionBasis, degeneracy, modules
from patchclamp.decompose.structure.lib import LinearBasis, LocalInteractionBasis, interaction_edges

__all__ = [
    "Bricks",
    "DarkMatter",
    "HeadCodes",
    "InteractionBasis",
    "LinearBasis",
    "LocalInteractionBasis",
    "Partition",
    "dark_matter",
    "degeneracy",
    "discrete_codes",
    "interaction_edges",
    "modules",
    "partition_weights",
]
