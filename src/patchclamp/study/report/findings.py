"""From figures to sentences and claims. Every sentence is built from measured numbers; none is written in advance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from patchclamp.base.estimate import Estimate
from patchclamp.base.version import __version__
from patchclamp.nouns.units import Units
from patchclamp.study.claims import Claim
from patchclamp.study.report.text import percent
from patchclamp.study.share import Measured
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


def necessity(basis: Basis, id: str, what: str, units: Units, found: Measured) -> Claim | None:
    """Return the claim that ablating units takes the behaviour away, or nearly nothing of it; None if undecided.

    Parameters
    ----------
    what
        The units in words, such as "5 attention heads".
    """
    share = found.share
    (low, high), estimate = share.interval, share.value
    text = f"Ablating {what} ({_short(units)}) takes {percent(estimate)} of the {basis.metric_text}"
    text += f" ({percent(low)} to {percent(high)}) on held-out items of {basis.title}"
    if matters(share):
        criterion: dict[str, Any] = {"at_least": _down(low), "beats_control": True}
        return claim(basis, id, "necessity", f"{text}; {_control(share)}.", units, found, criterion)
    if max(abs(low), abs(high)) < NEAR_ZERO:
        text = f"Ablating {what} ({_short(units)}) alone takes next to nothing of the {basis.metric_text}: "
        text += f"{percent(estimate)} ({percent(low)} to {percent(high)}) on held-out items of {basis.title}."
        criterion = {"at_least": -NEAR_ZERO, "at_most": NEAR_ZERO}
        return claim(basis, id, "necessity", text, units, found, criterion, negative=True)
    return None


def matters(share: Estimate) -> bool:
    """Return whether an effect is more than next to nothing and beyond its random sets."""
    return share.interval[0] > NEAR_ZERO and share.beats_null


def suffices(share: Estimate) -> bool:
    """Return whether half of the metric is left for certain, and more than without the units."""
    if share.null is None:
        return False
    return share.interval[0] >= 0.5 and share.value - share.null.high > NEAR_ZERO


def sufficiency(
    basis: Basis, id: str, what: str, units: Units, among: Sequence[str], found: Measured
) -> Claim | None:
    """Return the claim about what is left when all units of the same kind but these are ablated.

    None where as much is left with these ablated too: then they are not what recovers it; and without an interval.
    """
    share, (low, high) = found.share, found.share.interval
    enough = suffices(share)
    if not share.bounded or (low >= 0.5 and not enough):
        return None
    text = f"Keeping only {what} ({_short(units)}) and ablating all others of their kind "
    text += f"{'recovers' if enough else 'recovers no more than'} {percent(share.value if enough else high)}"
    text += f" of the {basis.metric_text} on held-out items of {basis.title}"
    text += f" ({percent(low)} to {percent(high)})" if enough else f" (estimate {percent(share.value)})"
    if enough and share.null is not None:
        text += f"; with these ablated too, {percent(share.null.mean)} is left."
    else:
        text += ": they are not the whole mechanism."
    criterion: dict[str, Any] = {"at_least": _down(low), "beats_control": True}
    if not enough:
        criterion = {"at_most": _up(high)}
    return claim(
        basis, id, "sufficiency", text, units, found, criterion, negative=not enough, among=tuple(among)
    )


def redundancy(basis: Basis, id: str, what: str, units: Units, found: Measured) -> Claim:
    """Return the claim about the sum of single effects against the joint effect; the share is their ratio."""
    ratio, (low, high) = found.share.value, found.share.interval
    text = f"Ablated one at a time, {what} ({_short(units)}) take in sum {percent(ratio)} of what they take together "
    text += f"({percent(low)} to {percent(high)}), on held-out items of {basis.title}: "
    if high < 0.8:
        text += "they stand in for each other, so that single effects understate them."
        criterion = {"at_most": _up(high)}
    elif low > 1.25:
        text += "they work in series or on the same thing, so that single effects count it more than once."
        criterion = {"at_least": _down(low)}
    else:
        text += "their effects roughly add up."
        criterion = {"at_least": _down(low), "at_most": _up(high)}
    return claim(basis, id, "redundancy", text, units, found, criterion, negative=high < 0.8)


def claim(
    basis: Basis,
    id: str,
    kind: str,
    statement: str,
    units: Units,
    found: Measured,
    criterion: Mapping[str, Any],
    negative: bool = False,
    among: tuple[str, ...] = (),
) -> Claim:
    """A claim of a study: what all of them share, and one measurement with its statement and criterion."""
    null = found.share.null
    return Claim(
        id=id,
        kind=kind,
        statement=statement,
        units=tuple(units.to_json()),
        task=basis.task,
        intervention=basis.intervention,
        metric=basis.metric,
        baseline=found.effect.baseline,
        changed=found.effect.changed,
        estimate=replace(found.share, null=None if null is None else replace(null, draws=()), groups=0),
        criterion=dict(criterion),
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


def _control(share: Estimate) -> str:
    c = share.null
    assert c is not None
    return (
        f"{c.n} random sets of the same size take {percent(c.mean)} ({percent(c.low)} to {percent(c.high)})"
    )


def _down(value: float, step: float = 0.05) -> float:
    """Round down to the next step, so that the tested statement is the weaker one."""
    return round(math.floor(value / step + 1e-9) * step, 4)


def _up(value: float, step: float = 0.05) -> float:
    return round(math.ceil(value / step - 1e-9) * step, 4)
