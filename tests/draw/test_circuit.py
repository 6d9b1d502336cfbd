"""Circuits as pictures: what is chosen, where it stands, and that nothing overlaps, is cut, or runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.charts import draw
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.study.report.circuit import circuit_figure

ROLES = ("subject", "near", "attractor", "end", "other")
LONG = "a label that says very much more than a box of its size can ever hold"


def circuit(
    n: int, layers: int = 12, role: str | None = None, label: str = "", group: bool = False
) -> CircuitGraph:
    """`n` neurons over layers and roles, tokens below them and logits above, a quarter of all forward pairs linked."""
    rng = np.random.default_rng(0)
    at = sorted(rng.integers(0, layers, n)) if role is None else [layers // 2] * n
    names = [
        *(f"tokens:{r}" for r in ROLES),
        *(f"mlp_act.{layer}[{7 * i}]+" for i, layer in enumerate(at)),
        "logits",
    ]
    free = {"score": np.nan, "label": "", "group": "", "written": None, "exemplars": None}
    rows = [free | {"role": r} for r in ROLES]
    for i in range(n):
        rows.append(
            {
                "score": rng.normal(), "role": role or ROLES[i % 4], "label": label,
                "group": f"group {i % 3}" if group and i < 9 else "", "written": [" are", "<script>alert(1)</script>"],
                "exemplars": [{"before": "The keys ", "token": "to & fro", "after": " <b>"}, "a plain text"],
            }
        )  # fmt: skip
    rows.append(free | {"role": ""})
    ends = [(t, s) for t in range(len(ROLES), len(names)) for s in range(t) if rng.random() < 0.25]
    items = rng.normal(size=(8, len(ends)))
    return CircuitGraph.of(
        names, ends, items, method="neuron_graph", limits="what keys do", node_data=pd.DataFrame(rows),
        params={"means": "a share of the score", "task": "agreement"},
    )  # fmt: skip


def boxes(
    svg: str,
) -> tuple[dict[str, tuple[float, ...]], list[tuple[str, float, float, str, str]], float, float]:
    """Boxes of nodes by name, texts (words, x, y, anchor, class), and the size of the drawing."""
    tree = ET.fromstring(svg)
    bare = lambda e: e.tag.rsplit("}", 1)[-1]
    _, _, width, height = map(float, (tree.get("viewBox") or "").split())
    found = {
        e.get("data-node") or "": tuple(float(e.get(k) or 0) for k in ("x", "y", "width", "height"))
        for e in tree.iter() if bare(e) == "rect" and e.get("data-node")
    }  # fmt: skip
    texts = [
        (e.text or "", float(e.get("x") or 0), float(e.get("y") or 0), e.get("text-anchor") or "", e.get("class") or "")
        for e in tree.iter() if bare(e) == "text"
    ]  # fmt: skip
    return found, texts, width, height


def box_of(text: tuple[str, float, float, str, str]) -> tuple[float, ...]:
    """The box of a text at 6 pixels a letter: those of the page's monospaced 10.5 pixels take 6.3, others less."""
    words, x, y, anchor, css = text
    width = len(words) * (6.3 if css == "node-label" else 5.6)
    left = {"middle": x - width / 2, "end": x - width, "start": x}[anchor]
    return left, y - 9, width, 11


def apart(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (2, {}),
        (40, {}),
        (40, {"label": LONG, "group": True}),
        (30, {"role": "end", "label": "a few words"}),
        (60, {"layers": 48, "label": LONG}),
        (40, {"label": "複数の主語の名詞を数えるニューロン"}),
    ],
)
def test_no_box_or_label_overlaps_another_or_is_cut(
    tmp_path: Path, n: int, options: dict[str, object]
) -> None:
    circuit(n, **options).to_svg(tmp_path / "g.svg", n=n + 6)  # type: ignore[arg-type]
    nodes, texts, width, height = boxes((tmp_path / "g.svg").read_text())
    assert len(nodes) > (n - 6 if options.get("group") else n)
    labels = [t for t in texts if t[4].startswith("node-")]
    free = [box_of(t) for t in texts if not t[4].startswith("node-")]
    for box in [*nodes.values(), *map(box_of, texts)]:
        assert box[0] >= 0 and box[1] >= 0 and box[0] + box[2] <= width and box[1] + box[3] <= height
    for one, other in combinations([*nodes.values(), *free], 2):
        assert apart(one, other)
    for text in labels:  # each within the one box it stands in
        x, y, w, h = box_of(text)
        inside = [
            b
            for b in nodes.values()
            if b[0] <= x and x + w <= b[0] + b[2] and b[1] <= y + 2 and y + h <= b[1] + b[3]
        ]
        assert len(inside) == 1, text


def test_a_figure_holds_every_text_within_its_box() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = circuit(34, label=LONG).plot()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes, renderer = figure.axes[0], canvas.get_renderer()
    frames = [p.get_window_extent(renderer) for p in axes.patches if type(p).__name__ == "FancyBboxPatch"]
    assert len(frames) == 40
    whole = figure.bbox
    for text in axes.texts:
        box = text.get_window_extent(renderer)
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
        touched = [f for f in frames if box.overlaps(f)]
        assert len(touched) <= 1
        assert all(f.x0 <= box.x0 and box.x1 <= f.x1 and f.y0 <= box.y0 and box.y1 <= f.y1 for f in touched)


