"""Executable predicates over tokenised text: plain data, English, and a yes or no for every token."""

from __future__ import annotations

from patchclamp.describe.predicates.base import Predicate, predicate_from_json
from patchclamp.describe.predicates.centroid import Centroid
from patchclamp.describe.predicates.combine import After, And, Near, Not, Or
from patchclamp.describe.predicates.patterns import PATTERNS, Pattern, Position
from patchclamp.describe.predicates.regex import Affix, Regex
from patchclamp.describe.predicates.sets import NGram, TokenSet, WordSet
from patchclamp.describe.predicates.wordnet import Hypernym, Supersense

__all__ = [
    "PATTERNS",
    "Affix",
    "After",
    "And",
    "Centroid",
    "Hypernym",
    "NGram",
    "Near",
    "Not",
    "Or",
    "Pattern",
    "Position",
    "Predicate",
    "Regex",
    "Supersense",
    "TokenSet",
    "WordSet",
    "predicate_from_json",
]
