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
from patchclamp.truth import gates, induction, rasp_truths, controls, controls_grid, controls_inversion  # isort: skip
from patchclamp.truth import planted, populations, strict_entries, modular_entries, superposition  # isort: skip
from patchclamp.truth import functions  # isort: skip

from patchclamp.truth.controls import twin  # isort: skip

__all__ = [
    "TRUTHS",
    "BlackBox",
    "Circuit",
    "Planted",
    "Population",
    "System",
    "Truth",
    "controls",
    "controls_grid",
    "controls_inversion",
    "functions",
    "gates",
    "induction",
    "load_truth",
    "modular_entries",
    "planted",
    "populations",
    "rasp_truths",
    "register",
    "strict_entries",
    "superposition",
    "twin",
]

controls.register_twins()
