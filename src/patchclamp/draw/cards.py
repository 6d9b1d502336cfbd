"""How objects show themselves: a line of text at a prompt, a card in a notebook.

`shown` gives a class both. What a card says are the class's fields, shortly; a class that has more to show says so by
methods: ``_card`` (name -> value), ``_picture`` (an SVG), ``_preview`` (a table). Arrays are named by type and shape,
never printed.
"""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Mapping, Sequence, Set
from functools import singledispatch
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from patchclamp.draw.text import number
from patchclamp.draw.theme import scoped_css

T = TypeVar("T")
LONGEST = 300  # characters of a line at a prompt
WORDS = 80  # characters of one value
ROWS = 6

_STYLE = """
.pc-card { font: 13px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--fg);
 background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; margin: 4px 0;
 max-width: 860px; overflow-x: auto; }
.pc-card .pc-head { font-weight: 650; } .pc-card .pc-say { color: var(--fg); margin: 2px 0 6px; }
.pc-card table.pc-facts, .pc-card table.pc-rows { border-collapse: collapse; margin: 6px 0 0; background: none; }
.pc-card table.pc-facts td, .pc-card table.pc-rows td, .pc-card table.pc-rows th { padding: 1px 14px 1px 0; border: 0;
 text-align: left; vertical-align: top; background: none; color: inherit; max-width: 520px; overflow-wrap: anywhere; }
.pc-card table.pc-facts td:first-child, .pc-card table.pc-rows th, .pc-card .pc-more { color: var(--muted); font-weight: 400; }
.pc-card table.pc-rows td.num, .pc-card table.pc-rows th.num { text-align: right; font-variant-numeric: tabular-nums; }
.pc-card svg { max-width: min(100%, 620px); margin: 6px 0; }
"""


def shown(cls: type[T]) -> type[T]:
    """A class whose objects show themselves: `__repr__` is a line, `_repr_html_` a card.

    A class with a `__str__` of its own is named and says that; any other names its facts.

    Examples
    --------
    >>> @shown
    ... @dataclasses.dataclass
    ... class Found:
    ...     name: str
    ...     values: np.ndarray
    >>> Found("a", np.zeros((3, 40)))
    Found(name='a', values=float64 (3, 40))
    """
    written = vars(cls).get("__repr__")
    if written is None or hasattr(written, "__wrapped__"):  # a dataclass's own, which prints whole arrays
        cls.__repr__ = line  # type: ignore[method-assign]
    cls._repr_html_ = card_of  # type: ignore[attr-defined]
    return cls


def line(self: Any) -> str:
    """An object in at most 400 characters."""
    name = type(self).__name__
    if said := _said(self):
        return _short(f"{name}: {' '.join(said.split())}", LONGEST)
    return _short(
        f"{name}({', '.join(f'{key}={brief(value, True)}' for key, value in facts_of(self).items())})",
        LONGEST,
    )


def card_of(self: Any) -> str:
    """An object as a card: what it says of itself, facts, picture, preview; without any script."""
    picture = getattr(self, "_picture", None)
    preview = getattr(self, "_preview", None)
    table = preview() if preview else None
    return card(
        type(self).__name__,
        facts_of(self),
        say=_said(self),
        picture=picture() if picture else None,
        table=table,
    )


def _said(self: Any) -> str:
    """What its own `__str__` says; empty where it has none."""
    return str(self) if any("__str__" in vars(one) for one in type(self).__mro__[:-1]) else ""


def facts_of(self: Any) -> Mapping[str, Any]:
    """What an object says of itself: `_card` where it has that, else the fields that hold something."""
    own = getattr(self, "_card", None)
    if own is not None:
        found: Mapping[str, Any] = own()
        return found
    if not dataclasses.is_dataclass(self):
        return {}
    fields = {f.name: getattr(self, f.name, None) for f in dataclasses.fields(self) if f.repr}
    return {
        name: value
        for name, value in fields.items()
        if not (value is None or (isinstance(value, (str, Sequence, Mapping, Set)) and not len(value)))
    }


def card(
    title: str,
    facts: Mapping[str, Any],
    *,
    say: str = "",
    picture: object = None,
    table: pd.DataFrame | None = None,
) -> str:
    """HTML of a card; everything but `picture`, an SVG of this package, is escaped.

    Examples
    --------
    >>> "a &lt; b" in card("Found", {"rule": "a < b"})
    True
    """
    parts = [Markup('<div class="pc-head">{}</div>').format(title)]
    if say:
        said = Markup("<br>").join(_short(one, 1_000) for one in say.splitlines()[:12])
        parts.append(Markup('<div class="pc-say">{}</div>').format(said))
    if picture is not None:
        parts.append(Markup(_titled(str(picture))))
    if facts and not say:
        row = Markup("<tr><td>{}</td><td>{}</td></tr>")
        rows = Markup("").join(
            row.format(name.replace("_", " "), brief(value)) for name, value in facts.items()
        )
        parts.append(Markup('<table class="pc-facts">{}</table>').format(rows))
    if table is not None and len(table):
        parts.append(rows_html(table))
    style = f"<style>{_STYLE}{scoped_css('.pc-card')}</style>"
    return f'<div class="pc-card">{style}{Markup("").join(parts)}</div>'


