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
from patchclamp.measure.decoding import Decoded, decode_behaviour
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
from patchclamp.measure.psth import PSTH, plot_psth, psth, raster
from patchclamp.measure.quantiles import Quantiles
from patchclamp.measure.reliability import Reliability, plot_reliability, split_half
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
from patchclamp.measure.spike_triggered import SpikeTriggered, spike_triggered_average
from patchclamp.measure.tuning import Tuning, tuning

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
    PSTH,
    Reliability,
)
METHODS: dict[str, type[Measure]] = {measure.name: measure for measure in _MEASURES}

__all__ = [
    "CETT",
    "METHODS",
    "PSTH",
    "SUPERSENSES",
    "ActivationCodes",
    "ActivationPatterns",
    "AdaptiveInformation",
    "AttentionSinks",
    "Coactivation",
    "DeadUnits",
    "Decoded",
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
    "Reliability",
    "Selectivity",
    "SparseOverlap",
    "Sparsity",
    "SpikeTriggered",
    "Tuning",
    "TuningSpectrum",
    "Window",
    "WordNet",
    "adaptive_edges",
    "best_threshold",
    "cett",
    "cett_threshold",
    "code_accuracy",
    "contexts",
    "decode_behaviour",
    "diffusion_entropy",
    "diffusion_information",
    "diffusion_spectrum",
    "discrimination",
    "inverse_participation",
    "kde_bounds",
    "lempel_ziv",
    "miss_chance",
    "overlap_chance",
    "plot_psth",
    "plot_reliability",
    "ppl_sparsity",
    "psth",
    "raster",
    "spike_triggered_average",
    "split_half",
    "threshold_runner",
    "tuning",
    "union_density",
    "union_false_match",
]
