"""Plain texts as a task whose metric is the loss on each text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.cards import shown
from patchclamp.nouns.tasks.protocol import Origin, origin_of, other_items, split_places
from patchclamp.nouns.tasks.task import split_groups


@shown
@dataclass(frozen=True)
class TextTask:
    """Running texts, scored by the mean log-probability of their tokens in nats (higher is better).

    Whatever takes a task and needs no corrupted inputs takes it: `effect`, `Reference`, `run_trial`.

    Parameters
    ----------
    name
        Printed in tables and claims.
    texts
        At least two tokens each; the first token of a text is given, not predicted.
    groups
        The unit of dependence of each text; each text its own where left out.
    labels
        Of each text; not used by the metric.
    max_tokens
        Longer texts are cut here.
    origin
        Set by `select`: the whole, and the places of these texts in it.

    Examples
    --------
    >>> TextTask("two", ("One text.", "Another."), labels=("a", "b")).where("b").texts
    ('Another.',)
    """

    name: str
    texts: tuple[str, ...]
    groups: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    max_tokens: int = 128
    metric: str = field(default="log_probability", init=False)
    origin: Origin | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        empty = [i for i, text in enumerate(self.texts) if not text.strip()]
        if empty:
            raise PatchclampError(f"{self.name}: text {empty[0]} is empty; leave it out")
        for what, column in (("groups", self.groups), ("labels", self.labels)):
            if len(column) not in (0, len(self.texts)):
                raise PatchclampError(f"{self.name}: {len(column)} {what} for {len(self.texts)} texts")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def metric_name(self) -> str:
        """The metric in a word."""
        return self.metric

    def split(self, *names: str) -> TextTask:
        """The texts of one split, or of several together; whole groups are dealt to train, validation and test."""
        return self.select(split_places(self, split_groups(self.groups or [""] * len(self)), names))

    def select(self, places: Iterable[int]) -> TextTask:
        """The texts at some places."""
        chosen = list(places)
        texts, groups, labels = (
            tuple(column[i] for i in chosen) if column else ()
            for column in (self.texts, self.groups, self.labels)
        )
        return TextTask(self.name, texts, groups, labels, self.max_tokens, origin=origin_of(self, chosen))

    def others(self) -> TextTask | None:
        """The texts of the whole, of which these were selected, that share no group with them; None without any."""
        return other_items(self, self.origin)

    def where(self, label: str) -> TextTask:
        """The texts of one label."""
        places = [i for i, one in enumerate(self.labels) if one == label]
        if not places:
            raise PatchclampError(f"{self.name}: no text has the label {label!r}")
        return replace(self.select(places), name=f"{self.name}: {label}")
