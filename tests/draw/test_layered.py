"""Layered drawings: every node has a box of its own, inside the picture, with a text that fits."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.layered import Link, Mark, arrange, collapse, layered_figure, layered_svg

ROLES = ["the", "noun", "near", "attractor", "end"]


def graph(n: int, seed: int = 0, cell: int | None = None) -> tuple[list[Mark], list[Link]]:
    """`n` nodes over 12 layers and five roles, or all in one cell, each linked to later ones."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 12, n) if cell is None else np.full(n, cell)
    marks = [
        Mark(f"mlp_act.{row}[{i}]", f"mlp_act.{row}[{i}] says a long thing" if i % 5 == 0 else f"n{i}", int(row),
             ROLES[0 if cell is not None else int(rng.integers(5))], float(rng.normal()))
        for i, row in enumerate(rows)
    ]  # fmt: skip
    pairs = [(a, b) for a in marks for b in marks if a.row < b.row]
    chosen = rng.permutation(len(pairs))[: 3 * n] if pairs else []
    return marks, [Link(pairs[i][0].name, pairs[i][1].name, float(rng.normal())) for i in chosen]


@pytest.mark.parametrize(("n", "cell"), [(1, None), (40, None), (120, None), (40, 3)])
def test_no_two_boxes_overlap_and_none_is_cut(n: int, cell: int | None) -> None:
    marks, links = graph(n, cell=cell)
    found = arrange(marks, links, ROLES)
    assert set(found.boxes) == {mark.name for mark in marks}
    for x, y, w, h in found.boxes.values():
        assert x >= 64 and y >= 0 and x + w <= found.width and y + h <= found.height
    for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(found.boxes.values(), 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
    higher = sorted(found.rows, key=lambda row: -found.rows[row])
    assert higher == sorted(found.rows)  # layers go up


def test_the_drawing_holds_every_node_and_link_with_its_sign_and_escapes_labels() -> None:
    marks = [Mark("a<b", "<script>", 0, "x"), Mark("c", "c", 1, "x", -0.5), Mark("d", "d", 1, "y", 2.0)]
    links = [Link("a<b", "c", -1.5), Link("a<b", "d", 0.5)]
    text = str(layered_svg(arrange(marks, links), {0: "tokens", 1: "layer 1"}, "a graph", {"c": "#c"}))
    assert "<script>" not in text
    tree = ET.fromstring(text)
    kinds = [e.get("class") for e in tree.iter("path")]
    assert kinds[:2] == ["link pos", "link neg"]  # the strongest is drawn last, above the others
    rects = [e.get("class") for e in tree.iter("rect") if e.get("class") != "lane"]
    assert rects == ["node", "node neg", "node pos"]
    heads = {e.get("class"): len((e.get("points") or "").split()) for e in tree.iter("polygon")}
    assert heads == {
        "head pos": 3,
        "head neg": 4,
    }  # a triangle and a bar: the sign is there without any colour
    assert next(tree.iter("a")).get("href") == "#c"
    widths = [float(e.get("stroke-width", 0)) for e in tree.iter("path")][:2]
    assert widths[1] > widths[0] > 0


def test_groups_are_one_node_until_they_are_opened() -> None:
    marks = [
        Mark(name, name, row, "x", 1.0, group="g" if name in "abc" else "")
        for row, name in enumerate("abcde")
    ]
    links = [Link("a", "d", 1.0), Link("b", "d", -0.25), Link("a", "b", 9.0), Link("d", "e", 1.0)]
    fewer, merged = collapse(marks, links)
    assert [m.label for m in fewer] == ["g (3)", "d", "e"] and fewer[0].value == 3.0
    assert {(e.source, e.target): e.weight for e in merged} == {("group g", "d"): 0.75, ("d", "e"): 1.0}
    assert collapse(marks, links, opened=["g"]) == (marks, links)


def test_neighbours_pull_nodes_of_a_cell_into_an_order_without_crossings() -> None:
    marks = [Mark(f"t{i}", f"t{i}", 0, "x") for i in range(5)] + [
        Mark(f"u{i}", f"u{i}", 1, "x") for i in range(5)
    ]
    links = [Link(f"t{i}", f"u{4 - i}", 1.0) for i in range(5)]
    boxes = arrange(marks, links).boxes
    low = sorted(range(5), key=lambda i: boxes[f"t{i}"][0])
    high = sorted(range(5), key=lambda i: boxes[f"u{4 - i}"][0])
    assert low == high


def test_a_figure_for_a_paper_and_refusals() -> None:
    pytest.importorskip("matplotlib")
    marks, links = graph(12)
    figure = layered_figure(arrange(marks, links, ROLES), {0: "layer 0"})
    assert len(figure.axes[0].patches) == len(marks) + 2 * len(links) + 4  # a head each, and the key
    with pytest.raises(PatchclampError, match="without a node"):
        arrange([], [])
    with pytest.raises(PatchclampError, match="two nodes are named 'a'"):
        arrange([Mark("a", "a", 0), Mark("a", "b", 1)], [])
    with pytest.raises(PatchclampError, match="'z', which is no node"):
        arrange([Mark("a", "a", 0)], [Link("a", "z", 1.0)])
