"""The files of a concept study: ``study.json``, ``claims.json``, a table, and one page of HTML."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from patchclamp.base.files import plain, write_json, write_text
from patchclamp.base.version import __version__
from patchclamp.study.claims import write_claims
from patchclamp.study.concepts.words import LIMITS
from patchclamp.study.report.figures import forest, heat_map
from patchclamp.study.report.text import number, percent, signed, visible

__all__ = ["render_concepts", "write_concepts"]


def write_concepts(study: Any, folder: Path) -> Any:
    """Write all files of a study and return it with its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = plain(study.data)
    write_json(folder / "study.json", data)
    if study.claims:
        write_claims(folder / "claims.json", study.claims, __version__)
    rows = [{"label": row["label"], **_flat(unit)} for row in data["labels"] for unit in row["best"]]
    pd.DataFrame(rows).to_parquet(folder / "units.parquet")
    write_text(folder / "report.html", render_concepts(data, [c.to_json() for c in study.claims]))
    return replace(study, folder=folder)


def _flat(unit: Mapping[str, Any]) -> dict[str, Any]:
    return {name: unit[name] for name in ("unit", "average_precision", "p", "prevalence")}


def render_concepts(study: Mapping[str, Any], claims: Sequence[Mapping[str, Any]]) -> str:
    """The page; all text is escaped, and its content security policy admits its own script only."""
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    env.filters.update(num=number, pct=percent, signed=signed, visible=visible)
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return env.from_string(_asset("concepts.html.j2")).render(
        s=study,
        claims=claims,
        limits=LIMITS,
        figures={"damage": _damage(study), "forest": _forest(study)},
        css=Markup(_asset("report.css")),
        js=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def _asset(name: str) -> str:
    return (resources.files("patchclamp.study") / "templates" / name).read_text(encoding="utf-8")


def _damage(study: Mapping[str, Any]) -> Any:
    found = study["damage"]
    return heat_map(
        found["nats"],
        columns=found["labels"],
        rows=found["units_of"],
        x_label="held-out texts of",
        y_label="units of",
        label="Loss added to each label's texts by ablating each label's units",
        names=[[f"units of {u}, texts of {t}" for t in found["labels"]] for u in found["units_of"]],
        unit=" nats a token",
    )


def _forest(study: Mapping[str, Any]) -> Any:
    """Effects as shares of the unchanged loss of the label's own texts."""
    rows = []
    for row in study["labels"]:
        share = row["selective"]
        if share is None:
            continue
        scale = 1 / abs(study["baseline"][row["label"]])
        entry: dict[str, Any] = {"name": row["label"]}
        entry |= {key: share[key] * scale for key in ("estimate", "low", "high")}
        if share["control"] is not None:
            c = share["control"]
            entry |= {
                "control": c["mean"] * scale,
                "control_low": c["low"] * scale,
                "control_high": c["high"] * scale,
            }
        rows.append(entry)
    return forest(rows, "of the loss a token", "How much more a label's own texts suffer than the others'")
