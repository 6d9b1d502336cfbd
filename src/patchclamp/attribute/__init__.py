"""Attribute: a score for every unit, from exact patching down to estimates of one backward pass."""

from patchclamp.attribute.activation_patching import activation_patching
from patchclamp.attribute.attribution_patching import attribution_patching
from patchclamp.attribute.direct_logit_attribution import direct_logit_attribution
from patchclamp.attribute.integrated_gradients import integrated_gradients
from patchclamp.attribute.partial_gradients import partial_gradients
from patchclamp.attribute.relevance_patching import relevance_patching
from patchclamp.base.estimators import DEFAULT, ESTIMATORS
from patchclamp.subjects.clamp.relevance_rules import RULES, relevance_rules

# (subject, task, sites) -> Scores
METHODS = {
    "activation_patching": activation_patching,
    "attribution_patching": attribution_patching,
    "integrated_gradients": integrated_gradients,
    "partial_gradients": partial_gradients,
    "relevance_patching": relevance_patching,
    "direct_logit_attribution": direct_logit_attribution,
}

__all__ = [
    "DEFAULT",
    "ESTIMATORS",
    "METHODS",
    "RULES",
    "activation_patching",
    "attribution_patching",
    "direct_logit_attribution",
    "integrated_gradients",
    "partial_gradients",
    "relevance_patching",
    "relevance_rules",
]
