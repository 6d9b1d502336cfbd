"""A graph in layers: places of text across, layers of the network up, edges signed and as thick as they are strong.

`arrange` places the nodes; `layered_svg` and `layered_figure` draw what it placed.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.base.optional import new_figure, optional
from patchclamp.draw.svg import Svg

__all__ = [
    "Arranged",
    "Link",
    "Mark",
    "arrange",
    "collapse",
    "cut",
    "layered_figure",
    "layered_svg",
    "text_width",
]

HIGH, HIGHER, GAP, LETTER, SHORTEST, LONGEST = 24.0, 37.0, 12.0, 6.4, 46.0, 150.0
NARROWEST, LINE = 460.0, 14.0
# Teal and orange differ for every kind of colour blindness; ends and dashes say the sign without any colour.
COLOURS = {"pos": "#0b7a70", "neg": "#c2501a"}


@dataclass(frozen=True)
class Mark:
    """A node to draw.

    Parameters
    ----------
    name
        Unique; what links refer to.
    label
        What is written in its box; cut with an ellipsis where it is too long, the whole in the tooltip.
    row, column
        Layer from below, and place in the text.
    value
        Its own effect; the sign colours its frame. 0: neutral.
    detail
        Further words of the tooltip.
    group
        A name shared by nodes that may be drawn as one; empty for none.
    note
        A second line in its box, such as what a unit stands for.
    many
        How many nodes it stands for.
    ends
        Links at its busier side; its box makes room for them. `arrange` counts them.
    """

    name: str
    label: str
    row: int
    column: str = ""
    value: float = 0.0
    detail: str = ""
    group: str = ""
    note: str = ""
    many: int = 1
    ends: int = 0


@dataclass(frozen=True)
class Link:
    """An edge to draw, from source to target."""

    source: str
    target: str
    weight: float


@dataclass(frozen=True)
class Arranged:
    """Where everything is: boxes (left, top, width, height), rows' middles, columns' spans, the whole's size."""

    marks: tuple[Mark, ...]
    links: tuple[Link, ...]
    boxes: Mapping[str, tuple[float, float, float, float]]
    rows: Mapping[int, float]
    columns: Mapping[str, tuple[float, float]]
    width: float
    height: float


