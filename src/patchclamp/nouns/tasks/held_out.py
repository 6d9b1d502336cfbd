"""Items that verify are others than those that chose, and of other groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.protocol import TaskLike


def check_held_out(task: TaskLike, chosen_on: TaskLike | None, made: str = "the ranking") -> None:
    """Refuse to verify on items that chose: an item, or a group, that is in both.

    Parameters
    ----------
    task, chosen_on
        The items that verify, and those that chose.
    made
        What they chose, in words.

    Raises
    ------
    PatchclampError
        With the item or the group.
    """
    if chosen_on is None:
        raise PatchclampError(f"held-out items are needed: give chosen_on=, the task whose items made {made}")
    ours, theirs = _identities(task), _identities(chosen_on)
    for what, mine, other in zip(("item", "group"), ours, theirs, strict=True):
        both = [name for name in mine if name in other]
        if both:
            shown = str(mine[both[0]])
            raise PatchclampError(
                f"{what} {shown if len(shown) < 80 else shown[:77] + '...'} is both among the items that made "
                f"{made} and among those that verify it ({len(both)} {what}s of {len(mine)}); give other items"
            )


def _identities(task: TaskLike) -> tuple[dict[Any, Any], dict[str, str]]:
    """What tells items apart, and groups."""
    items = getattr(task, "items", None)
    if items is not None and not callable(items):
        texts = {(item.clean, item.corrupted): item.clean for item in items}
        return texts, {item.group: item.group for item in items if item.group}
    groups = {group: group for group in task.groups if group}
    rows = getattr(task, "texts", getattr(task, "clean", None))
    if isinstance(rows, Mapping):
        rows = tuple(rows.values())
    if isinstance(rows, torch.Tensor):
        rows = (rows,)
    if not isinstance(rows, (tuple, list)):
        raise PatchclampError(
            f"{type(task).__name__}: neither texts nor tensors, so its items cannot be told apart"
        )
    if all(isinstance(part, torch.Tensor) for part in rows):
        parts = [part.detach().cpu().reshape(len(part), -1) for part in rows]
        bits = zip(*(map(_bits, part) for part in parts), strict=True)
        return {row: place for place, row in enumerate(bits)}, groups
    return {str(row): row for row in rows}, groups


def _bits(row: torch.Tensor) -> bytes:
    return row.contiguous().view(torch.uint8).numpy().tobytes()
