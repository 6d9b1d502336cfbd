"""What a row of the leaderboard holds, and what an adaptor has to say about a verb and a kind of truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from patchclamp.truth.base import Kind, Truth

Verdict = Literal[
    "exact", "recovered", "estimate", "clean", "missed", "wrong", "false positive", "refused", "failed"
]
GOOD: tuple[str, ...] = ("exact", "recovered", "clean")
BAD: tuple[str, ...] = ("wrong", "missed", "false positive", "failed")
VERDICTS: Mapping[str, str] = {
    "exact": "within tolerance of the closed form that the method claims",
    "recovered": "better than chance by its interval",
    "estimate": "makes no claim that this truth could test; the error says how far from exact patching it lies",
    "clean": "negative control in which nothing was found",
    "missed": "not better than chance",
    "wrong": "outside the tolerance of the closed form that the method claims",
    "false positive": "negative control in which something was found",
    "refused": "the method says that it is not made for this system",
    "failed": "an error, by name",
}


@dataclass(frozen=True)
class Variant:
    """One way of calling a method on a truth, such as a direction of patching.

    Parameters
    ----------
    name
        Part of the row's key; "" where there is only one way.
    options
        Keyword arguments of the method (of its constructor, for estimators).
    """

    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a method's result says about a truth.

    Parameters
    ----------
    verdict
        One of `VERDICTS`.
    measure
        What `recovery` is, such as ``"AUROC"``.
    recovery, low, high
        The figure and its 95 % interval; None where it is not defined (no candidate but those of the mechanism).
    over
        What the interval resamples.
    chance
        The same figure for scores without information: .5 for AUROC, random dictionaries for matched cosines.
    error, against, tolerance
        Largest absolute distance from a closed form, of which quantity, and how large it may be; `tolerance` is None
        where the method does not claim this quantity and the error is told for information.
    note
        Anything else worth a few words.
    """

    verdict: Verdict
    measure: str = ""
    recovery: float | None = None
    low: float | None = None
    high: float | None = None
    over: str = ""
    chance: float | None = None
    error: float | None = None
    against: str = ""
    tolerance: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A method on a truth.

    Parameters
    ----------
    verb, method, truth, variant
        Its key.
    kind, control
        Of the truth.
    outcome
        What was found.
    seconds
        Wall time of the method's call alone (building the system and scoring the result not included).
    memory
        Peak resident memory of the process above what it held when the call began, in 10^6 bytes; see `peak`. None
        where the system does not tell.
    """

    verb: str
    method: str
    truth: str
    variant: str
    kind: str
    control: bool
    outcome: Outcome
    seconds: float | None = None
    memory: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names a row."""
        return self.verb, self.method, self.truth, self.variant


@dataclass(frozen=True)
class Adaptor:
    """How the methods of a verb are called on one kind of truth, and how their results are scored.

    Parameters
    ----------
    verb, kind
        Which methods, which truths.
    variants
        (name of the method, the method, system) -> ways of calling it.
    call
        (method, system, variant, seed) -> result. This alone is timed.
    judge
        (name of the method, result, system, variant, truth, seed) -> outcome. Raises `PatchclampError` for a result
        that cannot be scored.
    fits
        (name of the method, the method, truth) -> whether the two go together at all; pairs that do not are no row.
    quick
        (name of the method, the method, truth) -> whether a fast truth is fast for this method too; else the pair is
        left to ``--all``.
    tools
        Names of the verb's `TOOLS`, which have signatures of their own, that it takes beside `METHODS`.
    """

    verb: str
    kind: Kind
    variants: Callable[[str, Any, Any], Sequence[Variant]]
    call: Callable[[Any, Any, Variant, int], Any]
    judge: Callable[[str, Any, Any, Variant, Truth, int], Outcome]
    fits: Callable[[str, Any, Truth], bool] = lambda name, method, truth: True
    quick: Callable[[str, Any, Truth], bool] = lambda name, method, truth: True
    tools: frozenset[str] = frozenset()

    def takes(self, name: str, method: Any, truth: Truth, slow: bool) -> bool:
        """Whether this pair is a row of the table."""
        if truth.kind != self.kind or not self.fits(name, method, truth):
            return False
        return slow or (truth.fast and self.quick(name, method, truth))
