"""`verify`: every claim measured again, on the model it was made on or on another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.nouns.scores import flat
from patchclamp.nouns.tasks.builtin import load_task
from patchclamp.nouns.units import Units
from patchclamp.study.ability import items_fingerprint, measure_ability
from patchclamp.study.claims import Claim
from patchclamp.study.experiments import Bench
from patchclamp.study.features import attach_saved
from patchclamp.study.options import StudyOptions
from patchclamp.study.report.text import percent
from patchclamp.subjects import open_subject
from patchclamp.subjects.clamp.features import provenance
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["Verdict", "verify_claims"]

Progress = Callable[..., None]


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Parameters
    ----------
    claim
        The claim.
    outcome
        ``"holds"``, ``"fails"`` or ``"cannot run"``.
    measured
        The share measured now; None where it could not be.
    model, fingerprint
        What it was measured on.
    reason
        In words.
    """

    claim: Claim
    outcome: str
    measured: Estimate | None
    model: str
    fingerprint: str
    reason: str = ""

    @property
    def measured_text(self) -> str:
        """The measured share with its interval, for a table."""
        if self.measured is None:
            return ""
        m = self.measured
        return f"{percent(m.value)} ({percent(m.low)} to {percent(m.high)})"

    def to_json(self) -> dict[str, Any]:
        """Both figures and the outcome as plain data."""
        m = self.measured
        return {
            "id": self.claim.id,
            "statement": self.claim.statement,
            "outcome": self.outcome,
            "reason": self.reason,
            "claimed": {"estimate": self.claim.estimate.value, "interval": self.claim.estimate.interval},
            "measured": None
            if m is None
            else {"estimate": m.value, "interval": m.interval, "control": flat(m)["control"]},
            "criterion": self.claim.criterion,
            "model": {"name": self.model, "fingerprint": self.fingerprint},
        }


