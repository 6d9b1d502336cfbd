"""Null calibration: how often a study makes a claim where there is nothing to claim.

The system is a small language model whose answer comes from the last token alone, by a path past all blocks. Heads and
neurons read the other words, which say nothing about the answer, and write along the read-out: their effect on an item
is as large as one likes and has the mean zero over items, whatever the unit. Every claim that a unit matters is false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.stats import beta

from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.draw.cards import shown
from patchclamp.nouns.scores import Scores
from patchclamp.study.behaviour import Behaviour
from patchclamp.study.claims import Claim
from patchclamp.study.options import StudyOptions
from patchclamp.study.proof import ablate, select
from patchclamp.study.stages import Section, Stage, run_stages
from patchclamp.study.study import able
from patchclamp.truth.bystanders import (
    bystander_task,
    bystanders,
)

__all__ = ["NullRate", "bystander_task", "bystanders", "clopper_pearson", "null_claims", "null_rate"]

STATED = 0.05
"""A study of a system without effect makes a claim that something matters in at most this share of cases."""

OPTIONS = StudyOptions(
    n_train=24, n_validation=16, n_test=60, method="attribution_patching", head_sizes=(1, 2, 4, 8),
    neuron_sizes=(1, 2, 4), n_singles=3, refine_heads=8, batch_size=64,
)  # fmt: skip
"""Sizes of the studies that are counted; all that decides about claims is as in any study."""


def null_claims(
    seed: int,
    options: StudyOptions = OPTIONS,
    *,
    alike: bool = False,
    noise: float = 1.5,
    held_out: bool = True,
) -> list[Claim]:
    """Run selection and proof of one study on the bystanders, and return all its claims, negative ones included.

    Parameters
    ----------
    seed
        Of model, items, bootstrap and random sets.
    options
        Sizes; its own seed is not used.
    alike, noise
        As in `bystanders`.
    held_out
        False selects and verifies on the same items: how wrong that goes is what the split is for.
    """
    options = replace(options, seed=seed)
    subject = bystanders(seed, noise, alike=alike)
    most = max(options.n_test, options.n_validation, -(-options.n_train // 2))
    task = bystander_task(4 * most + 16, seed)
    context = Behaviour(subject, None, task, task.name, options)
    if not held_out:
        context.splits = dict.fromkeys(context.splits, context.splits["test"])
    return list(run_stages(STAGES, context).claims)


def _attribute(context: Behaviour) -> Section:
    """Scores of heads and neurons summed over positions, which is all that decides about claims."""
    sites = [site for site in context.subject.known_sites() if site.point in ("head", "mlp_act")]
    method: Callable[..., Scores] = METHODS[context.options.method]
    train = context.splits["train"]
    context.scores = method(context.subject, train, sites, direction=context.options.direction)
    return Section(facts={"attribution": {"label": context.options.method}})


def _choose(context: Behaviour) -> Section:
    context.selections = select(context)
    return Section()


STAGES: tuple[Stage[Behaviour], ...] = (
    Stage("checking that the model does the task", able),
    Stage("attributing", _attribute),
    Stage("choosing on validation items", _choose),
    Stage("ablating on test items", ablate),
)
"""Those stages of a study on which its claims depend."""


@shown
@dataclass(frozen=True)
class NullRate:
    """How many of some studies of a system without effects claimed one.

    Parameters
    ----------
    claimed, runs
        Studies with at least one claim that units matter or are enough, of how many that ran.
    low, high
        Clopper and Pearson's 95 % interval of the rate.
    tests, false
        Statements that were put to the test in all of them together, and how many became such claims.
    refused
        Studies that ended before any claim, because the model did not do the task on the test items, or not for certain.
    stated
        The rate that a study promises not to exceed.
    by_kind
        Kind of claim and of unit -> how many.
    """

    claimed: int
    runs: int
    low: float
    high: float
    tests: int
    false: int
    refused: int
    by_kind: Mapping[str, int]
    stated: float = STATED

    @property
    def rate(self) -> float:
        """Studies with a false claim, as a share."""
        return self.claimed / self.runs if self.runs else 0.0

    @property
    def holds(self) -> bool:
        """Whether the rate is compatible with the stated one: its interval begins at or below it."""
        return self.low <= self.stated

    def __str__(self) -> str:
        return (
            f"{self.claimed} of {self.runs} studies claim an effect where there is none: {self.rate:.1%} "
            f"[{self.low:.1%}, {self.high:.1%}], stated {self.stated:.0%}; {self.false} of {self.tests} statements "
            f"tested; {self.refused} refused"
        )


def null_rate(
    n_runs: int = 200,
    seed: int = 0,
    *,
    claims: Callable[[int], Sequence[Claim]] = null_claims,
    options: StudyOptions = OPTIONS,
    progress: Progress | None = None,
) -> NullRate:
    """Run studies on systems without effect and count those that claim one.

    Parameters
    ----------
    n_runs
        Studies; each has a model, items, bootstrap and random sets of its own.
    seed
        Of the first; run i has seed + i.
    claims
        Seed -> the claims of one study; `null_claims` by default.
    options
        Only to count how many statements are tested.

    Returns
    -------
    NullRate

    Examples
    --------
    >>> print(null_rate(200))                                                   # doctest: +SKIP
    """
    positive: Counter[str] = Counter()
    claimed = refused = runs = 0
    for number in range(n_runs):
        if progress is not None:
            progress("studies of systems without effect", number, n_runs)
        try:
            found = [claim for claim in claims(seed + number) if asserts(claim)]
        except PatchclampError:
            refused += 1
            continue
        runs += 1
        claimed += bool(found)
        positive.update(f"{claim.kind} {claim.units[0].split('.')[0]}" for claim in found)
    low, high = clopper_pearson(claimed, runs)
    # Of heads and neurons: together and each of the first alone; heads also kept.
    tests = runs * (2 * (1 + options.n_singles) + 1)
    return NullRate(claimed, runs, low, high, tests, sum(positive.values()), refused, dict(positive))


def asserts(claim: Claim) -> bool:
    """Whether a claim says that units matter or are enough; redundancy follows from one that does."""
    return not claim.negative and claim.kind in ("necessity", "sufficiency")


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a binomial rate.

    Examples
    --------
    >>> [round(end, 3) for end in clopper_pearson(0, 200)]
    [0.0, 0.018]
    """
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high
