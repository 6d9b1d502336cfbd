"""What an MLP does to what it reads: its output as heads taken up or erased, the stream, and a direction of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import group_codes
from patchclamp.base.statistics import draws_interval, n_groups, resamples
from patchclamp.draw.cards import shown
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.transformer import Transformer

# Of a coefficient's variance, beyond which it is not told from the others'.
INFLATION = 1e4


@shown
@dataclass(frozen=True)
class MLPTerms:
    """m = sum of coefficient x term + shift.

    Attributes
    ----------
    table : DataFrame
        term, coefficient, low, high, inflation (of its variance by the other terms; above 10,000 the coefficient is NaN:
        two terms are the same on these items), share of the output's variation that coefficient x term has.
    shift : array (d_model,)
        What is the same for all items: decode it with `describe.lm_head`.
    fit, held_out : float
        Share of the variation about the mean that is explained, on these items and on groups left out (5 folds).
    """

    table: pd.DataFrame
    shift: NDArray[np.float64] = field(repr=False)
    fit: float
    held_out: float


def mlp_terms(
    subject: Subject,
    task: TaskLike,
    layer: int,
    *,
    positions: str = "end",
    batch_size: int = 32,
    n_boot: int = 200,
    seed: int = 0,
) -> MLPTerms:
    """Regress what an MLP writes on what heads of its layer wrote before it, and on the stream below.

    m_i = sum over h of alpha_h a_(h,i) + alpha_r r_i + b, least squares over items i and dimensions; alpha are numbers

    alpha_h < 0: what head h wrote is erased; > 0: it is taken up. What is left in b is the same for all items of the task.

    Parameters
    ----------
    subject, task
        A transformer; clean inputs.
    layer
        Whose MLP.
    positions
        A role of the task.

    Returns
    -------
    MLPTerms

    Raises
    ------
    PatchclampError
        For a layer that is not there, a role that no item has, parallel blocks (their MLP does not read their heads).

    Notes
    -----
    After Lv et al. 2024 (key mechanisms of factual recall), written from their description. Terms are divided by the
    root mean square of what the MLP reads, since a norm stands before it. An MLP is no linear map of numbers: read
    `held_out` first.

    Examples
    --------
    >>> mlp_terms(subject, task, 20).table                                       # doctest: +SKIP
    """
    if not isinstance(subject, Transformer):
        raise PatchclampError(f"{subject.name}: heads are known for transformers of the anatomy table only")
    head = Site("head", layer)
    subject.place(head)
    if subject.row_at(layer).parallel:
        raise PatchclampError(
            f"layer {layer}: its MLP reads beside its heads, not after them; there are no terms"
        )
    sites = [Site("resid_pre", layer), head, Site("resid_mid", layer), Site("mlp_out", layer)]
    found: list[tuple[Tensor, ...]] = []
    groups: list[str] = [""] * len(task)
    order: list[int] = []
    for pair in subject.pairs(task, batch_size):
        if positions not in pair.roles:
            raise PatchclampError(f"positions={positions!r}: the items have roles {', '.join(pair.roles)}")
        at = pair.roles[positions]
        rows = torch.arange(len(at), device=at.device)[at >= 0]
        for row, group in zip(pair.rows.tolist(), pair.groups, strict=False):
            groups[row] = group
        order += pair.rows[at >= 0].tolist()
        activity = subject.run(pair.clean, read=sites).activity
        pre, z, mid, out = (activity[site][rows, at[rows]].double().cpu() for site in sites)
        heads = torch.einsum("nhe,hed->nhd", z, subject.head_output_matrix(layer).double().cpu())
        scale = mid.square().mean(1, keepdim=True).sqrt()
        found.append((torch.cat([heads, pre[:, None]], 1) / scale[:, None], out))
    if not order:
        raise PatchclampError(f"positions={positions!r}: no item has this role")
    terms, out = (torch.cat(some) for some in zip(*found, strict=True))
    names = [*(f"head.{layer}[{h}]" for h in range(subject.n_heads)), f"resid_pre.{layer}"]
    named = [groups[i] for i in order]
    return fit_terms(
        terms, out, names, groups=named if any(named) else None, n_boot=n_boot, seed=seed
    )  # fmt: skip


def fit_terms(
    terms: Float[Tensor, "item term d"],
    out: Float[Tensor, "item d"],
    names: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    n_boot: int = 200,
    seed: int = 0,
) -> MLPTerms:
    """The regression of `mlp_terms` on arrays.

    Examples
    --------
    >>> x = torch.randn(20, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> found = fit_terms(x, 2 * x[:, 0] - x[:, 1] + 1, ["a", "b"], n_boot=10)
    >>> found.table["coefficient"].round(6).tolist(), round(found.held_out, 6)
    ([2.0, -1.0], 1.0)
    """
    n = len(out)
    if n < 3:
        raise PatchclampError(f"{n} items: at least 3 are needed to tell terms from what items share")
    x, y = terms.double().cpu().numpy(), out.double().cpu().numpy()
    moments = _Moments(x, y)
    alpha, inflation = moments.solve(np.ones(n))
    draws = np.stack([moments.solve(w)[0] for w in resamples(n, groups, n_boot, seed)])
    low, high = draws_interval(draws, n_groups(groups, n), alpha)
    known = inflation < INFLATION
    shift = y.mean(0) - np.einsum("k,kd->d", alpha, x.mean(0))
    centred, target = x - x.mean(0), y - y.mean(0)
    total = (target**2).sum()
    if not total > 0:
        raise PatchclampError("what the MLP writes is the same for all items; there is nothing to explain")
    table = pd.DataFrame(
        {"term": list(names), "coefficient": np.where(known, alpha, np.nan), "low": np.where(known, low, np.nan),
         "high": np.where(known, high, np.nan), "inflation": inflation,
         "share": np.where(known, alpha**2 * (centred**2).sum((0, 2)) / total, np.nan)}
    )  # fmt: skip
    residual = target - np.einsum("k,nkd->nd", alpha, centred)
    return MLPTerms(table, shift, float(1 - (residual**2).sum() / total), _held_out(x, y, moments, groups))


class _Moments:
    """Sums of products of every item, so that a resample is a weighted sum."""

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        self.x, self.y = x, y
        self.xx, self.xy = np.einsum("nkd,njd->nkj", x, x), np.einsum("nkd,nd->nk", x, y)

    def solve(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients with a free shift in every dimension, and how far each one's variance is inflated."""
        w = weights / weights.sum()
        mx, my = np.einsum("n,nkd->kd", w, self.x), w @ self.y
        gram = np.einsum("n,nkj->kj", w, self.xx) - mx @ mx.T
        cross = w @ self.xy - mx @ my
        size = np.sqrt(np.maximum(np.diag(gram), 1e-300))
        unit = gram / size[:, None] / size
        values, vectors = np.linalg.eigh(unit)
        kept = values > 1e-10 * values[-1]
        inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
        inflation = np.einsum("ki,i->k", vectors**2, 1 / np.maximum(values, 1e-14))
        return (inverse @ (cross / size)) / size, inflation


def _held_out(
    x: NDArray[np.float64], y: NDArray[np.float64], moments: _Moments, groups: Sequence[str] | None
) -> float:
    """Share explained of items whose group had no part in the fit, about the fitted items' mean; NaN for a single group."""
    codes = group_codes(groups, len(y))
    folds = min(5, int(codes.max()) + 1)
    if folds < 2:
        return float("nan")
    error = total = 0.0
    for fold in range(folds):
        out = codes % folds == fold
        if out.all() or not out.any():
            continue
        alpha, _ = moments.solve((~out).astype(np.float64))
        mx, my = x[~out].mean(0), y[~out].mean(0)
        target = y[out] - my
        error += float(((target - np.einsum("k,nkd->nd", alpha, x[out] - mx)) ** 2).sum())
        total += float((target**2).sum())
    return 1 - error / total
