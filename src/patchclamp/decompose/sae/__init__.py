"""Sparse autoencoders: one trainer, one file an architecture.

`ARCHITECTURES` names them; transcoders, crosscoders and attention autoencoders are made of the same.
"""

from __future__ import annotations

from patchclamp.decompose.sae.architectures import ARCHITECTURES, architecture
from patchclamp.decompose.sae.attention_sae import AttentionSAE
from patchclamp.decompose.sae.base import SparseAutoencoder
from patchclamp.decompose.sae.batch_topk import BatchTopK
from patchclamp.decompose.sae.crosscoder import Crosscoder
from patchclamp.decompose.sae.gated import Gated
from patchclamp.decompose.sae.jumprelu import JumpReLU
from patchclamp.decompose.sae.matching_pursuit import MatchingPursuit, MatchingPursuitDictionary
from patchclamp.decompose.sae.matryoshka import Matryoshka
from patchclamp.decompose.sae.metrics import quality
from patchclamp.decompose.sae.relu_l1 import ReluL1
from patchclamp.decompose.sae.splice import splice
from patchclamp.decompose.sae.topk import TopK
from patchclamp.decompose.sae.transcoder import Transcoder

__all__ = [
    "ARCHITECTURES",
    "AttentionSAE",
    "BatchTopK",
    "Crosscoder",
    "Gated",
    "JumpReLU",
    "MatchingPursuit",
    "MatchingPursuitDictionary",
    "Matryoshka",
    "ReluL1",
    "SparseAutoencoder",
    "TopK",
    "Transcoder",
    "architecture",
    "quality",
    "splice",
]
