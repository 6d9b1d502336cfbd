"""What a predicate is: plain data that can be run on tokens and says yes or no for each."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.describe.tokens import Mask, Tokens

__all__ = ["Predicate", "predicate_from_json", "quoted"]


@dataclass(frozen=True)
class Predicate(ABC):
    """A question that every token answers with yes or no.

    A subclass is a frozen dataclass of plain values with a `kind` of its own, by which JSON names it. `clause` says
    how English takes it: a clause ("after a determiner") stands behind a noun, the rest are nouns ("words for animals").
    """

    kind: ClassVar[str] = ""
    kinds: ClassVar[dict[str, type[Predicate]]] = {}
    clause: ClassVar[bool] = False

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if cls.kind:
            Predicate.kinds[cls.kind] = cls

    @abstractmethod
    def evaluate(self, tokens: Tokens) -> Mask:
        """(n,) whether it holds of each token."""

    @abstractmethod
    def plural(self) -> str:
        """English for the tokens of which it holds."""

    def one(self) -> str:
        """English for one such token."""
        return f"one of {self.plural()}"

    def negated(self) -> str:
        """English for the others, as a clause."""
        return f"not {self.plural()}" if self.clause else f"other than {self.plural()}"

    @property
    def length(self) -> float:
        """What the description costs: about the number of its parts."""
        return 1.0

    def __str__(self) -> str:
        return f"tokens {self.plural()}" if self.clause else self.plural()

    def to_json(self) -> dict[str, Any]:
        """A JSON object, from which `predicate_from_json` makes it again."""
        return {"kind": self.kind, **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}


def predicate_from_json(data: Mapping[str, Any] | str) -> Predicate:
    """Make a predicate from a JSON object or its text.

    Raises
    ------
    PatchclampError
        For an unknown kind, and for missing or unknown fields.

    Examples
    --------
    >>> str(predicate_from_json('{"kind": "token", "tokens": ["cat"]}'))
    'the token “cat”'
    """
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except json.JSONDecodeError as error:
            raise PatchclampError(f"predicate: this is no JSON ({error}): {data!r:.80}") from error
    if not isinstance(data, Mapping):
        raise PatchclampError(f"predicate: {data!r:.80} is no JSON object with a kind")
    kind = str(data.get("kind"))
    check_choice("predicate: kind", kind, sorted(Predicate.kinds))
    values = {name: _made(value) for name, value in data.items() if name != "kind"}
    try:
        return Predicate.kinds[kind](**values)
    except TypeError as error:
        names = [f.name for f in fields(Predicate.kinds[kind])]
        raise PatchclampError(
            f"predicate {kind}: has fields {', '.join(names)}, got {', '.join(values)}"
        ) from error


def quoted(text: str) -> str:
    """A piece of text in quotation marks; blanks and what does not print are shown as escapes.

    Examples
    --------
    >>> print(quoted(" a"), quoted("\\n"))
    “ a” “\\n”
    """
    shown = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return f"“{shown}”"


def _plain(value: Any) -> Any:
    if isinstance(value, Predicate):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def _made(value: Any) -> Any:
    if isinstance(value, Mapping) and "kind" in value:
        return predicate_from_json(value)
    if isinstance(value, list | tuple):
        return tuple(_made(part) for part in value)
    return value
