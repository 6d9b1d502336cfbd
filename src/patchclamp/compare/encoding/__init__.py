"""Encoding and decoding models: linear maps from features to responses, with folds that do not leak."""

from patchclamp.base.folds import Blocked, autocorrelation_width
from patchclamp.compare.encoding.attention import AttentionReadout
from patchclamp.compare.encoding.ceiling import (
    feve,
    noise_ceiling,
    normalised_correlation,
    signal_power,
    spearman_brown,
    split_half,
)
from patchclamp.compare.encoding.decoder import Decoder
from patchclamp.compare.encoding.factorised import FactorisedReadout
from patchclamp.compare.encoding.partition import partition
from patchclamp.compare.encoding.retrieval import retrieval
from patchclamp.compare.encoding.ridge import BandedRidge, Ridge, delayed, r2

__all__ = [
    "AttentionReadout",
    "BandedRidge",
    "Blocked",
    "Decoder",
    "FactorisedReadout",
    "Ridge",
    "autocorrelation_width",
    "delayed",
    "feve",
    "noise_ceiling",
    "normalised_correlation",
    "partition",
    "r2",
    "retrieval",
    "signal_power",
    "spearman_brown",
    "split_half",
]
