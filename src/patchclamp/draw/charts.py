"""The figures of the report, drawn as inline SVG from plain lists of numbers.

Each function takes data and returns an `Svg`; none knows a task, a model or a result. Values that are not finite
are left out of lines and drawn as empty cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from patchclamp.draw.circuit import circuit_html
from patchclamp.draw.svg import Svg, linear, log_scale
from patchclamp.draw.text import number, percent

__all__ = ["FIGURES", "Curve", "curves", "draw", "examples", "forest", "heat_map", "scatter"]


@dataclass(frozen=True)
class Curve:
    """One line of a chart: x, y and, where there is one, the interval around y."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = field(default_factory=list)
    high: Sequence[float] = field(default_factory=list)
    css: str = "s1"


def curves(series: Sequence[Curve], x_label: str, y_label: str, label: str, unit: str = " units") -> Svg:
    """Draw lines with bands over a logarithmic axis, of counts or shares; y is a fraction shown in percent.

    Parameters
    ----------
    series
        The lines; `css` is the class that colours them (``s1``, ``s2`` or ``control``).
    x_label, y_label
        Axis titles.
    label
        What a screen reader says.
    unit
        Behind a value of x in a tooltip.
    """
    width, height = 460.0, 270.0
    box = (48.0, 16.0, width - 12, height - 46)
    every = [v for s in series for v in [*s.y, *s.low, *s.high] if math.isfinite(v)]
    y = linear(min([0.0, *every]), max([1.0, *every]), box[3], box[1], percent=True)
    x = log_scale([v for s in series for v in s.x], box[0] + 8, box[2] - 8)
    svg = Svg(width, height, label)
    svg.axes(x, y, box)
    for s in series:
        if s.low:
            forward = [(x(a), y(b)) for a, b in zip(s.x, s.high, strict=True)]
            back = [(x(a), y(b)) for a, b in zip(s.x, s.low, strict=True)][::-1]
            svg.add("polygon", points=_points(forward + back), class_=f"band {s.css}")
    for s in series:
        svg.add(
            "polyline",
            points=_points([(x(a), y(b)) for a, b in zip(s.x, s.y, strict=True)]),
            class_=f"line {s.css}",
        )
        for i, (a, b) in enumerate(zip(s.x, s.y, strict=True)):
            interval = f" ({percent(s.low[i])} to {percent(s.high[i])})" if s.low else ""
            svg.add(
                "circle",
                cx=x(a),
                cy=y(b),
                r=3,
                class_=f"dot {s.css}",
                data_tip=f"{s.name}, {number(a, 0 if a == int(a) else 2)}{unit}: {percent(b)}{interval}",
            )
    svg.text(x_label, (box[0] + box[2]) / 2, height - 8, "axis-title")
    _upright_title(svg, y_label, (box[1] + box[3]) / 2)
    return svg


