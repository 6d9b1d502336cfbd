"""The metric of a task under many sets of interventions, each batch of items prepared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Pair
from patchclamp.subjects.clamp.edits import Watch, compile_interventions, positions
from patchclamp.subjects.clamp.reference import Reference
from patchclamp.subjects.clamp.replay import Replays
from patchclamp.subjects.transformer import Transformer

Change = Sequence[Intervention]


@dataclass(frozen=True)
class Trial:
    """Metric per item, without (item,) and under each set of interventions (set, item), in the task's order.

    `moved` and `alive` (set, item) say where a set moved a value that it touched, and where one was not 0 before or after
    it, beyond rounding.
    """

    baseline: NDArray[np.float64]
    changed: NDArray[np.float64]
    groups: tuple[str, ...]
    moved: NDArray[np.bool_]
    alive: NDArray[np.bool_]

    def nothing(self, number: int) -> bool:
        """Whether a set moved neither a value nor the metric on any item."""
        apart = np.abs(self.changed[number] - self.baseline).max()
        return not self.moved[number].any() and bool(apart <= 1e-4 * max(1.0, np.abs(self.baseline).max()))


def run_trial(
    subject: Subject,
    task: TaskLike,
    sets: Sequence[Change],
    reference: Reference | None = None,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Trial:
    """Measure a task's metric on its clean items under each set of interventions.

    Equal sets are run once. A set's pass begins at the first block that it touches, from the unperturbed stream of
    the baseline pass; results do not depend on `batch_size` beyond rounding.

    Parameters
    ----------
    sets
        Each a list of interventions that act together; an empty one is the baseline again.
    progress
        Told the passes done, and about how many there are.
    """
    n = len(task)
    if n == 0:
        raise PatchclampError("the task has no item to measure on")
    places: dict[tuple[Intervention, ...], int] = {}
    where = [places.setdefault(tuple(change), len(places)) for change in sets]
    sets = list(places)
    _check_positions(subject, task, sets, batch_size)
    baseline, changed = np.empty(n), np.empty((len(sets), n))
    moved, alive = np.zeros((2, len(sets), n), dtype=bool)
    groups: list[str] = [""] * n
    first = [_first_layer(subject, change) for change in sets]
    done, total = 0, len(sets) * -(-n // batch_size)
    for pair in subject.pairs(task, batch_size):
        rows = pair.rows.cpu().numpy()
        streams = [Site("resid_pre", layer) for layer in sorted({layer for layer in first if layer})]
        run = subject.run(pair.clean, read=streams, logits=pair.answer_position)
        baseline[rows] = item_scores(pair, run.logits, run.logits)
        for i, row in enumerate(rows):
            groups[row] = pair.groups[i] if pair.groups else ""
        replays = Replays(subject, pair, reference, (i for change in sets for i in change))
        for number, change in enumerate(sets):
            watch = Watch(len(rows), subject.device)
            edits = compile_interventions(change, subject, pair, reference, replays, watch)
            layer = first[number]
            start = (layer, run.activity[Site("resid_pre", layer)]) if layer else None
            out = subject.run(pair.clean, write=edits, logits=pair.answer_position, start=start).logits
            changed[number, rows] = item_scores(pair, out, run.logits)
            moved[number, rows], alive[number, rows] = watch.moved.cpu(), watch.alive.cpu()
            done += 1
            if progress is not None:
                progress(f"measuring {task.name}", done, max(done, total))
    return Trial(baseline, changed[where], tuple(groups) if any(groups) else (), moved[where], alive[where])


def _check_positions(subject: Subject, task: TaskLike, sets: Sequence[Change], batch_size: int) -> None:
    """Refuse an intervention whose positions no item has: it would change nothing, silently."""
    waiting = {c.positions: c for change in sets for c in change if c.positions != "all"}
    if not waiting:
        return
    for pair in subject.pairs(task, batch_size):
        for where, change in list(waiting.items()):
            if any(positions(change, pair, like).any() for like in _shapes(subject, pair, change)):
                del waiting[where]
    if waiting:
        raise PatchclampError(
            f"positions {next(iter(waiting))!r} select nothing in the items of {task.name}; give 'all', a role or "
            "indices within the text"
        )


def _shapes(subject: Subject, pair: Pair, change: Intervention) -> list[Tensor]:
    """Tensors with as many positions as the sites have; those of a plain module each have their own."""
    if isinstance(subject, Transformer):
        return [pair.clean.mask]
    seen = subject.run(pair.clean, read={site: lambda t: t[..., 0] for site in change.units.sites})
    return list(seen.activity.values())


def _first_layer(subject: Subject, change: Change) -> int:
    """The first block that a set of interventions touches; 0 where the pass must run from the start."""
    if not isinstance(subject, Transformer) or not change:
        return 0
    layers = [
        subject.n_layers - 1 if site.point in ("final_norm", "logits") else site.layer
        for intervention in change
        for site in intervention.units.sites
    ]
    return min(layer or 0 for layer in layers)


def item_scores(pair: Pair, logits: Tensor | None, reference: Tensor | None) -> NDArray[np.float64]:
    """The metric of each item of a batch; one that is not finite is refused."""
    with torch.no_grad():
        value = pair.metric(logits, reference).double().cpu().numpy()
    if not np.isfinite(value).all():
        item = int(pair.rows[int(np.flatnonzero(~np.isfinite(value))[0])])
        raise PatchclampError(
            f"the metric of item {item} is not a finite number; look at the intervention's value"
        )
    return value
