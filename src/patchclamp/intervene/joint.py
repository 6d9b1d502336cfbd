"""`joint_effect`: units together beside each of them alone; where they stand in for each other, the sum is not the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.progress import Progress
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.intervene.effect import FEWEST, effects
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


@dataclass(frozen=True)
class JointEffect:
    """Units changed together and one by one, on the same items.

    `interaction` is the joint effect minus the sum of the single ones, with its paired bootstrap interval: above zero
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
            f"{i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}]" + ("; redundant" * self.redundant)
        )


def joint_effect(
    subject: Subject,
    task: TaskLike,
    interventions: Intervention,
    control: Literal["matched"] | None = "matched",
    *,
    n_control: int = FEWEST,
    seed: int = 0,
    reference: TaskLike | Reference | None = None,
    batch_size: int = 64,
    n_boot: int = 1000,
    progress: Progress | None = None,
) -> JointEffect:
    """Measure an intervention on all its units together and on each alone.

    Single effects miss what units do in each other's place: of two units joined by OR, either alone has no effect and
    both together have the whole. All sets are measured on the same items; p-values are adjusted by Holm over them.

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
    sets = [[change], *([change.on(one)] for one in change.units.each())]
    joint, *single = effects(
        subject, task, sets, control, n_control=n_control, seed=seed, reference=source,
        batch_size=batch_size, n_boot=n_boot, progress=progress,
    )  # fmt: skip
    alone = np.sum([one.per_item for one in single], axis=0)
    excess = np.asarray(joint.per_item) - alone
    low, high = bootstrap_interval(excess, task.groups, n_boot=n_boot, seed=seed)
    sizes, whole = sum(abs(one.estimate.value) for one in single), joint.estimate
    clear = whole.low is not None and whole.high is not None and (whole.low > 0 or whole.high < 0)
    return JointEffect(
        joint,
        tuple(single),
        Estimate(float(excess.mean()), float(low), float(high), len(excess)),
        bool(clear and sizes < SMALL * abs(whole.value)),
    )
