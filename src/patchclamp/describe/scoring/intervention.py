"""Intervention scoring: does steering with the unit bring about what the description says?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.describe.description import Description
from patchclamp.describe.scoring.base import Array, DescriptionScore, PredicateJudge, scored
from patchclamp.draw.cards import shown

__all__ = ["Steered", "intervention"]

Likelihood = Callable[[Description, Sequence[tuple[str, ...]]], Any]


@shown
@dataclass(frozen=True)
class Steered:
    """What a model wrote with and without the unit driven, prompt by prompt.

    Parameters
    ----------
    steered, clean
        Pieces of the generated text for each prompt; the prompt itself is left out. The unit is driven at every
        generated position.
    kl
        Divergence of the next token's distribution that steering caused, in nats: scores compare at equal KL only.
    """

    steered: tuple[tuple[str, ...], ...]
    clean: tuple[tuple[str, ...], ...]
    kl: tuple[float, ...] = ()


def intervention(
    description: Description,
    effect: Callable[[Sequence[str]], Steered],
    prompts: Sequence[str],
    likelihood: Likelihood | None = None,
    *,
    others: Sequence[Description] = (),
    judge: PredicateJudge | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> DescriptionScore:
    """Mean over prompts of how much likelier the description is given the steered text than given the clean text.

    With a language model as judge, `likelihood` is log P(description | text) and the score is a difference in nats.
    Without one, the description's predicate is run and the score is the difference in the share of tokens of which
    it holds, between -1 and 1.

    Parameters
    ----------
    description, others
        Descriptions of this unit and of others (control: what steering does to any description).
    effect
        Prompts -> `Steered`; made from `intervene`'s steering, with the unit driven in the direction described.
    prompts
        One item each; they are resampled.
    likelihood
        (description, texts) -> (texts,).
    judge
        How to run the predicate, where it needs WordNet or an embedding.

    Raises
    ------
    PatchclampError
        When the numbers of texts differ, and for no generated token.

    References
    ----------
    Paulo et al. (2024): explanations scored by what interventions do.
    """
    found = effect(prompts)
    if not len(prompts) or len(found.steered) != len(prompts) or len(found.clean) != len(prompts):
        raise PatchclampError(
            f"intervention: {len(found.steered)} steered and {len(found.clean)} clean texts for {len(prompts)} prompts"
        )
    if not all(found.steered) or not all(found.clean):
        raise PatchclampError("intervention: a prompt has no generated token; generate at least one for each")

    def share(one: Description, texts: Sequence[tuple[str, ...]]) -> Array:
        """Share of tokens of which the predicate holds."""
        return np.array([held.mean() for held in (judge or PredicateJudge()).simulate(one, texts)])

    told: Likelihood = likelihood or share

    def difference(one: Description) -> Array:
        return np.asarray(told(one, found.steered), np.float64) - np.asarray(
            told(one, found.clean), np.float64
        )

    own = difference(description)
    if others:
        control, chance = "descriptions of other units", [difference(other) for other in others]
    else:
        control = "steered and clean texts exchanged at random"
        signs = numpy_rng([seed, 3]).choice([-1.0, 1.0], (50, len(own)))
        chance = list(signs * own)
    kl = {"kl": float(np.mean(found.kl))} if found.kl else {}
    return scored(
        "intervention",
        description,
        "predicate" if likelihood is None else getattr(likelihood, "__name__", "likelihood"),
        own,
        lambda a, w: float(a @ w / w.sum()),
        [str(i) for i in range(len(prompts))],
        others=chance,
        control=control,
        n_boot=n_boot,
        seed=seed,
        facts=kl,
    )
