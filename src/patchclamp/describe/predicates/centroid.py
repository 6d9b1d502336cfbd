"""Sentences near a point in the space of an embedding of sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.describe.predicates.base import Predicate
from patchclamp.describe.tokens import Mask, Tokens

__all__ = ["Centroid"]


@dataclass(frozen=True)
class Centroid(Predicate):
    """The token's sentence lies near a point: its vector (of length 1) times `vector` is above `threshold`.

    Parameters
    ----------
    vector
        (d,) in the space of the function that `Tokens.embed` holds; another function gives another meaning.
    threshold
        The least product.
    example
        The sentence that lies nearest among those that made it, for a reader.
    """

    kind = "centroid"
    clause = True
    vector: tuple[float, ...]
    threshold: float
    example: str = ""

    def evaluate(self, tokens: Tokens) -> Mask:
        vectors = tokens.sentence_vectors
        if vectors.shape[1] != len(self.vector):
            raise PatchclampError(
                f"predicate centroid: has {len(self.vector)} dimensions, Tokens.embed gives {vectors.shape[1]}"
            )
        near: Mask = (vectors @ np.asarray(self.vector)) > self.threshold
        return near[tokens.sentence_of]

    def plural(self) -> str:
        shown = self.example if len(self.example) <= 60 else self.example[:57] + "..."
        return f"in sentences like “{shown}”" if shown else "in sentences near a point of the embedding"

    @property
    def length(self) -> float:
        return 2.0
