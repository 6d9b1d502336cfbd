"""Sets of candidate units, and a task's metric with some of them ablated; what every measure of a circuit stands on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.folds import drawn_groups, group_codes
from patchclamp.base.progress import Progress
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.metrics import METRICS
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Units, split_addresses
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch
from patchclamp.subjects.clamp.matching import UnitOrSite, collect, members
from patchclamp.subjects.clamp.reference import Reference
from patchclamp.subjects.clamp.trial import run_trial

Array = NDArray[np.float64]
ABLATIONS = ("mean", "zero", "resample", "patch")
_PARTS = {
    **dict.fromkeys(("head", "z", "attn_out", "attn_out_post", "attn_probs"), "attention"),
    **dict.fromkeys(("mlp_pre", "mlp_act", "mlp_out", "mlp_out_post", "router"), "MLP"),
}


def refuse_overlap(points: Iterable[str]) -> None:
    """Points of which one contains the other would be ablated twice, and the count of units would mean nothing."""
    points = list(points)
    parts: dict[str, str] = {}
    for point in points:
        part = _PARTS.get(point, point)
        stream = [p for p in points if p.startswith("resid_") or p in ("embeddings", "final_norm")]
        if part in parts or (stream and len(points) > 1):
            other = parts.get(part) or next(p for p in points if p != stream[0])
            inner = point if part in parts else stream[0]
            raise PatchclampError(f"points {other} and {inner} overlap; rank units of one of them")
        parts[part] = point


def default_points(ranking: Scores) -> tuple[str, ...]:
    """Heads, or neurons where no head was scored, or all there is."""
    there = dict.fromkeys(site.point for site in ranking.sites)
    for point in ("head", "mlp_act"):
        if point in there:
            return (point,)
    return tuple(there)


def as_units(subject: Subject, what: Any) -> Units:
    """Units that an address (layers may be ``*``), a list of addresses, or `Units` names."""
    if isinstance(what, Units):
        subject.check_units(what)
        return what
    if isinstance(what, (list, tuple)) and all(isinstance(part, str) for part in what):
        what = ", ".join(what)
    if not isinstance(what, str):
        return subject.units(what)
    parts = [part if "[" in part else subject.resolve(part) for part in split_addresses(what)]
    return subject.units(parts)


def pool_of(subject: Subject, candidates: Any, circuit: Units) -> list[UnitOrSite]:
    """Candidates one by one; a whole site stands for its units where the circuit holds single units of its point.

    Raises
    ------
    PatchclampError
        Where the circuit has a unit that is no candidate, or points overlap.
    """
    if isinstance(candidates, Scores):
        pool = candidates.ranked("abs", default_points(candidates))
    else:
        whole = {site.point for site, indices in circuit.items() if indices is None}
        pool = []
        for site, index in members(as_units(subject, candidates)):
            if index is None and site.point not in whole:
                pool.extend((site, unit) for unit in range(subject.width(site)))
            else:
                pool.append((site, index))
    refuse_overlap(dict.fromkeys(site.point for site, _ in pool if not site.is_module))
    lost = [member for member in members(circuit) if member not in set(pool)]
    if lost:
        raise PatchclampError(
            f"{collect(lost[:1])}: is in the circuit and not among the {len(pool)} candidates"
        )
    return pool


def item_values(subject: Any, task: Task, which: str, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Metric and accuracy per item, in the items' order."""
    values, right = torch.zeros(len(task)), torch.zeros(len(task))
    encoded = task.encode(subject.tokenizer, bos=subject.bos, max_length=subject.max_length)
    for part in encoded.batches(batch_size):
        logits = subject.run(Batch(getattr(part, which), part.mask, part.rows), logits="last").logits.cpu()
        values[part.rows] = task.score(logits, part, logits if task.score.needs_reference else None)
        right[part.rows] = METRICS["accuracy"](logits, part)
    return values, right


