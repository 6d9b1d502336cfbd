"""Ridge, banded ridge and the split of R2 against himalaya, on the same folds."""

from __future__ import annotations

import numpy as np
import pytest

from patchclamp.compare.encoding import BandedRidge, Blocked, Ridge, delayed

pytestmark = pytest.mark.crosscheck

himalaya = pytest.importorskip("himalaya")


def problem(seed: int, n: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    x, z = g.normal(size=(n, 20)), g.normal(size=(n, 60))
    y = x @ g.normal(size=(20, 5)) / 4 + g.normal(size=(n, 5))
    return x, z, y


def test_ridge_chooses_the_same_penalties() -> None:
    """himalaya takes the mean of fold losses and ours their sum over samples: equal folds make them one."""
    from himalaya.ridge import RidgeCV

    x, _, y = problem(0)
    alphas = np.logspace(-2, 4, 13)
    ours = Ridge(alphas, cv=Blocked(5), scale=False).fit(x, y)
    theirs = RidgeCV(alphas, cv=5, fit_intercept=True).fit(x, y)
    assert ours.alpha_ == pytest.approx(theirs.best_alphas_)
    assert ours.predict(x) == pytest.approx(theirs.predict(x), abs=1e-8)
    assert ours.score(x, y) == pytest.approx(theirs.score(x, y), abs=1e-8)


def test_banded_ridge_at_given_weights_is_that_of_their_kernels() -> None:
    """The same weights and penalty give the same predictions; only the choice of them differs (see below)."""
    from himalaya.kernel_ridge import WeightedKernelRidge

    x, z, y = problem(1)
    ours = BandedRidge(n_draws=8, cv=Blocked(5), solver="himalaya").fit({"x": x, "z": z}, y)
    kernels = np.stack([s @ s.T for s in ((p - p.mean(0)) / p.std(0) for p in (x, z))])
    deltas = np.log(ours.gamma_ / ours.alpha_)
    theirs = WeightedKernelRidge(
        alpha=1, deltas=deltas, kernels="precomputed", solver_params={"tol": 1e-12, "max_iter": 20000}
    ).fit(kernels, y - y.mean(0))
    assert ours.predict({"x": x, "z": z}) - y.mean(0) == pytest.approx(theirs.predict(kernels), abs=1e-4)


def test_banded_ridge_reaches_the_same_scores() -> None:
    """Ours standardises inside every fold, himalaya's kernels are those of all samples: scores agree."""
    x, z, y = problem(2, 400)
    train, test = slice(0, 200), slice(200, 400)
    spaces = {"x": x[train], "z": z[train]}
    held = {"x": x[test], "z": z[test]}
    own, theirs = (
        BandedRidge(n_draws=40, cv=Blocked(5), solver=s).fit(spaces, y[train]) for s in ("own", "himalaya")
    )
    assert own.score(held, y[test]) == pytest.approx(theirs.score(held, y[test]), abs=0.03)
    assert own.cv_loss_ == pytest.approx(theirs.cv_loss_, rel=0.06)


def test_product_measure() -> None:
    from himalaya.scoring import r2_score_split

    x, z, y = problem(3)
    model = BandedRidge(n_draws=8).fit({"x": x, "z": z}, y)
    parts = model.predict_parts({"x": x, "z": z})
    centred = y - y.mean(0)
    theirs = r2_score_split(centred, np.stack(list(parts.values())))
    ours = model.split_r2({"x": x, "z": z}, y)
    assert np.stack(list(ours.values())) == pytest.approx(theirs, abs=1e-8)
    assert sum(ours.values()) == pytest.approx(model.score({"x": x, "z": z}, y), abs=1e-10)


def test_delays() -> None:
    """voxelwise modelling's delayer, by its definition: x[t - delay], zeros before the run."""
    x = np.random.default_rng(4).normal(size=(30, 2))
    found = delayed(x, [0, 2])
    assert np.array_equal(found[2:, 2:], x[:-2]) and (found[:2, 2:] == 0).all()
