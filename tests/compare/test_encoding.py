"""Encoding models: planted features, partitions and ceilings with known answers, and folds that do not leak."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from sklearn.linear_model import Ridge as Reference
from sklearn.model_selection import KFold

from patchclamp.base.errors import PatchclampError
from patchclamp.compare.encoding import (
    BandedRidge,
    Blocked,
    Ridge,
    autocorrelation_width,
    delayed,
    feve,
    noise_ceiling,
    normalised_correlation,
    partition,
    spearman_brown,
    split_half,
)


def test_ridge_is_that_of_scikit_learn() -> None:
    g = np.random.default_rng(0)
    for n, d in ((60, 8), (20, 50)):
        x, y = g.normal(size=(n, d)), g.normal(size=(n, 3))
        ours = Ridge(alphas=[7.0], scale=False).fit(x, y)
        theirs = Reference(alpha=7.0).fit(x, y)
        assert ours.coef_ == pytest.approx(theirs.coef_.T, abs=1e-8)
        assert ours.predict(x) == pytest.approx(theirs.predict(x), abs=1e-8)


def banded_problem(seed: int) -> tuple[dict[str, np.ndarray], ...]:
    g = np.random.default_rng(seed)
    w = g.normal(size=20)
    w /= np.linalg.norm(w)
    spaces = {"good": g.normal(size=(400, 20)), "noise": g.normal(size=(400, 400))}
    y = spaces["good"] @ w + 0.5 * g.normal(size=400)
    return {k: v[:200] for k, v in spaces.items()}, y[:200], {k: v[200:] for k, v in spaces.items()}, y[200:]


def test_banded_ridge_finds_the_good_space_and_its_parts_add_up() -> None:
    train, y, test, y_test = banded_problem(0)
    plain = Ridge().fit(np.hstack(list(train.values())), y).score(np.hstack(list(test.values())), y_test)[0]
    banded = BandedRidge(n_draws=20).fit(train, y)
    value = banded.score(test, y_test)[0]
    assert value - plain > 0.2 and value == pytest.approx(0.8, abs=0.1)
    assert banded.gamma_[0, 0] > 0.9
    parts = banded.split_r2(test, y_test)
    assert sum(p[0] for p in parts.values()) == pytest.approx(value, abs=1e-10)
    again = BandedRidge(n_draws=20).fit(train, y)
    assert np.array_equal(again.coef_["good"], banded.coef_["good"])


def test_variance_is_partitioned() -> None:
    g = np.random.default_rng(1)
    n = 60000
    x1 = g.normal(size=n)
    x2 = 0.5 * x1 + np.sqrt(0.75) * g.normal(size=n)
    y = x1 + x2 + g.normal(size=n)
    half = n // 2
    spaces = {"one": x1[:half], "two": x2[:half]}
    held = {"one": x1[half:], "two": x2[half:]}
    row = partition(spaces, y[:half], held, y[half:], model=Ridge(alphas=[1e-3])).iloc[0]
    assert row["R2 one"] == pytest.approx(0.5625, abs=0.01)
    assert row["R2 one+two"] == pytest.approx(0.75, abs=0.01)
    assert row["unique one"] == pytest.approx(0.1875, abs=0.01)
    assert row["shared by all"] == pytest.approx(0.375, abs=0.015)


def test_ceilings() -> None:
    g = np.random.default_rng(2)
    signal = g.normal(size=(6000, 1, 4))
    trials = signal + 2 * g.normal(size=(6000, 3, 4))
    assert noise_ceiling(trials) == pytest.approx(np.full(4, 3 / 7), abs=0.02)
    assert split_half(signal + 2 * g.normal(size=(6000, 4, 4))) == pytest.approx(
        np.full(4, spearman_brown(0.2, 4)), abs=0.03
    )
    many = signal + 2 * g.normal(size=(6000, 10, 4))
    guess = signal[:, 0] + 0.5 * g.normal(size=(6000, 4))
    assert normalised_correlation(guess, many) == pytest.approx(np.full(4, 1 / np.sqrt(1.25)), abs=0.02)
    # .8 of a prediction with noise variance .25 misses .04 + .64 / 4 of a signal of variance 1.
    assert feve(0.8 * guess, many) == pytest.approx(np.full(4, 0.8), abs=0.02)


def test_the_default_folds_do_not_leak_and_shuffled_ones_do() -> None:
    shuffled, gapped = [], []
    for seed in range(4):
        g = np.random.default_rng(seed)
        x = gaussian_filter1d(g.normal(size=(600, 100)), 8, axis=0)
        y = gaussian_filter1d(g.normal(size=(600, 50)), 8, axis=0)
        gap = 5 * autocorrelation_width(x)
        for splitter, found in (
            (KFold(5, shuffle=True, random_state=0), shuffled),
            (Blocked(5, gap=gap), gapped),
        ):
            predicted = np.zeros_like(y)
            for train, test in splitter.split(x):
                model = Ridge(alphas=[10.0], scale=False).fit(100 * x[train], 100 * y[train])
                predicted[test] = model.predict(100 * x[test])
                held = [np.corrcoef(predicted[test][:, t], y[test][:, t])[0, 1] for t in range(50)]
                found.append(np.mean(held))
    assert np.mean(shuffled) > 0.9
    assert abs(np.mean(gapped)) < 0.05


def test_groups_are_never_cut() -> None:
    groups = np.repeat(np.arange(6), 5)
    for train, test in Blocked(3, groups=groups).split(np.zeros((30, 1))):
        assert not set(groups[train]) & set(groups[test])


def test_delays_stop_at_the_border_of_a_run() -> None:
    x = np.arange(6.0)[:, None]
    found = delayed(x, [0, 1], groups=[0, 0, 0, 1, 1, 1])
    assert found[:, 1].tolist() == [0, 0, 1, 0, 3, 4]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Blocked(1), "at least 2"),
        (lambda: list(Blocked(5, gap=100).split(np.zeros((20, 1)))), "leaves nothing"),
        (lambda: Ridge(alphas=[0.0]).fit(np.eye(20), np.eye(20)), "positive"),
        (lambda: Ridge().fit(np.eye(20), np.eye(19)), "20 samples of features and 19"),
        (lambda: BandedRidge().fit({}, np.eye(20)), "no feature space"),
        (lambda: noise_ceiling(np.zeros((5, 1, 2))), "at least 2 repeats"),
        (lambda: partition({"a": np.eye(9)}, np.eye(9), {"a": np.eye(9)}, np.eye(9)), "two or three"),
    ],
)
def test_refusals(call, words: str) -> None:
    with pytest.raises(PatchclampError, match=words):
        call()
