"""A graph in layers: places of text across, layers of the network up, edges signed and as thick as they are strong.

`arrange` places the nodes; `layered_svg` and `layered_figure` draw what it placed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.base.optional import new_figure, optional
from patchclamp.draw.svg import Svg

__all__ = ["Arranged", "Link", "Mark", "arrange", "collapse", "layered_figure", "layered_svg"]

HIGH, GAP, LETTER, SHORTEST, LONGEST = 24.0, 12.0, 6.4, 46.0, 150.0
ABREAST = 6


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
    """

    name: str
    label: str
    row: int
    column: str = ""
    value: float = 0.0
    detail: str = ""
    group: str = ""


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
                )
            )  # fmt: skip
    total: dict[tuple[str, str], float] = {}
    for link in links:
        ends = place[link.source], place[link.target]
        if ends[0] != ends[1]:
            total[ends] = total.get(ends, 0.0) + link.weight
    return out, [Link(*ends, weight) for ends, weight in total.items()]


def arrange(
    marks: Sequence[Mark], links: Sequence[Link], columns: Sequence[str] | None = None, sweeps: int = 8
) -> Arranged:
    """Give every node a box of its own: rows from below, columns from the left, at most six abreast in a cell.

    Parameters
    ----------
    marks, links
        What is drawn.
    columns
        Their order; by default that of their first node.
    sweeps
        Passes in which the nodes of a cell are ordered by the middle of their neighbours, so that fewer links cross.

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
    order = list(dict.fromkeys([*(columns or ()), *(mark.column for mark in marks)]))
    order = [name for name in order if any(mark.column == name for mark in marks)]
    cells: dict[tuple[int, str], list[Mark]] = {}
    for mark in marks:
        cells.setdefault((mark.row, mark.column), []).append(mark)
    rows = sorted({mark.row for mark in marks})
    placed = _place(cells, rows, order)
    rank = {mark.name: mark.row for mark in marks}
    for sweep in range(sweeps):
        # upwards by the neighbours below, downwards by those above: both at once would only swap crossings
        for row in rows if sweep % 2 == 0 else reversed(rows):
            near = [one for one in links if row in (rank[one.source], rank[one.target])]
            middle = {name: box[0] + box[2] / 2 for name, box in placed.boxes.items()}
            side = [(one.source, one.target) if sweep % 2 else (one.target, one.source) for one in near]
            weights = [abs(one.weight) for one in near]
            for key, cell in cells.items():
                if key[0] == row:
                    cell.sort(key=lambda mark: _middle(mark.name, side, weights, middle))
            placed = _place(cells, rows, order)
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


def _wide(mark: Mark) -> float:
    return min(max(SHORTEST, LETTER * len(mark.label) + 14), LONGEST)


def _place(
    cells: Mapping[tuple[int, str], list[Mark]], rows: Sequence[int], columns: Sequence[str]
) -> _Placed:
    lines = {
        key: [cell[i : i + ABREAST] for i in range(0, len(cell), ABREAST)] for key, cell in cells.items()
    }
    spans: dict[str, tuple[float, float]] = {}
    left = 70.0
    for column in columns:
        widest = max(
            (sum(map(_wide, line)) + GAP * (len(line) - 1) for key, found in lines.items() if key[1] == column for line in found),
            default=SHORTEST,
        )  # fmt: skip
        widest = max(widest, LETTER * len(column) + 8)
        spans[column] = (left, left + widest)
        left += widest + 3 * GAP
    boxes: dict[str, tuple[float, float, float, float]] = {}
    middles: dict[int, float] = {}
    top = 14.0
    for row in reversed(rows):
        deep = max(len(lines.get((row, column), [])) for column in columns)
        tall = deep * HIGH + (deep - 1) * GAP
        middles[row] = top + tall / 2
        for column in columns:
            found = lines.get((row, column), [])
            y = top + (tall - len(found) * HIGH - max(len(found) - 1, 0) * GAP) / 2
            for line in found:
                x = (sum(spans[column]) - sum(map(_wide, line)) - GAP * (len(line) - 1)) / 2
                for mark in line:
                    boxes[mark.name] = (x, y, _wide(mark), HIGH)
                    x += _wide(mark) + GAP
                y += HIGH + GAP
        top += tall + 3.2 * GAP
    return _Placed(boxes, middles, spans, left - 3 * GAP + 14, top + 12)


def _thickness(links: Sequence[Link]) -> dict[int, float]:
    top = max((abs(link.weight) for link in links), default=1.0) or 1.0
    return {i: 0.6 + 5.0 * abs(link.weight) / top for i, link in enumerate(links)}


def _fits(mark: Mark) -> str:
    room = int((_wide(mark) - 12) / LETTER)
    return mark.label if len(mark.label) <= room else mark.label[: room - 1] + "…"


def _ends(arranged: Arranged, link: Link) -> tuple[tuple[float, float], tuple[float, float]]:
    """From the top of the source's box to the bottom of the target's."""
    (ax, ay, aw, _), (bx, by, bw, bh) = arranged.boxes[link.source], arranged.boxes[link.target]
    return (ax + aw / 2, ay), (bx + bw / 2, by + bh)


def layered_svg(
    arranged: Arranged, names: Mapping[int, str], label: str, hrefs: Mapping[str, str] | None = None
) -> Svg:
    """The graph as SVG.

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
    """
    svg = Svg(arranged.width, arranged.height + 34, label, least=min(arranged.width, 560))
    for row, y in arranged.rows.items():
        svg.text(names.get(row, str(row)), 62, y + 3.5, anchor="end")
    for column, (left, right) in arranged.columns.items():
        svg.text(column, (left + right) / 2, arranged.height + 4, "axis-title")
    thick = _thickness(arranged.links)
    for i in sorted(thick, key=lambda i: abs(arranged.links[i].weight)):
        link = arranged.links[i]
        (ax, ay), (bx, by) = _ends(arranged, link)
        bend = max(abs(ay - by) / 2, 10.0)
        svg.add(
            "path",
            d=f"M{ax:.1f} {ay:.1f}C{ax:.1f} {ay - bend:.1f} {bx:.1f} {by + bend:.1f} {bx:.1f} {by:.1f}",
            class_="link pos" if link.weight > 0 else "link neg",
            stroke_width=thick[i],
            data_tip=f"{link.source} to {link.target}: {link.weight:+.3g}",
        )
    for mark in arranged.marks:
        x, y, width, high = arranged.boxes[mark.name]
        side = "" if mark.value == 0 else " pos" if mark.value > 0 else " neg"
        words = "; ".join(
            part for part in (mark.name, f"{mark.value:+.3g}" if mark.value else "", mark.detail) if part
        )
        svg.add("rect", x=x, y=y, width=width, height=high, rx=5, class_=f"mark{side}", data_tip=words)
        href = (hrefs or {}).get(mark.name)
        if href is not None:
            svg.link(href, _fits(mark), x + width / 2, y + high / 2 + 4, "mark-label")
        else:
            svg.text(_fits(mark), x + width / 2, y + high / 2 + 4, "mark-label")
    _legend(svg, arranged)
    return svg


def _legend(svg: Svg, arranged: Arranged) -> None:
    top = max((abs(link.weight) for link in arranged.links), default=0.0)
    y, x = arranged.height + 26, 70.0
    for css, words in (("pos", f"raises (thickest {top:.3g})"), ("neg", "lowers")):
        svg.add("path", d=f"M{x:.1f} {y - 4:.1f}h26", class_=f"link {css}", stroke_width=3.0)
        svg.text(words, x + 32, y, anchor="start")
        x += 32 + LETTER * len(words) + 22


def layered_figure(arranged: Arranged, names: Mapping[int, str], ax: Any = None) -> Any:
    """The same as a matplotlib figure, or into the axes given."""
    if ax is None:
        ax = new_figure(max(arranged.width / 90, 4), max(arranged.height / 80, 2.5)).subplots()
    patches, path = (
        optional("matplotlib.patches", "pictures need"),
        optional("matplotlib.path", "pictures need"),
    )
    path = path.Path
    thick = _thickness(arranged.links)
    for i, link in enumerate(arranged.links):
        (ax0, ay), (bx, by) = _ends(arranged, link)
        bend = max(abs(ay - by) / 2, 10.0)
        curve = path(
            [(ax0, ay), (ax0, ay - bend), (bx, by + bend), (bx, by)],
            [path.MOVETO, path.CURVE4, path.CURVE4, path.CURVE4],
        )
        colour = "tab:blue" if link.weight > 0 else "tab:red"
        ax.add_patch(patches.PathPatch(curve, fill=False, ec=colour, lw=thick[i] * 0.8, alpha=0.7, zorder=1))
    for mark in arranged.marks:
        x, y, width, high = arranged.boxes[mark.name]
        edge = "0.4" if mark.value == 0 else "tab:blue" if mark.value > 0 else "tab:red"
        ax.add_patch(
            patches.FancyBboxPatch(
                (x, y), width, high, boxstyle="round,pad=0,rounding_size=5", fc="white", ec=edge, zorder=2
            )
        )
        ax.text(x + width / 2, y + high / 2, _fits(mark), ha="center", va="center", fontsize=7, zorder=3)
    ax.set(xlim=(0, arranged.width), ylim=(arranged.height, 0), xticks=[], xlabel="")
    ax.set_yticks(list(arranged.rows.values()), [names.get(row, str(row)) for row in arranged.rows])
    middles = [sum(span) / 2 for span in arranged.columns.values()]
    ax.set_xticks(middles, list(arranged.columns))
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    return ax.figure
