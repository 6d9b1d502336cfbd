"""Predicates made of predicates: and, or, not, after, and some tokens after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.describe.predicates.base import Predicate
from patchclamp.describe.predicates.sets import shifted
from patchclamp.describe.tokens import Mask, Tokens

__all__ = ["After", "And", "Near", "Not", "Or"]


@dataclass(frozen=True)
class Joined(Predicate):
    """A predicate made of at least two others."""

    parts: tuple[Predicate, ...]

    def __post_init__(self) -> None:
        if len(self.parts) < 2 or not all(isinstance(part, Predicate) for part in self.parts):
            raise PatchclampError(
                f"predicate {self.kind}: parts={self.parts!r:.80}; give at least two predicates"
            )
        object.__setattr__(self, "parts", tuple(self.parts))

    @property
    def length(self) -> float:
        return sum(part.length for part in self.parts)


@dataclass(frozen=True)
class And(Joined):
    """All of the parts hold."""

    kind = "and"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "clause", all(part.clause for part in self.parts))

    def evaluate(self, tokens: Tokens) -> Mask:
        return np.asarray(np.logical_and.reduce([part.evaluate(tokens) for part in self.parts]))

    def plural(self) -> str:
        nouns = [part for part in self.parts if not part.clause]
        clauses = [part.plural() for part in self.parts if part.clause]
        own = [nouns[0].plural()] if nouns else []
        return ", ".join(own + [f"being {part.plural()} too" for part in nouns[1:]] + clauses)

    def negated(self) -> str:
        return f"except {'those ' * self.clause}{self.plural()}"


@dataclass(frozen=True)
class Or(Joined):
    """At least one of the parts holds."""

    kind = "or"

    def evaluate(self, tokens: Tokens) -> Mask:
        return np.asarray(np.logical_or.reduce([part.evaluate(tokens) for part in self.parts]))

    def plural(self) -> str:
        return "; or ".join(str(part) for part in self.parts)


@dataclass(frozen=True)
class Not(Predicate):
    """The part does not hold."""

    kind = "not"
    clause = True
    part: Predicate

    def evaluate(self, tokens: Tokens) -> Mask:
        return ~self.part.evaluate(tokens)

    def plural(self) -> str:
        return self.part.negated()

    def negated(self) -> str:
        return self.part.plural()

    @property
    def length(self) -> float:
        return self.part.length + 0.5


@dataclass(frozen=True)
class After(Predicate):
    """The part held of the token `by` places before, in the same document.

    Examples
    --------
    >>> from patchclamp.describe.predicates.patterns import Pattern
    >>> After(Pattern("determiner")).evaluate(Tokens.of([["The", " cat"], ["sat"]])).tolist()
    [False, True, False]
    """

    kind = "after"
    clause = True
    part: Predicate
    by: int = 1

    def __post_init__(self) -> None:
        if self.by < 1:
            raise PatchclampError(f"predicate after: by={self.by}; at least one token before")

    def evaluate(self, tokens: Tokens) -> Mask:
        return shifted(self.part.evaluate(tokens), tokens.position, self.by)

    def plural(self) -> str:
        return f"after {self.part.one()}" if self.by == 1 else f"{self.by} tokens after {self.part.one()}"

    @property
    def length(self) -> float:
        return self.part.length + 0.25


@dataclass(frozen=True)
class Near(Predicate):
    """The part held of one of the `within` tokens before, in the same document."""

    kind = "near"
    clause = True
    part: Predicate
    within: int = 16

    def __post_init__(self) -> None:
        if self.within < 1:
            raise PatchclampError(f"predicate near: within={self.within}; at least one token before")

    def evaluate(self, tokens: Tokens) -> Mask:
        total = np.r_[0, np.cumsum(self.part.evaluate(tokens))]
        here = np.arange(len(tokens))
        low = np.maximum(here - self.within, here - tokens.position)
        held: Mask = total[here] > total[low]
        return held

    def plural(self) -> str:
        return f"within {self.within} tokens after {self.part.one()}"

    @property
    def length(self) -> float:
        return self.part.length + 0.5
