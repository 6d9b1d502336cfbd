"""Scores and units as the report and the Parquet files hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.base.statistics import bootstrap_interval
from patchclamp.nouns.units import Unit
from patchclamp.study.select import Selection

__all__ = ["maps", "score_interval", "strongest_role", "units_table"]


def maps(subject: Any, scores: Any, selections: Sequence[Selection]) -> dict[str, Any]:
    """Return the layer x head and layer x role maps of mean scores; those of points without scores are None."""
    chosen = {u for s in selections for u in s.order[: s.k] if u.site.point == "head"}
    heads = _by_layer(subject, scores, "head")
    return {
        "heads": None
        if heads is None
        else {
            "values": [[] if layer is None else np.nansum(layer, axis=-1).tolist() for layer in heads],
            "selected": [[u.site.layer, u.index] for u in sorted(chosen)],
        },
        "stream": _role_map(subject, scores, "resid_post"),
        "outputs": [
            m for m in (_role_map(subject, scores, p) for p in ("attn_out", "mlp_out")) if m is not None
        ],
    }


def _by_layer(subject: Any, scores: Any, point: str) -> list[np.ndarray | None] | None:
    """Mean scores (nodes, roles) of each layer, None for layers without this point."""
    found: list[np.ndarray | None] = [None] * subject.n_layers
    for site in scores.sites:
        if site.point == point and site.layer is not None:
            mean = np.asarray(scores.mean(site), dtype=np.float64)
            found[site.layer] = mean if mean.ndim == 2 else mean[:, None]
    return None if all(layer is None for layer in found) else found


def _role_map(subject: Any, scores: Any, point: str) -> dict[str, Any] | None:
    layers = _by_layer(subject, scores, point)
    if layers is None or scores.positions is None:
        return None
    values = [[] if layer is None else np.nansum(layer, axis=0).tolist() for layer in layers]
    return {"name": point, "roles": list(scores.positions), "values": values}


def strongest_role(scores: Any, unit: Unit) -> str:
    """Return the role at which a unit's mean score is largest in size."""
    values = np.asarray(scores.mean(unit.site), dtype=np.float64)
    if scores.positions is None:
        return "end"
    row = values[scores.index(unit.site).index(unit.index)]
    return str(scores.positions[int(np.nan_to_num(np.abs(row)).argmax())])


def score_interval(scores: Any, unit: Unit, seed: int) -> tuple[float, float, float]:
    """Return a unit's mean score over items, summed over positions, with its bootstrap interval."""
    values = scores.values[unit.site][:, scores.index(unit.site).index(unit.index)]
    per_item = np.nan_to_num(values.astype(np.float64)).reshape(len(values), -1).sum(1)
    low, high = bootstrap_interval(per_item, scores.groups or None, seed=seed)
    return float(per_item.mean()), float(low), float(high)


def units_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the selected units as a table; lists of tokens become one string each."""
    table = pd.DataFrame(
        [{k: v for k, v in row.items() if k not in ("exemplars", "decoded")} for row in rows]
    )
    for column in ("promotes", "suppresses"):
        if column in table:
            table[column] = [" | ".join(entry["token"] for entry in cell) for cell in table[column]]
    return table
