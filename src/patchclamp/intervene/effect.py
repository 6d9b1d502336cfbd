"""`effect`, `effects`: what interventions do to a task's metric, beside matched random units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null, adjusted
from patchclamp.base.progress import Progress
from patchclamp.base.statistics import enough_sets, holm
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.scores import Effect
from patchclamp.nouns.tasks.encode import UNNAMED
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Units
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.controls import Change, control_changes
from patchclamp.subjects.clamp.reference import Reference
from patchclamp.subjects.clamp.trial import Trial, run_trial

FEWEST = 20


def effect(
    subject: Subject,
    task: TaskLike,
    interventions: Intervention | Sequence[Intervention],
    control: Literal["matched"] | None = "matched",
    *,
    n_control: int = FEWEST,
    seed: int = 0,
    reference: TaskLike | Reference | None = None,
    batch_size: int = 64,
    n_boot: int = 1000,
    progress: Progress | None = None,
) -> Effect:
    """Measure the effect of an intervention, or of several that act together, on a task, with interval and control.

    The estimate is mean over items of m(as it is) - m(changed): positive means that the units as they were raised the
    metric. The interval is a paired bootstrap-t over items (over groups, where items have them); below 8 groups there is
    none. The control makes the same change to random sets of the units nearest in layer and activity, and says how near
    they are (for directions: along random directions of the same norm); p = (1 + #{|control| >= |estimate|}) / (R + 1), which cannot fall below 1 / (R + 1).

    Parameters
    ----------
    subject, task
        The task's items should not be those that chose the units.
    interventions
        One, or a list that acts together; several sets, each with its effect, are for `effects`.
    control
        ``"matched"``: beside random sets. None for no control.
    n_control
        Number of random sets, at least 20.
    seed
        Of bootstrap and random sets; the same seed gives the same result whatever the batch size (up to rounding).
    reference
        Task (or `Reference`) for means, replacement values and activity, such as the training split. By default the other
        items of the task that these were selected from; where there are none, each item's own value is left out of its
        mean. A mean of no other item is refused: it would change nothing.

    Raises
    ------
    PatchclampError
        Where the change moved no value on any item, such as a mean by template at positions where all items of a template
        have the same tokens up to there. Units that were 0 and stayed so are no such case: the result says so (`idle`).

    Examples
    --------
    >>> from patchclamp import Intervention, load_task, open_subject
    >>> lm = open_subject("smollm2")                                            # doctest: +SKIP
    >>> ioi = load_task("ioi", lm.tokenizer)                                    # doctest: +SKIP
    >>> print(effect(lm, ioi.split("test"), Intervention("head.23[3]", "mean"),
    ...              reference=ioi.split("train")))                             # doctest: +SKIP
    """
    return effects(
        subject, task, [interventions], control, n_control=n_control, seed=seed, reference=reference,
        batch_size=batch_size, n_boot=n_boot, progress=progress,
    )[0]  # fmt: skip


def effects(
    subject: Subject,
    task: TaskLike,
    sets: Sequence[Intervention | Sequence[Intervention]],
    control: Literal["matched", "shared"] | None = "matched",
    *,
    n_control: int | None = None,
    seed: int = 0,
    reference: TaskLike | Reference | None = None,
    batch_size: int = 64,
    n_boot: int = 1000,
    progress: Progress | None = None,
) -> list[Effect]:
    """Measure several sets of interventions on the same items; their p-values are corrected together by Holm.

    Parameters
    ----------
    sets
        Each an intervention, or a list that acts together.
    control
        ``"matched"``: every set has its own random sets. ``"shared"``: several sets of like size have one null
        together, in which each is imitated in turn and which holds none of their units: as many passes as for one
        set. None for no control.
    n_control
        Number of random sets, at least 20 (beside each set, or of the shared null). By default as many as a corrected p
        of .05 needs (`enough_sets`): 20 k - 1 for k sets, at least 99 where they are shared.
    subject, task, seed, reference, batch_size, n_boot, progress
        As for `effect`.
    """
    if isinstance(sets, Intervention):
        raise PatchclampError("`effects` takes a list of sets; `effect` takes one")
    changes = [_together(one) for one in sets]
    if not changes:
        raise PatchclampError("no intervention was given")
    for change in changes:
        for one in change:
            subject.check_units(one.units)
    if control not in ("matched", "shared", None):
        raise PatchclampError(f"control={control!r}: choose 'matched', 'shared' or None")
    if n_control is None:
        n_control = max(enough_sets(len(changes)), 99 if control == "shared" and len(changes) > 1 else FEWEST)
    if control and n_control < FEWEST:
        raise PatchclampError(
            f"n_control={n_control}: at least {FEWEST} random sets are needed for a p-value below .05"
        )
    source = Reference.of(subject, reference, task, batch_size)
    drawn = _controls(changes, control, subject, source, n_control, seed)
    measured = [*changes, *(c for ablated, _ in drawn for c in ablated)]
    trial = run_trial(subject, task, measured, source, batch_size=batch_size, progress=progress)
    for number, change in enumerate(changes):
        if trial.nothing(number) and trial.alive[number].any():
            raise PatchclampError(_nothing(change, subject, task, batch_size))
    found, offset = [], len(changes)
    for number, change in enumerate(changes):
        null, words = trial.changed[:0], ""
        if control:
            null, words = trial.changed[offset : offset + n_control], drawn[number][1]
            offset += n_control
            if n_control < enough_sets(len(changes)):
                words += f"; of {len(changes)} sets, none can have a corrected p below {len(changes) / (n_control + 1):.2g}"
        found.append(_effect(task, change, trial, trial.changed[number], null, words, seed, n_boot))
    together = adjusted([one.estimate for one in found], holm)
    note = subject.training_note
    return [
        replace(one, estimate=e, training=note, idle=trial.nothing(number))
        for number, (one, e) in enumerate(zip(found, together, strict=True))
    ]


_AS_BEFORE = {
    "mean": "the mean is the value that was there, as where all items of a template have the same tokens up to there. Give "
    "other positions, other reference items, by='data', or kind 'zero'",
    "resample": "the other items have the value that was there, as where all items of a template have the same tokens up to "
    "there. Give other positions, or kind 'zero'",
    "patch": "the other input has the value that was there, as where both texts have the same tokens up to there. Give other "
    "positions, another source, or kind 'mean' or 'zero'",
}


def _nothing(change: Change, subject: Subject, task: TaskLike, batch_size: int) -> str:
    """Why nothing is said of a change that moved no value."""
    names = sorted(
        {
            name
            for pair in subject.pairs(task, batch_size)
            for name in pair.templates
            if name and not name.startswith(UNNAMED)
        }
    )
    some = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    of = f" (template{'s' * (len(names) > 1)} {some})" if names else ""
    why = _AS_BEFORE.get(
        change[0].kind, "the value is the one that was there. Give another value or direction"
    )
    done = "; ".join(map(str, change))
    return f"{done}: changes nothing on any of the {len(task)} items of {task.name}{of}: {why}"


def _controls(
    sets: list[Change], control: str | None, subject: Subject, reference: Reference, n_control: int, seed: int
) -> list[tuple[list[Change], str]]:
    """For every set its random sets, and in words what they share with it."""
    if control is None:
        return []
    if control == "matched":
        return [control_changes(s, subject, reference, n_control, seed) for s in sets]
    sizes = {sum(i.units.count for i in s) for s in sets}
    if len(sizes) > 1:
        raise PatchclampError(
            f"control='shared': the sets have {min(sizes)} to {max(sizes)} units, and one null stands for sets of one "
            "size only; use 'matched'"
        )
    drawn, words = control_changes(tuple(i for s in sets for i in s), subject, reference, n_control, seed)
    ends = np.cumsum([0, *map(len, sets)])
    turns = [one[ends[j % len(sets)] : ends[j % len(sets) + 1]] for j, one in enumerate(drawn)]
    return [(turns, f"{words}, to the {len(sets)} sets in turn")] * len(sets)


def _together(interventions: Intervention | Sequence[Intervention]) -> Change:
    """One set of interventions, which act together."""
    if isinstance(interventions, Intervention):
        return (interventions,)
    if isinstance(interventions, str):
        raise PatchclampError(
            f"{interventions!r}: say what is done to these units, as Intervention({interventions!r}, 'mean')"
        )
    listed = tuple(interventions)
    if not listed:
        raise PatchclampError("no intervention was given")
    if not all(isinstance(entry, Intervention) for entry in listed):
        raise PatchclampError(
            "interventions are mixed with lists of them, or with something else; a list acts together, and `effects` "
            "takes a list of such lists"
        )
    return listed


def _effect(
    task: TaskLike,
    change: Change,
    trial: Trial,
    changed: NDArray[np.float64],
    null: NDArray[np.float64],
    matched_by: str,
    seed: int,
    n_boot: int,
) -> Effect:
    difference = trial.baseline - changed
    sizes = (trial.baseline - null).mean(1) if len(null) else None
    control = None if sizes is None else Null.of(sizes, matched_by, float(difference.mean()))
    return Effect(
        units=Units.parse([i.units for i in change]),
        intervention=tuple(i.to_json() for i in change),
        task=task.name,
        metric=task.metric_name,
        baseline=float(trial.baseline.mean()),
        changed=float(changed.mean()),
        estimate=Estimate.of_mean(difference, trial.groups, control, n_boot=n_boot, seed=seed),
        per_item=tuple(map(float, difference)),
        baseline_per_item=tuple(map(float, trial.baseline)),
        seed=seed,
        groups=trial.groups,
    )