def heat_map(
    values: Sequence[Sequence[float]],
    columns: Sequence[str],
    rows: Sequence[str],
    x_label: str,
    y_label: str,
    label: str,
    names: Sequence[Sequence[str]] | None = None,
    marked: frozenset[tuple[int, int]] = frozenset(),
    unit: str = "",
    least: float = 560,
) -> Svg:
    """Draw a signed matrix: opacity is |value| over the largest, hue is the sign; tooltips name each cell.

    Parameters
    ----------
    values
        ``values[row][column]``; not finite = no measurement.
    columns, rows
        Labels of the axes. Long row labels get more room.
    names
        Tooltip name of each cell; default "row, column".
    marked
        Cells (row, column) to outline.
    unit
        Written behind each value.
    least
        Fewest pixels across; a narrower page scrolls.
    """
    left = 30.0 + 5.8 * max((len(r) for r in rows), default=1)
    cell = max(14.0, min(26.0, 620.0 / max(len(columns), 1)))
    tall = min(cell, 20.0)
    width = max(left + cell * len(columns) + 10, left + 250)
    longest = max((len(c) for c in columns), default=1)
    # Short labels (layers) are thinned out where they do not fit; words are written upwards, each one.
    upright = longest > 4 and longest * 5.8 > cell
    room = 6.4 * longest + 4 if upright else 14.0
    height = 10 + tall * len(rows) + room + 48
    svg = Svg(width, height, label, least=min(width, least))
    top = max((abs(v) for row in values for v in row if math.isfinite(v)), default=0.0) or 1.0
    for r, row in enumerate(values):
        svg.text(rows[r], left - 6, 10 + tall * (r + 0.5) + 3.5, anchor="end")
        for c, value in enumerate(row):
            name = names[r][c] if names else f"{rows[r]}, {columns[c]}"
            css = "cell missing" if not math.isfinite(value) else ("cell pos" if value >= 0 else "cell neg")
            opacity = 1.0 if not math.isfinite(value) else round(abs(value) / top, 3)
            box: dict[str, Any] = {
                "x": left + cell * c + 0.75,
                "y": 10 + tall * r + 0.75,
                "width": cell - 1.5,
                "height": tall - 1.5,
            }
            svg.add("rect", **box, rx=2, class_="cell ground")
            svg.add(
                "rect",
                **box,
                rx=2,
                class_=css,
                fill_opacity=f"{opacity:g}",
                data_tip=f"{name}: {number(value)}{unit}",
            )
            if (r, c) in marked:
                svg.add("rect", **box, rx=2, class_="mark")
    bottom = 10 + tall * len(rows)
    for c, text in enumerate(columns):
        x = left + cell * (c + 0.5)
        if upright:
            spot = {"x": x + 3.5, "y": bottom + 6, "transform": f"rotate(-90 {x + 3.5:.1f} {bottom + 6:.1f})"}
            svg.add("text", text, class_="tick", text_anchor="end", **spot)
        elif longest * 5.8 <= cell or c % max(1, round(16 / cell)) == 0:
            svg.text(text, x, bottom + 14)
    svg.text(x_label, left + cell * len(columns) / 2, bottom + room + 18, "axis-title")
    _upright_title(svg, y_label, 10 + tall * len(rows) / 2)
    _legend(svg, left, bottom + room + 28, top, unit)
    return svg


def _upright_title(svg: Svg, text: str, y: float) -> None:
    turned = f"rotate(-90 12 {y:.0f})"
    svg.add("text", text, x=12, y=y, class_="axis-title", text_anchor="middle", transform=turned)


def _legend(svg: Svg, left: float, y: float, top: float, unit: str) -> None:
    """A bar of nine steps from the most negative to the most positive value."""
    for k in range(-4, 5):
        x = left + 44 + (k + 4) * 12
        svg.add("rect", x=x, y=y, width=11, height=9, rx=2, class_="cell ground")
        svg.add(
            "rect",
            x=x,
            y=y,
            width=11,
            height=9,
            rx=2,
            class_="cell pos" if k >= 0 else "cell neg",
            fill_opacity=f"{abs(k) / 4:g}",
        )
    svg.text(f"{number(-top)}{unit}", left + 40, y + 8, anchor="end")
    svg.text(f"+{number(top)}{unit}", left + 158, y + 8, anchor="start")


def forest(rows: Sequence[Mapping[str, float | str]], x_label: str, label: str, share: bool = True) -> Svg:
    """Draw effects with their intervals, one a row, and the range of the matched random sets behind them.

    Parameters
    ----------
    rows
        Each with ``name``, ``estimate``, ``low``, ``high`` and, where there is a control, ``control``,
        ``control_low`` and ``control_high``.
    share
        Whether all are fractions, shown in percent.
    """
    left = 16.0 + 6.4 * max((len(str(r["name"])) for r in rows), default=1)
    width, step = left + 380.0, 24.0
    height = 14 + step * len(rows) + 44
    every = [
        float(r[k])
        for r in rows
        for k in ("estimate", "low", "high", "control_low", "control_high")
        if k in r
    ]
    every = [v for v in every if math.isfinite(v)]
    shown = percent if share else number
    x = linear(min([0.0, *every]), max([0.1, *every]), left + 8, width - 16, percent=share)
    svg = Svg(width, height, label)
    bottom = 14 + step * len(rows)
    for value, text in x.ticks:
        svg.add("line", x1=x(value), x2=x(value), y1=8, y2=bottom, class_="axis" if value == 0 else "grid")
        svg.text(text, x(value), bottom + 15)
    for i, row in enumerate(rows):
        y = 14 + step * (i + 0.5) - 4
        svg.text(str(row["name"]), left - 4, y + 4, "row", anchor="end")
        tip = f"{row['name']}: {shown(float(row['estimate']))} ({shown(float(row['low']))} to {shown(float(row['high']))})"
        if "control" in row and math.isfinite(float(row["control"])):
            a, b = x(float(row["control_low"])), x(float(row["control_high"]))
            control = f"matched random: {shown(float(row['control']))}"
            svg.add(
                "rect",
                x=min(a, b) - 1,
                width=abs(b - a) + 2,
                y=y - 7,
                height=14,
                rx=3,
                class_="range",
                data_tip=control,
            )
            svg.add(
                "line",
                x1=x(float(row["control"])),
                x2=x(float(row["control"])),
                y1=y - 7,
                y2=y + 7,
                class_="range-mid",
            )
            tip = f"{tip}; {control}"
        if math.isfinite(float(row["low"])):
            svg.add("line", x1=x(float(row["low"])), x2=x(float(row["high"])), y1=y, y2=y, class_="whisker")
        svg.add("circle", cx=x(float(row["estimate"])), cy=y, r=4.5, class_="dot s1", data_tip=tip)
    svg.text(x_label, (left + width) / 2, bottom + 36, "axis-title")
    return svg


