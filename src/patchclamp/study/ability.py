"""Whether the model does the task at all, and the task as a study states it: items, hashes, examples."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, require_nonzero
from patchclamp.nouns.tasks.task import Task, require_ability
from patchclamp.study.options import StudyOptions
from patchclamp.study.report.findings import METRIC_TEXT
from patchclamp.subjects import LanguageModel
from patchclamp.subjects.clamp.bench import item_values

__all__ = ["held_apart", "items_fingerprint", "measure_ability", "metric_text", "splits_of"]


def measure_ability(subject: LanguageModel, task: Task, options: StudyOptions) -> dict[str, Any]:
    """Run clean and corrupted items and return metric, interval and accuracy.

    Raises
    ------
    PatchclampError
        With the figures, when the model does not do the task, or the metric cannot be shared out among units
        because its mean is not above zero, or not for certain, or lower is better.
    """
    if not task.score.higher_is_better:
        raise PatchclampError(
            f"task {task.name}: the metric {task.score} is better when lower, and a study counts what share of the "
            "metric is lost; use logit_diff, prob_diff or prob"
        )
    clean, accuracy = item_values(subject, task, "clean", options.batch_size)
    require_ability(task, float(accuracy.mean()), float(clean.mean()))
    if float(clean.mean()) <= 0:
        raise PatchclampError(
            f"task {task.name}: the mean {task.score} is {float(clean.mean()):.3f}, so there is nothing to lose"
        )
    require_nonzero(clean.numpy(), task.groups, f"task {task.name}: the mean {task.score}")
    found = Estimate.of_mean(clean.numpy(), task.groups, seed=options.seed)
    corrupted = None
    if task.has_contrast:
        corrupted = float(item_values(subject, task, "corrupted", options.batch_size)[0].mean())
    return {
        "accuracy": float(accuracy.mean()),
        "metric": float(clean.mean()),
        "low": found.low,
        "high": found.high,
        "groups": found.groups,
        "corrupted": corrupted,
        "required": task.min_accuracy,
        "n_items": len(task),
    }


def splits_of(task: Task, options: StudyOptions) -> dict[str, Task]:
    """Return the items of a study by split, at most as many as the options ask for."""
    wanted = {"train": options.n_train, "validation": options.n_validation, "test": options.n_test}
    return {name: task.split(name).take(n) for name, n in wanted.items()}


def items_fingerprint(task: Task) -> str:
    """Return a hash of a task's items: texts, answers and foils, in order."""
    facts = [(i.clean, i.corrupted, list(i.answers), list(i.foils)) for i in task.items]
    return hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode()).hexdigest()


def held_apart(test: Task, chosen: Task) -> str:
    """Return in words what the test items share with those that chose the units, to be followed by these."""
    texts, groups = {i.clean for i in chosen.items}, {i.group for i in chosen.items} - {""}
    facts = {(i.answers, i.foils) for i in chosen.items}
    shared = sum(i.clean in texts or i.group in groups for i in test.items)
    if shared:
        return f"{shared} of them share a text or a group, and so prove little, with"
    if not any(test.groups):
        return "they share no text with"
    if not test.grouping:
        return "they share no group of items (names, facts) with"
    alike = sum((i.answers, i.foils) in facts for i in test.items)
    also = (
        f", but {alike} of them have answer and foil in common,"
        if alike
        else ", and no answer with its foil,"
    )
    return f"they share no text{also} with"


def metric_text(task: Task) -> str:
    """Return the metric in words for a sentence: "logit difference between answer and foil"."""
    return METRIC_TEXT.get(str(task.score), f"{task.score} ({task.score.formula})")
