"""Plain texts as a task whose metric is the loss on each text."""

from __future__ import annotations

from dataclasses import dataclass, field

from patchclamp.base.errors import PatchclampError


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

    def __post_init__(self) -> None:
        empty = [i for i, text in enumerate(self.texts) if not text.strip()]
        if empty:
            raise PatchclampError(f"{self.name}: text {empty[0]} is empty; leave it out")
        for what, column in (("groups", self.groups), ("labels", self.labels)):
            if len(column) not in (0, len(self.texts)):
                raise PatchclampError(f"{self.name}: {len(column)} {what} for {len(self.texts)} texts")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, places: list[int], name: str = "") -> TextTask:
        """The texts at some places."""
        return TextTask(
            name or self.name,
            tuple(self.texts[i] for i in places),
            tuple(self.groups[i] for i in places) if self.groups else (),
            tuple(self.labels[i] for i in places) if self.labels else (),
            self.max_tokens,
        )

    def where(self, label: str) -> TextTask:
        """The texts of one label."""
        places = [i for i, one in enumerate(self.labels) if one == label]
        if not places:
            raise PatchclampError(f"{self.name}: no text has the label {label!r}")
        return self.take(places, f"{self.name}: {label}")
