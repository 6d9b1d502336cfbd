"""A claim of a concept study, measured again."""

from __future__ import annotations

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.intervene.effect import FEWEST
from patchclamp.nouns.units import Units
from patchclamp.study.claims import Claim
from patchclamp.study.concepts.activity import pooled_activity
from patchclamp.study.concepts.damage import damage, selective
from patchclamp.study.concepts.selective import find_experts
from patchclamp.study.concepts.texts import LabelledTexts, load_labelled
from patchclamp.subjects import LanguageModel
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["concept_again"]


def concept_again(claim: Claim, subject: LanguageModel, units: Units | None) -> Estimate:
    """The claim's estimate on this subject; without `units`, of as many that this subject's own train texts put first."""
    spec, change = claim.task, claim.intervention
    data = load_labelled(
        str(spec["name"]).removeprefix("texts:"),
        per_label=spec["n"],
        max_tokens=change["max_tokens"],
        seed=spec["seed"],
    )
    if data.fingerprint != spec["fingerprint"]:
        raise PatchclampError("the file holds other texts than those of the claim")
    label = str(change["label"])
    if units is None:
        units = _experts(claim, subject, data, label)
    n_sets = max(FEWEST, 0 if claim.estimate.null is None else claim.estimate.null.n)
    found = damage(
        subject, data.test, Reference(subject, data.train, 32), {label: units}, data.labels, n_control=n_sets,
        seed=claim.seed,
    )  # fmt: skip
    groups = {one: data.test.where(one).groups for one in data.labels}
    return selective(found, label, groups, seed=claim.seed).share


def _experts(claim: Claim, subject: LanguageModel, data: LabelledTexts, label: str) -> Units:
    """As many units as the claim's, of its kind, that are most selective for the label here."""
    claimed = Units.parse(list(claim.units))
    sites = subject.resolve(f"{claimed.sites[0].point}.*")
    values, units = pooled_activity(subject, data.train, sites)
    experts = find_experts(values, units, data.train.labels, data.train.groups, n_permutations=0)
    return next(e for e in experts if e.label == label).units(claimed.count)
