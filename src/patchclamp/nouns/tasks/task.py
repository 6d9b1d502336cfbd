"""Tasks: a behaviour as data. Clean texts, their contrast, answers, foils, a metric and splits.

The text is continued by the model; the answer is one token, predicted at the last token of the text. See
docs/tasks.md for the fields of a task in a JSONL file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import SPLITS, split_groups
from patchclamp.draw.cards import shown
from patchclamp.draw.charts import examples
from patchclamp.nouns.scores import metric_name
from patchclamp.nouns.tasks.checks import check_item
from patchclamp.nouns.tasks.encode import EncodedTask, encode_items
from patchclamp.nouns.tasks.grouping import repeated
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.jsonl import HEADER, read_items, write_items
from patchclamp.nouns.tasks.metrics import METRICS, Metric, MetricFunction, as_metric
from patchclamp.nouns.tasks.pieces import example_lines
from patchclamp.nouns.tasks.protocol import Origin, origin_of, other_items, split_places

__all__ = ["METRICS", "SPLITS", "EncodedTask", "Item", "Metric", "Task", "require_ability", "split_groups"]


@shown
@dataclass(frozen=True)
class Task:
    """A behaviour to explain.

    Parameters
    ----------
    name
        Its name.
    items
        The inputs.
    metric
        A name from `METRICS`, a `Metric`, or a function ``(logits, encoded, reference) -> (batch,)``.
    splits
        Split name -> places of its items. Where it is left out, whole groups are dealt to train, validation
        and test (see `split_groups`).
    corruption
        Name of the way in which the corrupted texts were made.
    min_accuracy
        Below this accuracy the model does not do the task, and `require_ability` refuses.
    description
        A line for people.
    grouping
        What items of a group share, where no item names a group and texts, or answers and foils, repeat: such items are
        put in groups of their own making. Empty where groups are named, or nothing repeats.
    origin
        Set by `select` and `split`: the whole task, and the places of these items in it.

    Examples
    --------
    >>> facts = {"France": " Paris", "Italy": " Rome", "Japan": " Tokyo"}
    >>> items = [Item(f"The capital of {c} is", answers=a, foils=" London", group=c) for c, a in facts.items()]
    >>> task = Task("facts", items)
    >>> len(task), len(task.split("test"))
    (3, 1)
    """

    name: str
    items: Sequence[Item]
    metric: str | Metric | MetricFunction = "logit_diff"
    splits: Mapping[str, Sequence[int]] = field(default_factory=dict)
    corruption: str = ""
    min_accuracy: float = 0.8
    description: str = ""
    grouping: str = field(default="", compare=False)
    origin: Origin | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        _check_items(self)
        if not any(self.groups):
            groups, by = repeated(self.items)
            items = (replace(item, group=group) for item, group in zip(self.items, groups, strict=True))
            object.__setattr__(self, "items", tuple(items))
            object.__setattr__(self, "grouping", by)
        given = self.splits or split_groups([item.group for item in self.items])
        splits = {name: tuple(int(i) for i in places) for name, places in given.items()}
        _check_splits(self, splits)
        object.__setattr__(self, "splits", splits)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    @property
    def score(self) -> Metric:
        """The metric as an object with its direction and needs."""
        return as_metric(self.metric)

    @property
    def metric_name(self) -> str:
        """The metric in a word."""
        return metric_name(self.metric)

    @property
    def groups(self) -> tuple[str, ...]:
        """Group of each item; none where no item names one."""
        names = tuple(item.group for item in self.items)
        return names if any(names) else ()

    def _card(self) -> dict[str, Any]:
        return {
            "name": self.name, "items": len(self), "groups": len(set(self.groups)) or len(self), "metric": self.metric_name,
            **{name: len(places) for name, places in self.splits.items()}, "corrupted": self.corruption or self.has_contrast,
        }  # fmt: skip

    def _picture(self) -> Markup:
        return examples([line for item in self.items[:2] for line in example_lines(item)])

    @property
    def has_contrast(self) -> bool:
        """Whether the items have corrupted texts."""
        return self.items[0].corrupted is not None

    def split(self, *names: str) -> Task:
        """The items of one split, or of several together, in order.

        Raises
        ------
        PatchclampError
            For a split that does not exist or holds no item.
        """
        return self.select(split_places(self, self.splits, names))

    def select(self, places: Iterable[int]) -> Task:
        """The items at these places; they stay in the splits they were in."""
        chosen = list(places)
        if not chosen:
            raise PatchclampError(f"task {self.name}: no item is selected")
        members = {name: set(places) for name, places in self.splits.items()}
        splits = {
            name: tuple(new for new, old in enumerate(chosen) if old in own) for name, own in members.items()
        }
        items = [self.items[i] for i in chosen]
        return replace(self, items=items, splits=splits, origin=origin_of(self, chosen))

    def others(self) -> Task | None:
        """The items of the whole task, of which these were selected, that share no group with them; None without any.

        Examples
        --------
        >>> task = Task("t", [Item(f"{i} is", " x", " y", group=str(i)) for i in range(8)])
        >>> len(task.split("test").others()), task.others()
        (6, None)
        """
        whole, places = self.origin or (self, range(len(self)))
        same = [whole.items[i] for i in places] == list(self.items)  # items may have been replaced since
        return other_items(self, self.origin if same else None)

    def take(self, n: int) -> Task:
        """At most `n` items, spread over the splits in their proportion, in order.

        Examples
        --------
        >>> task = Task("t", [Item(f"{i} is", " x", " y", group=str(i)) for i in range(8)])
        >>> [len(task.take(4).splits[s]) for s in ("train", "validation", "test")]
        [2, 1, 1]
        """
        if n < 1:
            raise PatchclampError(f"task {self.name}: take({n}) would leave no item")
        if n >= len(self):
            return self
        left = sorted(set(range(len(self))).difference(*self.splits.values()))
        queues = [*(list(m) for m in self.splits.values()), left]
        # Interleaved by the fraction of its split that an item closes: any head of it is in proportion.
        ranked = sorted((k / len(q), number, i) for number, q in enumerate(queues) for k, i in enumerate(q))
        return self.select(sorted(i for _, _, i in ranked[:n]))

    def encode(
        self,
        tokenizer: Any,
        bos: bool | None = None,
        device: torch.device | str = "cpu",
        max_length: int | None = None,
    ) -> EncodedTask:
        """Tokenise all items, right-padded.

        Parameters
        ----------
        tokenizer
            Any Hugging Face tokenizer object. Roles come from its character offsets; where it has none (slow
            tokenizers), from tokenising the text up to the end of the span.
        bos
            None follows the tokenizer, True puts a BOS token first, False leaves special tokens out. Tokens that
            the tokenizer adds after a text are left out always.
        device
            Where the tensors go.
        max_length
            The model's context, in tokens.

        Raises
        ------
        PatchclampError
            For an item whose clean and corrupted texts differ in token length, that is longer than `max_length`,
            whose answers or foils are not one token each, or whose roles are at different tokens in both texts.
        """
        return encode_items(self.items, tokenizer, bos, max_length, self.name).to(device)

    def to_jsonl(self, path: str | Path) -> None:
        """Write the task as JSONL: a header line, then one item a line; `from_jsonl` reads it back equal."""
        write_items(
            Path(path),
            {key: getattr(self, key) for key in HEADER},
            [replace(item, group="") for item in self.items] if self.grouping else self.items,
            self.splits,
        )

    @classmethod
    def from_jsonl(cls, path: str | Path) -> Task:
        """Read a task from a JSONL file (fields in docs/tasks.md); errors name the file and the line."""
        header, items, splits = read_items(Path(path))
        try:
            return cls(items=items, splits=splits, **header)
        except PatchclampError as error:
            raise PatchclampError(f"{path}: {error}") from error


def require_ability(task: Task, accuracy: float, metric_mean: float | None = None) -> None:
    """Refuse a task that the model cannot do: an explanation of it would explain nothing.

    Parameters
    ----------
    task
        The task.
    accuracy
        Mean of `METRICS["accuracy"]` over its items.
    metric_mean
        Mean of the task's own metric; a difference of answers and foils must be above zero.

    Raises
    ------
    PatchclampError
        With the figures.
    """
    figures = f"accuracy {accuracy:.3f}" + (
        "" if metric_mean is None else f", mean {task.score} {metric_mean:.3f}"
    )
    if not accuracy >= task.min_accuracy:
        raise PatchclampError(
            f"task {task.name}: the model cannot do it ({figures} on {len(task)} items; at least "
            f"{task.min_accuracy:.2f} is needed); choose a task that it can do, or set the task's min_accuracy"
        )
    if task.score.contrast and metric_mean is not None and not metric_mean > 0:
        raise PatchclampError(
            f"task {task.name}: the model prefers the foils on average ({figures} on {len(task)} items)"
        )


def _check_items(task: Task) -> None:
    """Refuse what no tokenizer could mend."""
    metric = task.score
    if not task.items:
        raise PatchclampError(f"task {task.name}: it has no items")
    if not 0 <= task.min_accuracy <= 1:
        raise PatchclampError(f"task {task.name}: min_accuracy {task.min_accuracy} is outside 0..1")
    for index, item in enumerate(task.items):
        where = f"task {task.name}, item {index}"
        check_item(item, metric, where)
        if (item.corrupted is None) != (task.items[0].corrupted is None):
            raise PatchclampError(f"{where}: some items have a corrupted text and some have none")


def _check_splits(task: Task, splits: Mapping[str, tuple[int, ...]]) -> None:
    owner: dict[int, str] = {}
    groups: dict[str, str] = {}
    for name, places in splits.items():
        for place in places:
            if not 0 <= place < len(task.items):
                raise PatchclampError(f"task {task.name}: split {name} has item {place} of {len(task.items)}")
            if place in owner:
                raise PatchclampError(f"task {task.name}: item {place} is in {owner[place]} and in {name}")
            owner[place] = name
            group = "" if task.grouping else task.items[place].group
            if group and groups.setdefault(group, name) != name:
                raise PatchclampError(
                    f"task {task.name}: group {group!r} is in {groups[group]} and in {name}; a group is never cut"
                )