def verify_claims(
    claims: Sequence[Claim],
    subject: Any = None,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    dictionaries: Path | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Measure claims again.

    A claim *holds* when the new estimate meets its criterion and, on the very same weights and items, when it also
    lies in the claimed interval. It *cannot run* when the model lacks a unit or cannot do the task, or the task
    makes other items than those of the claim on the same model.

    Parameters
    ----------
    claims
        From `read_claims`.
    subject
        An open model to measure on; default: `model`, or the model that each claim names.
    model, device, dtype
        Passed to `open_subject`.
    dictionaries
        Folder of the dictionaries whose features the claims name; the study wrote it beside them.
    progress
        Called with (text, done, total).

    Returns
    -------
    list of Verdict
        In the order of the claims.
    """
    benches: dict[str, Bench | str] = {}
    subjects: dict[str, Any] = {} if subject is None else {subject.name: subject}
    if subject is None and model is not None:
        subjects[model] = open_subject(model, device=device, dtype=dtype)
    verdicts = []
    for number, claim in enumerate(claims):
        if progress is not None:
            progress(f"verifying {claim.id}", number, len(claims))
        name = subject.name if subject is not None else (model or str(claim.model["name"]))
        if name not in subjects:
            subjects[name] = _open(name, device, dtype)
        live = subjects[name]
        if dictionaries is not None and not isinstance(live, str) and _has_features(claim):
            live = _with_features(live, dictionaries)
        if isinstance(live, str):
            verdicts.append(Verdict(claim, "cannot run", None, name, "", live))
            continue
        if claim.kind == "selectivity":
            verdicts.append(_judge_texts(live, claim))
            continue
        key = repr((name, sorted(claim.task.items()), sorted(claim.intervention.items()), claim.seed))
        if key not in benches:
            benches[key] = _bench(live, claim)
        verdicts.append(_judge(live, claim, benches[key]))
    return verdicts


def _has_features(claim: Claim) -> bool:
    return any(site.dictionary is not None for site in Units.parse(list(claim.units)).sites)


def _with_features(subject: Any, folder: Path) -> Any:
    """The subject with the saved dictionaries attached, or why they do not fit it."""
    try:
        attach_saved(subject, folder)
    except PatchclampError as error:
        return str(error)
    return subject


def _open(name: str, device: str, dtype: str) -> Any:
    """Open the model that a claim names, or say why that is not possible."""
    try:
        return open_subject(name, device=device, dtype=dtype)
    except PatchclampError as error:
        return str(error)


def _bench(subject: Any, claim: Claim) -> Bench | str:
    """Set up the claim's items on a subject, or say why that is not possible."""
    spec = claim.task
    try:
        task = load_task(
            spec["name"], subject.tokenizer, n=spec["n"], seed=spec["seed"], corruption=spec["corruption"]
        )
        items = task.split(spec["split"]).take(spec["items"])
        reference = task.split(spec.get("reference_split", "train"))
        reference = reference.take(spec.get("reference_items", len(reference)))
        measure_ability(subject, items, StudyOptions())
    except PatchclampError as error:
        return str(error)
    same_model = subject.fingerprint == claim.model["fingerprint"]
    if same_model and items_fingerprint(items) != spec["fingerprint"]:
        return (
            "the task makes other items than those of the claim (another version of the task or of its file)"
        )
    return Bench(subject, items, Reference(subject, reference), claim.intervention, claim.seed)


def _judge(subject: Any, claim: Claim, bench: Bench | str) -> Verdict:
    facts = {"model": subject.name, "fingerprint": subject.fingerprint}
    if isinstance(bench, str):
        return Verdict(claim, "cannot run", None, reason=bench, **facts)
    try:
        units = subject.units(list(claim.units))
    except PatchclampError as error:
        return Verdict(claim, "cannot run", None, reason=str(error), **facts)
    claimed = claim.model.get("dictionaries")
    if claimed and provenance(subject, units.sites).get("dictionaries") != claimed:
        reason = "the dictionary attached under this name is not that of the claim"
        return Verdict(claim, "cannot run", None, reason=reason, **facts)
    return _verdict(claim, _measure(claim, bench, units), subject, facts)


def _judge_texts(subject: Any, claim: Claim) -> Verdict:
    """A claim of a concept study, which is about texts rather than a task's items."""
    from patchclamp.study.concepts.verify import measure_again

    facts = {"model": subject.name, "fingerprint": subject.fingerprint}
    measured = measure_again(claim, subject)
    if isinstance(measured, str):
        return Verdict(claim, "cannot run", None, reason=measured, **facts)
    return _verdict(claim, measured, subject, facts)


def _verdict(claim: Claim, measured: Estimate, subject: Any, facts: dict[str, str]) -> Verdict:
    if not claim.meets(measured):
        return Verdict(claim, "fails", measured, reason=_unmet(claim, measured), **facts)
    low, high = claim.estimate.interval
    same = subject.fingerprint == claim.model["fingerprint"]
    if same and not low - 1e-6 <= measured.value <= high + 1e-6:
        reason = (
            f"the claimed interval, {percent(low)} to {percent(high)}, does not hold what is measured here"
        )
        return Verdict(claim, "fails", measured, reason=reason, **facts)
    return Verdict(claim, "holds", measured, reason="" if same else "on another model", **facts)


def _measure(claim: Claim, bench: Bench, units: Units) -> Estimate:
    if claim.kind == "sufficiency":
        return bench.recovered(units, claim.among).share
    if claim.kind == "redundancy":
        return bench.ratio(units).share
    return bench.lost(units, 0 if claim.estimate.null is None else claim.estimate.null.n).share


def _unmet(claim: Claim, measured: Estimate) -> str:
    """Say which part of the criterion is not met."""
    low, high = claim.criterion.get("at_least"), claim.criterion.get("at_most")
    if low is not None and not measured.value >= low:
        return f"claimed at least {percent(low)}"
    if high is not None and not measured.value <= high:
        return f"claimed at most {percent(high)}"
    top = None if measured.null is None else measured.null.high
    return f"random sets reach {percent(top)}"
