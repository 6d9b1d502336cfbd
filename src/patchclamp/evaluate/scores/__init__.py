"""scores: can a table of scores per unit be believed? Agreement, calibration, controls, stability."""

from __future__ import annotations

from patchclamp.evaluate.scores.agreement import agreement, compare
from patchclamp.evaluate.scores.auroc import Auroc, auroc
from patchclamp.evaluate.scores.calibration import Calibration, calibration
from patchclamp.evaluate.scores.comprehensiveness import Comprehensiveness, comprehensiveness
from patchclamp.evaluate.scores.explained import Explained, explained_variance
from patchclamp.evaluate.scores.insertion_deletion import InsertionDeletion, insertion_deletion
from patchclamp.evaluate.scores.matched_null import matched_null
from patchclamp.evaluate.scores.multiplicity import benjamini_yekutieli, false_discovery, max_statistic
from patchclamp.evaluate.scores.randomisation import Randomisation, randomisation
from patchclamp.evaluate.scores.rank_agreement import rank_agreement
from patchclamp.evaluate.scores.stability import Stability, stability, stability_of_sets

__all__ = [
    "Auroc",
    "Calibration",
    "Comprehensiveness",
    "Explained",
    "InsertionDeletion",
    "Randomisation",
    "Stability",
    "agreement",
    "auroc",
    "benjamini_yekutieli",
    "calibration",
    "compare",
    "comprehensiveness",
    "explained_variance",
    "false_discovery",
    "insertion_deletion",
    "matched_null",
    "max_statistic",
    "randomisation",
    "rank_agreement",
    "stability",
    "stability_of_sets",
]
