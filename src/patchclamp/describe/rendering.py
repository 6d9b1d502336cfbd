"""Exemplars as text: the context of a unit's strongest samples, with the activity of every token shown."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.describe.llm.prompts import marked

__all__ = ["Exemplar", "exemplars_as_html", "exemplars_as_text", "render_exemplars"]


@dataclass(frozen=True)
class Exemplar:
    """One exemplar in its context.

    Parameters
    ----------
    unit, rank, value
        Column of the unit, place in its list from 0, activity on the token at `offset`.
    doc, position
        Where that token stands.
    tokens, activity
        The context and the unit's activity on it; None where it was not given: then only the exemplar is lit.
    offset
        Place of the exemplar's token among `tokens`.
    """

    unit: int
    rank: int
    value: float
    doc: int
    position: int
    tokens: tuple[str, ...]
    offset: int
    activity: tuple[float, ...] | None = None

    def strength(self) -> tuple[float, ...]:
        """Activity in the direction of the exemplar's own, as a share of it, cut to 0..1."""
        if self.activity is None:
            return tuple(float(i == self.offset) for i in range(len(self.tokens)))
        return tuple(min(1.0, max(0.0, a / self.value)) if self.value else 0.0 for a in self.activity)


def render_exemplars(
    exemplars: Any,
    pieces_of: Callable[[int], Sequence[str]],
    *,
    activity_of: Callable[[int, int], Sequence[float]] | None = None,
    units: Sequence[int] | None = None,
    before: int = 16,
    after: int = 8,
) -> list[Exemplar]:
    """Put the result of the measure `Exemplars` into its context.

    Parameters
    ----------
    exemplars
        Dataset over (unit, rank) with value, doc and position, as `measure.Exemplars().result()` gives.
    pieces_of
        Document number -> the text of each of its tokens, by position (`token_pieces`).
    activity_of
        (document, unit) -> the unit's activity on each token of the document.
    units
        Units wanted; default: all.
    before, after
        Tokens shown on either side; the context never leaves the document.

    Raises
    ------
    PatchclampError
        For a unit that has no exemplars here, and documents shorter than an exemplar's position.
    """
    known = [int(u) for u in exemplars["unit"].values]
    out = []
    for unit in known if units is None else units:
        if unit not in known:
            raise PatchclampError(f"exemplars: unit {unit}; there are units {known[0]}..{known[-1]}")
        part = exemplars.sel(unit=unit)
        for rank in range(part.sizes["rank"]):
            doc, at = int(part["doc"][rank]), int(part["position"][rank])
            if doc < 0:
                continue
            pieces = pieces_of(doc)
            if at >= len(pieces):
                raise PatchclampError(
                    f"exemplars: document {doc} has {len(pieces)} tokens, the exemplar stands at {at}; pieces_of must "
                    "give the documents that were measured, special tokens included"
                )
            cut = slice(max(0, at - before), at + after + 1)
            own = None if activity_of is None else tuple(float(a) for a in activity_of(doc, unit)[cut])
            shown = tuple(pieces[cut])
            if own is not None and len(own) != len(shown):
                raise PatchclampError(
                    f"exemplars: document {doc} has {len(pieces)} tokens but fewer values of activity"
                )
            out.append(Exemplar(unit, rank, float(part["value"][rank]), doc, at, shown, at - cut.start, own))
    return out


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
