"""Scores with their agreement with exact patching, measured where they are used: on the user's own model and task.

An estimator that agrees on one model need not on the next. A few units, from all over the range of the scores, are patched
exactly; where the estimate does not agree, a better estimator takes its place, and that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from typing import Any, Literal

import numpy as np

from patchclamp.attribute import DEFAULT, ESTIMATORS, METHODS, activation_patching
from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.progress import Progress
from patchclamp.draw.cards import shown
from patchclamp.evaluate import calibration
from patchclamp.evaluate.scores.calibration import Calibration
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Units
from patchclamp.study.options import StudyOptions
from patchclamp.subjects import Subject

__all__ = ["ENOUGH", "CheckedScores", "checked_scores", "ranking_scores"]

ENOUGH = 0.9
"""Pearson with exact patching below which another estimator is tried."""
LEAST = 0.01
"""Share of the difference between the two runs that some unit of a point has to reach for its agreement to count."""
NOTHING = f"none of them has an effect of {LEAST:.0%} of the difference between the runs, so that there is no order to agree on"
FEWEST = 4
"""Units of a point below which there is no correlation to speak of."""


@shown
@dataclass(frozen=True)
class CheckedScores:
    """Scores, and how the estimators that were tried agree with exact patching.

    Parameters
    ----------
    scores
        Of the method that is used.
    asked
        The method that was asked for.
    checks
        Method -> point -> its `Calibration` over units of that point; empty where nothing was checked.
    items
        Items on which the units were patched exactly.
    runs
        Sequences that this took.
    span
        Difference of the metric between the clean and the corrupted run, by size.
    refused
        Estimators that do not run on this model, and why.
    """

    scores: Scores
    asked: str
    checks: Mapping[str, Mapping[str, Calibration]] = field(default_factory=dict)
    items: int = 0
    runs: int = 0
    span: float = 0.0
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def used(self) -> str:
        """The method of the scores."""
        return self.scores.method

    def agreement(self, method: str = "") -> float:
        """The least Pearson over points of a method, the one used if not named; NaN where it cannot be told.

        Points of which no checked unit does anything are left out: order among nothing is noise.
        """
        checks = self.checks.get(method or self.used, {}).values()
        found = [check["pearson"] for check in checks if self._matters(check)]
        known = [value for value in found if np.isfinite(value)]
        return min(known) if known else float("nan")

    def _matters(self, check: Calibration) -> bool:
        largest = float(check.checks[["estimate", "exact"]].abs().to_numpy().max())
        return largest > 0 and largest >= LEAST * self.span

    def off(self) -> list[str]:
        """Units whose estimate is off by more than half, in words."""
        return [
            f"{row.unit} (estimated {row.estimate:+.3f}, exact {row.exact:+.3f})"
            for check in self.checks.get(self.used, {}).values()
            if self._matters(check)
            for row in check.off().itertuples()
        ]

    @property
    def replaced(self) -> bool:
        """Whether another method than the one that was asked for is used."""
        return self.used != self.asked

    def verdict(self) -> list[str]:
        """Which method took another's place, and whether none agrees; nothing where all is well."""
        said = []
        if self.replaced:
            said.append(
                f"{_words(self.used).capitalize()} in place of {_words(self.asked)}: Pearson {self.agreement():.2f} with exact "
                f"patching here, where that has {self.agreement(self.asked):.2f}, below {ENOUGH:g}."
            )
        if self.agreement() < ENOUGH:
            said.append(
                f"No estimator tried reaches Pearson {ENOUGH:g} with exact patching here: the order of the units is a guess "
                "until the effect of the first of them is measured."
            )
        return said

    def sentences(self) -> list[str]:
        """What the check found: the agreement, units that are off, estimators that do not run here, and the verdict."""
        said = [
            f"{_words(method).capitalize()} against exact patching of {check.checked} of {check.estimated:,} {point} units on "
            f"{self.items} items: {_figures(check) if self._matters(check) else NOTHING}."
            for method, points in self.checks.items()
            for point, check in points.items()
        ]
        if off := self.off():
            said.append(f"Off by more than half: {', '.join(off)}.")
        said += [
            f"{_words(method).capitalize()} does not run here: {why}." for method, why in self.refused.items()
        ]
        return said + self.verdict()

    def to_json(self) -> dict[str, Any]:
        """What was asked and used, every check, and the sentences."""
        checks = {m: {p: check.to_json() for p, check in points.items()} for m, points in self.checks.items()}
        return {
            "asked": self.asked,
            "used": self.used,
            "enough": ENOUGH,
            "items": self.items,
            "runs": self.runs,
            "refused": dict(self.refused),
            "checks": checks,
            "off": self.off(),
            "said": self.sentences(),
        }


