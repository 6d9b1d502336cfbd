"""Detection: does the description tell windows on which the unit is active from windows on which it is not?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from patchclamp.base.areas import roc_auc
from patchclamp.describe.description import Description
from patchclamp.describe.scoring.base import (
    Array,
    DescriptionScore,
    Judge,
    PredicateJudge,
    check_examples,
    scored,
    weighted_balance,
)
from patchclamp.describe.windows import Examples

__all__ = ["detection"]


def detection(
    description: Description,
    examples: Examples,
    judge: Judge | None = None,
    *,
    others: Sequence[Description] = (),
    n_boot: int = 1000,
    seed: int = 0,
) -> DescriptionScore:
    """Balanced accuracy of a judge who reads the description and windows without marks.

    Parameters
    ----------
    description, examples
        The description; windows of documents that did not make it (`windows_of`, the second of its two).
    judge
        Default: the description's predicate is run.
    others
        Descriptions of other units, judged on the same windows: the control.
    n_boot, seed
        Resamples of groups.

    Returns
    -------
    DescriptionScore
        `facts` holds auc (from the judge's probabilities), f1, sensitivity, specificity, and the sensitivity on the
        windows with the largest and the smallest tenth of peaks.

    Raises
    ------
    PatchclampError
        When a document of the examples made the description.

    References
    ----------
    Paulo et al. (2024), Automatically interpreting millions of features in large language models.
    """
    judge = PredicateJudge() if judge is None else judge
    windows = examples.all
    check_examples(description, windows, "detection")
    positive = np.arange(len(windows)) < len(examples.active)
    pieces = [w.tokens for w in windows]
    answers = judge.detect(description, pieces)
    control = [judge.detect(other, pieces) for other in others]
    return scored(
        "detection",
        description,
        judge.name,
        answers,
        lambda a, w: weighted_balance(a, positive, w),
        [w.group for w in windows],
        others=control,
        n_boot=n_boot,
        seed=seed,
        facts=_facts(answers, positive),
    )


def _facts(answers: Array, positive: np.ndarray) -> dict[str, float]:
    fine = np.isfinite(answers)
    said, own = answers[fine] >= 0.5, positive[fine]
    hits, false, missed = (said & own).sum(), (said & ~own).sum(), (~said & own).sum()
    found = answers[positive]
    tenth = max(1, len(found) // 10)

    def share(part: Array) -> float:
        part = part[np.isfinite(part)]
        return float((part >= 0.5).mean()) if len(part) else np.nan

    return {
        "auc": float(roc_auc(answers[fine], own)),
        "f1": float(2 * hits / (2 * hits + false + missed)) if hits + false + missed else np.nan,
        "sensitivity": share(found),
        "specificity": 1 - share(answers[~positive]),
        "sensitivity_top_tenth": share(found[:tenth]),
        "sensitivity_low_tenth": share(found[-tenth:]),
    }
