"""Truth: systems whose answer is known, to practise on and to hold every method against."""

from patchclamp.truth import planted
from patchclamp.truth.base import (
    TRUTHS,
    BlackBox,
    Circuit,
    Planted,
    Population,
    System,
    Truth,
    load_truth,
    register,
)

__all__ = [
    "TRUTHS",
    "BlackBox",
    "Circuit",
    "Planted",
    "Population",
    "System",
    "Truth",
    "load_truth",
    "planted",
    "register",
]
