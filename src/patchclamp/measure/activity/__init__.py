"""activity: how active units are, how sparse, how alike; one pass over the data."""

from __future__ import annotations

from patchclamp.measure.activity.coactivation import Coactivation
from patchclamp.measure.activity.codes import ActivationCodes, code_accuracy
from patchclamp.measure.activity.complexity import LempelZiv, lempel_ziv
from patchclamp.measure.activity.exemplars import Exemplars
from patchclamp.measure.activity.firing import DeadUnits, FiringRate
from patchclamp.measure.activity.importance import Importance
from patchclamp.measure.activity.information import AdaptiveInformation, adaptive_edges, kde_bounds
from patchclamp.measure.activity.massive import MassiveActivations
from patchclamp.measure.activity.moments import Moments
from patchclamp.measure.activity.participation import TuningSpectrum, inverse_participation
from patchclamp.measure.activity.patterns import ActivationPatterns, PatternCheck
from patchclamp.measure.activity.quantiles import Quantiles
from patchclamp.measure.activity.sdr import (
    SparseOverlap,
    best_threshold,
    miss_chance,
    overlap_chance,
    union_density,
    union_false_match,
)
from patchclamp.measure.activity.sparsity import Sparsity
from patchclamp.nouns.recording.contexts import ExemplarContext, contexts

__all__ = [
    "ActivationCodes",
    "ActivationPatterns",
    "AdaptiveInformation",
    "Coactivation",
    "DeadUnits",
    "ExemplarContext",
    "Exemplars",
    "FiringRate",
    "Importance",
    "LempelZiv",
    "MassiveActivations",
    "Moments",
    "PatternCheck",
    "Quantiles",
    "SparseOverlap",
    "Sparsity",
    "TuningSpectrum",
    "adaptive_edges",
    "best_threshold",
    "code_accuracy",
    "contexts",
    "inverse_participation",
    "kde_bounds",
    "lempel_ziv",
    "miss_chance",
    "overlap_chance",
    "union_density",
    "union_false_match",
]
