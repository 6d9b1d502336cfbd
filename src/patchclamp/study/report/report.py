"""The report: one HTML file made from `study.json` and the claims, with nothing loaded from anywhere.

All text is escaped by the template engine; the page's content security policy admits only its own script, by hash,
so that text from a data set or a tokenizer cannot run even if an escape were forgotten.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from patchclamp.draw.svg import Svg
from patchclamp.study.report.figures import Series, curves, forest, heat_map, scatter
from patchclamp.study.report.text import number, percent, signed, visible

__all__ = ["render"]


def render(study: Mapping[str, Any], claims: Sequence[Mapping[str, Any]]) -> str:
    """Return the report as HTML text.

    Parameters
    ----------
    study
        The content of ``study.json``; see ``study.schema.json``.
    claims
        The list under ``claims`` of ``claims.json``.
    """
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    env.filters.update(num=number, pct=percent, signed=signed, visible=visible)
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return env.from_string(_asset("report.html.j2")).render(
        s=study,
        claims=claims,
        tiles=study["tiles"],
        figures=_figures(study),
        css=Markup(_asset("report.css")),
        js=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def _asset(name: str) -> str:
    return (resources.files("patchclamp.study") / "templates" / name).read_text(encoding="utf-8")


def _figures(study: Mapping[str, Any]) -> dict[str, Any]:
    maps = study["maps"]
    return {
        "heads": _head_map(study, maps["heads"]) if maps.get("heads") else None,
        "positions": _position_map(study, maps["stream"], "after layer") if maps.get("stream") else None,
        "layers": [
            _position_map(study, m, f"{m['name']}, layer", small=True) for m in maps.get("outputs", [])
        ],
        "forest": forest(
            study["forest"],
            "metric lost when ablated",
            "Effects of ablating units, with intervals and controls",
        ),
        "ablations": forest(
            study["ablations"], "metric lost", "The chosen sets under other kinds of ablation"
        )
        if study["ablations"]
        else None,
        "curves": [_curve_pair(kind) for kind in study["curves"]],
        "features": _feature_curve(study["features"]) if study.get("features") else None,
        "scatter": [_scatter(study, m) for m in study["methods"]["scatter"]],
    }


def _head_map(study: Mapping[str, Any], data: Mapping[str, Any]) -> Svg:
    layers, heads = len(data["values"]), max(len(row) for row in data["values"])
    chosen = {tuple(cell) for cell in data["selected"]}
    values = [[_at(data["values"], layer, head) for layer in range(layers)] for head in range(heads)]
    return heat_map(
        values,
        columns=[str(i) for i in range(layers)],
        rows=[str(i) for i in range(heads)],
        x_label="layer",
        y_label="head",
        label="Estimated effect of every attention head, layer by head",
        names=[[f"head.{layer}[{head}]" for layer in range(layers)] for head in range(heads)],
        marked=frozenset((head, layer) for layer, head in chosen),
        unit=f" {study['task']['metric_short']}",
    )


def _at(values: Sequence[Sequence[float]], layer: int, head: int) -> float:
    row = values[layer]
    return row[head] if head < len(row) and row[head] is not None else float("nan")


def _position_map(
    study: Mapping[str, Any], data: Mapping[str, Any], x_label: str, small: bool = False
) -> Svg:
    """Roles down, layers across; `data["values"]` is [layer][role]."""
    roles, layers = data["roles"], len(data["values"])
    values = [[_at(data["values"], layer, r) for layer in range(layers)] for r in range(len(roles))]
    return heat_map(
        values,
        columns=[str(i) for i in range(layers)],
        rows=roles,
        x_label=x_label,
        y_label="" if small else "position",
        label=f"Estimated effect by layer and position: {data['name']}",
        names=[[f"{data['name']}.{layer} at {role}" for layer in range(layers)] for role in roles],
        unit=f" {study['task']['metric_short']}",
    )


def _curve_pair(kind: Mapping[str, Any]) -> dict[str, Any]:
    def series(which: str) -> list[Series]:
        ours, random = kind[which], kind[which].get("random")
        found = [Series("ranked", ours["sizes"], ours["mean"], ours["low"], ours["high"], "s1")]
        if random:
            found.insert(
                0, Series("random", random["sizes"], random["mean"], random["low"], random["high"], "control")
            )
        return found

    key = Markup(
        '<div class="key"><span><i style="background:var(--pos)"></i>in order of their scores</span>'
        '<span><i style="background:var(--control)"></i>random order, {} times</span></div>'
    ).format(kind["n_random"])
    name = kind["name"]
    return {
        "name": name,
        "key": key,
        "ablated": curves(
            series("ablated"),
            f"{name} ablated",
            "metric lost",
            f"Metric lost against number of {name} ablated",
        ),
        "kept": curves(
            series("kept"),
            f"{name} kept, all others ablated",
            "metric recovered",
            f"Metric recovered against number of {name} kept",
        ),
    }


def _feature_curve(data: Mapping[str, Any]) -> Svg:
    rows = data["curve"]
    sizes = [row["size"] for row in rows]
    lines = [
        Series(
            name,
            sizes,
            [row[name] for row in rows],
            [row[f"{name}_low"] for row in rows],
            [row[f"{name}_high"] for row in rows],
            css,
        )
        for name, css in (("neurons", "s2"), ("features", "s1"))
    ]
    return curves(
        lines, "units ablated", "metric lost", "Metric lost against number of features, and of neurons"
    )


def _scatter(study: Mapping[str, Any], method: Mapping[str, Any]) -> Svg:
    groups = {
        point: [(float(e), float(a), str(tip)) for e, a, tip in method["points"].get(point, [])]
        for point in study["methods"]["points"]
    }
    return scatter(groups, method["label"], f"{method['label']} against exact patching")
