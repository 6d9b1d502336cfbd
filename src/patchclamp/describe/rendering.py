"""Exemplars as text: the context of a unit's strongest samples, with the activity of every token shown."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from patchclamp.describe.llm.prompts import marked
from patchclamp.nouns.recording.contexts import ExemplarContext, contexts

__all__ = ["Exemplar", "exemplars_as_html", "exemplars_as_text", "render_exemplars"]


Exemplar = ExemplarContext[str]


def render_exemplars(
    exemplars: Any,
    pieces_of: Callable[[int], Sequence[str]],
    *,
    activity_of: Callable[[int, int], Sequence[float]] | None = None,
    units: Sequence[int] | None = None,
    before: int = 16,
    after: int = 8,
) -> list[Exemplar]:
    """Put the result of the measure `Exemplars` into its text.

    Parameters
    ----------
    exemplars, units, before, after, activity_of
        As for `patchclamp.nouns.recording.contexts.contexts`.
    pieces_of
        Document number -> the text of each of its tokens, by position (`token_pieces`).
    """
    return contexts(exemplars, pieces_of, units, before, after, activity_of=activity_of)


def exemplars_as_text(exemplars: Sequence[Exemplar], level: float = 0.3) -> str:
    """One line an exemplar: its activity, and the context with tokens above `level` of it between << and >>.

    Examples
    --------
    >>> print(exemplars_as_text([Exemplar(0, 0, 2.0, 5, 1, ("a", " cat", "\\n"), 1)]))
        2.000  a<< cat>>\\n
    """
    lines = []
    for one in exemplars:
        text = marked(one.tokens, [s >= level and s > 0 for s in one.strength()])
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        lines.append(f"{one.value:9.3f}  {shown}")
    return "\n".join(lines)


def exemplars_as_html(exemplars: Sequence[Exemplar]) -> str:
    """A list in HTML: the background of each token is as strong as its activity; every piece of text is escaped.

    Examples
    --------
    >>> "&lt;b&gt;" in exemplars_as_html([Exemplar(0, 0, 1.0, 0, 0, ("<b>",), 0)])
    True
    """
    rows = []
    for one in exemplars:
        cells = [
            f'<span style="background:rgba(255,140,0,{s:.2f})">{html.escape(token)}</span>'
            if s >= 0.005
            else html.escape(token)
            for token, s in zip(one.tokens, one.strength(), strict=True)
        ]
        rows.append(f'<li value="{one.rank + 1}"><b>{one.value:.3f}</b> {"".join(cells)}</li>')
    return "<ol>\n" + "\n".join(rows) + "\n</ol>"
