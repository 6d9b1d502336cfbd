"""A circuit as a picture: which of its nodes and edges are drawn, where they stand, and what is said beside them.

`circuit_picture` makes plain data of tables (what `study.json` holds of a figure); `circuit_html`, `circuit_page`,
`circuit_svg` and `circuit_figure` draw it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import write_text
from patchclamp.draw.circuit_page import CSS, RULES, page
from patchclamp.draw.layered import (
    LONGEST,
    Arranged,
    Link,
    Mark,
    arrange,
    collapse,
    layered_figure,
    layered_svg,
    text_width,
)
from patchclamp.draw.svg import Svg

__all__ = ["circuit_figure", "circuit_html", "circuit_page", "circuit_picture", "circuit_svg"]

Picture = Mapping[str, Any]
ENDS = ("logits", "metric")
TOKENS = "tokens:"
# point -> (place within its layer, words for that row)
WITHIN = {
    "q": (0, "q k v"), "k": (0, "q k v"), "v": (0, "q k v"), "head": (1, "heads"), "z": (1, "heads"),
    "attn_out": (1, "attention"), "resid_mid": (2, "stream"), "mlp_act": (3, "neurons"), "mlp_pre": (3, "neurons"),
    "mlp_out": (4, "MLP"), "resid_post": (5, "stream"),
}  # fmt: skip
_NAME = re.compile(r"([a-z_]+)\.(\d+)(?:/[^\[]*)?(?:\[(-?\d+)\])?[+-]?(?:@(.+))?")
_INDEX = re.compile(r"\[-?\d+\][+-]?$")


def circuit_picture(
    nodes: Sequence[str],
    edges: pd.DataFrame,
    node_data: pd.DataFrame | None,
    *,
    n: int = 40,
    links: int | None = None,
    means: str = "",
    limits: str = "",
    title: str = "",
) -> dict[str, Any]:
    """Choose what is drawn of a circuit, and say where.

    Parameters
    ----------
    nodes
        Names, in the order of the pass.
    edges
        source, target, weight; largest first.
    node_data
        A row a node, or None. `score` (or `effect`) ranks nodes and frames them by sign; `role` is the column they stand
        in, `layer` their row where the name does not say it; `group`, `label`, `written`, `exemplars` are shown.
    n
        Nodes at most: those of the largest scores; without scores those of the largest edges. Tokens and outputs count.
    links
        Edges at most, largest first, and the largest of each node besides; by default twice as many as nodes.
    means, limits
        What an edge is, and what it is not evidence for.
    title
        Above it.

    Raises
    ------
    PatchclampError
        For less than two nodes.
    """
    if n < 2:
        raise PatchclampError(f"n={n}: a picture of a circuit has at least two nodes")
    table = pd.DataFrame(index=range(len(nodes))) if node_data is None else node_data.reset_index(drop=True)
    values = _column(table, ("score", "effect"))
    chosen = _chosen(nodes, edges, values, n)
    inside = edges[edges["source"].isin(chosen) & edges["target"].isin(chosen)]
    drawn = _links(inside, 2 * len(chosen) if links is None else links)
    rows, names = _rows(nodes, edges, table)
    roles, columns = _roles(nodes, table, chosen)
    told: list[dict[str, Any]] = []
    for i, name in enumerate(nodes):
        if name in chosen:
            told.append(
                {
                    "name": name, "label": name.removeprefix(TOKENS), "row": rows[i], "column": roles[i],
                    "value": values[i] if np.isfinite(values[i]) else 0.0, "group": _text(table, "group", i),
                    "note": _text(table, "label", i), "written": _texts(table, "written", i),
                    "exemplars": _texts(table, "exemplars", i),
                }
            )  # fmt: skip
    used = {one["row"] for one in told}
    notes = _legend(len(told), len(nodes), len(drawn), len(edges), means, limits)
    points = {one["name"].split(".")[0] for one in told}
    inner = edges["target"].str.startswith("head.") & edges["source"].str.match(r"[qkv]\.")
    if "head" in points and points & {"q", "k", "v"} and not inner.any():
        notes.insert(
            1, "What a head reads (q, k, v) and what it writes stand apart: no edge is drawn within a head."
        )
    return {
        "nodes": told,
        "links": [[e.source, e.target, float(e.weight)] for e in drawn.itertuples()],
        "rows": [[row, names[row]] for row in sorted(used)],
        "columns": [column for column in columns if any(one["column"] == column for one in told)],
        "notes": notes,
        "title": title,
    }


def _column(table: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    for name in names:
        if name in table:
            return np.asarray(pd.to_numeric(table[name], errors="coerce"), np.float64)
    return np.full(len(table), np.nan)


def _text(table: pd.DataFrame, name: str, row: int) -> str:
    value = table[name].iloc[row] if name in table else None
    return "" if value is None or pd.isna(value) else str(value)


def _texts(table: pd.DataFrame, name: str, row: int) -> list[Any]:
    """A cell with several texts: strings, or an exemplar's before, token, after and value."""
    cell = table[name].iloc[row] if name in table else None
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return []
    cell = [cell] if isinstance(cell, str) else list(cell)
    return [dict(one) if isinstance(one, Mapping) else str(one) for one in cell]


