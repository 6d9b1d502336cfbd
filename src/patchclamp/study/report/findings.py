"""From figures to sentences and claims. Every sentence is built from measured numbers; none is written in advance."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.version import __version__
from patchclamp.draw.text import percent, signed
from patchclamp.nouns.units import Units
from patchclamp.study.claims import Claim
from patchclamp.study.share import Measured
from patchclamp.subjects import LanguageModel

__all__ = [
    "LIMITS",
    "METRIC_TEXT",
    "UNIT_NAMES",
    "Basis",
    "claim",
    "criterion",
    "no_ablation",
    "statement",
    "untrue",
]

NEAR_ZERO = 0.05
"""A share below this is called next to nothing."""

STRONGER = 1.1
"""A circuit that keeps more than this is stronger than the model; it is never called faithful."""

ABLATING = ("mean", "zero", "resample", "patch")
"""Kinds of change that a statement calls an ablation."""

METRIC_TEXT: Mapping[str, str] = {
    "logit_diff": "logit difference between the answer and the foil at the last token",
    "prob_diff": "difference in probability between the answers and the foils at the last token",
    "prob": "probability of the answers at the last token",
    "accuracy": "share of items on which the answer beats the foil",
}
"""Metrics in the words of a sentence."""

UNIT_NAMES: Mapping[str, str] = {"head": "attention head", "mlp_act": "MLP neuron"}
"""One unit of a point in words."""

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
        note = {"training": subject.training_note} if subject.training_note else {}
        return {"name": subject.name, "fingerprint": subject.fingerprint, "dtype": dtype} | note


def matters(share: Estimate) -> bool:
    """Return whether an effect is more than next to nothing and beyond its random sets."""
    return share.interval[0] > NEAR_ZERO and share.beats_null


def suffices(share: Estimate) -> bool:
    """Return whether half of the metric is left for certain, and more than without the units."""
    if share.null is None:
        return False
    return share.interval[0] >= 0.5 and share.value - share.null.high > NEAR_ZERO


Rule = tuple[dict[str, Any], bool] | None
"""What must be true again, and whether that is a finding of (nearly) nothing."""


def criterion(kind: str, share: Estimate) -> Rule:
    """What an estimate has to show again for the claim that it makes to hold, and whether that claim is negative.

    None where the estimate with its interval and control decides nothing: then there is no claim. A study makes its
    claims by this rule and `verify` judges them by it, whatever criterion a file names.

    Examples
    --------
    >>> criterion("necessity", Estimate(0.99, -100.0, 100.0, 40)) is None
    True
    >>> criterion("necessity", Estimate(0.01, -0.02, 0.03, 40))
    ({'at_least': -0.05, 'at_most': 0.05}, True)
    """
    low, high = share.interval
    return CLAIM_KINDS[kind].rule(share) if share.bounded and low <= high else None


def statement(claim: Claim, whole: int | None = None) -> str:
    """A claim in words, from its data alone; `whole` is how many units of the kind the model has, where that is known.

    Raises
    ------
    PatchclampError
        Where its figures decide nothing.
    """
    rule = criterion(claim.kind, claim.estimate)
    if rule is None:
        show = signed if claim.kind == "selectivity" else percent
        null = claim.estimate.null
        beside = "no control" if null is None else f"{null.n} random sets"
        raise PatchclampError(
            f"{_span(claim.estimate, show)} with {beside}, decide nothing about {claim.kind}"
        )
    units = Units.parse(list(claim.units))
    return CLAIM_KINDS[claim.kind].sentence(claim, f"{_named(units, whole)} ({_short(units)})", rule)


def _necessity(share: Estimate) -> Rule:
    if matters(share):
        return {"at_least": _down(share.interval[0]), "beats_control": True}, False
    nothing = max(map(abs, share.interval)) < NEAR_ZERO
    return ({"at_least": -NEAR_ZERO, "at_most": NEAR_ZERO}, True) if nothing else None


def _takes(claim: Claim, who: str, rule: tuple[Mapping[str, Any], bool]) -> str:
    share, metric, c = claim.estimate, _metric(claim), claim.estimate.null
    if rule[1] or c is None:
        return f"Ablating {who} takes next to nothing of the {metric}: {_span(share)} {_place(claim)}."
    random = (
        f"{c.n} random sets of the same size take {percent(c.mean)} ({percent(c.low)} to {percent(c.high)})"
    )
    return f"Ablating {who} takes {_span(share, of=f' of the {metric}')} {_place(claim)}; {random}."


def _sufficiency(share: Estimate) -> Rule:
    low, high = share.interval
    if suffices(share):
        return {"at_least": _down(low), "beats_control": True}, False
    # Where as much is left with these ablated too, they are not what recovers it.
    return ({"at_most": _up(high)}, True) if low < 0.5 else None


def _recovers(claim: Claim, who: str, rule: tuple[Mapping[str, Any], bool]) -> str:
    share, (low, high) = claim.estimate, claim.estimate.interval
    metric, where = _metric(claim), _place(claim)
    text = f"Keeping only {who} and ablating all others of their kind recovers"
    if rule[1] or share.null is None:
        text += f" no more than {percent(high)} of the {metric} {where} (estimate {percent(share.value)})"
        return f"{text}: they are not the whole mechanism."
    text += f" {percent(share.value)} of the {metric} {where} ({percent(low)} to {percent(high)})"
    return f"{text}; with these ablated too, {percent(share.null.mean)} is left."


def _circuit(share: Estimate) -> Rule:
    """Judged by the distance from 1: too much is no more faithful than too little."""
    low, high = share.interval
    if low > STRONGER:
        return {"at_least": STRONGER}, True
    if share.value > STRONGER:
        return None  # neither faithful, nor for certain stronger than the model
    if low >= 0.5 and share.beats_null:
        return {"at_least": _down(low), "at_most": max(STRONGER, _up(high)), "beats_control": True}, False
    return ({"at_most": _up(high)}, True) if low < 0.5 else None


def _keeps(claim: Claim, who: str, rule: tuple[Mapping[str, Any], bool]) -> str:
    share, high = claim.estimate, claim.estimate.interval[1]
    text = f"Keeping only {who}, all others with their activity on the item's corrupted input, keeps"
    difference = f"the difference in {_metric(claim)} that these make in all"
    if share.interval[0] > STRONGER:
        return f"{text} {_span(share)} of {difference} {_place(claim)}: they are stronger than the model."
    if rule[1]:
        text += (
            f" no more than {percent(high)} of {difference} {_place(claim)} (estimate {percent(share.value)})"
        )
        return f"{text}: they are not the circuit."
    return f"{text} {_span(share)} of {difference} {_place(claim)}; {_sets(share, 'keep')}."


def _circuit_removed(share: Estimate) -> Rule:
    if matters(share):
        return {"at_least": _down(share.interval[0]), "beats_control": True}, False
    nothing = max(map(abs, share.interval)) < NEAR_ZERO
    return ({"at_least": -NEAR_ZERO, "at_most": NEAR_ZERO}, True) if nothing else None


def _removed(claim: Claim, who: str, rule: tuple[Mapping[str, Any], bool]) -> str:
    share = claim.estimate
    text = f"Giving {who} their activity on the item's corrupted input takes"
    difference = f"the difference in {_metric(claim)} that all of their kind make"
    if rule[1] or share.null is None:
        return f"{text} next to nothing of {difference}: {_span(share)} {_place(claim)}."
    return f"{text} {_span(share)} of {difference} {_place(claim)}; {_sets(share, 'take')}."


def _sets(share: Estimate, verb: str) -> str:
    c = share.null
    if c is None:
        return "no random set was drawn"
    return (
        f"{c.n} random sets of the same size {verb} {percent(c.mean)} ({percent(c.low)} to {percent(c.high)})"
    )


def _redundancy(share: Estimate) -> Rule:
    low, high = share.interval
    if high < 0.8:
        return {"at_most": _up(high)}, True
    return {"at_least": _down(low)} | ({} if low > 1.25 else {"at_most": _up(high)}), False


def _adds_up(claim: Claim, who: str, rule: tuple[Mapping[str, Any], bool]) -> str:
    share, (low, high) = claim.estimate, claim.estimate.interval
    text = f"Ablated one at a time, {who} take in sum {percent(share.value)} of what they take together "
    text += f"({percent(low)} to {percent(high)}), {_place(claim)}: "
    if rule[1]:
        return text + "they stand in for each other, so that single effects understate them."
    if "at_most" not in rule[0]:
        return (
            text + "they work in series or on the same thing, so that single effects count it more than once."
        )
    return text + "their effects roughly add up."


def _selectivity(share: Estimate) -> Rule:
    own = share.interval[0] > 0 and share.beats_null
    return ({"at_least": 0.0, "beats_control": True}, False) if own else None


def _costs_its_own(claim: Claim, who: str, rule: tuple[Mapping[str, Any], bool]) -> str:
    share, (low, high) = claim.estimate, claim.estimate.interval
    label, top = claim.intervention.get("label"), math.nan if share.null is None else share.null.high
    return (
        f"Ablating {Units.parse(list(claim.units)).count} units selective for {label} adds {signed(share.value)} nats a "
        f"token ({signed(low)} to {signed(high)}) more to held-out texts of {label} than to those of the other labels of "
        f"{_behaviour(claim)}; matched units at most {signed(top)}."
    )


class Kind(NamedTuple):
    """A kind of claim: from an estimate to what it asks, and from a claim, its units in words and that to a sentence."""

    rule: Callable[[Estimate], Rule]
    sentence: Callable[[Claim, str, tuple[Mapping[str, Any], bool]], str]


CLAIM_KINDS: Mapping[str, Kind] = {
    "necessity": Kind(_necessity, _takes),
    "sufficiency": Kind(_sufficiency, _recovers),
    "circuit": Kind(_circuit, _keeps),
    "circuit removed": Kind(_circuit_removed, _removed),
    "redundancy": Kind(_redundancy, _adds_up),
    "selectivity": Kind(_selectivity, _costs_its_own),
}


def no_ablation(claim: Claim) -> str:
    """What a claim's change is if no ablation, in words: then there is nothing to measure; nothing where it is one."""
    kind = claim.intervention.get("kind")
    return "" if kind in ABLATING else f"a change of kind {kind!r} is no ablation"


