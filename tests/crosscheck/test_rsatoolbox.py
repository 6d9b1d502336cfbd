"""Dissimilarities, comparators, ceilings and the bootstrap against rsatoolbox."""

from __future__ import annotations

import numpy as np
import pytest

from patchclamp.compare import ceilings, dissimilarities, noise_covariance, rsa
from patchclamp.compare.topological_rsa import geotopological

pytestmark = pytest.mark.crosscheck

rsatoolbox = pytest.importorskip("rsatoolbox")

NAMES = {
    "cosine": "cosine",
    "pearson": "corr",
    "spearman": "spearman",
    "rho_a": "rho-a",
    "whitened_cosine": "cosine_cov",
}


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def theirs(patterns: np.ndarray, method: str, **options) -> np.ndarray:
    data = rsatoolbox.data.Dataset(patterns)
    return rsatoolbox.rdm.calc_rdm(data, method=method, **options).dissimilarities[0]


def test_dissimilarities() -> None:
    x = rng(0).normal(size=(12, 30))
    assert dissimilarities(x, "correlation") == pytest.approx(theirs(x, "correlation"), abs=1e-12)
    assert dissimilarities(x, "euclidean2") == pytest.approx(theirs(x, "euclidean"), abs=1e-12)
    residuals = rng(1).normal(size=(200, 30)) * rng(2).uniform(0.5, 2, 30)
    noise = noise_covariance(residuals)
    assert dissimilarities(x, "euclidean2", noise=noise) == pytest.approx(
        theirs(x, "mahalanobis", noise=np.linalg.inv(noise)), abs=1e-10
    )


def test_poisson() -> None:
    """Theirs: a prior of rate 1 and weight .1; ours adds `prior` to the rate and divides by 1 + prior."""
    counts = rng(3).poisson(4.0, size=(8, 20)).astype(float)
    found = rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(counts), method="poisson", prior_weight=1)
    assert dissimilarities(counts, "poisson_kl", prior=1.0) == pytest.approx(
        found.dissimilarities[0], abs=1e-10
    )


def test_crossnobis() -> None:
    folds, conditions, units = 4, 9, 25
    x = rng(4).normal(size=(folds, conditions, units))
    data = rsatoolbox.data.Dataset(
        x.reshape(-1, units),
        obs_descriptors={
            "conds": np.tile(np.arange(conditions), folds),
            "run": np.repeat(np.arange(folds), conditions),
        },
    )
    for noise in (None, noise_covariance(rng(5).normal(size=(300, units)))):
        precision = None if noise is None else np.linalg.inv(noise)
        other = rsatoolbox.rdm.calc_rdm(
            data, method="crossnobis", descriptor="conds", cv_descriptor="run", noise=precision
        )
        found = dissimilarities(x, "crossnobis", noise=noise)
        assert found == pytest.approx(other.dissimilarities[0], abs=1e-10)


@pytest.mark.parametrize("comparator", list(NAMES))
def test_comparators(comparator: str) -> None:
    x = dissimilarities(rng(6).normal(size=(14, 20)), "euclidean2")
    y = dissimilarities(rng(7).normal(size=(14, 25)), "euclidean2")
    for a, b in ((x, y), (np.round(x), np.round(y))):  # rounded: with ties
        other = rsatoolbox.rdm.compare(
            rsatoolbox.rdm.RDMs(a[None]), rsatoolbox.rdm.RDMs(b[None]), method=NAMES[comparator]
        )
        # Their whitened cosine solves with the covariance by conjugate gradients.
        tolerance = 1e-4 if comparator == "whitened_cosine" else 1e-10
        assert rsa(a, b, comparator).value == pytest.approx(float(other[0, 0]), abs=tolerance)


@pytest.mark.parametrize("comparator", ["cosine", "pearson", "spearman", "rho_a"])
def test_ceilings(comparator: str) -> None:
    subjects = rng(8).random(66) + rng(9).random(size=(7, 66))
    low, high = rsatoolbox.inference.boot_noise_ceiling(
        rsatoolbox.rdm.RDMs(subjects), method=NAMES[comparator]
    )
    assert ceilings(subjects, comparator) == pytest.approx((float(low), float(high)), abs=1e-3)


def test_bootstrap_over_conditions() -> None:
    """Both drop pairs of a condition with itself; draws differ, quantiles agree up to their noise."""
    x = rng(10).normal(size=(40, 30))
    a, b = dissimilarities(x), dissimilarities(x + rng(11).normal(size=x.shape))
    found = rsa(a, b, "spearman", n_boot=1000)
    np.random.seed(0)
    other = rsatoolbox.inference.eval_bootstrap_pattern(
        rsatoolbox.model.ModelFixed("m", rsatoolbox.rdm.RDMs(a[None])),
        rsatoolbox.rdm.RDMs(b[None]),
        method="spearman",
        N=1000,
        boot_noise_ceil=False,
    )
    low, high = np.nanquantile(other.evaluations[:, 0], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_geotopological_differs_as_documented() -> None:
    """Theirs cuts at quantiles of the values themselves, ours of their ranks, so that only ours ignores d -> d^3."""
    d = rng(12).random(66)
    assert geotopological(d, 0.1, 0.9) == pytest.approx(geotopological(d**3, 0.1, 0.9))
    from rsatoolbox.rdm.transform import geotopological_transform as cut

    first, second = (cut(rsatoolbox.rdm.RDMs(v[None]), 0.1, 0.9).dissimilarities[0] for v in (d, d**3))
    assert np.abs(first - second).max() > 0.05
