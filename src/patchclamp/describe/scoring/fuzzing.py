"""Fuzzing: does the description tell the tokens on which the unit is active from other tokens?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from patchclamp.base.areas import roc_auc
from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.seeds import numpy_rng
from patchclamp.describe.description import Description
from patchclamp.describe.scoring.base import (
    DescriptionScore,
    Judge,
    PredicateJudge,
    check_examples,
    scored,
    weighted_balance,
)
from patchclamp.describe.windows import Examples, TokenWindow

__all__ = ["fuzzing"]


def fuzzing(
    description: Description,
    examples: Examples,
    judge: Judge | None = None,
    *,
    wrong: str = "silent",
    level: float = 0.3,
    others: Sequence[Description] = (),
    n_boot: int = 1000,
    seed: int = 0,
) -> DescriptionScore:
    """Balanced accuracy of a judge who is shown marked tokens and says whether they fit the description.

    Right marks are tokens of active windows above ``level x largest`` (at least the window's strongest). Wrong marks
    are as many random tokens as right ones on average: of silent windows (``wrong="silent"``), or tokens of the
    active windows on which the unit is not active (``wrong="same"``), which a description of the windows' topic alone
    cannot tell apart.

    Parameters
    ----------
    description, examples, judge, others, n_boot, seed
        As in `detection`.
    wrong
        ``"silent"`` or ``"same"``.
    level
        Share of the largest activity from which a token is marked.

    Returns
    -------
    DescriptionScore
    """
    check_choice("wrong", wrong, ("silent", "same"))
    judge = PredicateJudge() if judge is None else judge
    check_examples(description, examples.all, "fuzzing")
    right = [_marks(w, level * examples.largest) for w in examples.active]
    count = math.ceil(sum(sum(m) for m in right) / len(right))
    rng = numpy_rng([seed, 4])
    pool = examples.silent if wrong == "silent" else examples.active
    drawn = [(w, _random(w, count, examples.threshold, rng)) for w in pool]
    false = [(w, m) for w, m in drawn if any(m)]
    if not false:
        raise PatchclampError(
            f"{description.unit}: no window has a token on which it is silent; use longer windows"
        )
    windows = [*examples.active, *(w for w, _ in false)]
    marks = [*right, *(m for _, m in false)]
    positive = np.arange(len(windows)) < len(right)
    pieces = [w.tokens for w in windows]
    answers = judge.fuzz(description, pieces, marks)
    fine = np.isfinite(answers)
    return scored(
        "fuzzing",
        description,
        judge.name,
        answers,
        lambda a, w: weighted_balance(a, positive, w),
        [w.group for w in windows],
        others=[judge.fuzz(other, pieces, marks) for other in others],
        n_boot=n_boot,
        seed=seed,
        facts={
            "wrong": wrong,
            "level": level,
            "marks": count,
            "auc": float(roc_auc(answers[fine], positive[fine])),
        },
    )


def _marks(window: TokenWindow, cut: float) -> list[bool]:
    least = min(cut, window.peak)
    return [value >= least for value in window.activity]


def _random(window: TokenWindow, count: int, threshold: float, rng: np.random.Generator) -> list[bool]:
    """Marks on `count` random tokens on which the unit is silent (on all of them where there are fewer)."""
    silent = [i for i, value in enumerate(window.activity) if value <= threshold]
    chosen = {silent[i] for i in rng.permutation(len(silent))[:count]}
    return [i in chosen for i in range(len(window.activity))]
