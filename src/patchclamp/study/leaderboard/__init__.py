"""The leaderboard: every method of a verb against every truth that fits, in one table.

`leaderboard` runs it, `compare` holds two runs against each other, `register` (of `patchclamp.truth`) adds a system,
``leaderboard(methods={"mine": fn})`` adds a method. `ADAPTORS` says how a verb's methods are called on a kind of truth
and how their results are scored.
"""

from __future__ import annotations

from patchclamp.study.leaderboard.base import Adaptor, Outcome, Row, Variant
from patchclamp.study.leaderboard.board import Board, compare
from patchclamp.study.leaderboard.page import render
from patchclamp.study.leaderboard.runner import leaderboard
from patchclamp.study.leaderboard.table import ADAPTORS
from patchclamp.truth import Truth, register

__all__ = [
    "ADAPTORS",
    "Adaptor",
    "Board",
    "Outcome",
    "Row",
    "Truth",
    "Variant",
    "compare",
    "leaderboard",
    "register",
    "render",
]
