"""A description of a unit: English, where there is one its predicate, and the documents that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.describe.predicates import Predicate, predicate_from_json
from patchclamp.draw.cards import shown

__all__ = ["SCHEMA", "Description"]

SCHEMA = "patchclamp/description-1"


@shown
@dataclass(frozen=True)
class Description:
    """What is said about a unit.

    Parameters
    ----------
    unit
        Its address.
    text
        English.
    method
        Name in `describe.METHODS`, or who said it.
    predicate
        What can be run; None for a description in English alone.
    made_on
        Fingerprints of the documents that made it: no score takes them.
    facts
        How it came about: threshold, criterion, score in the making, prompt version, model, tokens used.

    Examples
    --------
    >>> from patchclamp.describe.predicates import TokenSet
    >>> made = Description("mlp_act.3[5]", "the token “cat”", "by hand", TokenSet(("cat",)))
    >>> Description.from_json(made.to_json()) == made
    True
    """

    unit: str
    text: str
    method: str
    predicate: Predicate | None = None
    made_on: frozenset[str] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "schema": SCHEMA,
            "unit": self.unit,
            "text": self.text,
            "method": self.method,
            "predicate": None if self.predicate is None else self.predicate.to_json(),
            "made_on": sorted(self.made_on),
            "facts": dict(self.facts),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Description:
        """Read what `to_json` gave."""
        if data.get("schema") != SCHEMA:
            raise PatchclampError(
                f"description: schema is {data.get('schema')!r}, this version reads {SCHEMA!r}"
            )
        own = data["predicate"]
        return cls(
            data["unit"],
            data["text"],
            data["method"],
            None if own is None else predicate_from_json(own),
            frozenset(data["made_on"]),
            data["facts"],
        )

    def __str__(self) -> str:
        return f"{self.unit}: {self.text}"
