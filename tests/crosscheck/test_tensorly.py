"""Non-negative factorisation against tensorly's HALS: the same minimum, from the same kind of start."""

from __future__ import annotations

import numpy as np
import pytest

from patchclamp.connect import tensor_factorisation
from patchclamp.connect.groups.tensor_factorisation import match_components

pytestmark = pytest.mark.crosscheck
tensorly = pytest.importorskip("tensorly")


def planted(noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = [rng.random((n, 3)) ** 2 for n in (30, 6, 80)]
    return np.einsum("tr,wr,pr->twp", *parts) + noise * rng.random((30, 6, 80))


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_same_error_and_same_components_as_tensorly(noise: float) -> None:
    from tensorly.decomposition import non_negative_parafac_hals

    tensorly.set_backend("numpy")
    x = planted(noise)
    ours = tensor_factorisation(x, 3, restarts=5, tolerance=1e-8, iterations=2000)
    theirs = min(
        (
            non_negative_parafac_hals(
                x, 3, n_iter_max=2000, init="random", tol=1e-10, random_state=k, return_errors=True
            )
            for k in range(5)
        ),
        key=lambda fit: float(fit[1][-1]),
    )
    weights, factors = theirs[0]
    first, *rest = (np.asarray(f) for f in factors)
    model = np.einsum("r,tr,wr,pr->twp", np.asarray(weights), first, *rest)
    error = np.linalg.norm(x - model) / np.linalg.norm(x)
    assert ours.error == pytest.approx(error, abs=2e-4)
    cosine = match_components([first, *rest], [ours.time, ours.animals, ours.pairs])[1]
    assert cosine.min() > 0.99


def test_where_they_differ_tensorlys_error_in_float32_is_off_on_large_tensors() -> None:
    """Its norm is a float32 sum; ours is in float64, whatever the data."""
    rng = np.random.default_rng(0)
    x = rng.random((200, 10, 2000), dtype=np.float32)
    found = tensor_factorisation(x, 2, restarts=1)
    model = np.einsum("tr,wr,pr->twp", found.time, found.animals, found.pairs)
    wide = x.astype(np.float64)
    assert found.error == pytest.approx(np.linalg.norm(wide - model) / np.linalg.norm(wide), rel=1e-4)
    assert found.energy == pytest.approx((wide**2).sum(), rel=1e-9)
