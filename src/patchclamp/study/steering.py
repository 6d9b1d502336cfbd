"""Steered text for the intervention score of a description."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from patchclamp.describe.scoring.intervention import Steered
from patchclamp.describe.tokens import token_pieces
from patchclamp.intervene import match_kl, steer
from patchclamp.nouns.intervention import Intervention
from patchclamp.subjects import LanguageModel

__all__ = ["steered_texts"]


def steered_texts(
    subject: LanguageModel, change: Intervention, *, kl: float | None = 0.5, **options: Any
) -> Callable[[Sequence[str]], Steered]:
    """Make the callable that `patchclamp.describe.intervention` asks for: prompts -> texts with and without a change.

    Parameters
    ----------
    subject, change
        As for `patchclamp.intervene.steer`.
    kl
        The change's `value` is first scaled so that it moves the next token by so many nats on these prompts
        (`match_kl`): scores of different units compare at equal divergence only. None leaves it.
    options
        Of `steer`: `new_tokens`, `temperature`, `seed` ...

    Examples
    --------
    >>> push = Intervention("mlp_act.2/snmf[11]", "add", value=1.0)
    >>> score = describe.SCORES["intervention"](description, steered_texts(lm, push), prompts)  # doctest: +SKIP
    """

    def effect(prompts: Sequence[str]) -> Steered:
        scaled = change if kl is None else match_kl(subject, change, prompts, kl)
        found = steer(subject, scaled, prompts, **options)

        def pieces(rows: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
            return tuple(tuple(token_pieces(subject.tokenizer, list(row))) for row in rows)

        return Steered(pieces(found.steered), pieces(found.clean), found.kl)

    return effect
