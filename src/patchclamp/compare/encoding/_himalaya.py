"""The random search of banded ridge by himalaya, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from patchclamp.base.optional import optional
from patchclamp.compare.inputs import Matrix


def search_himalaya(
    x: Mapping[str, Matrix], y: Matrix, folds: Sequence[Any], draws: Matrix, grid: Matrix
) -> tuple[Matrix, Matrix, Matrix]:
    """Best (gamma, alpha) of every target and its loss a sample, on the draws given.

    Raises
    ------
    PatchclampError
        If himalaya is not installed.
    """
    backend = optional("himalaya.backend", "solver='himalaya' needs").get_backend()
    solve = optional(
        "himalaya.kernel_ridge", "solver='himalaya' needs"
    ).solve_multiple_kernel_ridge_random_search
    kernels = []
    for part in x.values():
        spread = part.std(0)
        standard = (part - part.mean(0)) / np.where(spread > 1e-12, spread, 1.0)
        kernels.append(standard @ standard.T)
    deltas, _, losses, alphas = solve(
        backend.asarray(np.stack(kernels)),
        backend.asarray(y - y.mean(0)),
        n_iter=backend.asarray(draws),
        alphas=backend.asarray(grid),
        cv=list(folds),
        progress_bar=False,
        return_alphas=True,
    )
    alpha = np.asarray(backend.to_numpy(alphas), np.float64)
    # Its weights are log(gamma / alpha).
    gamma = np.exp(np.asarray(backend.to_numpy(deltas), np.float64)) * alpha
    return gamma, alpha, -np.asarray(backend.to_numpy(losses), np.float64).max(0)