def rows_html(table: pd.DataFrame, n: int = ROWS) -> Markup:
    """The first rows of a table, and how many more there are."""
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    kinds = ["num" if one else "" for one in numeric]
    head = Markup("").join(
        Markup('<th class="{}">{}</th>').format(kind, name)
        for kind, name in zip(kinds, table.columns, strict=True)
    )
    rows = Markup("")
    for row in table.head(n).itertuples(index=False):
        cells = (
            Markup('<td class="{}">{}</td>').format(kind, brief(value))
            for kind, value in zip(kinds, row, strict=True)
        )
        rows += Markup("<tr>{}</tr>").format(Markup("").join(cells))
    found = Markup('<table class="pc-rows"><tr>{}</tr>{}</table>').format(head, rows)
    if len(table) > n:
        found += Markup('<div class="pc-more">{} more rows</div>').format(f"{len(table) - n:,}")
    return found


def marked(pieces: Sequence[tuple[str, float]], hint: str = "{:+.2f}") -> Markup:
    """Text whose pieces are shaded by a number: opacity is the size over the largest, the hue its sign."""
    top = max((abs(value) for _, value in pieces if math.isfinite(value)), default=0.0) or 1.0
    found = Markup('<span class="pc-text">')
    for text, value in pieces:
        if not math.isfinite(value) or value == 0:
            found += escape(text)
            continue
        hue = "--pos" if value > 0 else "--neg"
        style = f"background: color-mix(in srgb, var({hue}) {round(60 * abs(value) / top)}%, transparent)"
        found += Markup('<span style="{}" title="{}">{}</span>').format(style, hint.format(value), text)
    return found + Markup("</span>")


def brief(value: Any, quoted: bool = False) -> str | Markup:
    """One value in a few words: numbers with few digits, arrays and tables by their shape.

    Examples
    --------
    >>> brief(0.123456), brief(np.zeros((2, 3), "f")), brief(list(range(1000))), brief({"a": 1})
    ('0.12', 'float32 (2, 3)', '1,000 items', 'a: 1')
    """
    return _words(value, quoted)


@singledispatch
def _words(value: Any, quoted: bool) -> str:
    shape, kind = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and kind is not None:
        return f"{str(kind).removeprefix('torch.')} {tuple(shape)}"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    return _short(" ".join(str(value).split()), WORDS)


@_words.register(str)
@_words.register(PurePath)
def _(value: str | PurePath, quoted: bool) -> str:
    text = value if isinstance(value, Markup) else _short(str(value), WORDS)
    return repr(str(text)) if quoted else text


@_words.register(bool)
@_words.register(np.bool_)
def _(value: bool, quoted: bool) -> str:
    return str(value)


@_words.register(int)
@_words.register(np.integer)
def _(value: int, quoted: bool) -> str:
    return str(int(value)) if quoted else f"{int(value):,}"


@_words.register(float)
@_words.register(np.floating)
def _(value: float, quoted: bool) -> str:
    return f"{float(value):.4g}" if quoted else number(float(value))


@_words.register(pd.DataFrame)
def _(value: pd.DataFrame, quoted: bool) -> str:
    return f"table of {len(value):,} rows: {_short(', '.join(map(str, value.columns)), WORDS)}"


@_words.register(Mapping)
@_words.register(list)
@_words.register(tuple)
@_words.register(Set)
def _members(value: Mapping[Any, Any] | Sequence[Any] | Set[Any], quoted: bool) -> str:
    """A few short ones in words, many as a count."""
    if isinstance(value, Mapping):
        names = ("entry", "entries")
        parts = [f"{key}: {brief(one)}" for key, one in value.items()] if len(value) <= 4 else []
    else:
        names = ("item", "items")
        parts = [str(brief(one, quoted)) for one in value] if len(value) <= 6 else []
    if parts and sum(map(len, parts)) <= WORDS:
        return f"({', '.join(parts)})" if quoted and not isinstance(value, Mapping) else ", ".join(parts)
    return f"{len(value):,} {names[len(value) != 1]}"


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 4].rstrip() + " ..."


def _titled(svg: str) -> str:
    """Hints that a page's script shows become titles, which need none."""
    return re.sub(
        r'<(\w+)([^<>]*?) data-tip="([^"]*)"/>',
        lambda m: f"<{m[1]}{m[2]}><title>{html.escape(html.unescape(m[3]))}</title></{m[1]}>",
        svg,
    )
