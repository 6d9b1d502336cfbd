"""circuits: is a set of units what carries the behaviour? Faithfulness, completeness, minimality, sufficiency."""

from __future__ import annotations

from patchclamp.evaluate.circuits.areas import Areas, area_table, areas
from patchclamp.evaluate.circuits.completeness import Completeness, completeness
from patchclamp.evaluate.circuits.equivalence import Equivalence, equivalence, sign_equivalence
from patchclamp.evaluate.circuits.faithfulness import Faithfulness, faithfulness
from patchclamp.evaluate.circuits.minimality import Minimality, minimality
from patchclamp.evaluate.circuits.paths import on_paths, path_connected
from patchclamp.evaluate.circuits.redundancy import Redundancy, redundancy
from patchclamp.evaluate.circuits.sufficiency import Sufficiency, path_sufficiency, sufficiency
from patchclamp.subjects.clamp.bench import Bench

__all__ = [
    "Areas",
    "Bench",
    "Completeness",
    "Equivalence",
    "Faithfulness",
    "Minimality",
    "Redundancy",
    "Sufficiency",
    "area_table",
    "areas",
    "completeness",
    "equivalence",
    "faithfulness",
    "minimality",
    "on_paths",
    "path_connected",
    "path_sufficiency",
    "redundancy",
    "sign_equivalence",
    "sufficiency",
]
