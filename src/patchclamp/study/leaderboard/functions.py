"""describe on black-box functions: does what it says predict what it was not shown?"""

from __future__ import annotations

from typing import Any

import numpy as np

from patchclamp.describe.functions import Answer, Function, Query, score_describer
from patchclamp.study.leaderboard.base import Adaptor, Outcome, Variant
from patchclamp.truth.base import BlackBox, Truth


def ask(method: Any, system: BlackBox, variant: Variant, seed: int) -> Answer:
    """Let a describer ask."""
    answer: Answer = method(Query(system.data["function"], seed))
    return answer


def judge_function(
    name: str, result: Answer, system: BlackBox, variant: Variant, truth: Truth, seed: int
) -> Outcome:
    """Tokens: share of new texts on which every answer is right. Numbers: 1 - NMSE, at least 0. Success as in `score_describer`."""
    function: Function = system.data["function"]
    row = score_describer(lambda query: result, {function.name: function}, seed + 1).iloc[0]
    said = f"said: {result.text}" if result.runs is not None else "said nothing that runs"
    measure = "texts right" if function.domain == "tokens" else "1 - NMSE"
    value = row.exact if function.domain == "tokens" else 1 - row.nmse
    verdict = "recovered" if row.success else "missed"
    # What says nothing that runs, or less than nothing, recovers nothing.
    recovery = float(value) if np.isfinite(value) and value > 0 else 0.0
    return Outcome(verdict, measure, recovery, note=said)  # type: ignore[arg-type]


DESCRIBE = Adaptor("describe", "function", lambda name, method, system: [Variant()], ask, judge_function)
