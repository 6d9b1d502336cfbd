"""Scores of descriptions on examples that did not make them."""

from __future__ import annotations

from collections.abc import Callable

from patchclamp.describe.scoring.base import DescriptionScore, Judge, PredicateJudge
from patchclamp.describe.scoring.detection import detection
from patchclamp.describe.scoring.embedding import embedding
from patchclamp.describe.scoring.fuzzing import fuzzing
from patchclamp.describe.scoring.intervention import Steered, intervention
from patchclamp.describe.scoring.simulation import simulation

SCORES: dict[str, Callable[..., DescriptionScore]] = {
    "detection": detection,
    "fuzzing": fuzzing,
    "simulation": simulation,
    "embedding": embedding,
    "intervention": intervention,
}

__all__ = [
    "SCORES",
    "DescriptionScore",
    "Judge",
    "PredicateJudge",
    "Steered",
    "detection",
    "embedding",
    "fuzzing",
    "intervention",
    "simulation",
]