def checked_scores(
    subject: Subject,
    task: TaskLike,
    sites: Any,
    method: str = DEFAULT,
    *,
    direction: Literal["denoising", "noising"] = "denoising",
    positions: Literal["sum", "roles", "each"] = "sum",
    batch_size: int = 32,
    n: int = 12,
    items: int = 16,
    points: tuple[str, ...] | None = None,
    exact_positions: Literal["sum", "roles", "each"] = "sum",
    seed: int = 0,
    progress: Progress | None = None,
) -> CheckedScores:
    """Score units, patch a few of them exactly, and fall back to another estimator where the two do not agree.

    Parameters
    ----------
    subject, task, sites, direction, positions, batch_size
        As for the methods of `attribute`.
    method
        The one to begin with. Where its Pearson with exact patching is below `ENOUGH` at some point, the others of
        `attribute.ESTIMATORS` are tried on the same units, and the best of all is used.
    n
        Units of each point to patch exactly, by `calibration`: the first by size, the others from all the range of
        scores. 0 checks nothing, and the scores are those of `method` whatever they are worth.
    items
        Items to patch them on, at most: n * items sequences a point.
    points
        Points that are checked; all that are scored where None. Points of less than four units are left out.
    exact_positions
        How the units are patched: at all positions together, or as `positions`; the estimate is summed over positions.
    seed
        Of the choice of units.
    progress
        Told what is done.

    Examples
    --------
    >>> found = checked_scores(subject, task, "head.*")           # doctest: +SKIP
    >>> print(*found.sentences(), sep="\\n")                       # doctest: +SKIP
    """
    check_choice("method", method, METHODS)
    say = progress or (lambda text, done, total: None)

    def score(name: str) -> Scores:
        call: Callable[..., Scores] = METHODS[name]
        asked: dict[str, Any] = {"direction": direction} if _compares(name) else {}
        say(_words(name), 0, None)
        return call(subject, task, sites, positions=positions, batch_size=batch_size, **asked)

    scores = score(method)
    groups = _points(scores, points) if n and method != "activation_patching" and _compares(method) else []
    if not groups:
        return CheckedScores(scores, method)
    rows = np.unique(np.linspace(0, len(task) - 1, min(items, len(task))).round().astype(int)).tolist()
    few, runs = task.select(rows), 0
    exact: dict[str, Scores] = {}
    refused: dict[str, str] = {}

    def patch(point: str, units: Units) -> Scores:
        exact[point] = activation_patching(
            subject, few, units, direction=direction, positions=exact_positions, batch_size=batch_size
        )
        return exact[point]

    checks: dict[str, dict[str, Calibration]] = {method: {}}
    for point in groups:
        say(f"patching {n} units of {point} exactly", 0, None)
        checks[method][point] = calibration(_part(scores, point, rows), partial(patch, point), n, seed=seed)
        runs += int(exact[point].meta["runs"])
    ends = exact[groups[0]].meta["metric"]
    span = abs(float(np.mean(ends["clean"]) - np.mean(ends["corrupted"])))
    best = CheckedScores(scores, method, checks, len(rows), runs, span, refused)
    for other in ESTIMATORS if best.agreement() < ENOUGH else ():
        if other == method:
            continue
        try:
            estimate = score(other)
        except PatchclampError as refusal:  # a family for which it has no rule
            refused[other] = str(refusal)
            continue
        checks[other] = {
            point: calibration(_part(estimate, point, rows), exact[point], seed=seed) for point in groups
        }
        if best.agreement(other) > best.agreement():
            best = replace(best, scores=estimate)
        if best.agreement() >= ENOUGH:
            break
    return best


def ranking_scores(
    subject: Subject,
    task: TaskLike,
    sites: Any,
    options: StudyOptions,
    points: tuple[str, ...],
    progress: Progress | None = None,
) -> CheckedScores:
    """The scores by role that a study puts units of some points in order by, checked as its options say."""
    return checked_scores(
        subject,
        task,
        sites,
        options.method,
        direction=options.direction,  # type: ignore[arg-type]
        positions="roles",
        batch_size=options.batch_size,
        n=options.n_check,
        items=options.exact_items,
        points=points,
        seed=options.seed,
        progress=progress,
    )


def _compares(method: str) -> bool:
    """Whether a method estimates what patching does, and in a direction."""
    return "direction" in signature(METHODS[method]).parameters


def _points(scores: Scores, points: tuple[str, ...] | None) -> list[str]:
    found = dict.fromkeys(site.point for site in scores.sites if points is None or site.point in points)
    nodes = {p: sum(len(scores.index(s)) for s in scores.sites if s.point == p) for p in found}
    return [point for point, count in nodes.items() if count >= FEWEST]


def _part(scores: Scores, point: str, rows: list[int]) -> Scores:
    return scores.select([site for site in scores.sites if site.point == point]).items(rows).summed()


def _words(method: str) -> str:
    return method.replace("_", " ")


def _figures(check: Calibration) -> str:
    pearson, spearman, sign = (float(check[name]) for name in ("pearson", "spearman", "sign"))
    if not np.isfinite(pearson):
        return "the effects are all alike, so that none can be told"
    return f"Pearson {pearson:.2f}, Spearman {spearman:.2f}, equal signs {sign:.0%}"
