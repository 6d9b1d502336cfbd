"""One-hot prior of coupling: a connection is inhibitory, absent or excitatory, and mostly the same in all states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

Array = NDArray[np.float64]
KINDS = ("inhibitory", "absent", "excitatory")


@dataclass
class OneHot:
    """State of the prior over weights of S states, N targets and N sources.

    w = strength * (a_exc - a_inh): `kind` a is a distribution over (inhibitory, absent, excitatory) of each weight in
    each state, `prior` P the one they share, `strength` is half-normal with deviation `scale`.

    Parameters
    ----------
    kind
        (state, target, source, 3).
    prior
        (target, source, 3).
    scale
        Of strengths.
    second
        (state, target, source) E[w^2].
    """

    kind: Array
    prior: Array
    scale: float
    second: Array

    @classmethod
    def begin(cls, weights: Array, scale: float = 2.0) -> OneHot:
        """Even odds for weights (state, target, source)."""
        shape = (*weights.shape, 3)
        return cls(np.full(shape, 1 / 3), np.full(shape[1:], 1 / 3), scale, weights**2)


def log_evidence(linear: Array, curvature: Array, scale: float) -> tuple[Array, Array]:
    """Log evidence and posterior mean of a non-negative weight under a quadratic likelihood.

    log of integral over w >= 0 of 2 N(w; 0, scale^2) exp(linear w - curvature w^2 / 2), which is 0 for a weight that the data do
    not bear on: the price of a strength that is not needed is in it (its Occam factor).

    Returns
    -------
    evidence, mean
        With v = 1 / (curvature + 1 / scale^2) and m = linear v: log 2 + log(sqrt(v) / scale) + m^2 / (2 v) +
        log Phi(m / sqrt(v)), and the mean of the normal (m, v) cut at 0.
    """
    v = 1 / (curvature + scale**-2)
    m = linear * v
    z = m / np.sqrt(v)
    tail = log_ndtr(z)
    evidence = np.log(2) + np.log(v) / 2 - np.log(scale) + z**2 / 2 + tail
    # phi / Phi in logs: both vanish far below 0.
    mean = m + np.sqrt(v) * np.exp(-(z**2) / 2 - np.log(2 * np.pi) / 2 - tail)
    return evidence, np.maximum(mean, 0.0)


def update_weight(linear: Array, curvature: Array, prior: Array, scale: float) -> tuple[Array, Array, Array]:
    """Posterior of one weight of many targets: (target, 3) kinds, (target,) mean, (target,) second moment.

    a_c is proportional to P_c times the evidence of c (1 for absent): the maximum of E[log-likelihood] - KL(a, P).
    """
    up, strong = log_evidence(linear, curvature, scale)
    down, weak = log_evidence(-linear, curvature, scale)
    logits = np.log(prior) + np.stack([down, np.zeros_like(up), up], -1)
    kind = np.exp(logits - logits.max(-1, keepdims=True))
    kind /= kind.sum(-1, keepdims=True)
    v = 1 / (curvature + scale**-2)
    m = linear * v
    # E[w^2] of a cut normal: v + mean * m.
    second = kind[:, 2] * (v + strong * m) + kind[:, 0] * (v - weak * m)
    return kind, kind[:, 2] * strong - kind[:, 0] * weak, second


def kl(kind: Array, prior: Array) -> Array:
    """sum_c a_c log(a_c / P_c) over the last axis: never negative, 0 where a = P.

    A published objective minimises -sum a log P *plus* the entropy of a. That is no divergence: it rewards a one-hot a
    whatever P says, and has no bound that would let it be compared with another prior's.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(kind > 0, kind * np.log(kind / prior), 0.0).sum(-1))


def learn(state: OneHot, pseudo: float = 1.0, fixed: NDArray[np.bool_] | None = None) -> OneHot:
    """Set the shared prior and the scale to what the weights now are.

    P_ij = (pseudo * overall share of kinds + sum over states of a_ij) / (pseudo + S): a kind seen in one state becomes likely
    in the others, and never certain.

    Parameters
    ----------
    fixed
        (target, source) weights that are not in the model; they do not count.
    """
    used = np.ones(state.prior.shape[:2], bool) if fixed is None else ~fixed
    overall = (state.kind[:, used].sum((0, 1)) + 1) / (state.kind[:, used].shape[0] * used.sum() + 3)
    n = len(state.kind)
    prior = (pseudo * overall + state.kind.sum(0)) / (pseudo + n)
    on = 1 - state.kind[:, used, 1]
    scale = float(np.sqrt((state.second[:, used].sum() + 1e-3) / (on.sum() + 1e-3)))
    return OneHot(state.kind, prior, min(max(scale, 0.1), 10.0), state.second)
