"""Can we believe it? Circuits, attributions, subspaces and selections, held against what chance and exact effects give."""

from __future__ import annotations

from patchclamp.evaluate.circuits.areas import areas
from patchclamp.evaluate.circuits.completeness import completeness
from patchclamp.evaluate.circuits.equivalence import equivalence
from patchclamp.evaluate.circuits.faithfulness import faithfulness
from patchclamp.evaluate.circuits.minimality import minimality
from patchclamp.evaluate.circuits.redundancy import redundancy
from patchclamp.evaluate.circuits.sufficiency import path_sufficiency, sufficiency
from patchclamp.evaluate.scores.agreement import agreement
from patchclamp.evaluate.scores.auroc import auroc
from patchclamp.evaluate.scores.calibration import calibration
from patchclamp.evaluate.scores.comprehensiveness import comprehensiveness
from patchclamp.evaluate.scores.explained import explained_variance
from patchclamp.evaluate.scores.insertion_deletion import insertion_deletion
from patchclamp.evaluate.scores.matched_null import matched_null
from patchclamp.evaluate.scores.multiplicity import false_discovery, max_statistic
from patchclamp.evaluate.scores.randomisation import randomisation
from patchclamp.evaluate.scores.rank_agreement import rank_agreement
from patchclamp.evaluate.scores.stability import stability
from patchclamp.evaluate.subspaces.illusion import illusion
from patchclamp.evaluate.subspaces.row_space import row_space
from patchclamp.subjects.clamp.bench import Bench

# Each asks a question of its own, with a signature of its own.
TOOLS = {
    "faithfulness": faithfulness,
    "areas": areas,
    "completeness": completeness,
    "minimality": minimality,
    "equivalence": equivalence,
    "sufficiency": sufficiency,
    "path_sufficiency": path_sufficiency,
    "auroc": auroc,
    "insertion_deletion": insertion_deletion,
    "comprehensiveness": comprehensiveness,
    "agreement": agreement,
    "rank_agreement": rank_agreement,
    "calibration": calibration,
    "row_space": row_space,
    "illusion": illusion,
    "redundancy": redundancy,
    "stability": stability,
    "matched_null": matched_null,
    "max_statistic": max_statistic,
    "false_discovery": false_discovery,
    "randomisation": randomisation,
    "explained_variance": explained_variance,
}

__all__ = [
    "TOOLS",
    "Bench",
    "agreement",
    "areas",
    "auroc",
    "calibration",
    "completeness",
    "comprehensiveness",
    "equivalence",
    "faithfulness",
    "illusion",
    "insertion_deletion",
    "matched_null",
    "max_statistic",
    "minimality",
    "randomisation",
    "redundancy",
    "row_space",
    "stability",
    "sufficiency",
]
