"""The samples at which units are most active, each in the text around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import xarray as xr

from patchclamp.base.errors import PatchclampError

__all__ = ["ExemplarContext", "contexts"]

Token = TypeVar("Token")
"""An id, or its text."""


@dataclass(frozen=True)
class ExemplarContext(Generic[Token]):
    """One exemplar in its context.

    Parameters
    ----------
    unit, rank, value
        Column of the unit, place in its list from 0, activity on the token at `offset`.
    doc, position
        Where that token stands.
    tokens, activity
        The context and the unit's activity on it; None where it was not given: then only the exemplar is lit.
    offset
        Place of the exemplar's token among `tokens`.
    """

    unit: int
    rank: int
    value: float
    doc: int
    position: int
    tokens: tuple[Token, ...]
    offset: int
    activity: tuple[float, ...] | None = None

    def strength(self) -> tuple[float, ...]:
        """Activity in the direction of the exemplar's own, as a share of it, cut to 0..1."""
        if self.activity is None:
            return tuple(float(i == self.offset) for i in range(len(self.tokens)))
        return tuple(min(1.0, max(0.0, a / self.value)) if self.value else 0.0 for a in self.activity)


def contexts(
    exemplars: xr.Dataset,
    tokens_of: Callable[[int], Sequence[Token]],
    units: Sequence[int] | None = None,
    before: int = 16,
    after: int = 8,
    *,
    activity_of: Callable[[int, int], Sequence[float]] | None = None,
) -> list[ExemplarContext[Token]]:
    """Put the result of the measure `Exemplars` into its context; it never leaves the document.

    Parameters
    ----------
    exemplars
        Dataset over (unit, rank) with value, doc and position, as `measure.Exemplars().result()` gives.
    tokens_of
        Document number -> its tokens by position, as ids or as texts.
    units
        Units wanted; None = all.
    before, after
        Tokens on either side.
    activity_of
        (document, unit) -> the unit's activity on each token of the document.

    Raises
    ------
    PatchclampError
        For a unit that has no exemplars here, and documents shorter than an exemplar's position.
    """
    if before < 0 or after < 0:
        raise PatchclampError(f"contexts: before={before}, after={after}; numbers of tokens")
    known: dict[int, Sequence[Token]] = {}
    found: list[ExemplarContext[Token]] = []
    available = [int(u) for u in exemplars["unit"].values]
    for unit in available if units is None else units:
        if unit not in available:
            raise PatchclampError(f"contexts: unit {unit}; these exemplars have units 0..{max(available)}")
        part = exemplars.sel(unit=unit)
        for rank in range(exemplars.sizes["rank"]):
            doc, at = int(part["doc"][rank]), int(part["position"][rank])
            if doc < 0:
                continue
            if doc not in known:
                known[doc] = tokens_of(doc)
            tokens = known[doc]
            if at >= len(tokens):
                raise PatchclampError(
                    f"contexts: document {doc} has {len(tokens)} tokens, the exemplar is at {at}; what gives its tokens "
                    "must give the documents that were measured, special tokens included"
                )
            cut = slice(max(0, at - before), at + after + 1)
            own = None if activity_of is None else tuple(float(a) for a in activity_of(doc, unit)[cut])
            shown = tuple(tokens[cut])
            if own is not None and len(own) != len(shown):
                raise PatchclampError(
                    f"contexts: document {doc} has {len(tokens)} tokens but fewer values of activity"
                )
            value = float(part["value"][rank])
            found.append(ExemplarContext(unit, rank, value, doc, at, shown, at - cut.start, own))
    return found
