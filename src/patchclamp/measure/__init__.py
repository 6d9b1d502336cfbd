"""measure: how do units behave?

`METHODS` names the measures: classes with ``update(activity, samples)``, ``merge(other)`` and ``result()``,
each one pass over the data, in constant memory where not said otherwise.
"""

from __future__ import annotations

from patchclamp._wordnet import SUPERSENSES, LabelledText, WordNet
from patchclamp.measure.base import Measure
from patchclamp.measure.cett import CETT, cett, cett_threshold
from patchclamp.measure.coactivation import Coactivation
from patchclamp.measure.exemplars import Exemplars, Window, contexts
from patchclamp.measure.firing import DeadUnits, FiringRate
from patchclamp.measure.importance import Importance
from patchclamp.measure.massive import MassiveActivations
from patchclamp.measure.moments import Moments
from patchclamp.measure.ppl import PPLSparsity, ppl_sparsity, threshold_runner
from patchclamp.measure.quantiles import Quantiles
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
)
METHODS: dict[str, type[Measure]] = {measure.name: measure for measure in _MEASURES}

__all__ = [
    "CETT",
    "METHODS",
    "SUPERSENSES",
    "AttentionSinks",
    "Coactivation",
    "DeadUnits",
    "Exemplars",
    "FiringRate",
    "Importance",
    "LabelledText",
    "MassiveActivations",
    "Measure",
    "Moments",
    "PPLSparsity",
    "Quantiles",
    "Selectivity",
    "Sparsity",
    "Window",
    "WordNet",
    "cett",
    "cett_threshold",
    "contexts",
    "ppl_sparsity",
    "threshold_runner",
]
