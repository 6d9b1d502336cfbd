"""The picture of a profile over layers: values with intervals, controls, a ceiling; one panel a region."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.base.optional import new_figure

_INK, _BAND, _COLOURS = "#1f4e79", "#e4e4e4", {"pixels": "#b8860b", "untrained": "#8b2e2e"}


Band = tuple[float, float] | None


def profile_figure(table: pd.DataFrame, bands: Mapping[str, Band], ylabel: str, n: int) -> Any:
    """One panel a region. A figure object of its own, so that no window opens and no global state changes.

    Parameters
    ----------
    table
        Columns region, layer, value, low, high, control ("" for the layers themselves).
    bands
        (low, high) of the grey band of each region, None for none.
    """
    n_layers = len(dict.fromkeys(table.loc[table["control"] == "", "layer"]))
    figure = new_figure(max(3.2, 0.24 * n_layers + 1.2) * len(bands) + 0.6, 4.0)
    panels = figure.subplots(1, len(bands), squeeze=False, sharey=False)[0]
    for axes, (region, band) in zip(panels, bands.items(), strict=True):
        _panel(axes, table[table["region"] == region], band, f"{region} (n={n})")
    panels[0].set_ylabel(ylabel)
    return figure


def lines_figure(names: Sequence[str], lines: Mapping[str, Any], thick: str, ylabel: str) -> Any:
    """A figure with a line for each name of `lines` along the steps `names`, one of them thick."""
    figure = new_figure(5.5, 3.6)
    axes = figure.subplots()
    for label, line in lines.items():
        axes.plot(range(len(names)), line, "o-", ms=3, lw=2.5 if label == thick else 0.8, label=label)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
    return figure


def _panel(axes: Any, table: pd.DataFrame, band: Band, title: str) -> None:
    own = table[table["control"] == ""]
    x = np.arange(len(own))
    value, low, high = (own[name].to_numpy(float) for name in ("value", "low", "high"))
    if band is not None:
        axes.axhspan(*band, color=_BAND, zorder=0, label="noise ceiling")
    for control, part in table[table["control"] != ""].groupby("control", sort=False):
        best = part.loc[part["value"].idxmax()]
        text = control if len(part) == 1 else f"{control}, best layer"
        axes.axhline(best["value"], color=_COLOURS.get(str(control), "grey"), ls="--", lw=1, label=text)
    if np.isfinite(low).all():
        axes.fill_between(x, low, high, color=_INK, alpha=0.18, lw=0)
    axes.plot(x, value, "o-", color=_INK, ms=4, lw=1.5, label="layers")
    top = int(np.nanargmax(value))
    axes.plot(x[top], value[top], "o", ms=9, mfc="none", mec=_INK)
    axes.axhline(0, color="black", lw=0.6)
    names, pattern = _short(own["layer"].tolist())
    axes.set_xticks(x, names, rotation=90, fontsize=7)
    axes.set_xlabel(pattern, fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="upper left")


def _short(layers: Sequence[str]) -> tuple[list[str], str]:
    """What differs between the names, and the name with * for it."""
    if len(layers) < 2:
        return list(layers), ""
    head = os.path.commonprefix(layers)
    tail = os.path.commonprefix([name[::-1] for name in layers])[::-1]
    # Cut at a separator only: `blocks.1` of `blocks.10` must not become `0`.
    head = head[: max(head.rfind("."), head.rfind("_")) + 1]
    tail = tail[tail.find(".") :] if "." in tail else ""
    return [name[len(head) : len(name) - len(tail)] for name in layers], f"{head}*{tail}"
