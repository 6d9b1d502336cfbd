"""Comparisons of populations: identities, invariances and planted answers, with the figures of closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import squareform

from patchclamp.base.errors import PatchclampError
from patchclamp.compare import (
    METHODS,
    bures,
    cca,
    ceilings,
    cka,
    cka_matrix,
    dissimilarities,
    fit_cca,
    fit_stochastic_cca,
    layers,
    match_units,
    noise_covariance,
    procrustes,
    rsa,
    topological_rsa,
)
from patchclamp.compare.dissimilarity import square
from patchclamp.compare.rsa import rho_a, whitened_cosine
from patchclamp.compare.topological_rsa import geodesic, geotopological
from patchclamp.nouns.recording.recording import Recording


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rotation(d: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(rng(seed).normal(size=(d, d)))[0]


# ---- alignment


def test_cka_of_independent_populations_is_zero_only_when_debiased() -> None:
    draws = [(rng(s).normal(size=(50, 1000)), rng(s + 99).normal(size=(50, 1000))) for s in range(10)]
    assert np.mean([cka(x, y, "biased").value for x, y in draws]) > 0.9
    assert abs(np.mean([cka(x, y).value for x, y in draws])) < 0.03


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_cka_ignores_rotation_shift_and_scale(estimator: str) -> None:
    x = rng().normal(size=(40, 6))
    assert cka(x, 5 * x @ rotation(6) + 2, estimator).value == pytest.approx(1, abs=1e-12)
    assert cka(x, x @ np.diag([1, 5, 1, 1, 1, 1.0]), estimator).value < 0.99


def test_debiased_hsic_is_the_textbook_formula() -> None:
    x, y = rng(1).normal(size=(12, 4)), rng(2).normal(size=(12, 3))
    x, y = x - x.mean(0), y - y.mean(0)

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        k, m, n = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), len(k)
        one = np.ones(n)
        trace = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (trace - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    assert cka(x, y).value == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)), abs=1e-12)


def test_the_matrix_of_all_sites_in_one_pass_is_that_of_the_pairs() -> None:
    x = rng().normal(size=(64, 5)).astype(np.float32)
    y = (x @ rng(1).normal(size=(5, 7)) + rng(2).normal(size=(64, 7))).astype(np.float32)
    recording = Recording.from_arrays({"a": x, "b": y, "c": x @ rotation(5).astype(np.float32)})
    found = cka_matrix(recording, batch_size=64)
    assert found.loc["a", "b"] == pytest.approx(cka(x, y).value, abs=1e-5)
    assert found.loc["a", "c"] == pytest.approx(1, abs=1e-5)
    # Batches: criteria are averaged, not ratios; so a batch of 16 estimates the same number.
    assert cka_matrix(recording, batch_size=16).loc["a", "b"] == pytest.approx(found.loc["a", "b"], abs=0.1)


# ---- dissimilarities


def test_crossnobis_of_equal_conditions_is_zero_and_the_plain_distance_is_not() -> None:
    folds = rng().normal(size=(2, 40, 200))
    assert abs(dissimilarities(folds, "crossnobis").mean()) < 0.02
    assert dissimilarities(folds.mean(0), "euclidean2").mean() == pytest.approx(1, abs=0.05)


def test_crossnobis_is_the_mean_over_ordered_pairs_of_folds() -> None:
    folds, noise = (
        rng(3).normal(size=(3, 4, 5)),
        noise_covariance(rng(4).normal(size=(60, 5)) * [1, 2, 1, 1, 3]),
    )
    inverse = np.linalg.inv(noise)
    expected = []
    for i in range(4):
        for j in range(i + 1, 4):
            d = folds[:, i] - folds[:, j]
            expected.append(
                np.mean([d[m] @ inverse @ d[n] / 5 for m in range(3) for n in range(3) if m != n])
            )
    assert dissimilarities(folds, "crossnobis", noise=noise) == pytest.approx(np.array(expected))


def test_whitened_cosine_is_linear_cka_and_the_explicit_covariance() -> None:
    x, y = rng(5).normal(size=(12, 6)), rng(6).normal(size=(12, 9))
    dx, dy = dissimilarities(x, "euclidean2"), dissimilarities(y, "euclidean2")
    assert whitened_cosine(dx, dy) == pytest.approx(cka(x, y, "biased").value, abs=1e-10)
    i, j = np.triu_indices(12, 1)
    contrast = np.zeros((len(i), 12))
    contrast[np.arange(len(i)), i], contrast[np.arange(len(i)), j] = 1, -1
    inverse = np.linalg.inv((contrast @ contrast.T) ** 2)
    explicit = dx @ inverse @ dy / np.sqrt(dx @ inverse @ dx * (dy @ inverse @ dy))
    assert whitened_cosine(dx, dy) == pytest.approx(explicit, abs=1e-10)
    assert rsa(dx, dy, "cosine").value != pytest.approx(explicit, abs=1e-3)


def test_rho_a_breaks_ties_at_random() -> None:
    x, y = np.array([1, 1, 2, 2, 3, 4.0]), np.array([1, 2, 2, 3, 3, 5.0])
    assert rho_a(x, y) == pytest.approx(0.842857, abs=1e-6)
    drawn = rng()

    def shuffled(v: np.ndarray) -> np.ndarray:
        return np.lexsort((drawn.random(len(v)), v)).argsort().astype(float)

    trials = [np.corrcoef(shuffled(x), shuffled(y))[0, 1] for _ in range(4000)]
    assert np.mean(trials) == pytest.approx(0.842857, abs=0.01)


def test_ceilings_enclose_the_true_model() -> None:
    inside = []
    for seed in range(10):
        truth = rng(seed).normal(size=66)
        subjects = truth + rng(seed + 50).normal(size=(8, 66))
        low, high = ceilings(subjects, "pearson")
        value = rsa(truth, list(subjects), "pearson")
        assert value.ceiling == (low, high) and low < high
        inside.append(low < value.value < high)
    assert np.mean(inside) >= 0.8


def test_rsa_bootstrap_is_seeded_and_brackets_the_value() -> None:
    x = rng().normal(size=(20, 30))
    y = x + rng(1).normal(size=x.shape)
    a, b = (rsa(x, y, n_boot=100, seed=3) for _ in range(2))
    assert a == b and a.low < a.value < a.high


def planted(n: int, subjects: int = 8, units: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Patterns (condition, unit), and dissimilarities (subject, pair) that are theirs plus noise."""
    x = rng(21).normal(size=(n, units))
    truth = dissimilarities(x)
    return x, truth + 0.1 * rng(22).normal(size=(subjects, len(truth)))