def _chosen(nodes: Sequence[str], edges: pd.DataFrame, values: NDArray[np.float64], n: int) -> set[str]:
    size = edges["weight"].abs()
    strength = size.groupby(edges["source"]).sum().add(size.groupby(edges["target"]).sum(), fill_value=0)
    if np.isfinite(values).any():
        # tokens and outputs have no score: they are what the others are between
        free = [name for name, value in zip(nodes, values, strict=True) if not np.isfinite(value)]
        free = [name for name in free if strength.get(name, 0.0) > 0]
        free.sort(key=lambda name: (name not in ENDS, -strength[name]))
        ranked = sorted(zip(nodes, values, strict=True), key=lambda pair: -abs(np.nan_to_num(pair[1])))
        scored = [name for name, value in ranked if np.isfinite(value)]
        kept = free[: max(n // 2, n - len(scored))]
        return {*kept, *scored[: n - len(kept)]}
    found: set[str] = set()
    for edge in edges.itertuples():
        new = {edge.source, edge.target} - found
        if len(found) + len(new) <= n:
            found |= new
        if len(found) == n:
            break
    return found or set(nodes[:n])


def _links(inside: pd.DataFrame, count: int) -> pd.DataFrame:
    """The largest, and of each node its largest in and out."""
    inside = inside[inside["weight"] != 0].reset_index(drop=True)
    best = {*range(min(count, len(inside)))}
    for side in ("source", "target"):
        best |= set(inside.groupby(side, sort=False).head(1).index)
    return inside.iloc[sorted(best)]


def _legend(shown: int, nodes: int, drawn: int, edges: int, means: str, limits: str) -> list[str]:
    some = f"{shown:,} of {nodes:,} nodes and {drawn:,} of {edges:,} edges, the largest."
    told = [some if (shown, drawn) != (nodes, edges) else f"All {nodes:,} nodes and {edges:,} edges."]
    if means:
        told.append(f"An edge is {means}.")
    return [*told, f"Not evidence for {limits}."] if limits else told


# ---- where nodes stand


def _rows(nodes: Sequence[str], edges: pd.DataFrame, table: pd.DataFrame) -> tuple[list[int], dict[int, str]]:
    """Row of each node from below, and what each row is called.

    By the layer in the names where they are all names of the stream; else by the column `layer`; else each node above
    all that come before it in the graph and act on it.
    """
    keys = [_key(name) for name in nodes]
    if all(key is not None for key in keys):
        order = sorted({key for key in keys if key is not None})
        rank = {key: row for row, key in enumerate(order)}
        return [rank[key] for key in keys if key is not None], {rank[key]: key[2] for key in order}
    if "layer" in table:
        layers = pd.to_numeric(table["layer"]).astype(int).tolist()
        return layers, _row_names(nodes, layers)
    place = {name: i for i, name in enumerate(nodes)}
    below: dict[int, list[int]] = {}
    for edge in edges.itertuples():
        source, target = place[edge.source], place[edge.target]
        if source < target:
            below.setdefault(target, []).append(source)
    rows: list[int] = []
    for i in range(len(nodes)):
        rows.append(1 + max((rows[j] for j in below.get(i, [])), default=-1))
    return rows, _row_names(nodes, rows)


def _key(name: str) -> tuple[int, int, str] | None:
    if name.startswith(TOKENS) or name.split("@", maxsplit=1)[0] == "embeddings":
        return -1, 0, "tokens"
    if name in ENDS:
        return 10**9, ENDS.index(name), name
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in WITHIN:
        return None
    rank, words = WITHIN[found[1]]
    return int(found[2]), rank, f"{found[2]} {words}"


def _row_names(nodes: Sequence[str], rows: Sequence[int]) -> dict[int, str]:
    """A row whose nodes share a site is called by it."""
    sites: dict[int, set[str]] = {}
    for name, row in zip(nodes, rows, strict=True):
        sites.setdefault(row, set()).add(_INDEX.sub("", name))
    return {row: found.pop() if len(found) == 1 else str(row) for row, found in sites.items()}


def _roles(nodes: Sequence[str], table: pd.DataFrame, chosen: set[str]) -> tuple[list[str], list[str]]:
    """Column of each node, and their order: that of the tokens, by `position` where it is known.

    Outputs stand in the last column that holds anything else.
    """
    own = [_text(table, "role", i) if name not in ENDS else "" for i, name in enumerate(nodes)]
    for i, name in enumerate(nodes):
        found = _NAME.fullmatch(name)
        if name.startswith(TOKENS):
            own[i] = name.removeprefix(TOKENS)
        elif found is not None and found[4]:
            own[i] = found[4]
    at = _column(table, ("position",))
    tokens = [(i, name.removeprefix(TOKENS)) for i, name in enumerate(nodes) if name.startswith(TOKENS)]
    tokens.sort(key=lambda one: at[one[0]] if np.isfinite(at[one[0]]) else np.inf)
    order = list(dict.fromkeys([*(role for _, role in tokens), *(role for role in own if role)]))
    used = {
        role for name, role in zip(nodes, own, strict=True) if name in chosen and not name.startswith(TOKENS)
    }
    last = next((role for role in reversed(order) if role in used), "")
    if all(role == "" or name.startswith(TOKENS) for name, role in zip(nodes, own, strict=True)):
        return [""] * len(nodes), [""]  # tokens alone have places: nothing stands above them
    return [last if name in ENDS else role for name, role in zip(nodes, own, strict=True)], [*order, ""]


# ---- drawings


def _arranged(picture: Picture, opened: Sequence[str]) -> tuple[Arranged, dict[int, str]]:
    marks = [
        Mark(
            one["name"], one["label"], one["row"], one["column"], one["value"], _said(one), one["group"], one["note"]
        )
        for one in picture["nodes"]
    ]  # fmt: skip
    fewer, links = collapse(marks, [Link(*link) for link in picture["links"]], opened)
    names = {int(row): str(name) for row, name in picture["rows"]}
    left = 26 + min(max(map(text_width, names.values()), default=0.0), LONGEST)
    return arrange(fewer, links, picture["columns"], left=left), names


def _said(one: Mapping[str, Any]) -> str:
    """The words of a tooltip."""
    parts = [f"in group {one['group']}"] if one["group"] else []
    if one["written"]:
        parts.append("writes " + " ".join(map(str, one["written"][:6])))
    return "; ".join([*parts, *(_exemplar(e) for e in one["exemplars"][:1])])


def _exemplar(one: Any) -> str:
    return f"{one.get('before', '')}[{one.get('token', '')}]{one.get('after', '')}" if isinstance(one, Mapping) else str(one)  # fmt: skip


def groups_of(picture: Picture) -> list[str]:
    """Groups of two nodes or more."""
    names = [one["group"] for one in picture["nodes"] if one["group"]]
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def circuit_figure(picture: Picture, opened: Sequence[str] = (), ax: Any = None) -> Any:
    """The picture as a matplotlib figure; groups are closed but those that are opened."""
    arranged, names = _arranged(picture, _known(picture, opened))
    return layered_figure(arranged, names, ax, picture["notes"])


def _known(picture: Picture, opened: Sequence[str]) -> Sequence[str]:
    for name in opened:
        if name not in groups_of(picture):
            raise PatchclampError(f"{name!r}: no group of this picture; they are {groups_of(picture)}")
    return opened


def _svg(picture: Picture, opened: Sequence[str], prefix: str = "", notes: bool = True) -> Svg:
    arranged, names = _arranged(picture, opened)
    label = picture["title"] or "a circuit"
    hrefs = {one["name"]: f"#{prefix}{i}" for i, one in enumerate(picture["nodes"])} if prefix else None
    return layered_svg(arranged, names, label, hrefs, picture["notes"] if notes else ())


def circuit_svg(picture: Picture, path: str | Path, opened: Sequence[str] = ()) -> None:
    """Write an SVG that stands alone, light or dark as the reader's system is."""
    text = str(_svg(picture, _known(picture, opened)))
    head, rest = text.split(">", 1)
    style = Markup("<style>{}</style>").format(Markup(CSS))
    write_text(Path(path), f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}')


def circuit_card(picture: Picture) -> Markup:
    """The drawing as part of a card in a notebook, with its style and nothing else."""
    style = Markup("<style>.pc-card {{ {} }}</style>").format(Markup(RULES))
    return style + Markup(str(_svg(picture, (), notes=False)))


def circuit_html(**picture: Any) -> Markup:
    """The picture with a switch for each group, its legend, and what is known of each node beneath.

    Works without a script: a group opens by its switch, a node's box leads to its entry. With `circuit_page.SCRIPT` a click on
    a group opens it, and a pointer on a node leaves only its edges.
    """
    prefix = "c" + hashlib.sha256(json.dumps(picture, sort_keys=True).encode()).hexdigest()[:8] + "-"
    groups = groups_of(picture)
    states: list[tuple[str, str, list[str]]] = [("closed", "groups closed" if groups else "", [])]
    states += [(f"g{i}", f"{name} open", [name]) for i, name in enumerate(groups)]
    if len(groups) > 1:
        states.append(("all", "all open", groups))
    parts = [Markup('<div class="circuit">')]
    if groups:
        for i, (key, words, opened) in enumerate(states):
            parts.append(
                Markup('<input type="radio" name="{0}" id="{0}{1}" data-opens="{2}"{3}><label for="{0}{1}">{4}</label>').format(
                    prefix, key, opened[0] if len(opened) == 1 else "", Markup(" checked") if i == 0 else "", words
                )
            )  # fmt: skip
    for key, _, opened in states:
        svg = Markup(_svg(picture, opened, f"{prefix}n", notes=False))
        parts.append(Markup('<div class="scroll state" data-state="{}">{}</div>').format(key, svg))
    if groups:
        rules = "".join(
            f'#{prefix}{key}:checked~.state[data-state="{key}"]{{display:block}}' for key, *_ in states
        )
        parts.append(Markup("<style>{}</style>").format(Markup(rules)))
    else:
        parts.append(Markup("<style>.circuit:not(:has(input)) .state{display:block}</style>"))
    parts += [Markup('<p class="caption">{}</p>').format(note) for note in picture["notes"]]
    parts.append(_entries(picture, f"{prefix}n"))
    return Markup("").join([*parts, Markup("</div>")])


def _entries(picture: Picture, prefix: str) -> Markup:
    links = picture["links"]
    out = [Markup("<details><summary>what is known of each node</summary>")]
    for i, one in enumerate(picture["nodes"]):
        told = Markup('<div class="entry" id="{}{}"><b>{}</b>').format(prefix, i, one["name"])
        if one["note"]:
            told += Markup(" {}").format(one["note"])
        if one["value"]:
            told += Markup(" <span>score {}</span>").format(f"{one['value']:+.3g}")
        if one["group"]:
            told += Markup(" <span>group {}</span>").format(one["group"])
        if one["written"]:
            tokens = Markup("").join(Markup('<span class="tok">{}</span>').format(t) for t in one["written"])
            told += Markup("<div>writes {}</div>").format(tokens)
        for words, at, other in (("from", 1, 0), ("to", 0, 1)):
            found = sorted((link for link in links if link[at] == one["name"]), key=lambda e: -abs(e[2]))[:5]
            if found:
                said = ", ".join(f"{link[other]} {link[2]:+.3g}" for link in found)
                told += Markup("<div>{} {}</div>").format(words, said)
        for example in one["exemplars"]:
            if isinstance(example, Mapping):
                told += Markup('<div class="exemplar">{}<mark>{}</mark>{}</div>').format(
                    *(example.get(key, "") for key in ("before", "token", "after"))
                )
            else:
                told += Markup('<div class="exemplar">{}</div>').format(example)
        out.append(told + Markup("</div>"))
    return Markup("").join([*out, Markup("</details>")])


def circuit_page(picture: Picture, path: str | Path) -> None:
    """Write a page that stands alone: it loads nothing, and no text in it can run."""
    write_text(Path(path), page(picture["title"] or "a circuit", circuit_html(**picture)))
