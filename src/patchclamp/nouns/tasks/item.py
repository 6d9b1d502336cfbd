"""One prompt of a task with its contrast, answer and foil."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from patchclamp.draw.cards import shown

Span = tuple[int, int]


@shown
@dataclass(frozen=True)
class Item:
    """One input of a task.

    Parameters
    ----------
    clean
        The text that the model continues.
    answers
        What continues it rightly; each is one token for the tokenizer at hand. Mind the leading space.
    foils
        What would continue it wrongly; needed by metrics that take a difference.
    corrupted
        The contrast: a text of the same number of tokens for which the behaviour differs.
    template
        Items of one template have their roles at the same places (means are taken per template).
    group
        The unit of dependence (the names, the fact): splits never cut it, intervals resample it. Where its parts recur in
        other groups they are joined by " × " (``"Ann × Tom"``), and intervals are over the parts.
    spans, corrupted_spans
        Role -> (first, past the last) character in the clean and the corrupted text.
    meta
        Anything else worth keeping; JSON values.
    """

    clean: str
    answers: tuple[str, ...]
    foils: tuple[str, ...] = ()
    corrupted: str | None = None
    template: str = ""
    group: str = ""
    spans: Mapping[str, Span] = field(default_factory=dict)
    corrupted_spans: Mapping[str, Span] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("answers", "foils"):
            words = getattr(self, name)
            object.__setattr__(self, name, (words,) if isinstance(words, str) else tuple(words))
