"""Built-in tasks by name, and tasks from files.

Every generator has the signature ``builder(tokenizer, n=256, seed=0, corruption=None) -> Task``. To add one: a file with
a builder and its `CORRUPTIONS`, and a line in each table below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.nouns.tasks.builtin import agreement as _agreement
from patchclamp.nouns.tasks.builtin import capitals as _capitals
from patchclamp.nouns.tasks.builtin import colored_objects as _colored_objects
from patchclamp.nouns.tasks.builtin import greater_than as _greater_than
from patchclamp.nouns.tasks.builtin import induction as _induction
from patchclamp.nouns.tasks.builtin import ioi as _ioi
from patchclamp.nouns.tasks.builtin import mcqa as _mcqa
from patchclamp.nouns.tasks.builtin import pronouns as _pronouns
from patchclamp.nouns.tasks.builtin import sentiment as _sentiment
from patchclamp.nouns.tasks.task import Task

__all__ = ["CORRUPTIONS", "TASKS", "load_task"]

_MODULES = {
    "ioi": _ioi,
    "greater_than": _greater_than,
    "induction": _induction,
    "capitals": _capitals,
    "agreement": _agreement,
    "pronouns": _pronouns,
    "colored_objects": _colored_objects,
    "sentiment": _sentiment,
    "mcqa": _mcqa,
}

TASKS: dict[str, Callable[..., Task]] = {name: getattr(module, name) for name, module in _MODULES.items()}
"""Task name -> ``builder(tokenizer, n=256, seed=0, corruption=None) -> Task``."""

CORRUPTIONS: dict[str, Mapping[str, str]] = {name: module.CORRUPTIONS for name, module in _MODULES.items()}
"""Task name -> its corruptions (the first is the default) and what each does."""


MOST = 100_000
"""Items that a task may have: they are all made, and tokenised, in memory."""


def load_task(
    name: str | Path,
    tokenizer: Any = None,
    n: int | None = None,
    seed: int = 0,
    corruption: str | None = None,
) -> Task:
    """Build a task by name, or read it from a JSONL file.

    Parameters
    ----------
    name
        A key of `TASKS`, or the path of a JSONL file.
    tokenizer
        Of the model that is to do the task; a file needs none.
    n
        Number of items: 256 for a built-in task if None, all of a file's. Of a longer file a part is taken, in the
        proportion of its splits.
    seed
        Seed of a built-in task.
    corruption
        One of ``CORRUPTIONS[name]``; a file has its own.

    Examples
    --------
    >>> sorted(TASKS)[:3]
    ['agreement', 'capitals', 'colored_objects']
    """
    if n is not None and n > MOST:
        raise PatchclampError(f"n={n}: a task has at most {MOST:,} items")
    if str(name) in TASKS:
        return TASKS[str(name)](tokenizer, n=256 if n is None else n, seed=seed, corruption=corruption)
    path = Path(name)
    if not path.is_file():
        raise PatchclampError(
            f"{name}: no such task and no such file{did_you_mean(str(name), TASKS)}; tasks are {', '.join(TASKS)}"
        )
    task = Task.from_jsonl(path)
    if corruption not in (None, task.corruption):
        raise PatchclampError(
            f"{path}: the file's corruption is {task.corruption!r} and cannot become {corruption!r}; leave it out"
        )
    return task if n is None else task.take(n)
