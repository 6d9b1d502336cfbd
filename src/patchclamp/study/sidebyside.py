"""Methods side by side: every estimator against exact patching, on few items and a spread of layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError
from patchclamp.evaluate import agreement
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Site
from patchclamp.study.behaviour import Behaviour
from patchclamp.study.options import StudyOptions
from patchclamp.study.stages import Column, Figure, Section, Table
from patchclamp.subjects import LanguageModel

__all__ = ["LABELS", "compare_methods", "methods"]

EXACT = "activation_patching"
PARTS = ((("resid_post", "attn_out", "mlp_out"), "roles"), (("head",), "sum"))
"""Points, and how their positions are patched."""
LABELS: Mapping[str, str] = {
    "partial_gradients": "partial gradients",
    "integrated_gradients": "integrated gradients",
    "attribution_patching": "attribution patching",
    "relevance_patching": "relevance patching",
}


_COLUMNS = (
    Column("Method", "label"),
    Column("Point", "point", "mono"),
    Column("Cells", "cells", "number", digits=0),
    *(
        Column(name.capitalize(), name, "number", interval=(f"{name}_low", f"{name}_high"))
        for name in ("pearson", "spearman", "slope")
    ),
    Column("Sign agreement", "sign", "percent"),
    Column("Seconds", "seconds", "number", digits=1),
)


def compare_methods(
    subject: LanguageModel, task: Task, options: StudyOptions, progress: Callable[..., None]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the comparison for ``study.json`` and the table of agreements.

    Cells are the stream, attention and MLP outputs at every role, and heads at all positions together, at
    `options.exact_layers` layers spread evenly over the model.
    """
    items = task.take(options.exact_items)
    layers = sorted({round(x) for x in np.linspace(0, subject.n_layers - 1, options.exact_layers).tolist()})
    parts = [(sites, how) for points, how in PARTS if (sites := _sites(subject, points, layers))]

    known: Mapping[str, Callable[..., Scores]] = METHODS
    fixed: dict[str, Any] = {"direction": options.direction, "batch_size": options.batch_size}
    progress("patching exactly")
    start = time.perf_counter()
    exact = [known[EXACT](subject, items, sites, positions=how, **fixed) for sites, how in parts]
    exact_seconds = time.perf_counter() - start

    def run(method: str) -> tuple[list[Scores], float]:
        """Estimates at all roles at once; over a part's positions together they are summed."""
        start = time.perf_counter()
        found = known[method](
            subject, items, [s for sites, _ in parts for s in sites], positions="roles", **fixed
        )
        seconds = time.perf_counter() - start
        return [
            found.select(sites) if how == "roles" else found.select(sites).summed() for sites, how in parts
        ], seconds

    rows: list[dict[str, Any]] = []
    scatter: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for method in [m for m in known if m != EXACT and "direction" in signature(known[m]).parameters]:
        label = LABELS.get(method, method.replace("_", " "))
        progress(f"comparing {label}")
        try:
            estimates, seconds = run(method)
        except PatchclampError as refusal:  # rules that a method has for some families only
            refused[label] = str(refusal)
            continue
        scatter.append({"method": method, "label": label, "points": {}})
        for estimate, truth in zip(estimates, exact, strict=True):
            found = agreement(estimate, truth, n_boot=100, seed=options.seed)
            rows += [
                {"method": method, "label": label, "seconds": seconds, **row}
                for row in found.to_dict("records")
            ]
            scatter[-1]["points"] |= _points(estimate, truth)
    data = {
        "n_items": len(items),
        "n_cells": sum(len(group) for group in scatter[0]["points"].values()) if scatter else 0,
        "drawn": f": layers {', '.join(map(str, layers))}",
        "points": [site.point for site in dict.fromkeys(Site(s.point) for sites, _ in parts for s in sites)],
        "exact_seconds": exact_seconds,
        "agreement": rows,
        "scatter": scatter,
        "refused": refused,
    }
    return data, pd.DataFrame(rows)


def methods(context: Behaviour) -> Section:
    """The estimators beside exact patching, on the validation items."""
    data, table = compare_methods(context.subject, context.splits["validation"], context.options, context.say)
    groups, drawings = data["points"], data.pop("scatter")
    used = context.scores.method
    by_point = [{point: one["points"].get(point, []) for point in groups} for one in drawings]
    scatter = [
        {"groups": points, "title": one["label"], "label": f"{one['label']} against exact patching"}
        for points, one in zip(by_point, drawings, strict=True)
    ]
    key = [("dot", f"g{number}", point) for number, point in enumerate(groups, 1)]
    return Section(
        heading="Methods side by side",
        text=(
            f"Each estimator against exact patching ({data['n_items']} items, {data['n_cells']} cells drawn from all "
            f"layers{data['drawn']}). The slope is the estimate's scale: 1 is right."
        ),
        tables=[
            Table(
                table,
                "agreement",
                _COLUMNS,
                captions=[
                    f"{name} does not run here: {why}" for name, why in sorted(data["refused"].items())
                ],
                marks={LABELS.get(used, used.replace("_", " ")): "used here"},
            )
        ],
        figures=[Figure("scatter", scatter, key=key, below=True)] if scatter else [],
        facts={"methods": data},
    )


def _sites(subject: LanguageModel, points: Sequence[str], layers: Sequence[int]) -> list[Site]:
    known = set(subject.known_sites())
    return [site for point in points for layer in layers if (site := Site(point, int(layer))) in known]


def _points(estimate: Scores, exact: Scores) -> dict[str, list[tuple[float, float, str]]]:
    """Return (exact, estimate, name) of each cell by point; cells that no item has are left out."""
    found: dict[str, list[tuple[float, float, str]]] = {}
    for site in exact.sites:
        true, guess = (np.asarray(s.mean(site)).reshape(len(s.index(site)), -1) for s in (exact, estimate))
        for node, index in enumerate(exact.index(site)):
            name = str(site) if index is None else f"{site}[{index}]"
            for p, label in enumerate(exact.positions or ("",)):
                if np.isfinite(true[node, p]) and np.isfinite(guess[node, p]):
                    tip = f"{name} at {label}" if label else name
                    found.setdefault(site.point, []).append(
                        (float(true[node, p]), float(guess[node, p]), tip)
                    )
    return found
