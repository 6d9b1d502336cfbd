"""Truth: systems whose answer is known, to practise on and to hold every method against."""

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

# Each of these files registers its systems; the order is that of tables.
from patchclamp.truth import gates, induction, rasp_truths  # isort: skip
from patchclamp.truth import planted, populations  # isort: skip

__all__ = [
    "TRUTHS",
    "BlackBox",
    "Circuit",
    "Planted",
    "Population",
    "System",
    "Truth",
    "gates",
    "induction",
    "load_truth",
    "planted",
    "populations",
    "rasp_truths",
    "register",
]