def collapse(
    marks: Sequence[Mark], links: Sequence[Link], opened: Sequence[str] = ()
) -> tuple[list[Mark], list[Link]]:
    """Draw each group that is not opened as one node: in the row of its middle member, with the sums of values and links.

    Links inside a group go. Members of a group must share their column, or the group stands in the first member's.

    Examples
    --------
    >>> marks = [Mark("a", "a", 0, group="g"), Mark("b", "b", 0, group="g"), Mark("c", "c", 1)]
    >>> fewer, links = collapse(marks, [Link("a", "c", 1.0), Link("b", "c", 2.0)])
    >>> [mark.label for mark in fewer], links
    (['g (2)', 'c'], [Link(source='group g', target='c', weight=3.0)])
    """
    members: dict[str, list[Mark]] = {}
    for mark in marks:
        if mark.group and mark.group not in opened:
            members.setdefault(mark.group, []).append(mark)
    place: dict[str, str] = {}
    out: list[Mark] = []
    for mark in marks:
        inside = members.get(mark.group, [])
        if len(inside) < 2:
            place[mark.name] = mark.name
            out.append(mark)
            continue
        place[mark.name] = f"group {mark.group}"
        if mark is inside[0]:
            row = sorted(one.row for one in inside)[len(inside) // 2]
            out.append(
                Mark(
                    f"group {mark.group}", f"{mark.group} ({len(inside)})", row, mark.column,
                    sum(one.value for one in inside), ", ".join(one.label for one in inside),
                    group=mark.group, many=len(inside),
                )
            )  # fmt: skip
    total: dict[tuple[str, str], float] = {}
    for link in links:
        ends = place[link.source], place[link.target]
        if ends[0] != ends[1]:
            total[ends] = total.get(ends, 0.0) + link.weight
    return out, [Link(*ends, weight) for ends, weight in total.items()]


def arrange(
    marks: Sequence[Mark],
    links: Sequence[Link],
    columns: Sequence[str] | None = None,
    sweeps: int = 8,
    left: float = 70.0,
) -> Arranged:
    """Give every node a box of its own: rows from below, columns from the left, fewer abreast the more columns
    are crowded.

    Parameters
    ----------
    marks, links
        What is drawn.
    columns
        Their order; by default that of their first node.
    sweeps
        Passes in which the nodes of a cell are ordered by the middle of their neighbours, so that fewer links cross.
    left
        Room for the names of rows.

    Raises
    ------
    PatchclampError
        Without a node, or where two share a name, or a link has an end that is no node.
    """
    if not marks:
        raise PatchclampError("a graph without a node cannot be drawn")
    names = [mark.name for mark in marks]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PatchclampError(f"two nodes are named {twice!r}; names must differ")
    for link in links:
        for end in (link.source, link.target):
            if end not in set(names):
                raise PatchclampError(f"a link of {end!r}, which is no node")
    coming, going = Counter(link.target for link in links), Counter(link.source for link in links)
    marks = [replace(mark, ends=max(coming[mark.name], going[mark.name])) for mark in marks]
    order = list(dict.fromkeys([*(columns or ()), *(mark.column for mark in marks)]))
    order = [name for name in order if any(mark.column == name for mark in marks)]
    cells: dict[tuple[int, str], list[Mark]] = {}
    for mark in marks:
        cells.setdefault((mark.row, mark.column), []).append(mark)
    rows = sorted({mark.row for mark in marks})
    placed = _place(cells, rows, order, left)
    rank = {mark.name: mark.row for mark in marks}
    for sweep in range(sweeps):
        # upwards by the neighbours below, downwards by those above: both at once would only swap crossings
        for row in rows if sweep % 2 == 0 else reversed(rows):
            near = [one for one in links if row in (rank[one.source], rank[one.target])]
            middle = {name: box[0] + box[2] / 2 for name, box in placed.boxes.items()}
            side = [(one.source, one.target) if sweep % 2 else (one.target, one.source) for one in near]
            weights = [abs(one.weight) for one in near]
            before = {key: list(cell) for key, cell in cells.items() if key[0] == row}
            for key in before:
                cells[key].sort(key=lambda mark: _middle(mark.name, side, weights, middle))
            if any(cells[key] != cell for key, cell in before.items()):
                placed = _place(cells, rows, order, left)
    return Arranged(tuple(marks), tuple(links), *placed.rest())


def _middle(
    name: str, pairs: Sequence[tuple[str, str]], weights: Sequence[float], middle: Mapping[str, float]
) -> float:
    """Where a node's neighbours are, weighted by their links; its own place without any."""
    near = [(middle[other], size) for (own, other), size in zip(pairs, weights, strict=True) if own == name]
    weight = sum(size for _, size in near)
    return sum(x * size for x, size in near) / weight if weight else middle[name]


@dataclass(frozen=True)
class _Placed:
    boxes: dict[str, tuple[float, float, float, float]]
    rows: dict[int, float]
    columns: dict[str, tuple[float, float]]
    width: float
    height: float

    def rest(self) -> tuple[Any, ...]:
        return self.boxes, self.rows, self.columns, self.width, self.height


def text_width(text: str) -> float:
    """Room that a text takes at the size of labels; letters of east Asian scripts take two places."""
    return LETTER * sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _wide(mark: Mark) -> float:
    text = min(max(SHORTEST, text_width(mark.label) + 14, text_width(mark.note) + 14), LONGEST)
    return max(text, min(9.0 * mark.ends, 2 * LONGEST))


def _high(mark: Mark) -> float:
    return HIGHER if mark.note else HIGH


def _place(
    cells: Mapping[tuple[int, str], list[Mark]], rows: Sequence[int], columns: Sequence[str], left: float
) -> _Placed:
    crowded = {column for (_, column), cell in cells.items() if len(cell) > 2}
    abreast = max(2, min(6, 8 // max(len(crowded), 1)))
    lines = {
        key: [cell[i : i + abreast] for i in range(0, len(cell), abreast)] for key, cell in cells.items()
    }
    spans: dict[str, tuple[float, float]] = {}
    for column in columns:
        widest = max(
            (sum(map(_wide, line)) + GAP * (len(line) - 1) for key, found in lines.items() if key[1] == column for line in found),
            default=SHORTEST,
        )  # fmt: skip
        widest = max(widest, text_width(cut(column, LONGEST)) + 8)
        spans[column] = (left, left + widest)
        left += widest + 3 * GAP
    boxes: dict[str, tuple[float, float, float, float]] = {}
    middles: dict[int, float] = {}
    top = 14.0
    for row in reversed(rows):
        tallest = {
            column: [max(map(_high, line)) for line in lines.get((row, column), [])] for column in columns
        }
        tall = max(sum(found) + GAP * (len(found) - 1) for found in tallest.values() if found)
        middles[row] = top + tall / 2
        for column in columns:
            found = tallest[column]
            y = top + (tall - sum(found) - GAP * max(len(found) - 1, 0)) / 2
            for line, high in zip(lines.get((row, column), []), found, strict=True):
                x = (sum(spans[column]) - sum(map(_wide, line)) - GAP * (len(line) - 1)) / 2
                for mark in line:
                    boxes[mark.name] = (x, y + (high - _high(mark)) / 2, _wide(mark), _high(mark))
                    x += _wide(mark) + GAP
                y += high + GAP
        top += tall + 3.2 * GAP
    return _Placed(boxes, middles, spans, left - 3 * GAP + 14, top - 2 * GAP + 6)


def cut(text: str, room: float) -> str:
    """The text, or as much of it as the room holds and an ellipsis.

    Examples
    --------
    >>> cut("mlp_act.12[345]", 60)
    'mlp_act.…'
    """
    if text_width(text) <= room:
        return text
    while text and text_width(text) > room - LETTER:
        text = text[:-1]
    return text + "…"


# ---- what both drawings draw


@dataclass(frozen=True)
class _Curve:
    """A link's line: it leaves the source at its top and comes to the target from below."""

    link: Link
    start: tuple[float, float]
    end: tuple[float, float]
    bend: float
    thick: float

    @property
    def sign(self) -> str:
        return "neg" if self.link.weight < 0 else "pos"

    @property
    def head(self) -> list[tuple[float, float]]:
        """Raises: a triangle. Lowers: a bar across, as for inhibition."""
        (x, y), half = self.end, 3.0 + self.thick * 0.45
        if self.sign == "pos":
            return [(x, y), (x - half, y + 7), (x + half, y + 7)]
        return [
            (x - half - 1, y + 2),
            (x + half + 1, y + 2),
            (x + half + 1, y + 4.5),
            (x - half - 1, y + 4.5),
        ]


def _curves(arranged: Arranged) -> list[_Curve]:
    """Weakest first; the ends of several links at one box are spread over its width in the order of their other ends."""
    boxes, links = arranged.boxes, arranged.links
    top = max((abs(link.weight) for link in links), default=1.0) or 1.0
    port: dict[tuple[int, str], float] = {}
    for side in ("source", "target"):
        other = "target" if side == "source" else "source"
        at: dict[str, list[int]] = {}
        for i, link in enumerate(links):
            at.setdefault(getattr(link, side), []).append(i)
        for name, found in at.items():
            x, _, width, _ = boxes[name]
            middle = {i: boxes[getattr(links[i], other)] for i in found}
            found.sort(key=lambda i, middle=middle: (middle[i][0] + middle[i][2] / 2, middle[i][1]))  # type: ignore[misc]
            for k, i in enumerate(found):
                port[i, side] = x + width * (k + 1) / (len(found) + 1)
    curves = []
    for i in sorted(range(len(links)), key=lambda i: abs(links[i].weight)):
        (_, ay, _, _), (_, by, _, bh) = boxes[links[i].source], boxes[links[i].target]
        bend = max(abs(ay - by - bh) / 2, 24.0)
        thick = 0.7 + 4.5 * abs(links[i].weight) / top
        curves.append(_Curve(links[i], (port[i, "source"], ay), (port[i, "target"], by + bh), bend, thick))
    return curves


def _size(arranged: Arranged, notes: Sequence[str]) -> tuple[float, float, list[str]]:
    """Width and height with the legend, and its lines."""
    width = max(arranged.width, NARROWEST)
    letters = int((width - 24) / (LETTER * 0.95))
    lines = [line for note in notes for line in textwrap.wrap(note, letters)]
    return width, arranged.height + 34 + LINE * len(lines) + (6 if lines else 0), lines


def _keys(arranged: Arranged) -> list[tuple[str, str]]:
    top = max((abs(link.weight) for link in arranged.links), default=0.0)
    return [("pos", f"raises (thickest {top:.3g})"), ("neg", "lowers")] if arranged.links else []


def _key_curves(arranged: Arranged) -> list[tuple[_Curve, str, float, float]]:
    """One short upright link and words for each sign."""
    y, x, found = arranged.height + 28, 16.0, []
    for sign, words in _keys(arranged):
        one = Link("", "", 1.0 if sign == "pos" else -1.0)
        found.append((_Curve(one, (x, y + 5), (x, y - 13), 0.0, 2.5), words, x + 12, y))
        x += 12 + text_width(words) + 22
    return found


def layered_svg(
    arranged: Arranged,
    names: Mapping[int, str],
    label: str,
    hrefs: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Svg:
    """The graph as SVG; its classes are coloured by `patchclamp.draw.circuit.CSS`.

    Parameters
    ----------
    arranged
        From `arrange`.
    names
        Words for each row, written at its left.
    label
        What a screen reader says.
    hrefs
        Node -> address that its box leads to.
    notes
        Paragraphs of the legend, below.
    """
    width, height, lines = _size(arranged, notes)
    svg = Svg(width, height, label, least=min(width, max(560, 0.8 * width)))
    left = min(span[0] for span in arranged.columns.values())
    for k, (column, (start, stop)) in enumerate(arranged.columns.items()):
        if k % 2 == 0 and len(arranged.columns) > 1:
            svg.add(
                "rect", x=start - GAP, y=0, width=stop - start + 2 * GAP, height=arranged.height + 8, class_="lane"
            )  # fmt: skip
        svg.text(cut(column, stop - start + GAP), (start + stop) / 2, arranged.height + 4, "axis-title")
    for row, y in arranged.rows.items():
        svg.text(cut(names.get(row, str(row)), left - 16), left - 16, y + 3.5, anchor="end")
    for one in _curves(arranged):
        (ax, ay), (bx, by) = one.start, one.end
        svg.add(
            "path",
            d=f"M{ax:.1f} {ay:.1f}C{ax:.1f} {ay - one.bend:.1f} {bx:.1f} {by + one.bend:.1f} {bx:.1f} {by + 6:.1f}",
            class_=f"link {one.sign}",
            stroke_width=one.thick,
            data_from=one.link.source,
            data_to=one.link.target,
            data_tip=f"{one.link.source} to {one.link.target}: {one.link.weight:+.3g}",
        )
        svg.add(
            "polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in one.head), class_=f"head {one.sign}",
            data_from=one.link.source, data_to=one.link.target,
        )  # fmt: skip
    for mark in arranged.marks:
        _svg_mark(svg, mark, arranged.boxes[mark.name], (hrefs or {}).get(mark.name))
    for one, words, x, y in _key_curves(arranged):
        (ax, ay), (_, by) = one.start, one.end
        svg.add(
            "path", d=f"M{ax:.1f} {ay:.1f}V{by + 6:.1f}", class_=f"link {one.sign}", stroke_width=one.thick
        )
        svg.add(
            "polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in one.head), class_=f"head {one.sign}"
        )
        svg.text(words, x, y, anchor="start")
    for k, line in enumerate(lines):
        svg.text(line, 12, arranged.height + 48 + LINE * k, "legend", anchor="start")
    return svg


def _svg_mark(svg: Svg, mark: Mark, box: tuple[float, float, float, float], href: str | None) -> None:
    x, y, width, high = box
    side = "" if mark.value == 0 else " pos" if mark.value > 0 else " neg"
    words = "; ".join(
        part
        for part in (mark.name, mark.note, f"{mark.value:+.3g}" if mark.value else "", mark.detail)
        if part
    )
    if mark.many > 1:
        svg.add("rect", x=x + 3, y=y - 3, width=width, height=high, rx=5, class_=f"node{side}")
    svg.add(
        "rect", x=x, y=y, width=width, height=high, rx=5, class_=f"node{side}", data_tip=words, data_node=mark.name,
        data_group=mark.group or None,
    )  # fmt: skip
    first = y + high / 2 + (-2.5 if mark.note else 4)
    text = cut(mark.label, width - 10)
    if href is not None:
        svg.link(href, text, x + width / 2, first, "node-label")
    else:
        svg.text(text, x + width / 2, first, "node-label")
    if mark.note:
        svg.text(cut(mark.note, width - 10), x + width / 2, first + 13, "node-note")


def layered_figure(
    arranged: Arranged, names: Mapping[int, str], ax: Any = None, notes: Sequence[str] = ()
) -> Any:
    """The same as a matplotlib figure, or into the axes given."""
    width, height, lines = _size(arranged, notes)
    if ax is None:
        figure = new_figure(width / 90, height / 90)
        figure.set_layout_engine("none")  # places are our own
        ax = figure.add_axes((0, 0, 1, 1))
    patches, paths = (optional(f"matplotlib.{part}", "pictures need") for part in ("patches", "path"))
    path = paths.Path
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    left = min(span[0] for span in arranged.columns.values())
    keys = _key_curves(arranged)
    for one in [*_curves(arranged), *(key[0] for key in keys)]:
        (x0, y0), (x1, y1) = one.start, one.end
        curve = path(
            [(x0, y0), (x0, y0 - one.bend), (x1, y1 + one.bend), (x1, y1 + 6)],
            [path.MOVETO, path.CURVE4, path.CURVE4, path.CURVE4],
        )
        style = {"ls": (0, (4, 1.5))} if one.sign == "neg" else {}
        colour = COLOURS[one.sign]
        ax.add_patch(
            patches.PathPatch(curve, fill=False, ec=colour, lw=one.thick * 0.8, alpha=0.75, zorder=1, **style)
        )
        ax.add_patch(patches.Polygon(one.head, fc=colour, lw=0, zorder=1))
    for mark in arranged.marks:
        x, y, wide, high = arranged.boxes[mark.name]
        edge = "0.4" if mark.value == 0 else COLOURS["pos" if mark.value > 0 else "neg"]
        dash = {"ls": (0, (4, 1.5))} if mark.value < 0 else {}
        for by in (3, 0) if mark.many > 1 else (0,):
            box = patches.FancyBboxPatch(
                (x + by, y - by), wide, high, boxstyle="round,pad=0,rounding_size=5", fc="white", ec=edge, zorder=2,
                **dash,
            )  # fmt: skip
            ax.add_patch(box)
        first = y + high / 2 - (6 if mark.note else 0)
        _say(ax, cut(mark.label, wide - 10), x + wide / 2, first, size=7, family="monospace")
        _say(ax, cut(mark.note, wide - 10), x + wide / 2, first + 13, size=6.5, color="0.35")
    for row, y in arranged.rows.items():
        _say(ax, cut(names.get(row, str(row)), left - 16), left - 16, y, size=7, ha="right", color="0.35")
    for column, (start, stop) in arranged.columns.items():
        _say(ax, cut(column, stop - start + GAP), (start + stop) / 2, arranged.height, size=8)
    for _, words, x, y in keys:
        _say(ax, words, x, y - 4, size=7, ha="left")
    for k, line in enumerate(lines):
        _say(ax, line, 12, arranged.height + 44 + LINE * k, size=7, ha="left", color="0.35")
    return ax.figure


def _say(ax: Any, text: str, x: float, y: float, **style: Any) -> None:
    """A text as it is: a dollar of a token is no formula."""
    if text:
        ax.text(x, y, text, va="center", zorder=3, parse_math=False, **{"ha": "center", **style})