def untrue(claim: Claim, whole: int | None = None) -> str:
    """What a claim's file says that its own figures do not give, in words; nothing where they agree.

    Numbers and addresses of the statement are compared, not its wording, which may be that of another version.
    """
    (low, high), value = claim.estimate.interval, claim.estimate.value
    if wrong := no_ablation(claim):
        return wrong
    if not low <= value <= high:
        return f"the claimed estimate, {value:.3g}, lies outside its own interval, {low:.3g} to {high:.3g}"
    try:
        due = statement(claim, whole)
    except PatchclampError as error:
        return f"its own figures, {error}"
    extra = [one for one in _facts(claim.statement, whole) if one not in _facts(due, whole)]
    return f"the statement says {', '.join(extra)}; its figures say: {due}" if extra else ""


def claim(
    basis: Basis,
    id: str,
    kind: str,
    units: Units,
    found: Measured,
    *,
    whole: int | None = None,
    among: Sequence[str] = (),
) -> Claim | None:
    """The claim of a kind that one measurement makes, with its statement and criterion; None if it decides nothing.

    Parameters
    ----------
    basis
        What all claims of the study share.
    kind
        As in `Claim`.
    found
        Share lost or left, ratio of effects, or difference in nats.
    whole
        Units of this kind in the model.
    among
        Sufficiency and circuits: the sites whose other units were ablated.
    """
    rule, null = criterion(kind, found.share), found.share.null
    if rule is None:
        return None
    made = Claim(
        id=id,
        kind=kind,
        statement="",
        units=tuple(units.to_json()),
        task=basis.task,
        intervention=basis.intervention,
        metric=basis.metric,
        baseline=found.effect.baseline,
        changed=found.effect.changed,
        estimate=replace(found.share, null=None if null is None else replace(null, draws=())),
        criterion=rule[0],
        seed=basis.seed,
        ablation=basis.ablation,
        model=basis.model,
        version=__version__,
        negative=rule[1],
        among=tuple(among),
        quantity=basis.quantity,
    )
    return replace(made, statement=statement(made, whole))


