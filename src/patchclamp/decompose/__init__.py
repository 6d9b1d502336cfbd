"""decompose: what are the right units?

`METHODS` names the estimators of one site: ``METHODS[name](n_features, ...).fit(recording, site)`` gives a `Dictionary`;
`n_features` is the number of features, and `k`, where there is one, how many are active in a sample.

`TOOLS` names what takes or gives something else: `transcoder` and `crosscoder` several sites, `attention_sae` the
heads of a layer, `hierarchy` a falling list of numbers, `lib` and `interaction_basis` a live subject and a chain of sites,
`dark_matter` a dictionary, `discrete_codes` a subject and a task; `bricks` gives a partition of units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patchclamp.decompose.base import Decomposer
from patchclamp.decompose.factor.hierarchy import hierarchy
from patchclamp.decompose.factor.ica import ICA
from patchclamp.decompose.factor.nmf import NMF
from patchclamp.decompose.factor.pca import PCA
from patchclamp.decompose.factor.snmf import SNMF
from patchclamp.decompose.formats import load_dictionary
from patchclamp.decompose.sae import BatchTopK, Gated, JumpReLU, MatchingPursuit, Matryoshka, ReluL1, TopK
from patchclamp.decompose.sae.attention_sae import AttentionSAE
from patchclamp.decompose.sae.crosscoder import Crosscoder
from patchclamp.decompose.sae.transcoder import Transcoder
from patchclamp.decompose.scores import match, stability
from patchclamp.decompose.structure.bricks import Partition
from patchclamp.decompose.structure.dark_matter import dark_matter
from patchclamp.decompose.structure.discrete import discrete_codes
from patchclamp.decompose.structure.interaction import InteractionBasis
from patchclamp.decompose.structure.lib import LocalInteractionBasis

METHODS: dict[str, type[Decomposer[Any]]] = {
    "snmf": SNMF,
    "nmf": NMF,
    "pca": PCA,
    "ica": ICA,
    "relu_l1": ReluL1,
    "gated": Gated,
    "topk": TopK,
    "batch_topk": BatchTopK,
    "jumprelu": JumpReLU,
    "matryoshka": Matryoshka,
    "matching_pursuit": MatchingPursuit,
}
TOOLS: dict[str, Callable[..., object]] = {
    "hierarchy": hierarchy,
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
    "TOOLS",
    "AttentionSAE",
    "BatchTopK",
    "Crosscoder",
    "Gated",
    "JumpReLU",
    "MatchingPursuit",
    "Matryoshka",
    "ReluL1",
    "TopK",
    "Transcoder",
    "hierarchy",
    "load_dictionary",
    "match",
    "stability",
]
