"""The report: one HTML file made from `study.json` and the claims, with nothing loaded from anywhere.

It knows sections, figures, tables and claims, and no study. All text is escaped by the template engine; the page's
content security policy admits only its own script, by hash, so that text from a data set or a tokenizer cannot run
even if an escape were forgotten.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import groupby
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.charts import draw
from patchclamp.draw.circuit_page import RULES, SCRIPT
from patchclamp.draw.text import number, percent, signed, visible
from patchclamp.draw.theme import page_css

__all__ = ["SCHEMA", "render"]

SCHEMA = "patchclamp/study/2"


def render(study: Mapping[str, Any], claims: Sequence[Mapping[str, Any]]) -> str:
    """Return the report as HTML text.

    Parameters
    ----------
    study
        The content of ``study.json``; see ``study.schema.json``.
    claims
        The list under ``claims`` of ``claims.json``.

    Raises
    ------
    PatchclampError
        For a ``study.json`` of another schema.
    """
    if study.get("schema") != SCHEMA:
        raise PatchclampError(
            f"this study is of schema {study.get('schema')!r} and not {SCHEMA!r}, so no report can be drawn from it; "
            "its command makes it again, and `patchclamp verify` still reads its claims.json"
        )
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    env.filters.update(num=number, pct=percent, signed=signed, visible=visible, rows=_rows)
    env.globals["draw"] = draw
    script = _asset("report.js") + SCRIPT
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return env.from_string(_asset("report.html.j2")).render(
        s=study,
        sections=sorted(study["sections"], key=lambda section: bool(section["appendix"])),
        claims=claims,
        css=Markup(page_css() + _asset("report.css") + RULES),
        js=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def _rows(figures: Sequence[Mapping[str, Any]], below: bool) -> list[list[Mapping[str, Any]]]:
    """Figures above or below the tables in rows: halves by two, the others alone."""
    found: list[list[Mapping[str, Any]]] = []
    for half, some in groupby((f for f in figures if f["below"] == below), key=lambda f: bool(f["half"])):
        group = list(some)
        width = 2 if half else 1
        found += [group[i : i + width] for i in range(0, len(group), width)]
    return found


def _asset(name: str) -> str:
    return (resources.files("patchclamp.study") / "templates" / name).read_text(encoding="utf-8")
