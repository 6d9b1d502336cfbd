"""The few SVG primitives that the figures are drawn with: an element builder, scales and ticks.

Colours are CSS classes and custom properties of the page, never literals, so that one drawing serves the light
and the dark theme. All text goes through `markupsafe.escape`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Scale", "Svg", "element", "linear", "log_scale", "ticks"]


def element(tag: str, content: str = "", **attributes: object) -> Markup:
    """Return one escaped SVG element; ``class_`` and ``font_size`` become ``class`` and ``font-size``.

    Examples
    --------
    >>> element("text", "a < b", x=1, class_="tick")
    Markup('<text x="1" class="tick">a &lt; b</text>')
    """
    parts = [
        f'{name.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for name, value in attributes.items()
        if value is not None
    ]
    head = " ".join([tag, *parts])
    return Markup(f"<{head}>{escape(content)}</{tag}>" if content else f"<{head}/>")


def _short(value: object) -> str:
    """Two decimals are enough for coordinates; it keeps a report of thousands of cells small."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


@dataclass(frozen=True)
class Scale:
    """A map from data to pixels with the ticks to draw."""

    to: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        return self.to(value)


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Return about `n` round numbers between `low` and `high`.

    Examples
    --------
    >>> ticks(0, 1, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / n
    power = 10 ** math.floor(math.log10(raw))
    step = min((s * power for s in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def linear(low: float, high: float, start: float, end: float, percent: bool = False, n: int = 5) -> Scale:
    """Return a linear scale from data [low, high] to pixels [start, end]."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    span = high - low
    marks = ticks(low, high, n)
    step = marks[1] - marks[0] if len(marks) > 1 else 1.0
    digits = 0 if step >= 1 else (1 if step >= 0.1 else 2)
    labels = [f"{round(100 * v)}%" if percent else f"{v:.{digits}f}" for v in marks]
    return Scale(
        lambda v: start + (v - low) / span * (end - start),
        tuple((v, label.replace("-", "−")) for v, label in zip(marks, labels, strict=True)),
    )


def log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a log scale over counts; zero, where it occurs, gets a place of its own at the left."""
    positive = sorted(v for v in set(values) if v > 0)
    low, high = math.log(positive[0]), math.log(positive[-1])
    left = start + (end - start) * 0.06 if 0 in values else start
    span = max(high - low, 1e-9)

    def to(value: float) -> float:
        return start if value <= 0 else left + (math.log(value) - low) / span * (end - left)

    marks = ([0.0] if 0 in values else []) + _spaced(positive, to, minimum=30)
    return Scale(to, tuple((v, f"{v:,.0f}" if v >= 10 or v == int(v) else f"{v:.2g}") for v in marks))


def _spaced(values: Iterable[float], to: Callable[[float], float], minimum: float) -> list[float]:
    """Keep the first of every group of ticks that would print over each other, and the last of all."""
    kept: list[float] = []
    values = list(values)
    for value in values:
        if not kept or to(value) - to(kept[-1]) >= minimum:
            kept.append(value)
    if kept[-1] != values[-1]:
        kept[-1] = values[-1]
    return kept


class Svg:
    """Collects elements and wraps them as one responsive ``<svg>`` with an accessible name, `least` pixels wide."""

    def __init__(self, width: float, height: float, label: str, least: float = 0) -> None:
        self.width, self.height, self.label, self.least = width, height, label, least
        self._parts: list[Markup] = []

    def add(self, tag: str, content: str = "", **attributes: object) -> None:
        """Append one element; `content` is escaped."""
        self._parts.append(element(tag, content, **attributes))

    def text(self, content: str, x: float, y: float, class_: str = "tick", anchor: str = "middle") -> None:
        """Append a text element."""
        self.add("text", content, x=x, y=y, class_=class_, text_anchor=anchor)

    def link(self, href: str, content: str, x: float, y: float, class_: str = "tick") -> None:
        """Append a text that leads somewhere."""
        text = element("text", content, x=x, y=y, class_=class_, text_anchor="middle")
        self._parts.append(Markup('<a href="{}">{}</a>').format(href, text))

    def axes(self, x: Scale, y: Scale, box: tuple[float, float, float, float]) -> None:
        """Draw horizontal grid lines, tick labels and the base line inside box (left, top, right, bottom)."""
        left, _top, right, bottom = box
        for value, label in y.ticks:
            self.add("line", x1=left, x2=right, y1=y(value), y2=y(value), class_="grid")
            self.text(label, left - 6, y(value) + 3.5, anchor="end")
        for value, label in x.ticks:
            self.add("line", x1=x(value), x2=x(value), y1=bottom, y2=bottom + 4, class_="axis")
            self.text(label, x(value), bottom + 16)
        self.add("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis")

    def __html__(self) -> str:
        head = Markup(
            '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" style="max-width:{}px;min-width:{}px">'
        ).format(
            _short(self.width), _short(self.height), self.label, round(self.width * 1.25), round(self.least)
        )
        return str(head + Markup("").join(self._parts) + Markup("</svg>"))

    __str__ = __html__
