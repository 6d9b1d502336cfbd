"""Centred kernel alignment: does the geometry of one population resemble that of another?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.compare.inputs import Matrix, pair
from patchclamp.compare.result import Result
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.units import Site


def cka(a: Any, b: Any, estimator: Literal["debiased", "biased"] = "debiased") -> Result:
    """Linear centred kernel alignment of two populations on the same samples.

    Biased: ||Xc'Yc||^2 / (||Xc'Xc|| ||Yc'Yc||). Debiased: the ratio of unbiased estimates of the Hilbert-Schmidt
    independence criterion, HSIC(K, L) = [tr KL + (1'K1)(1'L1) / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n(n-3)), with zero
    diagonals, which is about zero for independent populations however many units they have; the biased one is near 1
    there when units outnumber samples.

    Parameters
    ----------
    a, b
        (sample, unit), or recordings of one site. Invariant to rotation, shift and one common scale of each.
    estimator
        Which of the two.

    Returns
    -------
    Result
        NaN where the debiased denominator is not positive. A value of 1 says that linear geometry is the same, and
        nothing about what either network computes.

    Raises
    ------
    PatchclampError
        For fewer than 4 samples, unequal numbers of samples, NaN.

    Notes
    -----
    Kornblith et al. 2019; Song et al. 2012 for the unbiased estimate. Verified by invariances, by the bias on
    independent data, and by its identity with the whitened cosine of `rsa`.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 5))
    >>> round(cka(x, 3 * x + 1).value, 6)
    1.0
    """
    x, y = pair(a, b, least=4)
    if estimator == "biased":
        value = _biased(x, y)
    elif estimator == "debiased":
        grams = np.stack([_gram(x), _gram(y)])
        value = _ratio(_hsic_unbiased(torch.from_numpy(grams)).numpy())[0, 1]
    else:
        raise PatchclampError(f"estimator {estimator!r}: give 'debiased' or 'biased'")
    return Result(float(value), n=len(x), method=f"cka ({estimator})", scale="similarity")


def cka_matrix(
    recording: Recording, sites: Sequence[Site | str] | None = None, *, batch_size: int = 512, seed: int = 0
) -> pd.DataFrame:
    """Debiased alignment of all pairs of sites of a recording, in one pass and in constant memory.

    The unbiased criteria are averaged over batches of samples and only then put into the ratio: an average of ratios
    would be biased. Samples are read along the disk; `batch_size` of them are compared with one another, so order
    the recording at random, or take batches long enough to hold what varies.

    Parameters
    ----------
    recording
        Its sites have the same samples by construction.
    sites
        Addresses; all by default.
    batch_size
        Samples in a Gram matrix; memory is sites x batch_size^2 float32.
    seed
        Of the order of samples within a block read at once.

    Returns
    -------
    DataFrame
        site x site.

    Notes
    -----
    Minibatch form of Nguyen et al. 2021.
    """
    chosen = [recording.site(site) for site in (sites or recording.sites)]
    selected = recording.select(units=[str(site) for site in chosen]) if sites else recording
    if recording.n_samples < 4 or batch_size < 4:
        raise PatchclampError(
            f"{recording.n_samples} samples in batches of {batch_size}: at least 4 are needed"
        )
    total, batches = torch.zeros(len(chosen), len(chosen), dtype=torch.float64), 0
    rng = np.random.default_rng(seed)
    for _, arrays in selected.chunks(batch_size * max(1, 4096 // batch_size)):
        n = len(next(iter(arrays.values())))
        order = torch.from_numpy(rng.permutation(n))
        for start in range(0, n - n % batch_size if n >= batch_size else n, batch_size):
            rows = order[start : start + batch_size]
            if len(rows) < 4:
                continue
            grams = torch.stack([_gram32(arrays[site][rows]) for site in chosen])
            total += _hsic_unbiased(grams).double()
            batches += 1
    if not batches:
        raise PatchclampError(f"{recording.n_samples} samples: fewer than one batch of {batch_size}")
    names = [str(site) for site in chosen]
    return pd.DataFrame(_ratio((total / batches).numpy()), index=names, columns=names)


def _gram(x: Matrix) -> Matrix:
    centred = x - x.mean(0)
    scale = np.linalg.norm(centred)
    if scale == 0:
        raise PatchclampError("a population that does not vary over samples has no geometry to compare")
    centred = centred / scale
    return centred @ centred.T


def _gram32(x: Tensor) -> Tensor:
    """Gram matrix in float32 of centred activity scaled to norm 1: the ratio does not depend on scale or shift."""
    flat = x.flatten(1).float()
    flat = flat - flat.mean(0)
    flat = flat / flat.norm().clamp(min=1e-30)
    return flat @ flat.T


def _hsic_unbiased(grams: Tensor) -> Tensor:
    """Unbiased criteria of all pairs of Gram matrices (k, n, n) -> (k, k)."""
    k, n, _ = grams.shape
    grams = grams.clone()
    grams.diagonal(dim1=1, dim2=2).zero_()
    rows = grams.sum(2, dtype=torch.float64)
    whole = rows.sum(1)
    flat = grams.reshape(k, -1)
    trace = (flat @ flat.T).double()
    both = whole[:, None] * whole[None, :] / ((n - 1) * (n - 2))
    return (trace + both - 2 / (n - 2) * rows @ rows.T) / (n * (n - 3))


def _ratio(criteria: Matrix) -> Matrix:
    own = np.diag(criteria)
    under = np.sqrt(np.where(own > 0, own, np.nan))
    return np.asarray(criteria / under[:, None] / under[None, :])


def _biased(x: Matrix, y: Matrix) -> float:
    k, m = _gram(x), _gram(y)
    return float(np.sum(k * m) / np.linalg.norm(k) / np.linalg.norm(m))
