"""Splits as objects: which documents made a description, and which may score it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import drawn_groups
from patchclamp.describe.tokens import Ints, Tokens

__all__ = ["Split", "refuse_overlap"]


@dataclass(frozen=True)
class Split:
    """Fingerprints of the documents that make descriptions and of those that score them.

    A document is known by what it says (`Tokens.fingerprints`), so that a copy of it under another number does not
    slip through. A text that occurs on both sides is dropped from `held_out`.

    Examples
    --------
    >>> tokens = Tokens.of([["a"], ["b"], ["c"], ["d"]])
    >>> split = Split.of(tokens, held_out=0.5, seed=0)
    >>> len(split.made(tokens)), len(split.held(tokens))
    (2, 2)
    """

    making: frozenset[str]
    held_out: frozenset[str]

    def __post_init__(self) -> None:
        refuse_overlap(self.making, self.held_out, "split")

    @classmethod
    def of(cls, tokens: Tokens, held_out: float = 0.5, seed: int = 0) -> Split:
        """Draw a share of the groups for scoring; groups are never cut.

        Raises
        ------
        PatchclampError
            For fewer than two groups, and where one side would be empty.
        """
        names = sorted(set(tokens.groups))
        count = round(held_out * len(names))
        if not 0 < count < len(names):
            raise PatchclampError(
                f"split: held_out={held_out} of {len(names)} groups leaves {count} to score with and "
                f"{len(names) - count} to describe with; give more documents or another share"
            )
        chosen = drawn_groups(tokens.groups, count, seed)
        making = {f for f, drawn in zip(tokens.fingerprints, chosen, strict=True) if not drawn}
        held = set(tokens.fingerprints) - making
        if not held:
            raise PatchclampError("split: all documents say the same, so none is left to score with")
        return cls(frozenset(making), frozenset(held))

    def made(self, tokens: Tokens) -> list[int]:
        """Documents of `tokens` that make descriptions."""
        return [i for i, name in enumerate(tokens.fingerprints) if name in self.making]

    def held(self, tokens: Tokens) -> list[int]:
        """Documents of `tokens` that score them."""
        return [i for i, name in enumerate(tokens.fingerprints) if name in self.held_out]

    def rows(self, tokens: Tokens) -> tuple[Ints, Ints]:
        """Rows of the tokens that make descriptions, and of those that score them."""
        made, held = self.made(tokens), self.held(tokens)
        if not made or not held:
            raise PatchclampError(
                f"split: of the {tokens.n_documents} documents given {len(made)} make descriptions and {len(held)} "
                "score them; make the split of these texts (Split.of)"
            )
        return tokens.rows(made), tokens.rows(held)


def refuse_overlap(making: Collection[str], scoring: Iterable[str], what: str) -> None:
    """Refuse to score a description on the documents that made it."""
    both = sorted(set(making) & set(scoring))
    if both:
        raise PatchclampError(
            f"{what}: {len(both)} of the documents to score on made the description (first: {both[0]}); "
            "score on the documents that Split.held names"
        )
