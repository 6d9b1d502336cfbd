"""`TaskLike`: what every verb asks of a task, whatever its items are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.base.statistics import n_groups


@runtime_checkable
class TaskLike(Protocol):
    """A behaviour: named items with a metric, in groups, dealt to splits.

    `Task` (texts with answers), `TextTask` (running texts) and `TensorTask` (tensors) are such. What an item holds is
    between a task and its subject: `subject.pairs(task)` gives batches, and refuses a kind that it cannot read.

    Examples
    --------
    >>> from patchclamp.nouns.tasks.texts import TextTask
    >>> isinstance(TextTask("two", ("One text.", "Another.")), TaskLike)
    True
    """

    @property
    def name(self) -> str:
        """Printed in tables and claims."""

    @property
    def metric_name(self) -> str:
        """The metric in a word."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The unit of dependence of each item; empty where each item is its own."""

    def __len__(self) -> int: ...

    def split(self, *names: str) -> Self:
        """The items of one split, or of several together, in order."""

    def select(self, places: Iterable[int]) -> Self:
        """The items at these places."""

    def others(self) -> Self | None:
        """The items of the whole task, of which these were selected, that share no group with them; None without any."""


T = TypeVar("T", bound=TaskLike)
Origin = tuple[Any, tuple[int, ...]]
"""The task that a selection was first made from, and the places of the selected items in it."""


def origin_of(task: Any, places: Sequence[int]) -> Origin:
    """Where the items at some places of a task come from, be it a selection itself."""
    whole, known = task.origin or (task, range(len(task)))
    return whole, tuple(known[i] for i in places)


def other_items(task: T, origin: Origin | None) -> T | None:
    """The items of the whole task that are not in a selection and share no group with it; None where there are none."""
    if origin is None:
        return None
    whole, places = origin
    mine = set(places)
    groups = whole.groups or [""] * len(whole)
    taken = {groups[i] for i in mine} - {""}
    rest = [i for i in range(len(whole)) if i not in mine and groups[i] not in taken]
    found: T | None = whole.select(rest) if rest else None
    return found


def size_of(task: TaskLike, what: str = "items") -> str:
    """How many items a task has, and in how many groups they are.

    Examples
    --------
    >>> from patchclamp.nouns.tasks.texts import TextTask
    >>> size_of(TextTask("two", ("One text.", "Another.", "A third."), ("a", "a", "b")))
    '3 items, 2 groups'
    """
    groups = f", {n_groups(task.groups, len(task))} groups" if task.groups else ""
    return f"{len(task)} {what}{groups}"


def split_places(task: TaskLike, splits: Mapping[str, Sequence[int]], names: Sequence[str]) -> list[int]:
    """Places of the items of some splits, in order.

    Raises
    ------
    PatchclampError
        For a split that does not exist or holds no item.
    """
    for name in names:
        if name not in splits:
            raise PatchclampError(
                f"task {task.name}: no split {name!r}{did_you_mean(name, splits)}; it has {', '.join(splits)}"
            )
    places = sorted(i for name in names for i in splits[name])
    if not places:
        groups = len(set(task.groups)) or len(task)
        raise PatchclampError(
            f"task {task.name}: its split {' + '.join(names)} has no items; the task has {len(task)} items "
            f"in {groups} groups, and a group is never cut: give items of at least 3 groups"
        )
    return places
