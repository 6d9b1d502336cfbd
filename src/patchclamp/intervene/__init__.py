"""What happens if we change them? Effects of interventions, with controls."""

from __future__ import annotations

from patchclamp.intervene.effect import effect, effects
from patchclamp.intervene.joint import JointEffect, joint_effect
from patchclamp.intervene.steer import Steering, match_kl, steer
from patchclamp.subjects.clamp.controls import control_changes, matched_sets
from patchclamp.subjects.clamp.reference import Reference

METHODS = {"effect": effect, "joint_effect": joint_effect, "steer": steer}

__all__ = [
    "METHODS",
    "JointEffect",
    "Reference",
    "Steering",
    "control_changes",
    "effect",
    "effects",
    "joint_effect",
    "match_kl",
    "matched_sets",
    "steer",
]
