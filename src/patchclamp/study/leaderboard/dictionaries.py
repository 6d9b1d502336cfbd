"""decompose on planted dictionaries: are the planted directions among those that come back?"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchclamp.base.assignment import cosines, match
from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, student_reach
from patchclamp.base.seeds import numpy_rng
from patchclamp.study.leaderboard.base import Adaptor, Outcome, Variant
from patchclamp.truth.base import Planted, Truth

Array = NDArray[np.float64]
N_RANDOM = 20
TRAINING = {"steps": 1000, "batch_size": 256}
"""The same short training for every method that is trained by gradient descent."""
OPTIONS: Mapping[str, Mapping[str, Any]] = {"snmf": {"sparsity": None}}
"""What a method's defaults assume and planted directions are not: few units of a wide layer in each feature."""
NO_MORE_THAN_UNITS = frozenset({"pca", "ica"})
TRAINED_ON = frozenset({"planted-orthogonal", "planted-coherent", "planted-noise"})
"""Of our own fast truths, those on which such methods are run without ``--all``."""


def is_dictionary_estimator(name: str, method: Any, truth: Truth) -> bool:
    """Whether a method is an estimator of features of one site: told how many, and fitted to activity alone.

    Those of several sites, or of the heads of an attention layer, are not: planted activity has none.
    """
    known = inspect.signature(method).parameters
    fit = getattr(method, "fit", None)
    if fit is None or "heads" in known or not {"n_features", "n_components"} & set(known):
        return False
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = inspect.signature(fit).parameters.values()
    required = [p for p in taken if p.kind in places and p.default is p.empty]
    return len(required) == 2  # self and the activity


def dictionary_variants(name: str, method: Any, system: Planted) -> list[Variant]:
    """As many features as were planted, half of that and twice: nobody knows the number, and a wrong one must do no harm.

    As many are active as there are in a sample, where a method asks for that.
    """
    known = inspect.signature(method).parameters
    most = int((system.directions != 0).any(0).sum()) if name in NO_MORE_THAN_UNITS else None
    active = max(1, round(float((system.codes > 0).sum(1).float().mean())))
    found: dict[int, Variant] = {}
    for said, factor in (("", 1.0), ("told half", 0.5), ("told twice", 2.0)):
        n = max(1, round(factor * len(system.directions)))
        n = n if most is None else min(n, most)
        told = {"n_features": n, "n_components": n, "k": min(active, n), **TRAINING, **OPTIONS.get(name, {})}
        found.setdefault(n, Variant(said, {key: value for key, value in told.items() if key in known}))
    return list(found.values())


def is_quick(name: str, method: Any, truth: Truth) -> bool:
    """Whether a fit takes a second or so: closed forms and alternations on all truths, gradient descent on few."""
    ours = truth.name.startswith(("planted", "superposition"))
    return not ours or truth.name in TRAINED_ON or "steps" not in inspect.signature(method).parameters


def fit_dictionary(method: Any, system: Planted, variant: Variant, seed: int) -> Any:
    """``method(**options).fit(recording)``."""
    seeded = {"seed": seed} if "seed" in inspect.signature(method).parameters else {}
    return method(**variant.options, **seeded).fit(system.recording)


def judge_dictionary(
    name: str, result: Any, system: Planted, variant: Variant, truth: Truth, seed: int
) -> Outcome:
    """Mean cosine of planted directions with the found ones, matched one to one, beside random dictionaries."""
    directions = getattr(result, "directions", result)
    if not isinstance(directions, torch.Tensor) or directions.shape[-1] != system.directions.shape[1]:
        raise PatchclampError(
            f"{type(result).__name__}: has no directions over the {system.directions.shape[1]} units of the recording"
        )
    planted = system.directions.double().numpy()
    found = directions.detach().cpu().double().numpy()
    most = min(
        len(found), len(planted)
    )  # who was told half of the number is judged by the half that there can be
    cosines = np.sort(matched_cosines(planted, found))[-most:]
    rng = numpy_rng([seed, 77])
    live = (
        np.abs(planted).max(0) > 0
    )  # nothing writes on dead units: random directions are drawn among the others
    random = [matched_cosines(planted, rng.normal(size=found.shape) * live) for _ in range(N_RANDOM)]
    null = [one.sum() / most for one in random]
    found_cosine = Estimate.of_mean(cosines, seed=seed)
    chance, top = float(np.mean(null)), float(np.max(null))
    # Of fewer than 8 features there is no interval, and a verdict must be had.
    least = found_cosine.value - student_reach(cosines) if found_cosine.low is None else found_cosine.low
    above = least > top
    if truth.control:
        verdict = "false positive" if above else "clean"
    else:
        verdict = "recovered" if above else "missed"
    note = f"{len(found)} directions for {len(planted)}; {int((cosines > 0.9).sum())} above .9"
    return Outcome(
        verdict,  # type: ignore[arg-type]
        "matched cosine",
        found_cosine.value,
        found_cosine.low,
        None if found_cosine.high is None else min(found_cosine.high, 1.0),
        "features",
        chance,
        note=note,
    )


def matched_cosines(planted: Array, found: Array) -> Array:
    """|cosine| of each planted direction with the found one that Hungarian matching gives it; 0 for those left over.

    Examples
    --------
    >>> matched_cosines(np.eye(2), np.array([[0.0, -3.0]])).tolist()
    [0.0, 1.0]
    """
    pairs = match(np.abs(cosines(planted, found)))
    out = np.zeros(len(planted))
    out[pairs.rows] = pairs.values
    return out


DECOMPOSE = Adaptor(
    "decompose",
    "dictionary",
    dictionary_variants,
    fit_dictionary,
    judge_dictionary,
    fits=is_dictionary_estimator,
    quick=is_quick,
)
