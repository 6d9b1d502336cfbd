"""Faithfulness curves as the report draws them: what is lost without the first k units, what is left with them alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.evaluate import faithfulness
from patchclamp.study.experiments import Bench
from patchclamp.study.options import StudyOptions
from patchclamp.study.select import Selection
from patchclamp.subjects.clamp import bench as clamp

__all__ = ["draw_curves", "spread_sizes"]


def draw_curves(
    bench: Bench,
    scores: Any,
    selections: Sequence[Selection],
    points: dict[str, str],
    options: StudyOptions,
    say: Callable[..., None],
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Return the curves of every kind for ``study.json``, and the table of all their points.

    Shares are (m - m(none)) / (m(all) - m(none)), m(none) with every unit of the kind ablated; so at the right end
    the one curve is 1 by definition, and the other too.
    """
    drawn: list[dict[str, Any]] = []
    parts: list[pd.DataFrame] = []
    items = bench.items.take(options.curve_items)
    ablations = clamp.Bench(
        bench.subject,
        items,
        options.kind,
        bench.reference,
        by=bench.intervention.get("by", "template"),
        source=bench.intervention.get("source", ""),
        batch_size=options.batch_size,
        seed=options.seed,
    )
    for s in selections:
        say(f"curves of {s.kind}")
        found = faithfulness(
            ablations,
            s.ranking(scores),
            spread_sizes(len(s.order), options.curve_points, s.k),
            points=(points[s.kind],),
            rank_by="signed",
            n_random=options.n_random,
        )
        parts.append(found.table.assign(kind=s.kind))
        drawn.append(
            {
                "name": s.kind,
                "n_items": len(items),
                "n_random": options.n_random,
                "full": found.full,
                "none": found.empty,
                "area_kept": found.cpr_log,
                "ablated": _curve(found.table, "ablated"),
                "kept": _curve(found.table, "kept"),
            }
        )
    return drawn, pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def spread_sizes(universe: int, points: int, chosen: int) -> list[int]:
    """Return sizes from 1 to all, evenly on a log axis, with the chosen one among them.

    Examples
    --------
    >>> spread_sizes(270, 4, 5)
    [1, 5, 6, 42, 270]
    """
    spread = np.geomspace(1, universe, points).round().astype(int).tolist()
    return sorted({*spread, chosen})


def _curve(table: pd.DataFrame, which: str) -> dict[str, Any]:
    """Return one curve with its random companion; lost shares are 1 minus what remains."""
    curve: dict[str, Any] = {}
    for order in ("ranked", "random"):
        rows = table[(table["curve"] == which) & (table["order"] == order)].sort_values("size")
        if rows.empty:
            continue
        value, low, high = (rows[name].to_numpy(float) for name in ("value", "low", "high"))
        if which == "ablated":
            value, low, high = 1 - value, 1 - high, 1 - low
        # No unit ablated loses nothing, none kept recovers nothing: both by definition.
        start = {"sizes": [0], "mean": [0.0], "low": [0.0], "high": [0.0]}
        ends = {
            "sizes": rows["size"].tolist(),
            "mean": value.tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
        }
        drawn = {name: start[name] + ends[name] for name in start}
        curve |= drawn if order == "ranked" else {"random": drawn}
    return curve
