"""A claim on another model than its own: an address means nothing there, a set chosen in the same way does.

`head.9[6]` of one model is not `head.9[6]` of another. What can be compared is the behaviour; a claim about a set, measured
on as many units of the same kind as the other model's own scores put first; and units that were matched to the claim's.
"""

from __future__ import annotations

from collections.abc import Mapping

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Units
from patchclamp.study.ability import splits_of
from patchclamp.study.checked import ranking_scores
from patchclamp.study.claims import Claim
from patchclamp.study.experiments import Experiments
from patchclamp.study.options import StudyOptions
from patchclamp.study.select import Selection, select_units
from patchclamp.subjects import LanguageModel

__all__ = ["NotComparable", "check_set", "first_units", "matched_units", "same_units", "very_same"]


class NotComparable(PatchclampError):
    """The claim is about units of its own model, and nothing says which units of this one they are."""


def very_same(claim: Claim, subject: LanguageModel) -> bool:
    """Whether the claim was made on this very model."""
    return subject.is_model(str(claim.model["fingerprint"]))


def same_units(claim: Claim, subject: LanguageModel) -> bool:
    """Whether addresses mean the same: the very same weights, or the model of this name in another precision."""
    if very_same(claim, subject):
        return True
    dtype = str(subject.dtype).removeprefix("torch.")
    return bool(subject.name == claim.model["name"] and claim.model.get("dtype", dtype) != dtype)


def matched_units(claim: Claim, subject: LanguageModel, matched: Mapping[str, str]) -> Units:
    """The units that a matching puts in place of the claim's; every one of them must be in it."""
    units = Units.parse(list(claim.units)).each()
    missing = [str(unit) for unit in units if str(unit) not in matched]
    if missing:
        raise NotComparable(f"{missing[0]}: the matching does not say which unit of {subject.name} that is")
    return subject.units([matched[str(unit)] for unit in units])


def check_set(claim: Claim) -> str:
    """The point whose units a claim about a set is about; claims about one unit or about features are refused.

    Raises
    ------
    NotComparable
    """
    units = Units.parse(list(claim.units))
    kinds = {(site.point, site.dictionary) for site in units.sites}
    point, dictionary = next(iter(kinds))
    if units.count > 1 and len(kinds) == 1 and dictionary is None:
        return point
    what = (
        "one unit"
        if units.count == 1
        else "features of a dictionary"
        if dictionary
        else "units of several kinds"
    )
    raise NotComparable(
        f"a claim about {what} of another model ({claim.model['name']}), whose addresses mean nothing here; match the "
        "units (patchclamp.compare.match_units) and pass matched="
    )


def first_units(bench: Experiments, task: Task, point: str) -> Selection:
    """The units of a point in the order in which a study of this model would take them, from train and validation items."""
    options, subject = StudyOptions(seed=bench.seed), bench.subject
    splits = splits_of(task, options)
    sites = [site for site in subject.known_sites() if site.point == point]
    scores = ranking_scores(subject, splits["train"], sites, options, (point,)).scores
    trial = bench.on(splits["validation"])
    refine = options.refine_heads if point == "head" else options.refine_neurons
    return select_units(scores, point, point, (1,), 0.0, trial.shares, refine)
