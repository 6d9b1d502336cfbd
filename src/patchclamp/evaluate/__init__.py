"""Can we believe it? Circuits, attributions, subspaces and selections, held against what chance and exact effects give."""

from __future__ import annotations

from patchclamp.evaluate.circuits.areas import Areas, areas, check_held_out
from patchclamp.evaluate.circuits.completeness import Completeness, completeness
from patchclamp.evaluate.circuits.equivalence import Equivalence, equivalence, sign_equivalence
from patchclamp.evaluate.circuits.faithfulness import Faithfulness, faithfulness
from patchclamp.evaluate.circuits.minimality import Minimality, minimality
from patchclamp.evaluate.circuits.paths import path_connected
from patchclamp.evaluate.circuits.redundancy import Redundancy, redundancy
from patchclamp.evaluate.circuits.sufficiency import Sufficiency, path_sufficiency, sufficiency
from patchclamp.evaluate.scores.agreement import agreement, compare
from patchclamp.evaluate.scores.auroc import Auroc, auroc
from patchclamp.evaluate.scores.calibration import Calibration, calibration
from patchclamp.evaluate.scores.comprehensiveness import Comprehensiveness, comprehensiveness
from patchclamp.evaluate.scores.explained import Explained, explained_variance
from patchclamp.evaluate.scores.insertion_deletion import InsertionDeletion, insertion_deletion
from patchclamp.evaluate.scores.matched_null import MatchedNull, matched_null
from patchclamp.evaluate.scores.multiplicity import benjamini_yekutieli, false_discovery, max_statistic
from patchclamp.evaluate.scores.randomisation import Randomisation, randomisation, restored
from patchclamp.evaluate.scores.rank_agreement import rank_agreement
from patchclamp.evaluate.scores.stability import Stability, stability, stability_of_sets
from patchclamp.evaluate.subspaces.illusion import Illusion, illusion
from patchclamp.evaluate.subspaces.row_space import RowSpace, row_space

METHODS = {
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
    "METHODS",
    "Areas",
    "Auroc",
    "Calibration",
    "Completeness",
    "Comprehensiveness",
    "Equivalence",
    "Explained",
    "Faithfulness",
    "Illusion",
    "InsertionDeletion",
    "MatchedNull",
    "Minimality",
    "Randomisation",
    "Redundancy",
    "RowSpace",
    "Stability",
    "Sufficiency",
    "agreement",
    "areas",
    "auroc",
    "benjamini_yekutieli",
    "calibration",
    "check_held_out",
    "compare",
    "completeness",
    "comprehensiveness",
    "equivalence",
    "explained_variance",
    "faithfulness",
    "false_discovery",
    "illusion",
    "insertion_deletion",
    "matched_null",
    "max_statistic",
    "minimality",
    "path_connected",
    "path_sufficiency",
    "randomisation",
    "rank_agreement",
    "redundancy",
    "restored",
    "row_space",
    "sign_equivalence",
    "stability",
    "stability_of_sets",
    "sufficiency",
]
