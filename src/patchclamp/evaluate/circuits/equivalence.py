"""Is the circuit as good as the model, item by item? A sign test with a margin, in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binom

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.folds import group_codes
from patchclamp.draw.cards import shown
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import UnitsLike
from patchclamp.subjects.clamp.bench import Bench, check_bench

Array = NDArray[np.float64]
Verdict = Literal["equivalent", "different", "undecided"]


@shown
@dataclass(frozen=True)
class Equivalence:
    """A sign test of model against circuit.

    Attributes
    ----------
    share : Estimate
        Share of groups (items, where there are none) on which the model is above the circuit; ties count one half. Its
        interval is Clopper and Pearson's, n the number of groups.
    margin : float
    p_different : float
        Of the null "the share is within `margin` of one half" (Shi et al.): small says they differ.
    p_equivalent : float
        Of the null "the share is at least `margin` away from one half" (two one-sided tests): small says they are
        equivalent. Not to reject the first null is no evidence of equivalence; this is.
    verdict : str
        ``"equivalent"``, ``"different"``, or ``"undecided"``: neither null is rejected at `alpha`.
    difference : float
        Mean of model minus circuit, in units of the metric: the sign test is blind to size.
    ties : int
        Groups without a difference.
    """

    share: Estimate
    margin: float
    p_different: float
    p_equivalent: float
    verdict: Verdict
    difference: float
    ties: int

    def __str__(self) -> str:
        share = self.share
        return (
            f"{self.verdict}: the model is above the circuit on {share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of "
            f"{share.n}; p(equivalent) {self.p_equivalent:.3g}, p(different) {self.p_different:.3g}"
        )


def equivalence(
    bench: Bench,
    circuit: UnitsLike,
    candidates: Scores | UnitsLike,
    *,
    margin: float = 0.1,
    alpha: float = 0.05,
) -> Equivalence:
    """Test whether a circuit C does as well as the model M: |P(m(M) > m(C)) - 1/2| < `margin`.

    Parameters
    ----------
    bench, circuit, candidates
        As for `completeness`.
    margin, alpha
        Of the two tests.

    Notes
    -----
    Shi et al. 2024 ("Hypothesis testing the circuit hypothesis in LLMs"), with the test that can find equivalence
    beside theirs, which can only fail to find a difference. Rates of both verified at their margins (see tests).
    """
    check_bench(bench)
    own, runs = bench.circuit(circuit, candidates)
    difference = runs.full - runs.kept([own])[0]
    size = float(np.abs(runs.full).max())
    return sign_equivalence(difference, runs.groups, margin, alpha, tie=1e-6 * max(size, 1e-12))


def sign_equivalence(
    difference: ArrayLike,
    groups: Sequence[str] = (),
    margin: float = 0.1,
    alpha: float = 0.05,
    *,
    tie: float = 0.0,
) -> Equivalence:
    """The tests of `equivalence` on differences per item.

    Parameters
    ----------
    difference
        (item,) model minus circuit.
    groups
        The unit of dependence; a group's mean counts as one.
    tie
        Differences of at most this size are ties; they are dealt evenly to both sides.

    Examples
    --------
    >>> sign_equivalence([1.0, -1.0] * 200).verdict
    'equivalent'
    >>> sign_equivalence([1.0] * 20).verdict
    'different'
    >>> sign_equivalence([1.0, -1.0, 1.0]).verdict
    'undecided'
    """
    if not 0 < margin < 0.5:
        raise PatchclampError(f"margin={margin}: it lies between 0 and 0.5")
    items = np.asarray(difference, dtype=np.float64)
    if not len(items):
        raise PatchclampError("there is no item to test on; give at least one")
    member = group_codes(groups or None, len(items), fewest=2)
    values = np.bincount(member, items) / np.bincount(member)
    n = len(values)
    ties = int((np.abs(values) <= tie).sum())
    wins = int((values > tie).sum())
    share = (wins + ties / 2) / n
    # An odd tie goes to the side that makes the verdict harder to reach.
    near, far = wins + ties // 2, wins + (ties + 1) // 2
    towards = near if share >= 0.5 else far
    away = abs(2 * towards - n)
    top = (n + away) // 2
    p_different = (
        float(binom.sf(top - 1, n, 0.5 + margin) + binom.cdf(n - top, n, 0.5 + margin)) if away else 1.0
    )
    p_equivalent = float(max(binom.cdf(far, n, 0.5 + margin), binom.sf(near - 1, n, 0.5 - margin)))
    verdict: Verdict = (
        "equivalent" if p_equivalent <= alpha else "different" if p_different <= alpha else "undecided"
    )
    low = float(beta.ppf(0.025, near, n - near + 1)) if near else 0.0
    high = float(beta.ppf(0.975, far + 1, n - far)) if far < n else 1.0
    found, mean = Estimate(share, low, high, n), float(values.mean())
    return Equivalence(found, margin, min(p_different, 1.0), p_equivalent, verdict, mean, ties)
