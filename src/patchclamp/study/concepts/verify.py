"""A claim of a concept study, measured again."""

from __future__ import annotations

from collections.abc import Callable

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.intervene.effect import FEWEST
from patchclamp.study.claims import Claim
from patchclamp.study.concepts.damage import damage, selective
from patchclamp.study.concepts.texts import load_labelled
from patchclamp.subjects import LanguageModel
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["concept_again"]


def concept_again(claim: Claim, subject: LanguageModel) -> Callable[[], Estimate]:
    """How the claim is measured on this subject; refuses what it cannot be measured on."""
    spec, change = claim.task, claim.intervention
    data = load_labelled(
        str(spec["name"]).removeprefix("texts:"),
        per_label=spec["n"],
        max_tokens=change["max_tokens"],
        seed=spec["seed"],
    )
    units = subject.units(list(claim.units))
    if data.fingerprint != spec["fingerprint"]:
        raise PatchclampError("the file holds other texts than those of the claim")
    label = str(change["label"])
    n_sets = max(FEWEST, 0 if claim.estimate.null is None else claim.estimate.null.n)

    def measure() -> Estimate:
        found = damage(
            subject, data.test, Reference(subject, data.train, 32), {label: units}, data.labels, n_control=n_sets,
            seed=claim.seed,
        )  # fmt: skip
        groups = {one: data.test.where(one).groups for one in data.labels}
        return selective(found, label, groups, seed=claim.seed).share

    return measure
