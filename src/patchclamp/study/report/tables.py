"""Scores as the report draws them, and what the tables say of a unit's scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.statistics import bootstrap_interval
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Unit

__all__ = ["head_map", "role_map", "score_interval", "strongest_role"]

Map = NDArray[np.float64]


def head_map(scores: Scores, n_layers: int, unit: str) -> dict[str, Any] | None:
    """The heat map of mean scores, head down and layer across; None where no head was scored."""
    layers = _by_layer(scores, "head", n_layers)
    if layers is None:
        return None
    summed = [None if layer is None else np.nansum(layer, axis=-1) for layer in layers]
    heads = range(max(len(layer) for layer in summed if layer is not None))
    label = "Estimated effect of every attention head, layer by head"
    return _map(summed, [str(head) for head in heads], "head.{layer}[{row}]", "layer", "head", label, unit)


def role_map(
    scores: Scores, point: str, n_layers: int, unit: str, x_label: str, y_label: str = ""
) -> dict[str, Any] | None:
    """The heat map of a point's mean scores, role down and layer across; None where it has none by role."""
    layers = _by_layer(scores, point, n_layers)
    if layers is None or scores.positions is None:
        return None
    summed = [None if layer is None else np.nansum(layer, axis=0) for layer in layers]
    label = f"Estimated effect by layer and position: {point}"
    name = f"{point}.{{layer}} at {{row}}"
    return _map(summed, list(scores.positions), name, x_label, y_label, label, unit)


def _map(
    layers: list[Map | None], rows: list[str], name: str, x_label: str, y_label: str, label: str, unit: str
) -> dict[str, Any]:
    """A heat map with a column for each layer, which may have no value or fewer rows; `name` is what a cell is called."""
    places = range(len(layers))
    return {
        "values": [
            [None if layer is None or r >= len(layer) else layer[r] for layer in layers]
            for r in range(len(rows))
        ],
        "columns": [str(layer) for layer in places],
        "rows": rows,
        "x_label": x_label,
        "y_label": y_label,
        "label": label,
        "names": [[name.format(layer=layer, row=row) for layer in places] for row in rows],
        "unit": f" {unit}",
    }


def _by_layer(scores: Scores, point: str, n_layers: int) -> list[Map | None] | None:
    """Mean scores (nodes, roles) of each layer, None for layers without this point."""
    found: list[Map | None] = [None] * n_layers
    for site in scores.sites:
        if site.point == point and site.layer is not None:
            mean = np.asarray(scores.mean(site), dtype=np.float64)
            found[site.layer] = mean if mean.ndim == 2 else mean[:, None]
    return None if all(layer is None for layer in found) else found


def strongest_role(scores: Scores, unit: Unit) -> str:
    """Return the role at which a unit's mean score is largest in size."""
    values = np.asarray(scores.mean(unit.site), dtype=np.float64)
    if scores.positions is None:
        return "end"
    row = values[scores.index(unit.site).index(unit.index)]
    return str(scores.positions[int(np.nan_to_num(np.abs(row)).argmax())])


def score_interval(scores: Scores, unit: Unit, seed: int) -> tuple[float, float, float]:
    """Return a unit's mean score over items, summed over positions, with its bootstrap interval."""
    values = scores.values[unit.site][:, scores.index(unit.site).index(unit.index)]
    per_item = np.nan_to_num(values.astype(np.float64)).reshape(len(values), -1).sum(1)
    low, high = bootstrap_interval(per_item, scores.groups or None, seed=seed)
    return float(per_item.mean()), float(low), float(high)
