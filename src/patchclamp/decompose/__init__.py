"""decompose: what are the right units?

`METHODS` names the methods: estimators whose ``fit(recording, site)`` returns a `Dictionary`. Those that look at structure
take what they need beside it: `lib` and `interaction_basis` a live subject and a chain of sites, `dark_matter` a dictionary,
`discrete_codes` a subject and a task; `bricks` gives a partition of units.
"""

from __future__ import annotations

from typing import Any

from patchclamp.decompose.attention_sae import AttentionSAE
from patchclamp.decompose.base import unexplained_variance
from patchclamp.decompose.bricks import Bricks, Partition, partition_weights
from patchclamp.decompose.crosscoder import Crosscoder
from patchclamp.decompose.dark_matter import DarkMatter, dark_matter
from patchclamp.decompose.discrete import HeadCodes, discrete_codes
from patchclamp.decompose.formats import load_dictionary
from patchclamp.decompose.hierarchy import Hierarchy, hierarchy, refine
from patchclamp.decompose.ica import ICA
from patchclamp.decompose.interaction import InteractionBasis, degeneracy, modules
from patchclamp.decompose.lib import LinearBasis, LocalInteractionBasis, interaction_edges
from patchclamp.decompose.nmf import NMF
from patchclamp.decompose.pca import PCA
from patchclamp.decompose.sae import (
    BatchTopK,
    Gated,
    JumpReLU,
    MatchingPursuit,
    Matryoshka,
    ReluL1,
    TopK,
)
from patchclamp.decompose.sae.metrics import quality
from patchclamp.decompose.sae.splice import splice
from patchclamp.decompose.scores import Matching, Stability, match, stability
from patchclamp.decompose.snmf import SNMF
from patchclamp.decompose.sparse_dictionary import SparseDictionary
from patchclamp.decompose.stored import StoredDictionary
from patchclamp.decompose.transcoder import Transcoder

METHODS: dict[str, Any] = {
    "snmf": SNMF,
    "nmf": NMF,
    "pca": PCA,
    "ica": ICA,
    "hierarchy": hierarchy,
    "relu_l1": ReluL1,
    "gated": Gated,
    "topk": TopK,
    "batch_topk": BatchTopK,
    "jumprelu": JumpReLU,
    "matryoshka": Matryoshka,
    "matching_pursuit": MatchingPursuit,
    "transcoder": Transcoder,
    "crosscoder": Crosscoder,
    "attention_sae": AttentionSAE,
    "lib": LocalInteractionBasis,
    "interaction_basis": InteractionBasis,
    "bricks": Partition,
    "dark_matter": dark_matter,
    "discrete_codes": discrete_codes,
}

__all__ = [
    "ICA",
    "METHODS",
    "NMF",
    "PCA",
    "SNMF",
    "AttentionSAE",
    "BatchTopK",
    "Bricks",
    "Crosscoder",
    "DarkMatter",
    "Gated",
    "HeadCodes",
    "Hierarchy",
    "InteractionBasis",
    "JumpReLU",
    "LinearBasis",
    "LocalInteractionBasis",
    "Matching",
    "MatchingPursuit",
    "Matryoshka",
    "Partition",
    "ReluL1",
    "SparseDictionary",
    "Stability",
    "StoredDictionary",
    "TopK",
    "Transcoder",
    "dark_matter",
    "degeneracy",
    "discrete_codes",
    "hierarchy",
    "interaction_edges",
    "load_dictionary",
    "match",
    "modules",
    "partition_weights",
    "quality",
    "refine",
    "splice",
    "stability",
    "unexplained_variance",
]
