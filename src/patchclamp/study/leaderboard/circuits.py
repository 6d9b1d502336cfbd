"""attribute on circuits: are the units of the mechanism found, and are the scores what the method says they are?"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.areas import (
    area_over_items,
    area_over_pairs,
    chance_of_largest,
    permuted_area,
    roc_auc,
    rounded,
)
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import parse_site, parse_unit
from patchclamp.study.leaderboard.base import Adaptor, Outcome, Variant, Verdict
from patchclamp.truth.base import TRUTHS, Circuit, Truth

Array = NDArray[np.float64]

CLAIMS: Mapping[str, Mapping[str, str]] = {
    "activation_patching": {"denoising": "denoising", "noising": "noising"},
    "attribution_patching": {"denoising": "gradient_corrupted", "noising": "gradient_clean"},
    "relevance_patching": {"denoising": "gradient_corrupted", "noising": "gradient_clean"},
    "integrated_gradients": {"path": "integrated_gradients"},
    "partial_gradients": {"denoising": "partial_denoising", "noising": "partial_noising"},
}
"""Method -> variant -> quantity of `Circuit.effects` that its scores claim to be.

Relevance patching is the gradient wherever no rule acts, as in systems of ReLUs; systems with closed forms are such.
"""
ALONG_THE_PATH = frozenset({"integrated_gradients"})
"""Methods whose scores are the same in both directions."""


def circuit_variants(name: str, method: Any, system: Circuit) -> list[Variant]:
    """Both directions where a method has such; as many steps as the closed form asks for; the truth's level.

    None for a truth about another change than putting the other input's activity in, unless the method takes
    ``ablation``: such a truth does not hold for what a patching method measures.
    """
    known = inspect.signature(method).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    options: dict[str, Any] = {}
    if system.ablation != "patch":
        if "ablation" not in known:
            return []
        options["ablation"] = system.ablation
    if "steps" in known and "steps" in system.data:
        options["steps"] = system.data["steps"]
    if "level" in known:
        options["level"] = "site" if _edges_are_sites(system) else system.level
    if name in ALONG_THE_PATH:
        return [Variant("path", options)]
    if "direction" in known or anything:
        return [Variant(d, {**options, "direction": d}) for d in ("denoising", "noising")]
    return [Variant("", options)]


def score_circuit(method: Any, system: Circuit, variant: Variant, seed: int) -> Any:
    """Call the method on the system's edges where those are sites of their own, else on its sites."""
    sites = list(system.edges) if _edges_are_sites(system) else list(system.sites)
    return method(system.subject, system.task, sites, **variant.options)


def judge_circuit(
    name: str, result: Any, system: Circuit, variant: Variant, truth: Truth, seed: int
) -> Outcome:
    """AUROC of |score| against the truth of nodes (or edges), and the distance from the closed form.

    The interval resamples items; where a method gives one score for all of them, candidates.
    """
    truths = system.edges if _edges_are_sites(system) else system.nodes
    values = candidate_values(result, list(truths))
    real = np.array(list(truths.values()), dtype=bool)
    against, claimed = _quantity(name, variant.name, system)
    error = _error(values, list(truths), system.effects[against]) if against else None
    # Scores are float32: the tolerance of large effects is relative.
    largest = max((abs(v) for v in system.effects[against].values()), default=0.0) if against else 0.0
    tolerance = system.tolerance * max(1.0, largest) if claimed else None
    off = error is not None and tolerance is not None and error > tolerance
    closed: dict[str, Any] = {"error": error, "against": against, "tolerance": tolerance}
    groups = getattr(result, "groups", ())
    if truth.control:
        return replace(_control(values, list(truths), real, groups, truth, seed), **closed)
    what = "edges" if truths is system.edges else "nodes"
    if not real.any() or real.all():
        verdict: Verdict = "wrong" if off else "exact" if claimed else "estimate"
        return Outcome(verdict, note=f"every one of the {len(real)} {what} is part of it", **closed)
    over = "items" if len(values) > 1 else what
    if over == "items":
        value, low, high = area_over_items(values, real, groups, seed=seed)
    else:
        value, low, high = area_over_pairs(values[0], real)
    verdict = "wrong" if off else "recovered" if low > 0.5 else "missed"
    idle = "; all others score exactly 0" if not values[:, ~real].any() else ""
    note = f"{int(real.sum())} of {len(real)} {what} belong to it{idle}"
    return Outcome(verdict, "AUROC", value, low, high, over, 0.5, note=note, **closed)


