"""Can we believe it? Faithfulness of sets of units, agreement of estimates with exact effects."""

from __future__ import annotations

from patchclamp.evaluate.agreement import agreement, compare
from patchclamp.evaluate.faithfulness import Faithfulness, faithfulness

METHODS = {"faithfulness": faithfulness, "agreement": agreement}

__all__ = ["METHODS", "Faithfulness", "agreement", "compare", "faithfulness"]