@pytest.mark.parametrize("n", [6, 8, 12])
def test_rsa_takes_subjects_as_an_array_as_it_takes_a_list(n: int) -> None:
    x, vectors = planted(n, 8 if n != 8 else 7)
    for model in (x, dissimilarities(x), squareform(dissimilarities(x))):
        found, listed = rsa(model, vectors), rsa(model, list(vectors))
        assert found == listed and found.value > 0.7
        assert found.meta["subjects"] == len(vectors) and found.n == n and found.ceiling is not None
    squares = np.stack([squareform(v, checks=False) for v in vectors])
    assert rsa(x, squares).value == pytest.approx(rsa(x, list(vectors)).value)


def test_as_many_subjects_as_conditions_are_ambiguous_and_refused() -> None:
    """Eight rows of 28 numbers are eight conditions x 28 units, or the 28 dissimilarities of eight subjects."""
    x, vectors = planted(8)
    for method in (rsa, topological_rsa):
        with pytest.raises(
            PatchclampError, match=r"either 8 conditions x 28 units or the 28 dissim.*list\(array"
        ):
            method(x, vectors)
    assert rsa(x, list(vectors)).value > 0.7 and rsa(x, dissimilarities(vectors)).value < 0.5
    with pytest.raises(PatchclampError, match="either 8 conditions"):
        layers(Recording.from_arrays({"a": x}), {"area": vectors}, method="rsa", n_boot=0)


def test_square_matrices_of_dissimilarities_are_no_patterns() -> None:
    x, vectors = planted(10)
    model, one = dissimilarities(x), vectors[0]
    expected = rsa(model, one).value
    a, b = squareform(model), squareform(one, checks=False)
    for pair in ((a, b), (a, one), (model, b), (x, b), (a, [b])):
        assert rsa(*pair).value == pytest.approx(expected), pair
    layered = layers(Recording.from_arrays({"a": x}), {"area": b}, method="rsa", n_boot=0)
    assert layered.table["value"].item() == pytest.approx(expected)
    patterns = rng(23).normal(size=(10, 10))  # square, but neither symmetric nor zero on the diagonal
    assert rsa(patterns, patterns.copy()).value == pytest.approx(1)
    assert rsa(patterns, x).value == pytest.approx(rsa(dissimilarities(patterns), model).value)


def test_topological_similarity_keeps_the_twisted_ring() -> None:
    theta = 2 * np.pi * np.arange(24) / 24
    flat = np.stack([np.cos(theta), np.sin(theta)], 1)
    twisted = np.column_stack([flat, 1.5 * np.sin(2 * theta)])
    steps = np.abs(np.subtract.outer(np.arange(24), np.arange(24)))
    ring = np.minimum(steps, 24 - steps)[np.triu_indices(24, 1)].astype(float)
    d = dissimilarities(twisted, "euclidean2")
    plain, kept = rsa(d, ring).value, rsa(geodesic(d, 0.1), ring).value
    assert plain < 0.6 and kept > 0.95
    assert rsa(dissimilarities(flat, "euclidean2"), ring).value > 0.99


