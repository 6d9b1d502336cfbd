"""How often a 95 % interval holds the truth, by number of groups: means, shares, statistics and crossed names.

python -m benchmarks.coverage [SYSTEMS]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import RESULTS, save, show
from patchclamp.base.statistics import (
    bootstrap_interval,
    bootstrap_statistic,
    quantiles,
    ratio_interval,
    resamples,
)

Array = NDArray[np.float64]
COUNTS = (8, 12, 20, 30, 40)
SHAPES: dict[str, Callable[[np.random.Generator, Any], Array]] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size) - 1,
}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "intervene.md"
MARK = re.compile(r"(<!-- coverage -->\n).*?(<!-- /coverage -->)", re.DOTALL)

Sample = tuple[Array, Array, list[str] | None]
"""Values, what they are a share of, and the groups of items."""


def equal(rng: np.random.Generator, shape: str, count: int) -> Sample:
    """One item a group."""
    return 1 + SHAPES[shape](rng, count), np.ones(count), None


def unequal(rng: np.random.Generator, shape: str, count: int) -> Sample:
    """Groups of 1 to 7 items, which share an effect."""
    sizes = rng.integers(1, 8, size=count)
    draw = SHAPES[shape]
    values = 1 + np.repeat(draw(rng, count), sizes) + 0.7 * draw(rng, sizes.sum())
    return values, np.ones(len(values)), np.repeat([f"g{i}" for i in range(count)], sizes).tolist()


def share(rng: np.random.Generator, shape: str, count: int) -> Sample:
    """Effects of 1 and a baseline of 1 that varies with them, in groups of unequal size."""
    sizes = rng.integers(1, 8, size=count)
    draw = SHAPES[shape]
    own = draw(rng, count)
    values = 1 + np.repeat(own, sizes) + 0.7 * draw(rng, sizes.sum())
    whole = 1 + 0.15 * np.repeat(own, sizes) + 0.25 * draw(rng, sizes.sum())
    return values, whole, np.repeat([f"g{i}" for i in range(count)], sizes).tolist()


def names(rng: np.random.Generator, shape: str, count: int) -> Sample:
    """40 items on pairs of so many names, each of which has an effect in either place, as in IOI."""
    draw = SHAPES[shape]
    first, second = draw(rng, count), draw(rng, count)
    pairs = np.array([rng.permutation(count)[:2] for _ in range(40)])
    values = 1 + 0.6 * first[pairs[:, 0]] + 0.6 * second[pairs[:, 1]] + 0.8 * draw(rng, 40)
    return values, np.ones(40), [" × ".join(sorted(map(str, pair))) for pair in pairs]


def percentile(values: Array, whole: Array, groups: Sequence[str] | None, seed: int) -> tuple[float, float]:
    """What was used before: the percentiles of resampled groups, pairs of names as if they were independent."""
    apart = None if groups is None else [group.replace(" × ", "+") for group in groups]
    weights = resamples(len(values), apart, 1000, seed)
    low, high = quantiles((weights @ values / (weights @ whole))[:, None], (0.025, 0.975))[:, 0]
    return float(low), float(high)


def mean(values: Array, whole: Array, groups: Sequence[str] | None, seed: int) -> tuple[float, float]:
    """`bootstrap_interval`, of a mean."""
    low, high = bootstrap_interval(values, groups, seed=seed)
    return float(low), float(high)


def ratio(values: Array, whole: Array, groups: Sequence[str] | None, seed: int) -> tuple[float, float]:
    """`ratio_interval`, of a share."""
    return ratio_interval(values, whole, groups, seed=seed)


def statistic(values: Array, whole: Array, groups: Sequence[str] | None, seed: int) -> tuple[float, float]:
    """`bootstrap_statistic`: expanded percentiles, for what is no mean or share (here it is one, to compare)."""
    return bootstrap_statistic(lambda w: float(w @ values / (w @ whole)), len(values), groups, seed=seed)


CASES = {
    "mean": (equal, mean),
    "mean, unequal groups": (unequal, mean),
    "share, unequal groups": (share, ratio),
    "statistic, unequal groups": (share, statistic),
    "mean, crossed names": (names, mean),
}


def filled(text: str) -> str:
    """The page with the stored coverage."""
    stored = json.loads((RESULTS / "coverage.json").read_text())
    lines = [
        "| interval of | groups are | " + " | ".join(f"{count} groups" for count in COUNTS) + " |",
        "| --- | --- |" + " --- |" * len(COUNTS),
    ]
    for row in stored["rows"]:
        cells = [f"{row[str(count)]:.3f} ({row[f'percentile {count}']:.3f})" for count in COUNTS]
        lines.append(f"| {row['interval of']} | {row['groups are']} | " + " | ".join(cells) + " |")
    return MARK.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text)


def main(systems: int = 1000) -> None:
    """Count, show and store how often the intervals hold the truth, 1."""
    rows: list[dict[str, Any]] = []
    for what, (sample, interval) in CASES.items():
        for shape in SHAPES:
            row: dict[str, Any] = {"interval of": what, "groups are": shape}
            for count in COUNTS:
                rng = np.random.default_rng([count, len(rows)])
                held = np.zeros(2)
                for seed in range(systems):
                    drawn = sample(rng, shape, count)
                    for place, how in enumerate((interval, percentile)):
                        low, high = how(*drawn, seed)
                        held[place] += low <= 1 <= high
                row[str(count)], row[f"percentile {count}"] = (float(h) / systems for h in held)
            rows.append(row)
    show(
        f"How often a 95 % interval holds the truth, {systems} systems a cell, beside plain percentiles", rows
    )
    save("coverage", rows, f"{systems} systems a cell; plain percentiles of the same samples beside")
    PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
