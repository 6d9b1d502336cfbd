"""Can we believe it? Faithfulness of sets of units, agreement of estimates with exact effects, what a subspace moves."""

from __future__ import annotations

from patchclamp.evaluate.agreement import agreement, compare
from patchclamp.evaluate.faithfulness import Faithfulness, faithfulness
from patchclamp.evaluate.row_space import RowSpace, row_space

METHODS = {"faithfulness": faithfulness, "agreement": agreement, "row_space": row_space}

__all__ = [
    "METHODS",
    "Faithfulness",
    "RowSpace",
    "agreement",
    "compare",
    "faithfulness",
    "row_space",
]
