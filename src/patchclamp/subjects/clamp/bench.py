"""Sets of candidate units, and a task's metric with some of them ablated; what every measure of a circuit stands on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Self

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
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Site, Units, UnitsLike, split_addresses
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch
from patchclamp.subjects.clamp.matching import UnitOrSite, collect, members
from patchclamp.subjects.clamp.reference import Reference
from patchclamp.subjects.clamp.trial import Trial, run_trial
from patchclamp.subjects.language import LanguageModel

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


def as_units(subject: Subject, what: UnitsLike) -> Units:
    """Units that an address (layers may be ``*``), a list of addresses, or `Units` names."""
    if isinstance(what, Units):
        subject.check_units(what)
        return what
    if isinstance(what, (list, tuple)) and all(isinstance(part, str) for part in what):
        what = ", ".join(what)
    if not isinstance(what, str):
        return subject.units(what)
    parts: list[Site | str] = []
    for part in split_addresses(what):
        parts.extend([part] if "[" in part else subject.resolve(part))
    return subject.units(parts)


def pool_of(subject: Subject, candidates: Scores | UnitsLike, circuit: Units) -> list[UnitOrSite]:
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


def item_values(
    subject: LanguageModel, task: Task, which: str, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Metric and accuracy per item, in the items' order."""
    values, right = torch.zeros(len(task)), torch.zeros(len(task))
    encoded = task.encode(subject.tokenizer, bos=subject.bos, max_length=subject.max_length)
    for part in encoded.batches(batch_size):
        out = subject.run(Batch(getattr(part, which), part.mask, part.rows), logits="last").logits
        assert out is not None
        logits = out.cpu()
        values[part.rows] = task.score(logits, part, logits if task.score.needs_reference else None)
        right[part.rows] = METRICS["accuracy"](logits, part)
    return values, right


class Bench:
    """What a circuit is measured on, given once: a subject, a task, an ablation and where its values come from.

    Parameters
    ----------
    subject, task
        What is measured; items that did not choose the units.
    ablation
        Kind of intervention (``"mean"``, ``"zero"``, ``"resample"``, or ``"patch"`` from the corrupted input).
    reference
        Task (or `Reference`) for means, replacement values and activity; by default other items of the task, as in
        `effect`.
    by, source
        How a mean is taken, and over which input of the reference items (``"clean"`` or ``"corrupted"``).
    batch_size
        Items a pass.
    n_boot, seed
        Of intervals over items, and of all that is drawn; the same seed gives the same result whatever the batch size.
    progress
        Called with the number of passes done.

    Examples
    --------
    >>> bench = Bench(subject, ioi.split("test"), "mean", ioi.split("train"))   # doctest: +SKIP
    >>> completeness(bench, "head.23[3,6]", "head.*")                           # doctest: +SKIP
    """

    def __init__(
        self,
        subject: Subject,
        task: TaskLike,
        ablation: str = "mean",
        reference: TaskLike | Reference | None = None,
        *,
        by: str = "template",
        source: str = "",
        batch_size: int = 64,
        n_boot: int = 1000,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        check_choice("ablation", ablation, ABLATIONS)
        self.subject, self.task, self.ablation, self.by, self.source = subject, task, ablation, by, source
        self.batch_size, self.n_boot, self.seed, self.progress = batch_size, n_boot, seed, progress
        self.reference = Reference.of(subject, reference, task, batch_size)

    def on(self, task: TaskLike, **changes: Any) -> Self:
        """The same bench on other items, with the same reference; `changes` are further parameters."""
        names = ("ablation", "reference", "by", "source", "batch_size", "n_boot", "seed", "progress")
        return type(self)(self.subject, task, **{**{name: getattr(self, name) for name in names}, **changes})

    def change(self, ablated: Units | Sequence[UnitOrSite]) -> tuple[Intervention, ...]:
        """The interventions that ablate a set; none for the empty one."""
        units = ablated if isinstance(ablated, Units) else collect(ablated) if ablated else Units({})
        if not units:
            return ()
        return (Intervention(units, self.ablation, by=self.by, source=self.source, seed=self.seed),)

    def trial(self, sets: Sequence[tuple[Intervention, ...]]) -> Trial:
        """The metric per item as it is and under each set of interventions."""
        return run_trial(
            self.subject, self.task, list(sets), self.reference, batch_size=self.batch_size,
            progress=self.progress,
        )  # fmt: skip

    def circuit(
        self, circuit: UnitsLike, candidates: Scores | UnitsLike
    ) -> tuple[list[UnitOrSite], Ablations]:
        """A circuit's units one by one, and the ablations of all candidates; see `as_units` and `pool_of`.

        Raises
        ------
        PatchclampError
            Where the circuit has a unit that is no candidate, or points overlap.
        """
        units = as_units(self.subject, circuit)
        return members(units), Ablations(self, pool_of(self.subject, candidates, units))


def check_bench(bench: Bench) -> None:
    """Refuse what is no `Bench`, such as a subject in its place."""
    if not isinstance(bench, Bench):
        raise PatchclampError(
            f"a {type(bench).__name__} in place of a bench: give Bench(subject, task, ablation, reference) first"
        )


class Ablations:
    """The metric per item with sets of the candidates ablated on a bench, each set run once.

    Parameters
    ----------
    bench
        What is measured, and how units are ablated.
    candidates
        Units that may be ablated; all else stays intact.
    """

    def __init__(self, bench: Bench, candidates: Sequence[UnitOrSite]) -> None:
        self.bench, self.candidates = bench, list(candidates)
        self.groups: tuple[str, ...] = ()
        self._known: dict[frozenset[UnitOrSite], Array] = {}
        self.full, self.empty = self.without([(), self.candidates])

    def _place(self, member: UnitOrSite) -> tuple[Any, int]:
        return member[0], -1 if member[1] is None else member[1]

    def without(self, sets: Sequence[Collection[UnitOrSite]]) -> Array:
        """(set, item) metric with each set ablated."""
        keys = [frozenset(one) for one in sets]
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        if new:
            trial = self.bench.trial([self.bench.change(sorted(key, key=self._place)) for key in new])
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
