"""Simulation: does the activity that the description predicts, token by token, go with the unit's own?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from patchclamp.base.seeds import numpy_rng
from patchclamp.describe.description import Description
from patchclamp.describe.scoring.base import (
    Array,
    DescriptionScore,
    Judge,
    PredicateJudge,
    check_examples,
    scored,
)
from patchclamp.describe.windows import Examples

__all__ = ["simulation"]


def simulation(
    description: Description,
    examples: Examples,
    judge: Judge | None = None,
    *,
    others: Sequence[Description] = (),
    n_boot: int = 1000,
    seed: int = 0,
) -> DescriptionScore:
    """Correlation of predicted and true activity over all tokens of all windows.

    Pearson's r over the pooled tokens of active and silent windows; windows (groups of them) are resampled. A constant
    prediction has no correlation: 0 by definition here, as it predicts nothing.

    Parameters
    ----------
    description, examples, judge, others, n_boot, seed
        As in `detection`.

    References
    ----------
    Bills et al. (2023), Language models can explain neurons in language models.
    """
    judge = PredicateJudge() if judge is None else judge
    windows = examples.all
    check_examples(description, windows, "simulation")
    pieces, truth = [w.tokens for w in windows], [np.asarray(w.activity) for w in windows]
    predicted = judge.simulate(description, pieces)
    if others:
        control, chance = "descriptions of other units", [judge.simulate(other, pieces) for other in others]
    else:
        control, chance = "permuted judgements", _permuted(predicted, seed)
    return scored(
        "simulation",
        description,
        judge.name,
        _sums(predicted, truth),
        _correlation,
        [w.group for w in windows],
        others=[_sums(one, truth) for one in chance],
        control=control,
        n_boot=n_boot,
        seed=seed,
        facts={"tokens": sum(len(t) for t in truth)},
    )


def _permuted(predicted: Sequence[Array], seed: int, times: int = 20) -> list[list[Array]]:
    """Predictions handed to other windows, repeated or cut to their length."""
    rng = numpy_rng([seed, 3])
    orders = [rng.permutation(len(predicted)) for _ in range(times)]
    return [[np.resize(predicted[j], len(own)) for j, own in zip(o, predicted, strict=True)] for o in orders]


def _sums(predicted: Sequence[Array], truth: Sequence[Array]) -> Array:
    """(windows, 6): tokens, and sums of x, y, x x, y y, x y, from which any weighting gives a correlation."""
    rows = [[len(y), x.sum(), y.sum(), x @ x, y @ y, x @ y] for x, y in zip(predicted, truth, strict=True)]
    return np.asarray(rows, dtype=np.float64)


def _correlation(sums: Array, weights: Array) -> float:
    n, x, y, xx, yy, xy = weights @ sums
    if not n:
        return np.nan
    spread_x, spread_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
    if spread_x <= 1e-12 or spread_y <= 1e-12:
        return 0.0 if spread_y > 1e-12 else np.nan
    return float((xy / n - x * y / n**2) / np.sqrt(spread_x * spread_y))
