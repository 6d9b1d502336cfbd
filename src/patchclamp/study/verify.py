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
from patchclamp.base.statistics import enough_sets
from patchclamp.draw.cards import shown
from patchclamp.draw.text import percent
from patchclamp.intervene.effect import FEWEST
from patchclamp.nouns.scores import flat
from patchclamp.nouns.tasks.builtin import load_task
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Units
from patchclamp.study.ability import items_fingerprint, measure_ability
from patchclamp.study.claims import Claim
from patchclamp.study.concepts.verify import concept_again
from patchclamp.study.elsewhere import (
    NotComparable,
    check_set,
    first_units,
    matched_units,
    same_units,
    very_same,
)
from patchclamp.study.experiments import Experiments
from patchclamp.study.features import attach_saved
from patchclamp.study.options import StudyOptions
from patchclamp.study.report.findings import criterion, no_ablation, untrue
from patchclamp.study.select import Selection
from patchclamp.subjects import LanguageModel, open_subject
from patchclamp.subjects.clamp.features import provenance
from patchclamp.subjects.clamp.reference import Reference
from patchclamp.subjects.files.identity import OLD, is_old

__all__ = ["Verdict", "verify_claims"]

T = TypeVar("T")


@shown
@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Parameters
    ----------
    claim
        The claim, as the file states it.
    outcome
        ``"holds"``, ``"fails"``, ``"cannot run"`` or ``"not comparable"``.
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
    matched: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Measure claims again.

    A claim *holds* when the new estimate meets the criterion that follows from the claim's own estimate, interval and
    control (and, where the file names another, that too) and, on the very same weights and items, when each estimate
    lies in the other's interval. It *fails* without regard to what is measured where its figures decide nothing, or
    where its statement has units or numbers that they do not give. It *cannot run* when the model lacks a unit or cannot
    do the task, or the task makes other items than those of the claim on the same model.

    On another model than the claim's an address means nothing. A claim about a set is measured there on as many units of
    the same kind as that model's own scores put first; one about a single unit, or about features, is *not comparable*
    unless `matched` says which unit of this model it is.

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
    matched
        Address of a unit of the claims' model -> address of the unit of this model that was matched to it.
    progress
        Called with (text, done, total).

    Returns
    -------
    list of Verdict
        In the order of the claims.
    """
    again = _Again(claims, matched)
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
            if wrong := no_ablation(claim):
                verdicts.append(Verdict(claim, "fails", None, name, fingerprint, wrong))
                continue
            measured, reason = again(claim, live)
        except NotComparable as error:
            verdicts.append(Verdict(claim, "not comparable", None, name, fingerprint, str(error)))
            continue
        except PatchclampError as error:
            verdicts.append(Verdict(claim, "cannot run", None, name, fingerprint, str(error)))
            continue
        verdicts.append(_verdict(claim, measured, live, reason))
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


def _bench(subject: LanguageModel, claim: Claim) -> tuple[Experiments, Task]:
    """Set up the claim's items on a subject, beside the whole task."""
    spec = claim.task
    task = load_task(
        spec["name"], subject.tokenizer, n=spec["n"], seed=spec["seed"], corruption=spec["corruption"]
    )
    items = task.split(spec["split"]).take(spec["items"])
    reference = task.split(spec.get("reference_split", "train"))
    reference = reference.take(spec.get("reference_items", len(reference)))
    measure_ability(subject, items, StudyOptions())
    if very_same(claim, subject) and items_fingerprint(items) != spec["fingerprint"]:
        raise PatchclampError(
            "the task makes other items than those of the claim (another version of the task or of its file)"
        )
    return Experiments.of(subject, items, Reference(subject, reference), claim.intervention, claim.seed), task


