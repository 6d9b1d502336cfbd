"""What happens if we change them? Effects of interventions, with controls."""

from __future__ import annotations

from patchclamp.intervene.controls import matched_sets
from patchclamp.intervene.effect import effect
from patchclamp.subjects.reference import Reference

METHODS = {"effect": effect}

__all__ = ["METHODS", "Reference", "effect", "matched_sets"]
