"""Sparse and cluster matching, stochastic shapes, and resampled dissimilarities, with planted or closed-form answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from patchclamp.base.errors import PatchclampError
from patchclamp.compare import match_clusters, match_units, rsa, sparse_match, stochastic_procrustes
from patchclamp.compare.dissimilarity import square
from patchclamp.compare.resampled import draw_counts, resampled
from patchclamp.compare.rsa import COMPARATORS
from patchclamp.compare.sparse_match import units_on_path


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rotation(d: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(rng(seed).normal(size=(d, d)))[0]


@pytest.mark.parametrize("comparator", list(COMPARATORS))
def test_resampled_scores_are_those_of_each_draw_ranked_anew(comparator: str) -> None:
    g, n = rng(), 14
    pairs = n * (n - 1) // 2
    models = g.integers(0, 30, size=(2, pairs)).astype(float)  # with ties
    targets = g.normal(size=(3, pairs))
    counts, people = draw_counts(n, 12, subjects=3, seed=4)
    assert (counts.sum(1) == n).all() and (people.sum(1) == 3).all()
    found = resampled(models, targets, counts, comparator)
    for b, count in enumerate(counts):
        drawn = np.repeat(np.arange(n), count.astype(int))
        drawn = np.unique(drawn) if comparator == "whitened_cosine" else drawn
        i, j = (drawn[part] for part in np.triu_indices(len(drawn), 1))
        i, j = i[i != j], j[i != j]
        for a in range(2):
            for t in range(3):
                expected = COMPARATORS[comparator](square(models[a])[i, j], square(targets[t])[i, j])
                assert found[b, a, t] == pytest.approx(expected, abs=3e-7)


def test_rsa_interval_covers_the_similarity_of_many_conditions() -> None:
    hits = []
    for seed in range(60):
        x = rng(seed).normal(size=(40, 30))
        y = x + 1.5 * rng(seed + 500).normal(size=x.shape)
        found = rsa(x, y, "pearson", n_boot=200)
        hits.append(found.low <= 0.307 <= found.high)  # 1 / (1 + 1.5^2): what two noisy correlations share
    assert np.mean(hits) > 0.85


def test_sparse_matching_counts_the_units_it_takes() -> None:
    x = rng().normal(size=(1000, 24))
    order = rng(1).permutation(24)
    copy = sparse_match(x, 2 * x[:, order] + 0.4 * rng(2).normal(size=x.shape))
    assert copy.predictors == 1 and copy.value > 0.9
    assert (np.abs(copy.weights).argmax(0) == order).all()
    sums = sparse_match(x, x[:, :12] + x[:, 12:])
    assert (sums.table["predictors"] == 2).all() and sums.value > 0.999
    turned = sparse_match(x, x @ rotation(24))
    assert turned.predictors > 12 and turned.table["dense"].mean() > 0.99 and turned.table["best"].max() < 0.7
    # With more units than fitted samples a fit is perfect on what it saw; what is scored, it did not see.
    wide = sparse_match(rng(6).normal(size=(60, 50)), rng(7).normal(size=(60, 20)), tolerance=0.0)
    assert wide.value < 0.1
    noise = sparse_match(x, rng(5).normal(size=x.shape))
    assert noise.predictors == 0 and abs(noise.value) < 0.02
    assert str(noise).startswith("r2") and copy.table["null"].mean() < 0.02


def test_clusters_find_subspaces_that_one_to_one_matching_cannot() -> None:
    latent, label = rng().normal(size=(1500, 4, 2)), np.repeat(np.arange(4), 8)

    def network(seed: int) -> np.ndarray:
        g = rng(seed)
        units = np.concatenate([latent[:, k] @ g.normal(size=(2, 8)) for k in range(4)], 1)
        return units + 0.1 * g.normal(size=units.shape)

    a, b = network(1), network(2)[:, np.r_[0:32]]
    for k in (4, None):
        found = match_clusters(a, b, k)
        both = np.r_[found.a, found.b]
        assert normalized_mutual_info_score(np.r_[label, label], both) == pytest.approx(1)
        assert found.value > 0.95 and found.table["null"].max() < 0.05
    assert match_units(a, b).value < 0.95
    apart = match_clusters(a, rng(9).normal(size=b.shape), 4)
    assert apart.value < 0.1
    dead = match_clusters(np.column_stack([a, np.zeros(len(a))]), b, 4)
    assert dead.a[-1] == -1


def test_stochastic_shape() -> None:
    g = rng()
    x = g.normal(size=(8, 40, 5)) * g.uniform(0.5, 2, size=(8, 1, 5))
    for alpha in (0.0, 1.0, 2.0):
        assert stochastic_procrustes(x, x @ rotation(5), alpha=alpha).value < 1e-5
    # Zero means, noise (1, 4) in both of a's conditions, (1, 4) and (4, 1) in b's: the best rotation is 45 degrees.
    still, wide = np.zeros((2, 2)), np.diag([1.0, 4.0])
    a, b = (still, np.stack([wide, wide])), (still, np.stack([wide, np.diag([4.0, 1.0])]))
    found = stochastic_procrustes(a, b, alpha=0)
    assert found.value**2 == pytest.approx(2 * (10 - 2 * np.sqrt(20.5)), abs=1e-6)
    assert stochastic_procrustes(a, b, alpha=2).value == 0
    # The same means, other noise: only a distance that looks at noise sees it.
    y = x.mean(1, keepdims=True) + 2 * (x - x.mean(1, keepdims=True))
    assert stochastic_procrustes(x, y, alpha=2).value < 1e-5
    assert stochastic_procrustes(x, y).value > 0.3


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: stochastic_procrustes(np.zeros((3, 4, 2)), np.zeros((3, 4, 2)), alpha=3), "alpha=3"),
        (lambda: stochastic_procrustes(np.zeros((3, 1, 2)), np.zeros((3, 4, 2))), "at least 2 repeats"),
        (lambda: stochastic_procrustes(np.zeros((3, 4, 2)), np.zeros((5, 4, 2))), "3 and 5 conditions"),
        (lambda: sparse_match(np.eye(20), np.eye(20), held_out=1.0), "held_out=1"),
        (lambda: match_clusters(np.eye(9)[:, :2], np.eye(9)[:, :2], 9), "n_clusters=9"),
    ],
)
def test_refusals(call, words: str) -> None:
    with pytest.raises(PatchclampError, match=words):
        call()


def coordinate_descent(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The lasso of one target, min |y - x w|^2 / 2n + penalty |w|_1, one weight after the other."""
    gram, cross = x.T @ x / len(x), x.T @ y / len(x)
    weights = np.zeros(x.shape[1])
    for _ in range(2000):
        for unit in range(len(weights)):
            raw = cross[unit] - gram[unit] @ weights + gram[unit, unit] * weights[unit]
            weights[unit] = np.sign(raw) * max(abs(raw) - penalty, 0) / gram[unit, unit]
    return weights


def test_the_path_takes_the_units_of_coordinate_descent() -> None:
    x = rng(0).normal(size=(120, 12))
    y = x[:, :3] @ rng(1).normal(size=(3, 4)) + rng(2).normal(size=(120, 4))
    supports = units_on_path(x, y, 5)
    assert not supports[0].any()
    for share, support in zip(np.geomspace(0.95, 0.01, 5), supports[1:], strict=True):
        for unit in range(4):
            top = np.abs(x.T @ y[:, unit]).max() / len(x)
            assert ((coordinate_descent(x, y[:, unit], share * top) != 0) == support[:, unit]).all()