class _Again:
    """How claims are measured on a subject; what several of them need is made once."""

    def __init__(self, claims: Sequence[Claim], matched: Mapping[str, str] | None) -> None:
        self.claims = claims
        self.matched = matched
        self.alone: dict[str, dict[str, Estimate]] = {}
        self.benches: dict[str, tuple[Experiments, Task] | PatchclampError] = {}
        self.orders: dict[str, Selection | PatchclampError] = {}

    def __call__(self, claim: Claim, subject: LanguageModel) -> tuple[Estimate, str]:
        """The claim's estimate on this subject, and on what other units or model; refuses what cannot be measured."""
        units, words = self._units(claim, subject)
        return self._measured(claim, subject, units), words

    def _units(self, claim: Claim, subject: LanguageModel) -> tuple[Units | None, str]:
        """The claim's units on this subject, and in words on what other units or model they are.

        None for those that a concept study of this subject chooses itself, as many as the claim has.
        """
        if same_units(claim, subject):
            return subject.units(list(claim.units)), "" if very_same(
                claim, subject
            ) else f"in {subject.dtype}"
        if self.matched is not None:
            return matched_units(claim, subject, self.matched), "on another model, units matched"
        k = _count(claim)
        if claim.kind == "selectivity":
            check_set(claim)
            return None, f"on another model, on its own first {k} units"
        bench, task = self._bench(claim, subject)  # refuses a model that does not do the task at all
        point = check_set(claim)
        key = repr((subject.fingerprint, point, id(bench)))
        units = _once(self.orders, key, partial(first_units, bench, task, point)).first(k)
        first = ", ".join(map(str, units.each()[:3])) + (", ..." if k > 3 else "")
        return units, f"on another model, on its own first {k}: {first}"

    def _bench(self, claim: Claim, subject: LanguageModel) -> tuple[Experiments, Task]:
        return _once(self.benches, self._key(claim, subject), partial(_bench, subject, claim))

    def _key(self, claim: Claim, subject: LanguageModel) -> str:
        return repr(
            (subject.name, sorted(claim.task.items()), sorted(claim.intervention.items()), claim.seed)
        )

    def _measured(self, claim: Claim, subject: LanguageModel, units: Units | None) -> Estimate:
        if units is None or claim.kind == "selectivity":
            return concept_again(claim, subject, units)
        bench, _ = self._bench(claim, subject)
        claimed = claim.model.get("dictionaries")
        if claimed and provenance(subject, units.sites).get("dictionaries") != claimed:
            raise PatchclampError("the dictionary attached under this name is not that of the claim")
        if claim.kind == "sufficiency":
            return bench.recovered(units, claim.among).share
        if claim.kind == "redundancy":
            return bench.ratio(units).share
        null = claim.estimate.null
        if claim.kind in ("circuit", "circuit removed"):
            measure = bench.kept if claim.kind == "circuit" else bench.removed
            return measure(units, claim.among, 0 if null is None else max(null.n, FEWEST)).share
        if null is not None and units.count == 1:
            return self._alone(claim, subject, units)
        return bench.lost(
            units, 0 if null is None else max(null.n, FEWEST)
        ).share  # however few the file names

    def _alone(self, claim: Claim, subject: LanguageModel, units: Units) -> Estimate:
        """A single unit's share, beside the null that the file's single units of its kind share, as in a study.

        That null holds none of them: units that matter are no control for each other.
        """
        point = next(iter(units.sites)).point
        key = repr((self._key(claim, subject), point))
        if str(units) not in self.alone.get(key, {}):
            peers = {str(units): units}
            for peer in self.claims:
                if peer.estimate.null is None or peer.kind != claim.kind or _count(peer) != 1:
                    continue
                if self._key(peer, subject) != self._key(claim, subject):
                    continue
                try:
                    there, _ = self._units(peer, subject)
                except PatchclampError:  # that claim's own verdict says so
                    continue
                if there is not None and next(iter(there.sites)).point == point:
                    peers.setdefault(str(there), there)
            listed = list(peers.values())
            found = self._bench(claim, subject)[0].each(listed, max(FEWEST, enough_sets(len(listed))))
            self.alone[key] = {name: one.share for name, one in zip(peers, found, strict=True)}
        return self.alone[key][str(units)]


def _count(claim: Claim) -> int:
    return Units.parse(list(claim.units)).count


def _verdict(claim: Claim, measured: Estimate, subject: LanguageModel, reason: str) -> Verdict:
    verdict = partial(Verdict, claim, measured=measured, model=subject.name, fingerprint=subject.fingerprint)
    mark = str(claim.model["fingerprint"])
    same = very_same(claim, subject)
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
    return verdict("holds", reason=OLD if same and is_old(mark) else reason)


def _whole(claim: Claim, subject: LanguageModel) -> int:
    """How many units of the claim's kind there are in a subject."""
    if claim.among:
        return sum(subject.width(site) for site in subject.resolve(list(claim.among)))
    kinds = {(site.point, site.dictionary) for site in Units.parse(list(claim.units)).sites}
    return sum(
        subject.width(site) for site in subject.known_sites() if (site.point, site.dictionary) in kinds
    )
