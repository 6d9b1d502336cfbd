"""Truth: systems whose answer is known, to practise on and to hold every method against."""

# Each of these files registers its systems; the order is that of tables.
from patchclamp.truth import (
    controls,
    controls_grid,
    controls_inversion,
    gates,
    induction,
    modular_entries,
    planted,
    populations,
    rasp_truths,
    strict_entries,
    superposition,
    transformers,
)
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
    "transformers",
    "twin",
]

controls.register_twins()