def test_roles_go_across_and_layers_up(tmp_path: Path) -> None:
    graph = circuit(30)
    graph.to_svg(tmp_path / "g.svg")
    nodes, _, _, _ = boxes((tmp_path / "g.svg").read_text())
    middle = {name: (x + w / 2, y) for name, (x, y, w, _) in nodes.items()}
    layer = {name: int(re.findall(r"\d+", name)[0]) for name in nodes if name.startswith("mlp")}
    for a, b in combinations(layer, 2):
        assert (layer[a] < layer[b]) <= (middle[a][1] > middle[b][1])
    assert all(
        middle["logits"][1] < y < middle["tokens:end"][1] for name, (_, y) in middle.items() if name in layer
    )
    assert list(ROLES) == sorted(ROLES, key=lambda r: middle[f"tokens:{r}"][0])
    assert graph.node_data is not None
    role = dict(zip(graph.nodes, graph.node_data["role"], strict=True))
    for name in layer:  # nearest to the token of its own role
        assert min(ROLES, key=lambda r: abs(middle[f"tokens:{r}"][0] - middle[name][0])) == role[name]


def test_the_largest_are_chosen_and_the_legend_counts_them() -> None:
    graph = circuit(50)
    picture = graph.picture(n=20, links=25)
    assert graph.node_data is not None
    scores = graph.node_data["score"].abs()
    top = {graph.nodes[i] for i in scores.sort_values(ascending=False).index[:14]}
    shown = {one["name"] for one in picture["nodes"]}
    assert len(shown) == 20 and top <= shown
    weights = [abs(w) for *_, w in picture["links"]]
    all_inside = [abs(e.weight) for e in graph.edges().itertuples() if {e.source, e.target} <= shown]
    assert sorted(weights, reverse=True)[:25] == sorted(all_inside, reverse=True)[:25]
    ends = {end for source, target, _ in picture["links"] for end in (source, target)}
    assert ends == shown  # each with its largest edge
    assert picture["notes"][0].startswith(f"20 of 56 nodes and {len(weights)} of {len(graph.ends)} edges")
    assert picture["notes"][1:] == ["An edge is a share of the score.", "Not evidence for what keys do."]
    with pytest.raises(PatchclampError, match="at least two nodes"):
        graph.picture(n=1)


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["embeddings", "head.0[1]", "k.9[2]", "q.9[6]", "mlp_out.9", "logits"], [0, 1, 2, 2, 3, 4]),
        (
            ["embeddings@subject", "v.3[0]@end", "mlp_act.10[7]", "resid_post.10/sae[5]", "logits"],
            [0, 1, 2, 3, 4],
        ),
        (["layer1.0.conv2.out[3]", "layer1.0.conv2.out[4]", "layer2.1.out[3]", "metric"], [0, 0, 1, 2]),
    ],
)
def test_names_of_every_method_find_their_row(names: list[str], rows: list[int]) -> None:
    ends = [(t, s) for t, s in combinations(range(len(names))[::-1], 2) if rows[s] < rows[t]]
    graph = CircuitGraph.of(names, ends, np.ones((3, len(ends))), method="by hand")
    assert [one["row"] for one in graph.picture()["nodes"]] == rows
    assert len(graph.plot().axes) == 1
    both = any(name[0] in "qv" for name in names) and any(name.startswith("head.") for name in names)
    assert any("within a head" in note for note in graph.picture()["notes"]) == both


class Page(HTMLParser):
    """Tags with their attributes, ids, and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_a_page_opens_groups_escapes_text_and_loads_nothing(tmp_path: Path) -> None:
    graph = circuit(30, label="<img src=x>", group=True)
    graph.to_html(tmp_path / "g.html", n=36)
    text = (tmp_path / "g.html").read_text()
    page = Page()
    page.feed(text)
    assert [tag for tag, _ in page.tags].count("script") == 1 and "img" not in dict(page.tags)
    assert "http" not in re.sub(r"http-equiv", "", text)
    switches = [a for tag, a in page.tags if tag == "input"]
    assert [a["data-opens"] for a in switches] == ["", "group 0", "group 1", "group 2", ""]
    svgs = re.findall(r"<svg.*?</svg>", text, re.S)
    counts = [len(boxes(svg)[0]) for svg in svgs]
    assert counts == [30, 32, 32, 32, 36]  # three groups of three: closed, one open each, all open
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    hrefs = {a["href"] for tag, a in page.tags if tag == "a"}
    assert hrefs <= {f"#{one}" for one in ids} and len(hrefs) == 36
    assert "The keys <mark>to &amp; fro</mark> &lt;b&gt;" in text and "&lt;script&gt;alert(1)" in text


def test_a_study_draws_it_from_its_own_data() -> None:
    graph = circuit(12, group=True)
    figure = circuit_figure(graph, n=18, title="The circuit")
    html = str(draw(figure.kind, figure.drawings[0]))
    assert html.count("<svg") == 5 and "Not evidence for what keys do." in html
    with pytest.raises(PatchclampError, match="no group of this picture"):
        graph.plot(opened=["verbs"])
