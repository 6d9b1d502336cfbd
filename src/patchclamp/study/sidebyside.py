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
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Site
from patchclamp.study.options import StudyOptions

__all__ = ["LABELS", "compare_methods"]

EXACT = "activation_patching"
PARTS = ((("resid_post", "attn_out", "mlp_out"), "roles"), (("head",), "sum"))
"""Points, and how their positions are patched."""
LABELS: Mapping[str, str] = {
    "partial_gradients": "partial gradients",
    "integrated_gradients": "integrated gradients",
    "attribution_patching": "attribution patching",
    "relevance_patching": "relevance patching",
}


def compare_methods(
    subject: Any, task: Task, options: StudyOptions, progress: Callable[..., None]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the comparison for ``study.json`` and the table of agreements.

    Cells are the stream, attention and MLP outputs at every role, and heads at all positions together, at
    `options.exact_layers` layers spread evenly over the model.
    """
    items = task.take(options.exact_items)
    layers = sorted({round(x) for x in np.linspace(0, subject.n_layers - 1, options.exact_layers).tolist()})
    parts = [(sites, how) for points, how in PARTS if (sites := _sites(subject, points, layers))]

    methods: Mapping[str, Callable[..., Any]] = METHODS

    fixed: dict[str, Any] = {"direction": options.direction, "batch_size": options.batch_size}
    progress("patching exactly")
    start = time.perf_counter()
    exact = [methods[EXACT](subject, items, sites, positions=how, **fixed) for sites, how in parts]
    exact_seconds = time.perf_counter() - start

    def run(method: str) -> tuple[list[Any], float]:
        """Estimates at all roles at once; over a part's positions together they are summed."""
        start = time.perf_counter()
        found = methods[method](
            subject, items, [s for sites, _ in parts for s in sites], positions="roles", **fixed
        )
        seconds = time.perf_counter() - start
        return [
            found.select(sites) if how == "roles" else found.select(sites).summed() for sites, how in parts
        ], seconds

    rows: list[dict[str, Any]] = []
    scatter: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for method in [m for m in methods if m != EXACT and "direction" in signature(methods[m]).parameters]:
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


def _sites(subject: Any, points: Sequence[str], layers: Sequence[int]) -> list[Site]:
    known = set(subject.known_sites())
    return [site for point in points for layer in layers if (site := Site(point, int(layer))) in known]


def _points(estimate: Any, exact: Any) -> dict[str, list[tuple[float, float, str]]]:
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
