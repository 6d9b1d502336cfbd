"""Items of a task as lines for people: texts cut into pieces at their roles, answer and foil behind."""

from __future__ import annotations

from typing import Any

from patchclamp.nouns.tasks.item import Item


def example_lines(item: Item) -> list[dict[str, Any]]:
    """An item, clean and corrupted, as `patchclamp.draw.charts.examples` takes it.

    Examples
    --------
    >>> example_lines(Item("Ann met", " Tom", " Bob", spans={"S": (0, 3)}))[0]["pieces"]
    [{'text': 'Ann', 'role': 'S'}, {'text': ' met', 'role': ''}]
    """
    answer = item.answers[0].strip()
    foil = item.foils[0].strip() if item.foils else ""
    lines = [{"label": "clean", "pieces": _pieces(item, "clean"), "answer": answer, "foil": foil}]
    if item.corrupted is not None:
        lines.append({"label": "corrupted", "pieces": _pieces(item, "corrupted"), "answer": "", "foil": ""})
    return lines


def _pieces(item: Item, which: str) -> list[dict[str, str]]:
    text = item.clean if which == "clean" else item.corrupted or ""
    spans = item.spans if which == "clean" else item.corrupted_spans
    pieces: list[dict[str, str]] = []
    at = 0
    for role, (start, end) in sorted(spans.items(), key=lambda entry: (entry[1][0], -entry[1][1])):
        if start < at:
            continue
        pieces += [{"text": text[at:start], "role": ""}, {"text": text[start:end], "role": role}]
        at = end
    return [piece for piece in [*pieces, {"text": text[at:], "role": ""}] if piece["text"]]
