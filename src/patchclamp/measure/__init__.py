"""measure: how do units behave?

`METHODS` names the measures: classes with ``update(activity, samples)``, ``merge(other)`` and ``result()``,
each one pass over the data, in constant memory where not said otherwise.
"""

from __future__ import annotations

from patchclamp._wordnet import SUPERSENSES, LabelledText, WordNet
from patchclamp.measure.base import Measure
from patchclamp.measure.cett import CETT, cett, cett_threshold
from patchclamp.measure.coactivation import Coactivation
from patchclamp.measure.codes import ActivationCodes, code_accuracy
from patchclamp.measure.complexity import LempelZiv, lempel_ziv
from patchclamp.measure.diffusion import (
    DiffusionEntropy,
    diffusion_entropy,
    diffusion_information,
    diffusion_spectrum,
)
from patchclamp.measure.discrimination import Discrimination, discrimination
from patchclamp.measure.exemplars import Exemplars, Window, contexts
from patchclamp.measure.firing import DeadUnits, FiringRate
from patchclamp.measure.importance import Importance
from patchclamp.measure.information import AdaptiveInformation, adaptive_edges, kde_bounds
from patchclamp.measure.massive import MassiveActivations
from patchclamp.measure.moments import Moments
from patchclamp.measure.participation import TuningSpectrum, inverse_participation
from patchclamp.measure.patterns import ActivationPatterns, PatternCheck
from patchclamp.measure.ppl import PPLSparsity, ppl_sparsity, threshold_runner
from patchclamp.measure.quantiles import Quantiles
from patchclamp.measure.sdr import (
    SparseOverlap,
    best_threshold,
    miss_chance,
    overlap_chance,
    union_density,
    union_false_match,
)
from patchclamp.measure.selectivity import Selectivity
from patchclamp.measure.sinks import AttentionSinks
from patchclamp.measure.sparsity import Sparsity

_MEASURES: tuple[type[Measure], ...] = (
    Moments,
    Quantiles,
    FiringRate,
    DeadUnits,
    Sparsity,
    Importance,
    CETT,
    MassiveActivations,
    AttentionSinks,
    Exemplars,
    Selectivity,
    Coactivation,
    LempelZiv,
    DiffusionEntropy,
    AdaptiveInformation,
    ActivationPatterns,
    ActivationCodes,
    Discrimination,
    SparseOverlap,
    TuningSpectrum,
)
METHODS: dict[str, type[Measure]] = {measure.name: measure for measure in _MEASURES}

__all__ = [
    "CETT",
    "METHODS",
    "SUPERSENSES",
    "ActivationCodes",
    "ActivationPatterns",
    "AdaptiveInformation",
    "AttentionSinks",
    "Coactivation",
    "DeadUnits",
    "DiffusionEntropy",
    "Discrimination",
    "Exemplars",
    "FiringRate",
    "Importance",
    "LabelledText",
    "LempelZiv",
    "MassiveActivations",
    "Measure",
    "Moments",
    "PPLSparsity",
    "PatternCheck",
    "Quantiles",
    "Selectivity",
    "SparseOverlap",
    "Sparsity",
    "TuningSpectrum",
    "Window",
    "WordNet",
    "adaptive_edges",
    "best_threshold",
    "cett",
    "cett_threshold",
    "code_accuracy",
    "contexts",
    "diffusion_entropy",
    "diffusion_information",
    "diffusion_spectrum",
    "discrimination",
    "inverse_participation",
    "kde_bounds",
    "lempel_ziv",
    "miss_chance",
    "overlap_chance",
    "ppl_sparsity",
    "threshold_runner",
    "union_density",
    "union_false_match",
]
