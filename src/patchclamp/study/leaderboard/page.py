"""The leaderboard as one HTML file, with nothing loaded from anywhere and no script at all."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from patchclamp.draw.theme import page_css
from patchclamp.study.leaderboard.base import BAD, GOOD, VERDICTS, Row
from patchclamp.study.leaderboard.board import Board

__all__ = ["render"]


def render(board: Board) -> str:
    """Return the page as HTML text. All text is escaped by the template engine."""
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(fig=figure, sci=scientific, of=of_so_many)
    sections = [_section(board.of(verb), verb) for verb in board.verbs]
    return env.from_string(_asset("patchclamp.study.leaderboard", "leaderboard.html.j2")).render(
        about=board.about,
        said=str(board),
        sections=sections,
        verdicts=VERDICTS,
        css=Markup(
            page_css()
            + _asset("patchclamp.study", "report.css")
            + _asset("patchclamp.study.leaderboard", "leaderboard.css")
        ),
    )


def figure(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash for none.

    Examples
    --------
    >>> figure(0.5), figure(None)
    ('0.50', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}"


def scientific(value: float | None) -> str:
    """A small number in two digits."""
    return "–" if value is None else "0" if value == 0 else f"{value:.1e}"


def of_so_many(summary: Mapping[str, Any], what: str) -> str:
    """A count with what it is of, or a dash where there was nothing to count."""
    n = summary[f"{what}_of"]
    return f"{summary[what]} of {n}" if n else "–"


def _asset(package: str, name: str) -> str:
    return (resources.files(package) / "templates" / name).read_text(encoding="utf-8")


def _section(board: Board, verb: str) -> dict[str, Any]:
    return {
        "verb": verb,
        "summary": board.summaries(),
        "rows": [_shown(row) for row in board.rows],
        "failures": board.failures(),
    }


def _shown(row: Row) -> dict[str, Any]:
    outcome = row.outcome
    colour = "good" if outcome.verdict in GOOD else "bad" if outcome.verdict in BAD else "quiet"
    return {"row": row, "o": outcome, "colour": colour}
