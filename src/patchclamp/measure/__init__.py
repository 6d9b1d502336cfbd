"""measure: how do units behave?

`METHODS` names the measures: classes with ``update(activity, samples)``, ``merge(other)`` and ``result()``,
each one pass over the data, in constant memory where not said otherwise.
"""

from __future__ import annotations

from patchclamp.measure.activity.coactivation import Coactivation
from patchclamp.measure.activity.codes import ActivationCodes, code_accuracy
from patchclamp.measure.activity.complexity import LempelZiv, lempel_ziv
from patchclamp.measure.activity.exemplars import Exemplars, Window, contexts
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
from patchclamp.measure.brain.decoding import Decoded, decode_behaviour
from patchclamp.measure.brain.diffusion import (
    DiffusionEntropy,
    diffusion_entropy,
    diffusion_information,
    diffusion_spectrum,
)
from patchclamp.measure.brain.psth import PSTH, plot_psth, psth, raster
from patchclamp.measure.brain.reliability import Reliability, plot_reliability, split_half
from patchclamp.measure.brain.spike_triggered import SpikeTriggered, spike_triggered_average
from patchclamp.measure.brain.tuning import Tuning, tuning
from patchclamp.measure.labels.discrimination import Discrimination, discrimination
from patchclamp.measure.labels.selectivity import Selectivity
from patchclamp.measure.language.cett import CETT, cett, cett_threshold
from patchclamp.measure.language.ppl import PPLSparsity, ppl_sparsity, threshold_runner
from patchclamp.measure.language.sinks import AttentionSinks
from patchclamp.nouns.measure import Measure
from patchclamp.nouns.tasks.wordnet import SUPERSENSES, LabelledText, WordNet

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
