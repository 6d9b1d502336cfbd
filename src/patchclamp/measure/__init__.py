"""measure: how do units behave?

`METHODS` names the measures: classes with ``update(activity, samples)``, ``merge(other)`` and ``result()``,
each one pass over the data, in constant memory where not said otherwise.
"""

from __future__ import annotations

from patchclamp._wordnet import SUPERSENSES, LabelledText, WordNet
from patchclamp.measure.base import Measure
from patchclamp.measure.cett import CETT, cett, cett_threshold
from patchclamp.measure.coactivation import Coactivation
from patchclamp.measure.decoding import Decoded, decode_behaviour
from patchclamp.measure.exemplars import Exemplars, Window, contexts
from patchclamp.measure.firing import DeadUnits, FiringRate
from patchclamp.measure.importance import Importance
from patchclamp.measure.massive import MassiveActivations
from patchclamp.measure.moments import Moments
from patchclamp.measure.ppl import PPLSparsity, ppl_sparsity, threshold_runner
from patchclamp.measure.psth import PSTH, plot_psth, psth, raster
from patchclamp.measure.quantiles import Quantiles
from patchclamp.measure.reliability import Reliability, plot_reliability, split_half
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
    PSTH,
    Reliability,
)
METHODS: dict[str, type[Measure]] = {measure.name: measure for measure in _MEASURES}

__all__ = [
    "CETT",
    "METHODS",
    "PSTH",
    "SUPERSENSES",
    "AttentionSinks",
    "Coactivation",
    "DeadUnits",
    "Decoded",
    "Exemplars",
    "FiringRate",
    "Importance",
    "LabelledText",
    "MassiveActivations",
    "Measure",
    "Moments",
    "PPLSparsity",
    "Quantiles",
    "Reliability",
    "Selectivity",
    "Sparsity",
    "SpikeTriggered",
    "Tuning",
    "Window",
    "WordNet",
    "cett",
    "cett_threshold",
    "contexts",
    "decode_behaviour",
    "plot_psth",
    "plot_reliability",
    "ppl_sparsity",
    "psth",
    "raster",
    "spike_triggered_average",
    "split_half",
    "threshold_runner",
    "tuning",
]