def _edges_are_sites(system: Circuit) -> bool:
    """Whether edges can be scored like sites, and some belong to the mechanism and some do not."""
    return len(set(system.edges.values())) == 2 and all(_is_address(name) for name in system.edges)


def candidate_values(result: Any, names: Sequence[str]) -> Array:
    """(item, candidate) scores; a site scored unit by unit counts as the sum of its units.

    Parameters
    ----------
    result
        `Scores`, or a mapping from addresses to numbers (one item).
    """
    if isinstance(result, Mapping):
        lost = [name for name in names if name not in result]
        if lost:
            raise PatchclampError(f"{lost[0]}: has no score ({len(lost)} of {len(names)} candidates)")
        return np.array([[float(result[name]) for name in names]])
    if not isinstance(result, Scores):
        raise PatchclampError(f"a {type(result).__name__} came back; give Scores, or address -> number")
    summed = result.summed()
    return np.stack([_column(summed, name) for name in names], axis=1)


def _column(scores: Scores, name: str) -> Array:
    whole = not name.endswith("]")
    site = parse_site(name) if whole else parse_unit(name).site
    if site not in scores.values:
        raise PatchclampError(f"{name}: has no score")
    values = scores.values[site].astype(np.float64)
    if whole:
        return np.asarray(values.sum(1))
    index = scores.index(site)
    unit = parse_unit(name).index
    if unit not in index:
        raise PatchclampError(f"{name}: has no score; its site was scored as a whole or in part")
    return values[:, index.index(unit)]


def _is_address(name: str) -> bool:
    try:
        parse_unit(name) if name.endswith("]") else parse_site(name)
    except PatchclampError:
        return False
    return True


def _quantity(method: str, variant: str, system: Circuit) -> tuple[str, bool]:
    """Which closed form the scores are held against, and whether the method claims it."""
    claimed = CLAIMS.get(method, {}).get(variant, "")
    if claimed in system.effects:
        return claimed, True
    return (variant, False) if variant in system.effects else ("", False)


def _error(values: Array, names: Sequence[str], effects: Mapping[str, float]) -> float:
    mean = values.mean(0)
    return max(abs(float(mean[i]) - effects[name]) for i, name in enumerate(names) if name in effects)


def _control(
    values: Array,
    names: Sequence[str],
    real: NDArray[np.bool_],
    groups: Sequence[str],
    truth: Truth,
    seed: int,
) -> Outcome:
    """Nothing may be found: idle candidates score exactly 0, or those named by the truth no better than others.

    For a twin with fresh weights or shuffled labels, whose units do have effects of their own, the candidates named
    are those of the system that it is the twin of; chance is which of its units they would be.
    """
    if not np.abs(values[:, ~real]).max():
        return Outcome("clean", note=f"all {int((~real).sum())} idle candidates score exactly 0")
    twin = None if real.any() else _of_the_twin(truth, names, seed)
    if twin is not None:
        value = float(roc_auc(rounded(values.mean(0)), twin))
        p = permuted_area(values, twin, seed)
        verdict: Verdict = "clean" if p > 0.05 else "false positive"
        note = f"against the units of {truth.name.rsplit('-', 1)[0]}; p = {p:.3g} (units permuted)"
        return Outcome(verdict, "AUROC", value, chance=0.5, note=note)
    if real.any():
        value, low, high = area_over_items(values, real, groups, seed=seed)
        verdict = "clean" if low <= 0.5 else "false positive"
        return Outcome(verdict, "AUROC", value, low, high, "items", 0.5)
    p = chance_of_largest(values, seed)
    note = f"largest of {len(real)} scores {np.abs(values.mean(0)).max():.2g}, p = {p:.3g} (signs of items flipped)"
    return Outcome("clean" if p > 0.05 else "false positive", note=note)


def _of_the_twin(truth: Truth, names: Sequence[str], seed: int) -> NDArray[np.bool_] | None:
    """Which candidates belong to the mechanism of the system whose twin this is; None where there is none."""
    trained = TRUTHS.get(truth.name.rsplit("-", 1)[0])
    if trained is None or trained is truth:
        return None
    system = trained.build(seed)
    if not isinstance(system, Circuit) or any(name not in system.nodes for name in names):
        return None
    real = np.array([system.nodes[name] for name in names], dtype=bool)
    return real if real.any() and not real.all() else None


ATTRIBUTE = Adaptor("attribute", "circuit", circuit_variants, score_circuit, judge_circuit)
