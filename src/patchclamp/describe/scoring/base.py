"""What scores have in common: judges, the result, intervals over groups, the shuffled description."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import draws_interval, n_groups, resamples
from patchclamp.describe.description import Description
from patchclamp.describe.search.splitting import refuse_overlap
from patchclamp.describe.tokens import Tokens
from patchclamp.describe.windows import TokenWindow
from patchclamp.draw.cards import shown

__all__ = ["DescriptionScore", "Judge", "PredicateJudge", "scored"]

Array = NDArray[np.float64]
Pieces = Sequence[tuple[str, ...]]


class Judge(Protocol):
    """Who reads a description and judges text by it: a predicate that is run, a language model, a rule.

    Answers are probabilities in [0, 1], NaN where there was no valid answer; every failure is counted.
    """

    @property
    def name(self) -> str:
        """Who it is, for the result."""
        ...

    def detect(self, description: Description, windows: Pieces) -> Array:
        """(windows,) probability that the unit is active somewhere in each."""
        ...

    def fuzz(self, description: Description, windows: Pieces, marks: Sequence[Sequence[bool]]) -> Array:
        """(windows,) probability that the marked tokens are those on which the unit is active."""
        ...

    def simulate(self, description: Description, windows: Pieces) -> list[Array]:
        """The activity expected on each token of each window, on any scale."""
        ...


@dataclass(frozen=True)
class PredicateJudge:
    """Run the description's predicate.

    Detection: it holds of at least one token. Fuzzing: of at least half of the marked tokens. Simulation: 1 where it
    holds. Predicates see the window alone, so a place in the text is a place in the window.

    Parameters
    ----------
    wordnet, embed
        As in `Tokens`, for predicates that need them.
    """

    wordnet: Any = None
    embed: Any = None
    name: str = "predicate"

    def _held(self, description: Description, windows: Pieces) -> list[Array]:
        if description.predicate is None:
            raise PatchclampError(
                f"{description.unit}: {description.text!r:.60} has no predicate to run; give a judge that reads English"
            )
        tokens = Tokens.of(windows, wordnet=self.wordnet, embed=self.embed)
        held = description.predicate.evaluate(tokens).astype(np.float64)
        return [held[a:b] for a, b in zip(tokens.starts, tokens.stops, strict=True)]

    def detect(self, description: Description, windows: Pieces) -> Array:
        return np.array([float(h.max()) for h in self._held(description, windows)])

    def fuzz(self, description: Description, windows: Pieces, marks: Sequence[Sequence[bool]]) -> Array:
        held = self._held(description, windows)
        return np.array(
            [float(h[np.asarray(m, bool)].mean() >= 0.5) for h, m in zip(held, marks, strict=True)]
        )

    def simulate(self, description: Description, windows: Pieces) -> list[Array]:
        return self._held(description, windows)


@shown
@dataclass(frozen=True)
class DescriptionScore:
    """How well a description predicts a unit, by one measure.

    Parameters
    ----------
    method, unit, judge
        Name of the score, address, who judged.
    estimate
        The score and its 95 % interval over groups (its value is NaN, and said in words, where no answer was valid). Its null
        is the same score for a shuffled description: for descriptions of other units where they are given, else
        for permutations of the judgements; `null.kind` says which.
    n, failed
        Examples asked about, and those without a valid answer (they enter no figure).
    facts
        Further figures, and how it was done; None where a figure cannot be had.
    """

    method: str
    unit: str
    judge: str
    estimate: Estimate
    n: int
    failed: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The score."""
        return self.estimate.value

    def __str__(self) -> str:
        e = self.estimate
        score = f"{e.value:.3f} {e.span()}" if np.isfinite(e.value) else "cannot be had: no answer was valid"
        shuffled = "" if e.null is None else f", shuffled {e.null.mean:.3f} ({e.null.kind})"
        return (
            f"{self.unit}: {self.method} {score}{shuffled}, n={self.n}, {self.failed} failed, "
            f"judged by {self.judge}"
        )


def check_examples(description: Description, windows: Sequence[TokenWindow], what: str) -> None:
    """Refuse examples that made the description."""
    refuse_overlap(description.made_on, {w.doc for w in windows}, f"{what} of {description.unit}")


def scored(
    method: str,
    description: Description,
    judge: str,
    answers: Array,
    statistic: Callable[[Array, Array], float],
    groups: Sequence[str],
    *,
    others: Sequence[Array] = (),
    control: str = "descriptions of other units",
    n_boot: int = 1000,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
) -> DescriptionScore:
    """Put a score together from judgements.

    Parameters
    ----------
    answers
        (n, ...) judgements, one row an example, NaN in all of a failed one.
    statistic
        (answers, weights (n,)) -> score; weights say how often each answer counts.
    others
        Judgements by descriptions of other units (or whatever `control` says they are), each like `answers`.
    """
    valid = np.isfinite(answers.reshape(len(answers), -1)).all(1)
    rng = numpy_rng([seed, 3])

    def value(given: Array, weights: Array) -> float:
        fine = np.isfinite(given.reshape(len(given), -1)).all(1)
        own = np.where(fine, weights, 0.0)
        return (
            float(statistic(np.where(np.isfinite(given), given, 0.0), own / own.sum()))
            if own.sum()
            else np.nan
        )

    even = np.ones(len(answers))
    point = value(answers, even)
    drawn = np.array([value(answers, w) for w in resamples(len(answers), groups, n_boot, seed)])
    drawn = np.where(np.isfinite(drawn), drawn, np.nan)
    low, high = draws_interval(drawn, n_groups(groups, len(answers)), point)
    if others:
        chance = [value(o, even) for o in others]
    else:
        control = "permuted judgements"
        chance = [value(answers[rng.permutation(len(answers))], even) for _ in range(50)]
    finite = [c for c in chance if np.isfinite(c)]
    null = Null.of(finite, control) if finite else None
    count = n_groups(groups, len(answers))
    return DescriptionScore(
        method,
        description.unit,
        judge,
        Estimate(point, float(low), float(high), int(valid.sum()), null, count),
        len(answers),
        int((~valid).sum()),
        {
            name: None if isinstance(fact, float) and np.isnan(fact) else fact
            for name, fact in (facts or {}).items()
        },
    )


def weighted_balance(answers: Array, positive: NDArray[np.bool_], weights: Array) -> float:
    """Balanced accuracy of answers >= 1/2 under weights; NaN without both kinds."""
    said = answers >= 0.5
    p, n = weights[positive].sum(), weights[~positive].sum()
    if not p or not n:
        return np.nan
    return float((weights[positive & said].sum() / p + weights[~positive & ~said].sum() / n) / 2)
