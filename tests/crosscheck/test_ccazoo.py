"""Canonical correlation against cca-zoo."""

from __future__ import annotations

import numpy as np
import pytest

from patchclamp.compare import fit_cca, fit_stochastic_cca

pytestmark = pytest.mark.crosscheck

cca_zoo = pytest.importorskip("cca_zoo", minversion="4")  # names changed in 4


def views(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rho = np.array([0.9, 0.6, 0.3, 0, 0])
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, 5))
    y = rho * x + np.sqrt(1 - rho**2) * g.normal(size=(n, 5))
    mix = np.random.default_rng(7)
    return x @ mix.normal(size=(5, 5)), y @ mix.normal(size=(5, 5))


def test_exact() -> None:
    from cca_zoo.linear import CCA

    x, y = views(500, 0)
    theirs = CCA(n_components=3).fit([x, y])
    left, right = theirs.transform([x, y])
    expected = [abs(np.corrcoef(left[:, k], right[:, k])[0, 1]) for k in range(3)]
    ours = fit_cca(x, y, 3)
    assert ours.correlations == pytest.approx(expected, abs=1e-6)
    a, b = views(300, 1)
    held_left, held_right = theirs.transform([a, b])
    held = [np.corrcoef(held_left[:, k], held_right[:, k])[0, 1] for k in range(3)]
    assert np.abs(ours.score(a, b)) == pytest.approx(np.abs(held), abs=1e-5)


def test_ridge_is_their_shrinkage() -> None:
    from cca_zoo.linear import RidgeCCA

    x, y = views(400, 2)
    for c in (0.1, 0.5):
        theirs = RidgeCCA(n_components=2, shrinkage=c).fit([x, y])
        left, right = theirs.transform([x, y])
        expected = [abs(np.corrcoef(left[:, k], right[:, k])[0, 1]) for k in range(2)]
        ours = np.abs(fit_cca(x, y, 2, ridge=c).score(x, y))
        assert ours == pytest.approx(expected, abs=1e-3)


def test_stochastic_reaches_the_exact_subspace() -> None:
    """Their objective counts each view with itself as well; both have the same minimising subspace."""
    x, y = views(3000, 3)
    x, y = x / x.std(0), y / y.std(0)

    def batches():
        return ((x[i : i + 200], y[i : i + 200]) for i in range(0, 3000, 200))

    found = fit_stochastic_cca(batches, 2, epochs=40)
    assert found.correlations == pytest.approx(fit_cca(x, y, 2).correlations, abs=0.02)
