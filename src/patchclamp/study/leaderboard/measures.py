"""measure on planted dictionaries: statistics whose value was planted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchclamp.base.areas import area_over_pairs
from patchclamp.base.seeds import numpy_rng
from patchclamp.study.leaderboard.base import Adaptor, Outcome, Variant
from patchclamp.truth.base import Planted, Truth

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """One measure against what was planted.

    Parameters
    ----------
    on
        What is measured: ``"codes"`` (features as units) or ``"activity"``.
    applies
        Whether a system has what the measure could find.
    judge
        (result, system, seed) -> outcome.
    options
        (system, seed) -> arguments of the measure.
    random_labels
        Whether each document gets one of two labels at random.
    """

    on: str
    applies: Callable[[Planted], bool]
    judge: Callable[[Any, Planted, int], Outcome]
    options: Callable[[Planted, int], Mapping[str, Any]] = lambda system, seed: {}
    random_labels: bool = False


def _within(error: float, against: str, tolerance: float) -> Outcome:
    verdict = "exact" if error <= tolerance else "wrong"
    return Outcome(verdict, error=error, against=against, tolerance=tolerance)  # type: ignore[arg-type]


def _frequency(result: Any, system: Planted, seed: int) -> Outcome:
    planted = np.asarray(system.data["frequency"], dtype=float)
    return _within(float(np.abs(result["rate"].values - planted).max()), "planted frequency", 1e-12)


def _dead(result: Any, system: Planted, seed: int) -> Outcome:
    planted = np.zeros(len(result["dead"]), dtype=bool)
    planted[system.data["dead_units"]] = True
    return _within(float((result["dead"].values != planted).sum()), "dead units", 0.0)


def _mean(result: Any, system: Planted, seed: int) -> Outcome:
    """Mean activity is mean codes @ directions + offset, but for the mean of the noise: within 5 standard errors."""
    codes = system.codes.double().mean(0)
    planted = (codes @ system.directions.double() + system.data["offset"].double()).numpy()
    error = float(np.abs(result["mean"].values - planted).max())
    return _within(error, "planted mean", 5 * system.data["noise"] / len(system.codes) ** 0.5 + 1e-6)


def _linked(system: Planted) -> list[tuple[int, int]]:
    return [tuple(pair) for name in ("pairs", "hierarchy") for pair in system.data.get(name, ())]


def _together(result: Any, system: Planted, seed: int) -> Outcome:
    """AUROC of phi: pairs of features planted to occur together against all other pairs."""
    phi = np.nan_to_num(result["phi"].values)
    rows, columns = np.triu_indices(len(phi), 1)
    linked = {tuple(sorted(pair)) for pair in _linked(system)}
    real = np.array([(int(i), int(j)) in linked for i, j in zip(rows, columns, strict=True)])
    value, low, high = area_over_pairs(phi[rows, columns], real)
    verdict = "recovered" if low > 0.5 else "missed"
    note = f"{int(real.sum())} pairs of {len(real)}"
    return Outcome(verdict, "AUROC", value, low, high, "pairs", 0.5, note=note)  # type: ignore[arg-type]


def _random_labels(system: Planted, seed: int) -> Mapping[str, Any]:
    documents = int(system.recording.samples.doc.max()) + 1
    membership = numpy_rng([seed, 31]).random((documents, 1)) < 0.5
    return {"membership": torch.from_numpy(membership), "statistics": ("auc",), "n_permutations": 199}


def _unlabelled(name: str) -> Callable[[Any, Planted, int], Outcome]:
    """Judge of a statistic of labels that were drawn at random, by its smallest p-value `name` over units."""

    def judge(result: Any, system: Planted, seed: int) -> Outcome:
        p = float(result[name].min())
        verdict = "clean" if p > 0.05 else "false positive"
        return Outcome(verdict, note=f"labels drawn at random: smallest p {p:.3g}")  # type: ignore[arg-type]

    return judge


CHECKS: Mapping[str, Check] = {
    "firing": Check("codes", lambda s: "frequency" in s.data and bool(s.codes.any()), _frequency),
    "sparsity": Check("codes", lambda s: "frequency" in s.data and bool(s.codes.any()), _frequency),
    "dead": Check("activity", lambda s: "dead_units" in s.data and bool(s.codes.any()), _dead),
    "moments": Check("activity", lambda s: {"offset", "noise"} <= set(s.data) and bool(s.codes.any()), _mean),
    "coactivation": Check("codes", lambda s: bool(_linked(s)), _together),
    "selectivity": Check("activity", lambda s: not s.codes.any(), _unlabelled("p_auc"), _random_labels),
    "sdr": Check("codes", lambda s: "frequency" in s.data and bool(s.codes.any()), _frequency),
    "diffusion": Check(
        "activity",
        lambda s: not s.codes.any(),
        _unlabelled("information_p"),
        lambda system, seed: {"max_samples": 256, "n_permutations": 39},
        random_labels=True,
    ),
    "information": Check(
        "activity", lambda s: not s.codes.any(), _unlabelled("information_p"), random_labels=True
    ),
    "gdv": Check("activity", lambda s: not s.codes.any(), _unlabelled("gdv_p"), random_labels=True),
}
"""Measure -> what it is held against; measures that nothing planted speaks about are not here."""


def measure_variants(name: str, method: Any, system: Planted) -> list[Variant]:
    """What the measure is given."""
    check = CHECKS[name]
    return [Variant(check.on, {"check": name})] if check.applies(system) else []


def take_measure(method: Any, system: Planted, variant: Variant, seed: int) -> Any:
    """Update a measure with all samples."""
    check = CHECKS[variant.options["check"]]
    site = system.recording.sites[0]
    values = system.codes if check.on == "codes" else system.recording[site][:]
    measure = method(**check.options(system, seed))
    samples = system.recording.samples
    if check.random_labels:
        documents = int(samples.doc.max()) + 1
        label = numpy_rng([seed, 32]).integers(0, 2, documents)
        samples = replace(samples, label=torch.from_numpy(label)[samples.doc])
    measure.update(values, samples)
    return measure.result()


def judge_measure(
    name: str, result: Any, system: Planted, variant: Variant, truth: Truth, seed: int
) -> Outcome:
    """Hold the statistic against what was planted."""
    return CHECKS[name].judge(result, system, seed)


MEASURE = Adaptor(
    "measure",
    "dictionary",
    measure_variants,
    take_measure,
    judge_measure,
    fits=lambda name, method, truth: name in CHECKS,
)