def test_clusters_are_connected_so_that_codes_with_the_same_ones_are_not_alike_by_ties() -> None:
    def code(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return np.repeat(8 * rng.normal(size=(8, 20)), 5, axis=0) + rng.normal(size=(40, 20))

    for seed in range(4):
        a, b = code(seed), code(100 + seed)
        lengths = geodesic(dissimilarities(a, "euclidean2"), 0.1)
        assert np.unique(lengths, return_counts=True)[1].max() < 0.02 * len(lengths)
        found = topological_rsa(a, b)
        assert "raised to" in found.method and min(found.meta["quantiles"]) > 0.1
        assert abs(found.value - rsa(a, b, kind="euclidean2").value) < 0.25, found.value
        assert topological_rsa(a, a).value == pytest.approx(1)
    round_ = np.random.default_rng(0).normal(size=(30, 2))
    assert "raised" not in topological_rsa(round_, round_, quantile=0.5).method


def test_geotopological_transform() -> None:
    d = rng().random(66)
    cut = geotopological(d, 0.2, 0.8)
    assert np.mean(cut == 0) == pytest.approx(0.2, abs=0.02) and np.mean(cut == 1) == pytest.approx(
        0.2, abs=0.02
    )
    assert np.array_equal(cut, geotopological(d**3, 0.2, 0.8))
    assert np.array_equal(geotopological(d).argsort(), d.argsort())
    assert square(d).shape == (12, 12)
    assert topological_rsa(d, d**3, "geotopological", low=0.1, high=0.9).value == 1


def test_geodesic_keeps_the_edge_of_the_closest_pair() -> None:
    # A path a - b - c with the closest pair in it: without its edge the graph falls apart.
    d = dissimilarities(np.array([[0.0], [0.1], [1.0], [2.1]]), "euclidean2")
    lengths = square(geodesic(d, 0.5))
    assert lengths[0, 1] == 0 and lengths[0, 3] == lengths.max()
    assert lengths[0, 2] < lengths[0, 3]


# ---- shapes


def test_procrustes() -> None:
    x = rng().normal(size=(60, 5))
    assert procrustes(x, x @ rotation(5) + 3).value < 1e-6
    skewed = x @ rng(1).normal(size=(5, 5))
    assert procrustes(x, skewed).value > 0.2
    assert procrustes(x, skewed, alpha=0).value < 1e-5
    assert procrustes(x, np.pad(x, ((0, 0), (0, 3)))).value < 1e-6
    assert bures(np.diag([1.0, 4.0]), np.diag([4.0, 1.0])) == pytest.approx(2)


def test_procrustes_obeys_the_triangle_inequality() -> None:
    for seed in range(30):
        a, b, c = (rng(100 * seed + i).normal(size=(20, 4)) for i in range(3))
        ab, bc, ac = (procrustes(p, q).value for p, q in ((a, b), (b, c), (a, c)))
        assert ac <= ab + bc + 1e-12


def test_held_out_shape_sees_that_noise_does_not_match() -> None:
    a, b = rng(0).normal(size=(20, 20)), rng(1).normal(size=(20, 20))
    test = (rng(2).normal(size=(20, 20)), rng(3).normal(size=(20, 20)))
    assert procrustes(a, b, alpha=0).value < 0.3
    assert procrustes(a, b, alpha=0, test=test).value > 1.2


# ---- canonical correlation


def views(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Population correlations .9, .6, .3, 0, 0, 0, hidden by random maps."""
    rho = np.array([0.9, 0.6, 0.3, 0, 0, 0])
    g = rng(seed)
    x = g.normal(size=(n, 6))
    y = rho * x + np.sqrt(1 - rho**2) * g.normal(size=(n, 6))
    return x @ rng(7).normal(size=(6, 6)), y @ rng(8).normal(size=(6, 6))


def test_cca_finds_the_population_correlations() -> None:
    x, y = views(20000, 0)
    assert fit_cca(x, y, 3).correlations == pytest.approx([0.9, 0.6, 0.3], abs=0.02)
    held = fit_cca(x, y, 2).score(*views(5000, 1))
    assert held == pytest.approx([0.9, 0.6], abs=0.03)


def test_in_sample_cca_of_noise_is_one_and_held_out_is_not() -> None:
    a, b = rng(0).normal(size=(20, 19)), rng(1).normal(size=(20, 19))
    assert cca(a, b).value > 0.999
    assert abs(cca(a, b, test=(rng(2).normal(size=(200, 19)), rng(3).normal(size=(200, 19)))).value) < 0.3


@pytest.mark.slow
def test_stochastic_cca_stays_finite_on_raw_units_with_heavy_tails_and_massive_ones() -> None:
    rng = np.random.default_rng(0)
    shared = rng.standard_t(3, size=(1200, 4))

    def side() -> np.ndarray:
        x = 2 * shared @ rng.normal(size=(4, 576)) + rng.standard_t(3, size=(1200, 576))
        scale = np.exp(rng.normal(size=576))
        scale[[5, 77]] *= 500
        return np.asarray(x * scale + 10 * scale)

    a, b = side(), side()

    def batches():
        return ((a[k : k + 200], b[k : k + 200]) for k in range(0, 1200, 200))

    for rate in (1e-1, 1e-2):
        found = fit_stochastic_cca(batches, 4, epochs=2, learning_rate=rate)
        assert np.isfinite(found.a).all() and np.isfinite(found.correlations).all()
    assert fit_stochastic_cca(batches, 4, epochs=15).correlations.min() > 0.9
    with pytest.raises(PatchclampError, match="no batch"):
        fit_stochastic_cca(list, 4)


def test_stochastic_cca_reaches_the_same_subspace() -> None:
    x, y = views(4000, 2)
    x, y = x / x.std(0), y / y.std(0)

    def batches():
        return ((x[i : i + 200], y[i : i + 200]) for i in range(0, 4000, 200))

    found = fit_stochastic_cca(batches, 2, epochs=40)
    assert found.correlations == pytest.approx(fit_cca(x, y, 2).correlations, abs=0.02)
    again = fit_stochastic_cca(batches, 2, epochs=2)
    assert np.array_equal(again.a, fit_stochastic_cca(batches, 2, epochs=2).a)


# ---- units


def test_matching_finds_a_permuted_copy_and_not_a_rotated_one() -> None:
    x = rng().normal(size=(2000, 40))
    order = rng(1).permutation(40)
    copy = x[:, order] * rng(2).uniform(0.5, 2, 40) + 3
    found = match_units(x, copy + 0.2 * rng(3).normal(size=x.shape))
    assert np.array_equal(found.table["b"], np.argsort(order)) and found.value > 0.9
    assert found.table["unique"].all()
    rotated = match_units(x, x @ rotation(40))
    assert rotated.value < 0.45 and cka(x, x @ rotation(40)).value > 0.999
    assert match_units(x, rng(5).normal(size=x.shape)).value == pytest.approx(found.null, abs=0.02)


def test_dead_units_are_left_out_and_counted() -> None:
    x = rng().normal(size=(50, 3))
    found = match_units(np.column_stack([x, np.zeros(50)]), x)
    assert found.dropped == (1, 0) and len(found.table) == 3


# ---- what is refused


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: cka(np.ones((5, 2)), np.ones((6, 2))), "5 and 6 samples"),
        (lambda: cka(np.eye(3), np.eye(3)), "from 4 on"),
        (lambda: cka(np.ones((5, 2)), np.eye(5)), "does not vary"),
        (lambda: cka(np.full((5, 2), np.nan), np.eye(5)), "not a finite number"),
        (lambda: rsa(np.ones(5), np.ones(5)), "no number of conditions"),
        (lambda: rsa(np.ones(6), np.ones(3)), "4 and 3 conditions"),
        (lambda: rsa(np.eye(4), np.eye(4), "kendal"), "give one of"),
        (lambda: dissimilarities(np.eye(4), "crossnobis"), "folds x conditions"),
        (lambda: dissimilarities([[1.0, 1.0], [1.0, 2.0]]), "no correlation"),
        (lambda: procrustes(np.eye(4), np.eye(4), alpha=2), "alpha=2"),
        (lambda: fit_cca(np.eye(4), np.eye(4), 9), "k=9"),
        (lambda: geotopological([1.0, 2, 3], 0.5, 0.5), "low < high"),
        (lambda: cka(Recording.from_arrays({"a": np.eye(4), "b": np.eye(4)}), np.eye(4)), "2 sites"),
    ],
)
def test_refusals(call, words: str) -> None:
    with pytest.raises(PatchclampError, match=words):
        call()


def test_every_method_gives_its_largest_similarity_on_a_copy() -> None:
    x = rng().normal(size=(20, 4))
    for name, method in METHODS.items():
        value = method(x, x.copy()).value
        assert value == pytest.approx(0 if name == "procrustes" else 1, abs=1e-6), name


def test_masked_units_do_not_count() -> None:
    x = rng().normal(size=(20, 4))
    wide = np.column_stack([x, np.full(20, np.nan)])
    recording = Recording.from_arrays({"cells": wide}, labels={"cells": {"present": [True] * 4 + [False]}})
    assert cka(recording, x, missing="drop").value == pytest.approx(1)
