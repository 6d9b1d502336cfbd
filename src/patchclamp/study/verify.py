"""`verify`: every claim measured again, on the model it was made on or on another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.progress import Progress
from patchclamp.intervene.effect import FEWEST
from patchclamp.nouns.scores import flat
from patchclamp.nouns.tasks.builtin import load_task
from patchclamp.nouns.units import Units
from patchclamp.study.ability import items_fingerprint, measure_ability
from patchclamp.study.claims import Claim
from patchclamp.study.concepts.verify import concept_again
from patchclamp.study.experiments import Experiments
from patchclamp.study.features import attach_saved
from patchclamp.study.options import StudyOptions
from patchclamp.study.report.findings import criterion, untrue
from patchclamp.study.report.text import percent
from patchclamp.subjects import LanguageModel, open_subject
from patchclamp.subjects.clamp.features import provenance
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["Verdict", "verify_claims"]

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Parameters
    ----------
    claim
        The claim, as the file states it.
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
    def criterion(self) -> Mapping[str, Any] | None:
        """What was asked of it: derived from its estimate, interval and control; None where these decide nothing."""
        rule = criterion(self.claim.kind, self.claim.estimate)
        return None if rule is None else rule[0]

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
            "criterion": None if self.criterion is None else dict(self.criterion),
            "model": {"name": self.model, "fingerprint": self.fingerprint},
        }


def verify_claims(
    claims: Sequence[Claim],
    subject: LanguageModel | None = None,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    dictionaries: Path | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Measure claims again.

    A claim *holds* when the new estimate meets the criterion that follows from the claim's own estimate, interval and
    control (and, where the file names another, that too) and, on the very same weights and items, when each estimate
    lies in the other's interval. It *fails* without regard to what is measured where its figures decide nothing, or
    where its statement has units or numbers that they do not give. It *cannot run* when the model lacks a unit or cannot
    do the task, or the task makes other items than those of the claim on the same model.

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
    benches: dict[str, Experiments | PatchclampError] = {}
    models: dict[str, LanguageModel | PatchclampError] = {} if subject is None else {subject.name: subject}
    if subject is None and model is not None:
        models[model] = _open(model, device, dtype)
    verdicts = []
    for number, claim in enumerate(claims):
        if progress is not None:
            progress(f"verifying {claim.id}", number, len(claims))
        name = subject.name if subject is not None else (model or str(claim.model["name"]))
        fingerprint = ""
        try:
            live = _once(models, name, partial(_open, name, device, dtype))
            fingerprint = live.fingerprint
            if dictionaries is not None and _has_features(claim):
                attach_saved(live, dictionaries)
            measured = _again(claim, live, benches)()
        except PatchclampError as error:
            verdicts.append(Verdict(claim, "cannot run", None, name, fingerprint, str(error)))
            continue
        verdicts.append(_verdict(claim, measured, live))
    return verdicts


def _once(cache: dict[str, T | PatchclampError], key: str, make: Callable[[], T]) -> T:
    """What `make` gives, made once for each key; what it refused it refuses again."""
    if key not in cache:
        try:
            cache[key] = make()
        except PatchclampError as error:
            cache[key] = error
    found = cache[key]
    if isinstance(found, PatchclampError):
        raise found
    return found


def _open(name: str, device: str, dtype: str) -> LanguageModel:
    subject = open_subject(name, device=device, dtype=dtype)
    if not isinstance(subject, LanguageModel):
        raise PatchclampError(
            f"{name}: claims are about language models, and this is a {type(subject).__name__}"
        )
    return subject


def _has_features(claim: Claim) -> bool:
    return any(site.dictionary is not None for site in Units.parse(list(claim.units)).sites)


def _bench(subject: LanguageModel, claim: Claim) -> Experiments:
    """Set up the claim's items on a subject."""
    spec = claim.task
    task = load_task(
        spec["name"], subject.tokenizer, n=spec["n"], seed=spec["seed"], corruption=spec["corruption"]
    )
    items = task.split(spec["split"]).take(spec["items"])
    reference = task.split(spec.get("reference_split", "train"))
    reference = reference.take(spec.get("reference_items", len(reference)))
    measure_ability(subject, items, StudyOptions())
    if subject.fingerprint == claim.model["fingerprint"] and items_fingerprint(items) != spec["fingerprint"]:
        raise PatchclampError(
            "the task makes other items than those of the claim (another version of the task or of its file)"
        )
    return Experiments(subject, items, Reference(subject, reference), claim.intervention, claim.seed)


def _again(
    claim: Claim, subject: LanguageModel, benches: dict[str, Experiments | PatchclampError]
) -> Callable[[], Estimate]:
    """How the claim is measured on this subject; refuses what it cannot be measured on."""
    if claim.kind == "selectivity":
        return concept_again(claim, subject)
    key = repr((subject.name, sorted(claim.task.items()), sorted(claim.intervention.items()), claim.seed))
    bench = _once(benches, key, partial(_bench, subject, claim))
    units = subject.units(list(claim.units))
    claimed = claim.model.get("dictionaries")
    if claimed and provenance(subject, units.sites).get("dictionaries") != claimed:
        raise PatchclampError("the dictionary attached under this name is not that of the claim")
    if claim.kind == "sufficiency":
        return lambda: bench.recovered(units, claim.among).share
    if claim.kind == "redundancy":
        return lambda: bench.ratio(units).share
    n_sets = (
        0 if claim.estimate.null is None else max(claim.estimate.null.n, FEWEST)
    )  # however few the file names
    return lambda: bench.lost(units, n_sets).share


def _verdict(claim: Claim, measured: Estimate, subject: LanguageModel) -> Verdict:
    verdict = partial(Verdict, claim, measured=measured, model=subject.name, fingerprint=subject.fingerprint)
    same = subject.fingerprint == claim.model["fingerprint"]
    wrong = untrue(claim, _whole(claim, subject) if same else None)
    rule = criterion(claim.kind, claim.estimate)
    if wrong or rule is None:
        return verdict("fails", reason=wrong)
    for asked in (rule[0], claim.criterion):
        unmet = replace(claim, criterion=asked).unmet(measured)
        if unmet:
            return verdict("fails", reason=unmet)
    if same:
        for whose, interval, value in (
            ("claimed", claim.estimate.interval, measured.value),
            ("measured", measured.interval, claim.estimate.value),
        ):
            low, high = interval
            if not low - 1e-6 <= value <= high + 1e-6:
                other = "what is measured here" if whose == "claimed" else "what is claimed"
                reason = f"the {whose} interval, {percent(low)} to {percent(high)}, does not hold {other}"
                return verdict("fails", reason=reason)
    return verdict("holds", reason="" if same else "on another model")


def _whole(claim: Claim, subject: LanguageModel) -> int:
    """How many units of the claim's kind there are in a subject."""
    kinds = {(site.point, site.dictionary) for site in Units.parse(list(claim.units)).sites}
    return sum(
        subject.width(site) for site in subject.known_sites() if (site.point, site.dictionary) in kinds
    )
