"""Faithfulness curves as the report draws them: what is lost without the first k units, what is left with them alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from patchclamp.evaluate import faithfulness
from patchclamp.study.behaviour import KINDS, Behaviour
from patchclamp.study.stages import Figure, Section, Table

__all__ = ["curves", "spread_sizes"]


_KEY = (("line", "pos", "in order of their scores"),)
_WAYS = (
    ("ablated", "Lost, ablating the first k", "ablated", "lost"),
    ("kept", "Recovered, keeping only the first k", "kept, all others ablated", "recovered"),
)


def curves(context: Behaviour) -> Section:
    """The curves of every kind, and the table of all their points.

    Shares are (m - m(none)) / (m(all) - m(none)), m(none) with every unit of the kind ablated; so at the right end
    the one curve is 1 by definition, and the other too.
    """
    options, bench = context.options, context.bench
    drawn: list[dict[str, Any]] = []
    figures: list[Figure] = []
    parts: list[pd.DataFrame] = []
    items = context.splits["test"].take(options.curve_items)
    random = ("line", "control", f"random order, {options.n_random} times")
    for s in context.selections:
        context.say(f"curves of {s.kind}")
        found = faithfulness(
            bench.on(items),
            s.ranking(context.scores),
            spread_sizes(len(s.order), options.curve_points, s.k),
            points=(KINDS[s.kind][0],),
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
            }
        )
        for which, title, done, what in _WAYS:
            data = {
                "series": _series(found.table, which),
                "x_label": f"{s.kind} {done}",
                "y_label": f"metric {what}",
                "label": f"Metric {what} against number of {s.kind} {which}",
            }
            figures.append(Figure("curves", [data], f"{title} {s.kind}", key=[*_KEY, random], half=True))
    return Section(
        figures=figures,
        note=(
            "Curves: 0 % is the model with every unit of the kind ablated, 100 % the whole model. Above 100 % the units "
            "left do better than the model: what was ablated also worked against the behaviour."
        ),
        tables=[Table(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(), "curves")],
        facts={"curves": drawn},
    )


def spread_sizes(universe: int, points: int, chosen: int) -> list[int]:
    """Return sizes from 1 to all, evenly on a log axis, with the chosen one among them.

    Examples
    --------
    >>> spread_sizes(270, 4, 5)
    [1, 5, 6, 42, 270]
    """
    spread = np.geomspace(1, universe, points).round().astype(int).tolist()
    return sorted({*spread, chosen})


def _series(table: pd.DataFrame, which: str) -> list[dict[str, Any]]:
    """The curve in random orders and that in the order of the scores; lost shares are 1 minus what remains."""
    found = []
    for order, css in (("random", "control"), ("ranked", "s1")):
        rows = table[(table["curve"] == which) & (table["order"] == order)].sort_values("size")
        if rows.empty:
            continue
        value, low, high = (rows[name].to_numpy(float) for name in ("value", "low", "high"))
        if which == "ablated":
            value, low, high = 1 - value, 1 - high, 1 - low
        # No unit ablated loses nothing, none kept recovers nothing: both by definition.
        lines = {"x": rows["size"], "y": value, "low": low, "high": high}
        found.append({"name": order, "css": css, **{k: [0, *v.tolist()] for k, v in lines.items()}})
    return found