def _behaviour(claim: Claim) -> str:
    """Where a claim was measured, from the name or file of its task or texts."""
    source = str(claim.task["name"]).removeprefix("texts:")
    return "WordNet" if source.startswith("wordnet:") else Path(source).stem.replace("_", " ")


def _place(claim: Claim) -> str:
    return f"on held-out items of {_behaviour(claim)}"


def _metric(claim: Claim) -> str:
    return METRIC_TEXT.get(claim.metric, claim.metric)


def _named(units: Units, whole: int | None) -> str:
    """How many of what: "5 of 270 attention heads"; of several points each: "(2 attention heads, 8 MLP neurons)"."""
    points = list(dict.fromkeys(site.point for site in units.sites))
    if len(points) > 1:
        each = [_named(Units({s: i for s, i in units.items() if s.point == p}), None) for p in points]
        of = "" if whole is None else f" of {whole:,}"
        return f"{units.count:,}{of} units, {' and '.join(each)}"
    site = units.sites[0]
    name = (
        f"{site.dictionary} feature" if site.dictionary else UNIT_NAMES.get(site.point, f"{site.point} unit")
    )
    count = f"{units.count:,}" if units.count > 1 else "one"
    if whole is None:
        return f"{count} {name}{'s' * (units.count > 1)}"
    return f"{count} of {whole:,} {name}s"


def _span(share: Estimate, show: Callable[[float], str] = percent, of: str = "") -> str:
    low, high = share.interval
    return f"{show(share.value)}{of} ({show(low)} to {show(high)})"


def _facts(text: str, whole: int | None) -> list[str]:
    """Addresses and numbers in a sentence; how many units there are in all only where that is known."""
    text = text.replace("\u2212", "-")
    if whole is None:
        text = re.sub(r"\bof [\d,]+", "of", text)
    return re.findall(r"[\w./-]+\[[\d,]+\]|(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?:\s?%)?", text)


def _short(units: Units, limit: int = 6) -> str:
    """Name the units, or the first of many."""
    names = [str(u) for u in units.each()]
    return ", ".join(names) if len(names) <= limit else f"{', '.join(names[:3])}, ... {names[-1]}"


def _down(value: float, step: float = 0.05) -> float:
    """Round down to the next step, so that the tested statement is the weaker one."""
    return round(math.floor(value / step + 1e-9) * step, 4)


def _up(value: float, step: float = 0.05) -> float:
    return round(math.ceil(value / step - 1e-9) * step, 4)
