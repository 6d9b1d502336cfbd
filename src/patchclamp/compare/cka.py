"""Centred kernel alignment: does the geometry of one population resemble that of another?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.compare.inputs import Matrix, pair, read
from patchclamp.compare.result import Result
from patchclamp.nouns.recording.matrix import MatrixLike, Reading
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.units import Site


def cka(
    a: MatrixLike,
    b: MatrixLike,
    estimator: Literal["debiased", "biased"] = "debiased",
    **reading: Unpack[Reading],
) -> Result:
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
    reading
        How recordings are read (see `matrix`), kept in ``meta["reading"]``: ``heads="join"`` (default: the parts of
        heads side by side, the population's vector) or ``"norm"``; ``content=True``; ``missing="refuse"`` (default) or
        ``"drop"``.

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
    x, y, about = pair(a, b, least=4, **reading)
    if estimator == "biased":
        value = _biased(x, y)
    elif estimator == "debiased":
        value = debiased(gram_matrix(x), gram_matrix(y))
    else:
        raise PatchclampError(f"estimator {estimator!r}: give 'debiased' or 'biased'")
    return Result(
        float(value), n=len(x), method=f"cka ({estimator})", scale="similarity", meta={"reading": about}
    )


def cka_matrix(
    recording: Recording,
    sites: Sequence[Site | str] | None = None,
    *,
    batch_size: int = 512,
    seed: int = 0,
    **reading: Unpack[Reading],
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
    reading
        As in `cka`, kept in ``attrs["reading"]``.

    Returns
    -------
    DataFrame
        site x site.

    Notes
    -----
    Minibatch form of Nguyen et al. 2021.
    """
    chosen = [recording.site(site) for site in (sites or recording.sites)]
    parts = [read(recording.select({site: None}), **reading) for site in chosen]
    samples = parts[0].n
    if samples < 4 or batch_size < 4:
        raise PatchclampError(f"{samples} samples in batches of {batch_size}: at least 4 are needed")
    total, batches = torch.zeros(len(chosen), len(chosen), dtype=torch.float64), 0
    rng = numpy_rng(seed)
    step = batch_size * max(1, 4096 // batch_size)
    for low in range(0, samples, step):
        arrays = [part[low : low + step] for part in parts]
        n = len(arrays[0])
        order = torch.from_numpy(rng.permutation(n))
        for start in range(0, n - n % batch_size if n >= batch_size else n, batch_size):
            rows = order[start : start + batch_size]
            if len(rows) < 4:
                continue
            grams = torch.stack([_gram32(array[rows]) for array in arrays])
            total += hsic_unbiased(grams).double()
            batches += 1
    if not batches:
        raise PatchclampError(f"{samples} samples: fewer than one batch of {batch_size}")
    names = [str(site) for site in chosen]
    found = pd.DataFrame(cka_of_hsic((total / batches).numpy()), index=names, columns=names)
    found.attrs["reading"] = [part.about for part in parts]
    return found


def gram_matrix(x: Matrix) -> Matrix:
    """Inner products of centred samples, (sample, sample), of activity scaled to norm 1."""
    centred = x - x.mean(0)
    scale = np.linalg.norm(centred)
    if scale == 0:
        raise PatchclampError("a population that does not vary over samples has no geometry to compare")
    centred = centred / scale
    return np.asarray(centred @ centred.T)


def _gram32(x: Tensor) -> Tensor:
    """Gram matrix in float32 of centred activity scaled to norm 1: the ratio does not depend on scale or shift."""
    flat: Tensor = x.flatten(1).float()
    flat = flat - flat.mean(0)
    flat = flat / flat.norm().clamp(min=1e-30)
    return flat @ flat.T


def hsic_unbiased(grams: Tensor) -> Tensor:
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


def cka_of_hsic(criteria: Matrix) -> Matrix:
    """Criteria of all pairs, (k, k), over the roots of their diagonal: alignment; NaN where that is not positive."""
    own = np.diag(criteria)
    under = np.sqrt(np.where(own > 0, own, np.nan))
    return np.asarray(criteria / under[:, None] / under[None, :])


def debiased(k: Matrix, m: Matrix) -> float:
    """Debiased alignment of two Gram matrices."""
    return float(cka_of_hsic(hsic_unbiased(torch.from_numpy(np.stack([k, m]))).numpy())[0, 1])


def _biased(x: Matrix, y: Matrix) -> float:
    k, m = gram_matrix(x), gram_matrix(y)
    return float(np.sum(k * m) / np.linalg.norm(k) / np.linalg.norm(m))
