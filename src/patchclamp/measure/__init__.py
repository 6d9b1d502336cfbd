"""measure: how do units behave?

`METHODS` names the measures: classes with ``update(activity, samples)``, ``merge(other)`` and ``result()``,
each one pass over the data, in constant memory where not said otherwise.
"""

from __future__ import annotations

from patchclamp.measure.activity.coactivation import Coactivation
from patchclamp.measure.activity.codes import ActivationCodes
from patchclamp.measure.activity.complexity import LempelZiv
from patchclamp.measure.activity.exemplars import Exemplars
from patchclamp.measure.activity.firing import DeadUnits, FiringRate
from patchclamp.measure.activity.importance import Importance
from patchclamp.measure.activity.information import AdaptiveInformation
from patchclamp.measure.activity.massive import MassiveActivations
from patchclamp.measure.activity.moments import Moments
from patchclamp.measure.activity.participation import TuningSpectrum
from patchclamp.measure.activity.patterns import ActivationPatterns
from patchclamp.measure.activity.quantiles import Quantiles
from patchclamp.measure.activity.sdr import SparseOverlap
from patchclamp.measure.activity.sparsity import Sparsity
from patchclamp.measure.brain.diffusion import DiffusionEntropy
from patchclamp.measure.brain.psth import PSTH
from patchclamp.measure.brain.reliability import Reliability
from patchclamp.measure.labels.discrimination import Discrimination
from patchclamp.measure.labels.selectivity import Selectivity
from patchclamp.measure.language.cett import CETT
from patchclamp.measure.language.sinks import AttentionSinks
from patchclamp.nouns.measure import Measure

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
    "ActivationPatterns",
    "AdaptiveInformation",
    "AttentionSinks",
    "Coactivation",
    "DeadUnits",
    "Discrimination",
    "Exemplars",
    "FiringRate",
    "Importance",
    "LempelZiv",
    "MassiveActivations",
    "Measure",
    "Moments",
    "Quantiles",
    "Selectivity",
    "Sparsity",
]
