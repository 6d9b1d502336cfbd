"""`joint_effect`: units together beside each of them alone; where they stand in for each other, the sum is not the whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.progress import Progress
from patchclamp.base.statistics import enough_sets
from patchclamp.draw.cards import shown
from patchclamp.intervene.effect import effects
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.scores import Effect
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.reference import Reference

SMALL = 0.2
RULE = (
    f"redundant: the interval of the joint effect excludes zero, and the sizes of the single effects add up to less "
    f"than {SMALL:.0%} of it"
)


@shown
@dataclass(frozen=True)
class JointEffect:
    """Units changed together and one by one, on the same items.

    `interaction` is the joint effect minus the sum of the single ones, with its paired interval: above zero
    the units back each other up (a single loss is made good), below zero they work in series (one loss is enough).
    `redundant` is `RULE`.
    """

    joint: Effect
    single: tuple[Effect, ...]
    interaction: Estimate
    redundant: bool

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "joint": self.joint.to_json(),
            "single": [one.to_json() for one in self.single],
            "interaction": self.interaction.value,
            "low": self.interaction.low,
            "high": self.interaction.high,
            "redundant": self.redundant,
            "rule": RULE,
        }

    def __str__(self) -> str:
        total = sum(one.estimate.value for one in self.single)
        i = self.interaction
        return (
            f"together {self.joint.estimate.value:+.3f}, sum of {len(self.single)} alone {total:+.3f}, interaction "
            f"{i.value:+.3f} {i.span('+.3f')}" + ("; redundant" * self.redundant)
        )


def joint_effect(
    subject: Subject,
    task: TaskLike,
    interventions: Intervention,
    control: Literal["matched"] | None = "matched",
    *,
    n_control: int | None = None,
    seed: int = 0,
    reference: TaskLike | Reference | None = None,
    batch_size: int = 64,
    n_boot: int = 1000,
    progress: Progress | None = None,
) -> JointEffect:
    """Measure an intervention on all its units together and on each alone.

    Single effects miss what units do in each other's place: of two units joined by OR, either alone has no effect and
    both together have the whole. All sets are measured on the same items. The units alone share one null, and their
    p-values are adjusted by Holm; the joint effect is a test of its own.

    Parameters
    ----------
    interventions
        One intervention on at least two units.
    subject, task, control, n_control, seed, reference, batch_size, n_boot, progress
        As for `effect`.

    Raises
    ------
    PatchclampError
        For an intervention on fewer than two units.
    """
    change = interventions
    if not isinstance(change, Intervention) or change.units.count < 2:
        raise PatchclampError("joint_effect: give one intervention on at least two units")
    source = Reference.of(subject, reference, task, batch_size)
    alone = [[change.on(one)] for one in change.units.each()]
    measure = partial(
        effects,
        subject,
        task,
        seed=seed,
        reference=source,
        batch_size=batch_size,
        n_boot=n_boot,
        progress=progress,
    )
    (joint,) = measure([[change]], control, n_control=n_control)
    most = None if n_control is None else max(n_control, enough_sets(len(alone)))
    single = measure(alone, control and "shared", n_control=most)
    excess = np.asarray(joint.per_item) - np.sum([one.per_item for one in single], axis=0)
    sizes, whole = sum(abs(one.estimate.value) for one in single), joint.estimate
    return JointEffect(
        joint,
        tuple(single),
        Estimate.of_mean(excess, joint.groups, n_boot=n_boot, seed=seed),
        bool(whole.clear and sizes < SMALL * abs(whole.value)),
    )
