"""language: measures that need a language model's own terms: loss, attention sinks, contribution to the stream."""

from __future__ import annotations

from patchclamp.measure.language.cett import CETT, cett, cett_threshold
from patchclamp.measure.language.first_token import first_token_cosine
from patchclamp.measure.language.ppl import PPLSparsity, ppl_sparsity, threshold_runner
from patchclamp.measure.language.sinks import AttentionSinks

__all__ = [
    "CETT",
    "AttentionSinks",
    "PPLSparsity",
    "cett",
    "cett_threshold",
    "first_token_cosine",
    "ppl_sparsity",
    "threshold_runner",
]
