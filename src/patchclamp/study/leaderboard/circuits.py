"""attribute on circuits: are the units of the mechanism found, and are the scores what the method says they are?"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.errors import PatchclampError
from patchclamp.scores import Scores
from patchclamp.study.leaderboard.areas import area_over_items, chance_of_largest
from patchclamp.study.leaderboard.base import Adaptor, Outcome, Variant, Verdict
from patchclamp.truth.base import Circuit, Truth
from patchclamp.units import parse_site, parse_unit

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
    """Both directions where a method has such; as many steps as the closed form asks for."""
    known = inspect.signature(method).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    options = {"steps": system.data["steps"]} if "steps" in known and "steps" in system.data else {}
    if name in ALONG_THE_PATH:
        return [Variant("path", options)]
    if "direction" in known or anything:
        return [Variant(d, {**options, "direction": d}) for d in ("denoising", "noising")]
    return [Variant("", options)]


def score_circuit(method: Any, system: Circuit, variant: Variant, seed: int) -> Any:
    """Call the method on the system's sites."""
    return method(system.subject, system.task, list(system.sites), **variant.options)


def judge_circuit(
    name: str, result: Any, system: Circuit, variant: Variant, truth: Truth, seed: int
) -> Outcome:
    """AUROC of |score| against the node truth, and the distance from the closed form."""
    nodes = candidates(system)
    values = candidate_values(result, list(nodes))
    real = np.array(list(nodes.values()), dtype=bool)
    if truth.control:
        return _control(values, real, getattr(result, "groups", ()), seed)
    against, claimed = _quantity(name, variant.name, system)
    error = _error(values, list(nodes), system.effects[against]) if against else None
    tolerance = system.tolerance if claimed else None
    if not real.any() or real.all():
        if error is None:
            raise PatchclampError(
                f"{truth.name}: has no candidate outside of the mechanism, and no closed form"
            )
        verdict: Verdict = "estimate" if not claimed else "exact" if error <= system.tolerance else "wrong"
        return Outcome(verdict, error=error, against=against, tolerance=tolerance)
    value, low, high = area_over_items(values, real, getattr(result, "groups", ()), seed=seed)
    verdict = "recovered" if low > 0.5 else "missed"
    if claimed and error is not None and error > system.tolerance:
        verdict = "wrong"
    return Outcome(verdict, "AUROC", value, low, high, "items", 0.5, error, against, tolerance)


def candidates(system: Circuit) -> Mapping[str, bool]:
    """The nodes; where they are all of one class and edges are sites of their own, those."""
    mixed = len(set(system.nodes.values())) == 2
    if mixed or len(set(system.edges.values())) < 2:
        return system.nodes
    return system.edges if all(_is_address(name) for name in system.edges) else system.nodes


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
        return values.sum(1)
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


def _control(values: Array, real: NDArray[np.bool_], groups: Sequence[str], seed: int) -> Outcome:
    """Nothing may be found: idle candidates score exactly 0, or no better than chance."""
    idle = values[:, ~real]
    largest = float(np.abs(idle).max())
    scale = float(np.abs(values.mean(0)).max())
    if largest == 0.0:
        return Outcome(
            "clean", error=0.0, against="idle units", tolerance=0.0, note="idle units score exactly 0"
        )
    if real.any():
        value, low, high = area_over_items(values, real, groups, seed=seed)
        verdict: Verdict = "clean" if low <= 0.5 else "false positive"
        return Outcome(verdict, "AUROC", value, low, high, "items", 0.5, largest, "idle units")
    p = chance_of_largest(values, seed)
    found = float(np.abs(idle.mean(0)).max())
    note = (
        f"largest of {idle.shape[1]} scores {found:.2g} of {scale:.2g}, p = {p:.3g} (signs of items flipped)"
    )
    return Outcome("clean" if p > 0.05 else "false positive", error=found, against="idle units", note=note)


ATTRIBUTE = Adaptor("attribute", "circuit", circuit_variants, score_circuit, judge_circuit)
