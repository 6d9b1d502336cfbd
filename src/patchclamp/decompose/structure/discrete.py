"""Discrete codes of heads: a head matters for a behaviour if it says something there that it never says without it.

One small autoencoder is fitted to what all heads write (each head's output is a sample); the code of a head on a prompt is
its most active latent. A head is scored by its codes on prompts that call for the behaviour and on prompts minimally
changed so that they do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng, torch_rng
from patchclamp.base.statistics import permutation_p
from patchclamp.draw.cards import shown
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site, SitesLike
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Pair

Codes = NDArray[np.int64]


@shown
@dataclass(frozen=True)
class HeadCodes:
    """Codes of heads with and without a behaviour.

    Attributes
    ----------
    heads : tuple of str
        Addresses, such as ``head.3[1]``.
    positive, negative : array of int
        (prompt, head) codes.
    count : array of int
        (head,) distinct codes among positives that are never among negatives; as published. It grows with the prompts.
    fraction : array of float
        (head,) share of positives with such a code: ranks a head with one strong code above one with many rare ones.
    pairs : array of int
        (head, head) the same count for pairs of codes of two heads.
    p : array of float
        (head,) for `fraction`, against the maximum over heads with labels swapped at random within prompts.
    null : array of float
        (draw,) those maxima.
    unexplained : float
        Of the autoencoder on what it was fitted to, pooled.
    scores : Scores
        `fraction` by item, for tables, intervals and `evaluate`.
    """

    heads: tuple[str, ...]
    positive: Codes
    negative: Codes
    count: NDArray[np.int64]
    fraction: NDArray[np.float64]
    pairs: NDArray[np.int64]
    p: NDArray[np.float64]
    null: NDArray[np.float64]
    unexplained: float
    scores: Scores | None = None


def discrete_codes(
    subject: Subject,
    task: TaskLike,
    sites: SitesLike = "head.*",
    *,
    n_codes: int = 64,
    l1: float = 0.01,
    steps: int = 500,
    n_perm: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
) -> HeadCodes:
    """Score heads by codes that occur with the behaviour alone.

    Parameters
    ----------
    subject, task
        Clean inputs call for the behaviour, corrupted ones do not; both are read at the answer's position.
    sites
        Heads; each contributes z, its output before the projection.
    n_codes, l1, steps
        Latents, sparsity and steps of the autoencoder. Too few codes make all counts zero, too many make every prompt
        its own.
    n_perm
        Relabellings of the null.
    seed
        Of the autoencoder and the null.

    Notes
    -----
    After O'Neill and Bui 2024 (sparse autoencoders for highly scalable circuit identification), written from the abstract: the
    autoencoder's details are ours. Codes say what changes with the prompt, not what causes the answer: ablate before claiming.

    Examples
    --------
    >>> discrete_codes(lm, ioi).scores.top(5)                                    # doctest: +SKIP
    """
    heads = subject.resolve(sites)
    wrong = [site for site in heads if site.point != "head"]
    if wrong:
        raise PatchclampError(f"{wrong[0]}: discrete codes are of heads; give head.* or head.3")
    parts: dict[bool, list[Tensor]] = {True: [], False: []}
    rows: list[Tensor] = []
    for pair in subject.pairs(task, batch_size):
        if pair.corrupted is None:
            raise PatchclampError(
                f"discrete codes: the items of {task.name} have no corrupted inputs; give each one"
            )
        rows.append(pair.rows.cpu())
        for clean, batch in ((True, pair.clean), (False, pair.corrupted)):
            seen = subject.run(batch, read=dict.fromkeys(heads, _at_answer(pair))).activity
            parts[clean].append(torch.cat([seen[site] for site in heads], 1))
    order = torch.cat(rows).argsort()
    positive, negative = (torch.cat(parts[side])[order] for side in (True, False))
    names = [str(site[i]) for site in heads for i in range(subject.width(site))]
    found = codes_of(positive, negative, names, n_codes=n_codes, l1=l1, steps=steps, n_perm=n_perm, seed=seed)
    return _with_scores(found, subject, task, heads)


def _at_answer(pair: Pair) -> Callable[[Tensor], Tensor]:
    if isinstance(pair.answer_position, str):
        raise PatchclampError(
            "discrete codes: the metric is one of whole texts; give a task with an answer's position"
        )
    rows, at = torch.arange(len(pair.rows), device=pair.rows.device), pair.answer_position
    return lambda z: z[rows, at].float().cpu()


def _with_scores(found: HeadCodes, subject: Subject, task: TaskLike, heads: list[Site]) -> HeadCodes:
    novel = _novel(found.positive, found.negative).astype(np.float32)
    cuts = np.cumsum([subject.width(site) for site in heads])[:-1]
    values = dict(zip(heads, np.split(novel, cuts, axis=1), strict=True))
    scores = Scores(
        "discrete_codes",
        "none",
        "share of items with a code of their own",
        str(task.name),
        values,
        dict.fromkeys(heads, "unit"),
        meta={"p": dict(zip(found.heads, found.p.tolist(), strict=True)), "unexplained": found.unexplained},
    )
    return replace(found, scores=scores)


def codes_of(
    positive: Float[Tensor, "prompt head d"],
    negative: Float[Tensor, "prompt head d"],
    heads: list[str] | None = None,
    *,
    n_codes: int = 64,
    l1: float = 0.01,
    steps: int = 500,
    n_perm: int = 1000,
    seed: int = 0,
) -> HeadCodes:
    """The same from outputs of heads: row i of `negative` is row i of `positive` with the behaviour taken away."""
    if positive.shape != negative.shape or positive.ndim != 3 or len(positive) < 2:
        raise PatchclampError(
            f"positives are {tuple(positive.shape)} and negatives {tuple(negative.shape)}; give two or more prompts each, "
            "(prompt, head, d) alike"
        )
    both = torch.stack([positive, negative])
    if not bool(torch.isfinite(both).all()):
        raise PatchclampError("the outputs of heads hold NaN or Inf")
    if n_codes < 2:
        raise PatchclampError(f"n_codes={n_codes}: one code says nothing; give at least two")
    flat = both.flatten(0, 2).double()
    encoder, unexplained = fit_autoencoder(flat, n_codes, l1, steps, seed)
    codes = encoder(flat).argmax(1).unflatten(0, both.shape[:3]).numpy().astype(np.int64)
    with_it, without = codes
    fraction = _novel(with_it, without).mean(0)
    rng = numpy_rng(seed)
    null = np.empty(n_perm)
    for draw in range(n_perm):
        swap = rng.random(len(with_it))[:, None] < 0.5
        null[draw] = _novel(np.where(swap, without, with_it), np.where(swap, with_it, without)).mean(0).max()
    names = tuple(heads or (f"head[{i}]" for i in range(positive.shape[1])))
    p = np.array([permutation_p(f, null) for f in fraction])
    counts = _pair_counts(with_it, without)
    return HeadCodes(names, with_it, without, np.diag(counts).copy(), fraction, counts, p, null, unexplained)


def _novel(positive: Codes, negative: Codes) -> NDArray[np.bool_]:
    """(prompt, head): the code never occurs at this head among negatives."""
    top = int(max(positive.max(), negative.max())) + 1
    known = np.zeros((top, positive.shape[1]), dtype=bool)
    known[negative, np.arange(positive.shape[1])] = True
    return ~known[positive, np.arange(positive.shape[1])]


def _pair_counts(positive: Codes, negative: Codes) -> NDArray[np.int64]:
    """Distinct pairs of codes of two heads among positives and never among negatives; of one head, distinct codes."""
    n, top = positive.shape[1], int(max(positive.max(), negative.max())) + 1
    counts = np.zeros((n, n), dtype=np.int64)
    for i in range(n):
        for j in range(i, n):
            here = np.unique(positive[:, i] * top + positive[:, j])
            there = np.unique(negative[:, i] * top + negative[:, j])
            counts[i, j] = counts[j, i] = len(np.setdiff1d(here, there, assume_unique=True))
    return counts


def fit_autoencoder(
    samples: Float[Tensor, "sample d"], n_codes: int, l1: float, steps: int, seed: int
) -> tuple[Any, float]:
    """A sparse autoencoder on all samples at once: max(0, (x - b) E + c), decoded by rows of length 1.

    Loss: mean ||x - x^||^2 / d + l1 * mean sum of latents, on samples scaled to mean squared length d. Decoder rows
    start at samples spread out as in k-means++, the encoder at their transpose.

    Returns
    -------
    (encoder, unexplained)
        A function of samples, and the pooled share of variance that it leaves unexplained.
    """
    generator = torch_rng(seed)
    centre = samples.mean(0)
    scale = (samples - centre).pow(2).mean().sqrt()
    if not float(scale) > 0:
        raise PatchclampError("the outputs of all heads are equal, so there is nothing to tell apart")
    x = (samples - centre) / scale
    with torch.enable_grad():
        rows = nn.functional.normalize(_far_apart(x, n_codes, generator), dim=1)
        weights = [rows.T.clone(), -0.1 * torch.ones(n_codes).double(), rows.clone()]
        encode, bias, decode = (w.requires_grad_(True) for w in weights)
        optimiser = torch.optim.Adam([encode, bias, decode], lr=1e-2)
        for _ in range(steps):
            codes = torch.relu(x @ encode + bias)
            rebuilt = codes @ nn.functional.normalize(decode, dim=1)
            loss = (rebuilt - x).pow(2).mean() + l1 * codes.sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    fixed = [w.detach() for w in (encode, bias, decode)]

    def latents(more: Tensor) -> Tensor:
        return torch.relu((more.double() - centre) / scale @ fixed[0] + fixed[1])

    rebuilt = latents(samples) @ nn.functional.normalize(fixed[2], dim=1)
    return latents, float((rebuilt - x).pow(2).sum() / x.pow(2).sum())


def _far_apart(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` samples (with noise, where there are fewer different ones), each far from those before it."""
    chosen = x[torch.randint(len(x), (1,), generator=generator)]
    near = (x - chosen).pow(2).sum(1)
    while len(chosen) < n:
        if float(near.sum()) <= 1e-12 * len(x):
            more = torch.randn(n - len(chosen), x.shape[1], generator=generator, dtype=x.dtype)
            return torch.cat([chosen, more])
        one = x[torch.multinomial(near, 1, generator=generator)]
        chosen = torch.cat([chosen, one])
        near = torch.minimum(near, (x - one).pow(2).sum(1))
    return chosen


__all__ = ["HeadCodes", "codes_of", "discrete_codes"]