def scatter(groups: Mapping[str, Sequence[tuple[float, float, str]]], title: str, label: str) -> Svg:
    """Draw estimate against exact, one colour a group, with the line on which both agree.

    Parameters
    ----------
    groups
        Name -> points (exact, estimate, tooltip). At most four groups have colours of their own.
    """
    size = 220.0
    box = (36.0, 24.0, size - 8, size - 30)
    points = [p for g in groups.values() for p in g if math.isfinite(p[0]) and math.isfinite(p[1])]
    both = [v for p in points for v in p[:2]] or [0.0, 1.0]
    pad = (max(both) - min(both)) * 0.05 or 0.1
    x = linear(min(both) - pad, max(both) + pad, box[0], box[2], n=3)
    y = linear(min(both) - pad, max(both) + pad, box[3], box[1], n=3)
    svg = Svg(size, size, label)
    svg.axes(x, y, box)
    svg.add("line", x1=x(min(both)), y1=y(min(both)), x2=x(max(both)), y2=y(max(both)), class_="identity")
    for k, group in enumerate(groups.values()):
        for exact, estimate, tip in group:
            if math.isfinite(exact) and math.isfinite(estimate):
                svg.add(
                    "circle", cx=x(exact), cy=y(estimate), r=2.6, class_=f"point g{k % 4 + 1}", data_tip=tip
                )
    svg.text(title, (box[0] + box[2]) / 2, 14, "figure-title")
    svg.text("exact", (box[0] + box[2]) / 2, size - 2, "axis-title")
    return svg


def examples(texts: Sequence[Mapping[str, Any]]) -> Markup:
    """Items of a task as lines of text: pieces with a role are marked, answer and foil stand behind.

    Parameters
    ----------
    texts
        Each with ``label``, ``pieces`` (text and role), ``answer`` and ``foil``.
    """
    mark = Markup('<mark data-tip="{}">{}</mark>')
    found = Markup("")
    for one in texts:
        line = Markup('<div class="example"><span class="label">{}</span>').format(one["label"])
        for piece in one["pieces"]:
            line += mark.format(piece["role"], piece["text"]) if piece["role"] else escape(piece["text"])
        if one["answer"]:
            line += Markup(" {}").format(mark.format("answer", one["answer"]))
            if one["foil"]:
                line += Markup(
                    ' <span class="muted">rather than</span> <mark class="foil" data-tip="foil">{}</mark>'
                ).format(one["foil"])
        found += line + Markup("</div>")
    return found


FIGURES: Mapping[str, Callable[..., Svg | Markup]] = {
    "circuit": circuit_html,
    "curves": lambda series, **more: curves([Curve(**one) for one in series], **more),
    "examples": examples,
    "forest": forest,
    "heat_map": lambda marked=(), **more: heat_map(marked=frozenset(map(tuple, marked)), **more),
    "scatter": scatter,
}
"""Name -> what draws such a figure from the data that `study.json` holds of it."""


def draw(kind: str, data: Mapping[str, Any]) -> Svg | Markup:
    """Draw a figure of `study.json`, in which null stands for a number that is not finite."""
    return FIGURES[kind](**_numbers(data))


def _numbers(value: Any) -> Any:
    if value is None:
        return math.nan
    if isinstance(value, Mapping):
        return {key: _numbers(entry) for key, entry in value.items()}
    return [_numbers(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in pairs if math.isfinite(a) and math.isfinite(b))
