"""decompose: what are the right units?

`METHODS` names the methods: estimators whose ``fit(recording, site)`` returns a `Dictionary`.
"""

from __future__ import annotations

from typing import Any

from patchclamp.decompose.attention_sae import AttentionSAE
from patchclamp.decompose.crosscoder import Crosscoder
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
from patchclamp.decompose.sparse_dictionary import SparseDictionary
from patchclamp.decompose.stored import StoredDictionary
from patchclamp.decompose.transcoder import Transcoder

METHODS: dict[str, Any] = {
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
}

__all__ = [
    "METHODS",
    "AttentionSAE",
    "BatchTopK",
    "Crosscoder",
    "Gated",
    "JumpReLU",
    "MatchingPursuit",
    "Matryoshka",
    "ReluL1",
    "SparseDictionary",
    "StoredDictionary",
    "TopK",
    "Transcoder",
    "quality",
    "splice",
]
