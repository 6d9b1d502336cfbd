"""What ablating a label's units does to every label's held-out texts, beside matched units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.estimate import Estimate, Null
from patchclamp.base.statistics import contrast_interval, n_groups, permutation_p
from patchclamp.draw.cards import shown
from patchclamp.intervene import effects
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.scores import Effect
from patchclamp.nouns.tasks.texts import TextTask
from patchclamp.nouns.units import Units
from patchclamp.study.share import Measured
from patchclamp.subjects import LanguageModel
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["Damage", "ablation", "corrected", "cumulative", "damage", "selective"]

ABLATION: Mapping[str, Any] = {"kind": "zero"}


def ablation(units: Units) -> Intervention:
    """The change that a concept study makes: activity to zero, at all positions."""
    return Intervention(units, **ABLATION)


@shown
@dataclass(frozen=True)
class Damage:
    """Loss added to each label's held-out texts by ablating each label's units.

    Parameters
    ----------
    labels
        Rows: whose units; columns: whose texts.
    effects
        Label of texts -> label of units -> effect on the mean log-probability a token (positive: the loss rises).
    """

    labels: tuple[str, ...]
    effects: Mapping[str, Mapping[str, Effect]]

    def matrix(self) -> NDArray[np.float64]:
        """(whose units, whose texts) nats a token."""
        return np.array([[self.effects[t][u].estimate.value for t in self.labels] for u in self.labels])


def damage(
    subject: LanguageModel,
    texts: TextTask,
    reference: Reference,
    chosen: Mapping[str, Units],
    labels: Sequence[str],
    *,
    n_control: int = 20,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Damage:
    """Ablate every label's units on every label's texts; the random sets are the same on all texts.

    Labels without units have no row; the texts of all labels are measured on.
    """
    sets = [ablation(units) for units in chosen.values()]
    shared = len({units.count for units in chosen.values()}) == 1
    found: dict[str, dict[str, Effect]] = {}
    for label in labels:
        if say is not None:
            say(f"texts of {label}")
        measured = effects(
            subject,
            texts.where(label),
            sets,
            control="shared" if shared and len(sets) > 1 else "matched",
            n_control=n_control,
            seed=seed,
            reference=reference,
        )
        found[label] = dict(zip(chosen, measured, strict=True))
    return Damage(tuple(labels), found)


def selective(found: Damage, label: str, groups: Mapping[str, Sequence[str]], *, seed: int = 0) -> Measured:
    """How much more a label's own texts suffer from losing its units than the other labels' texts do.

    D = mean over own texts of the loss added - mean over the other labels (each counting once) of theirs, in nats a
    token. The interval is a bootstrap-t over groups of texts within each label; the control is the same difference for each of
    the matched random sets.
    """
    own = found.effects[label][label]
    names = [other for other in found.labels if other != label]
    others = [found.effects[other][label] for other in names]
    value, low, high = contrast_interval(
        [
            (1.0, own.per_item, groups.get(label)),
            *(
                (-1 / len(others), e.per_item, groups.get(name))
                for name, e in zip(names, others, strict=True)
            ),
        ],
        seed=seed,
    )
    null, controls = None, [e.estimate.null for e in (own, *others)]
    draws_of = [np.array(c.draws) for c in controls if c is not None]
    if controls[0] is not None and len(draws_of) == len(controls):
        apart = draws_of[0] - np.mean(draws_of[1:], axis=0)
        null = Null.of(apart, controls[0].kind, value, sides=1)
    n = sum(e.estimate.n for e in (own, *others))
    return Measured.of(own, Estimate(value, low, high, n, null, n_groups(groups.get(label), own.estimate.n)))


def corrected(shares: Mapping[str, Measured]) -> dict[str, Measured]:
    """The same with p-values corrected over labels: each against the largest difference that a draw gives any label.

    As the random sets are the same for all labels, their maximum controls the family-wise error with as few draws as a
    single test needs.
    """
    nulls = [m.share.null for m in shares.values() if m.share.null is not None]
    if not nulls:
        return dict(shares)
    most = np.max([null.draws for null in nulls], axis=0)
    return {
        label: replace(m, share=m.share.adjusted(permutation_p(m.share.value, most)))
        for label, m in shares.items()
    }


def cumulative(
    subject: LanguageModel, texts: TextTask, reference: Reference, units: Sequence[Units], *, seed: int = 0
) -> list[Effect]:
    """The loss added to some texts by growing sets of units, without controls."""
    sets = [ablation(one) for one in units]
    return effects(subject, texts, sets, control=None, seed=seed, reference=reference)
