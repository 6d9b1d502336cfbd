"""The unit of dependence of items that name none: what repeats in their texts, answers and foils."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from patchclamp.nouns.tasks.item import Item

FEWEST = 8
"""Items are grouped by answer and foil only where these make so many groups: " yes" and " no" are classes, not facts."""
BY_TEXT, BY_ANSWER = "text", "text, or answer and foil,"


def repeated(items: Sequence[Item]) -> tuple[list[str], str]:
    """Group of each item by what it shares with others, and what that is; no groups where nothing repeats.

    Items of one clean text are one group. So are those of one answer and foil, as long as this leaves `FEWEST` groups.

    Examples
    --------
    >>> repeated([Item("a is", " x", " y"), Item("b is", " x", " z"), Item("a is", " x", " z")])
    (['as item 0', 'as item 1', 'as item 0'], 'text')
    """
    texts = [(item.clean,) for item in items]
    facts = [(item.answers, item.foils) for item in items]
    first = _joined([texts, facts])
    by = BY_ANSWER
    if len(set(first)) < FEWEST:
        first, by = _joined([texts]), BY_TEXT
    elif first == _joined([texts]):
        by = BY_TEXT
    if len(set(first)) == len(items):
        return [""] * len(items), ""
    return [f"as item {place}" for place in first], by


def _joined(keys: Sequence[Sequence[Hashable]]) -> list[int]:
    """The first of the items that each is joined with, where any of the keys is the same."""
    root = list(range(len(keys[0])))

    def find(place: int) -> int:
        while root[place] != place:
            root[place] = place = root[root[place]]
        return place

    for column in keys:
        seen: dict[Hashable, int] = {}
        for place, key in enumerate(column):
            a, b = sorted((find(place), find(seen.setdefault(key, place))))
            root[b] = a
    return [find(place) for place in range(len(root))]