class Ablations:
    """The metric per item with sets of the candidates ablated, each set run once.

    Parameters
    ----------
    subject, task
        What is measured.
    candidates
        Units that may be ablated; all else stays intact.
    ablation, by, source, seed
        As in `Intervention`.
    reference
        A task or a `Reference` for means and replacement values; by default the items themselves.
    """

    def __init__(
        self,
        subject: Subject,
        task: Any,
        candidates: Sequence[UnitOrSite],
        ablation: str = "mean",
        *,
        by: str = "template",
        source: str = "",
        reference: Any = None,
        batch_size: int = 64,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        check_choice("ablation", ablation, ABLATIONS)
        self.subject, self.task, self.candidates = subject, task, list(candidates)
        self.ablation, self.by, self.source, self.seed = ablation, by, source, seed
        self.batch_size, self.progress = batch_size, progress
        self.reference = Reference.of(subject, reference or task, batch_size)
        self.groups: tuple[str, ...] = ()
        self._known: dict[frozenset[UnitOrSite], Array] = {}
        self.full, self.empty = self.without([(), self.candidates])

    def change(self, ablated: Collection[UnitOrSite]) -> tuple[Intervention, ...]:
        """The interventions that ablate a set; none for the empty one."""
        if not ablated:
            return ()
        units = collect(sorted(ablated, key=self._place))
        return (Intervention(units, self.ablation, by=self.by, source=self.source, seed=self.seed),)

    def _place(self, member: UnitOrSite) -> tuple[Any, int]:
        return member[0], -1 if member[1] is None else member[1]

    def without(self, sets: Sequence[Collection[UnitOrSite]]) -> Array:
        """(set, item) metric with each set ablated."""
        keys = [frozenset(one) for one in sets]
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        if new:
            trial = run_trial(
                self.subject, self.task, [self.change(key) for key in new], self.reference,
                batch_size=self.batch_size, progress=self.progress,
            )  # fmt: skip
            self.groups = trial.groups
            self._known.update(zip(new, trial.changed, strict=True))
        return np.stack([self._known[key] for key in keys])

    def kept(self, sets: Sequence[Collection[UnitOrSite]]) -> Array:
        """(set, item) metric with all candidates but each set ablated."""
        return self.without([set(self.candidates) - set(one) for one in sets])

    @property
    def span(self) -> float:
        """Mean metric of the whole minus that of nothing.

        Raises
        ------
        PatchclampError
            Where the two do not differ, so that no share of it can be stated.
        """
        return check_span(self.full, self.empty, len(self.candidates))


def check_span(full: Array, empty: Array, candidates: int) -> float:
    """Mean of full minus empty, refused where it is nil."""
    span = float(full.mean() - empty.mean())
    if abs(span) < 1e-6 * max(1.0, abs(float(full.mean()))):
        raise PatchclampError(
            f"ablating all {candidates} units changes the metric by {span:.2g} only, so no share "
            "of it can be stated; take other points or another ablation"
        )
    return span


def halves(n: int, groups: Sequence[str], seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Items that choose and items that verify; groups are not cut. With fewer than two groups, all are both."""
    codes = group_codes(groups, n)
    if codes.max() < 1:
        return np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    first = drawn_groups(codes, (int(codes.max()) + 1) // 2, [seed, 17])
    return first, ~first


def mean_interval(values: Array, groups: Sequence[str], n_boot: int, seed: int) -> tuple[Array, Array]:
    """Percentile interval of means over items of (set, item) values, whole groups drawn, the same for all sets."""
    return bootstrap_interval(np.moveaxis(values, -1, 0), groups or None, n_boot=n_boot, seed=seed)


def chosen(groups: Sequence[str], rows: NDArray[np.bool_]) -> tuple[str, ...]:
    """Groups of the items of a half."""
    return tuple(group for group, here in zip(groups, rows, strict=True) if here) if groups else ()
