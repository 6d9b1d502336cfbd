"""From figures to sentences and claims. Every sentence is built from measured numbers; none is written in advance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patchclamp.base.version import __version__
from patchclamp.nouns.units import Units
from patchclamp.study.claims import Claim
from patchclamp.study.report.text import percent
from patchclamp.study.share import Share
from patchclamp.subjects import LanguageModel

__all__ = ["LIMITS", "Basis", "claim", "necessity", "redundancy", "sufficiency"]

NEAR_ZERO = 0.05
"""A share below this is called next to nothing."""

LIMITS: tuple[str, ...] = (
    (
        "That these units do the same on other prompts. The items are made from a few templates; another wording, length "
        "or language is another task. Test one: give your own items as a JSONL file."
    ),
    (
        "That the units which were not selected do nothing. Selection looked for what lowers the metric when it is taken "
        "away; units that stand in for each other, or that work against the behaviour, stay hidden from single effects."
    ),
    "That the units do only this. They were not tested on other behaviours.",
    "What the units compute. Ablation shows that they matter, not how; tokens and exemplars are leads to be tested.",
    (
        "That the model knows the answer by this route alone. An ablated model is off its usual path, and later layers may "
        "repair or break more than the units themselves do: that is why random sets stand beside every effect."
    ),
    "A ranking by strength. Scores are estimates with intervals, and neighbours in the table often overlap.",
)


@dataclass(frozen=True)
class Basis:
    """What all claims of a study share.

    Parameters
    ----------
    task, model
        As in the claim's schema.
    title
        The behaviour in words.
    metric, metric_text
        Its name in `METRICS`, and in words.
    ablation
        What stands in place of the units' activity, in words.
    intervention
        Kind and details of the ablation, without units.
    seed
        Of control and bootstrap.
    quantity
        What an estimate counts.
    """

    task: Mapping[str, Any]
    model: Mapping[str, Any]
    title: str
    metric: str
    metric_text: str
    ablation: str
    intervention: Mapping[str, Any]
    seed: int
    quantity: str = "fraction of the metric"

    @staticmethod
    def model_of(subject: LanguageModel) -> dict[str, str]:
        """The model as a claim names it."""
        dtype = str(subject.dtype).removeprefix("torch.")
        return {"name": subject.name, "fingerprint": subject.fingerprint, "dtype": dtype}


def necessity(basis: Basis, id: str, what: str, units: Units, share: Share) -> Claim | None:
    """Return the claim that ablating units takes the behaviour away, or nearly nothing of it; None if undecided.

    Parameters
    ----------
    what
        The units in words, such as "5 attention heads".
    """
    low, high, estimate = share.low, share.high, share.estimate
    text = f"Ablating {what} ({_short(units)}) takes {percent(estimate)} of the {basis.metric_text}"
    text += f" ({percent(low)} to {percent(high)}) on held-out items of {basis.title}"
    if matters(share):
        criterion: dict[str, Any] = {"at_least": _down(low), "beats_control": True}
        return claim(basis, id, "necessity", f"{text}; {_control(share)}.", units, share, criterion)
    if max(abs(low), abs(high)) < NEAR_ZERO:
        text = f"Ablating {what} ({_short(units)}) alone takes next to nothing of the {basis.metric_text}: "
        text += (
            f"{percent(estimate)} ({percent(low)} to {percent(high)}) on held-out items of {basis.title}."
        )
        criterion = {"at_least": -NEAR_ZERO, "at_most": NEAR_ZERO}
        return claim(basis, id, "necessity", text, units, share, criterion, negative=True)
    return None


def matters(share: Share) -> bool:
    """Return whether an effect is more than next to nothing and beyond its random sets."""
    return share.low > NEAR_ZERO and share.beats_control


def suffices(share: Share) -> bool:
    """Return whether half of the metric is left for certain, and more than without the units."""
    if share.control is None:
        return False
    return share.low >= 0.5 and share.estimate - share.control["high"] > NEAR_ZERO


def sufficiency(
    basis: Basis, id: str, what: str, units: Units, among: Sequence[str], share: Share
) -> Claim | None:
    """Return the claim about what is left when all units of the same kind but these are ablated.

    None where as much is left with these ablated too: then they are not what recovers it.
    """
    enough = suffices(share)
    if share.low >= 0.5 and not enough:
        return None
    text = f"Keeping only {what} ({_short(units)}) and ablating all others of their kind "
    text += f"{'recovers' if enough else 'recovers no more than'} {percent(share.estimate if enough else share.high)}"
    text += f" of the {basis.metric_text} on held-out items of {basis.title}"
    text += (
        f" ({percent(share.low)} to {percent(share.high)})"
        if enough
        else f" (estimate {percent(share.estimate)})"
    )
    if enough and share.control is not None:
        text += f"; with these ablated too, {percent(share.control['mean'])} is left."
    else:
        text += ": they are not the whole mechanism."
    criterion: dict[str, Any] = {"at_least": _down(share.low), "beats_control": True}
    if not enough:
        criterion = {"at_most": _up(share.high)}
    return claim(
        basis, id, "sufficiency", text, units, share, criterion, negative=not enough, among=tuple(among)
    )


def redundancy(basis: Basis, id: str, what: str, units: Units, share: Share) -> Claim:
    """Return the claim about the sum of single effects against the joint effect; `share.estimate` is their ratio."""
    ratio = share.estimate
    text = f"Ablated one at a time, {what} ({_short(units)}) take in sum {percent(ratio)} of what they take together "
    text += f"({percent(share.low)} to {percent(share.high)}), on held-out items of {basis.title}: "
    if share.high < 0.8:
        text += "they stand in for each other, so that single effects understate them."
        criterion = {"at_most": _up(share.high)}
    elif share.low > 1.25:
        text += "they work in series or on the same thing, so that single effects count it more than once."
        criterion = {"at_least": _down(share.low)}
    else:
        text += "their effects roughly add up."
        criterion = {"at_least": _down(share.low), "at_most": _up(share.high)}
    return claim(basis, id, "redundancy", text, units, share, criterion, negative=share.high < 0.8)


def claim(
    basis: Basis,
    id: str,
    kind: str,
    statement: str,
    units: Units,
    share: Share,
    criterion: Mapping[str, Any],
    negative: bool = False,
    among: tuple[str, ...] = (),
) -> Claim:
    """A claim of a study: what all of them share, and one share with its statement and criterion."""
    return Claim(
        id=id,
        kind=kind,
        statement=statement,
        units=tuple(units.to_json()),
        task=basis.task,
        intervention=basis.intervention,
        metric=basis.metric,
        baseline=share.baseline,
        changed=share.changed,
        estimate=share.estimate,
        interval=(share.low, share.high),
        control=share.control,
        criterion=dict(criterion),
        p=share.p,
        p_adjusted=share.p_adjusted,
        n=share.n,
        seed=basis.seed,
        ablation=basis.ablation,
        model=basis.model,
        version=__version__,
        negative=negative,
        among=among,
        quantity=basis.quantity,
    )


def _short(units: Units, limit: int = 6) -> str:
    """Name the units, or the first of many."""
    names = [str(u) for u in units.each()]
    return ", ".join(names) if len(names) <= limit else f"{', '.join(names[:3])}, ... {names[-1]}"


def _control(share: Share) -> str:
    assert share.control is not None
    c = share.control
    return (
        f"{c['n_sets']} random sets of the same size take {percent(c['mean'])} "
        f"({percent(c['low'])} to {percent(c['high'])})"
    )


def _down(value: float, step: float = 0.05) -> float:
    """Round down to the next step, so that the tested statement is the weaker one."""
    return round(math.floor(value / step + 1e-9) * step, 4)


def _up(value: float, step: float = 0.05) -> float:
    return round(math.ceil(value / step - 1e-9) * step, 4)
