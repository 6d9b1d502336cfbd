"""Hidden Markov chains: forward-backward, best path, and states matched between runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.assignment import match
from patchclamp.base.errors import PatchclampError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Posterior:
    """What the data say about the states.

    Parameters
    ----------
    states
        (..., sequence, time, state) p(z_t | all data of its sequence).
    pairs
        (..., state, state) sum over t of p(z_t, z_{t+1} | data): (from, to).
    log_likelihood
        (..., sequence, time) log p(x_t | x before t), nats, 0 past a sequence's end; the sum is log p(data).
    """

    states: Array
    pairs: Array
    log_likelihood: Array


def forward_backward(
    log_likelihood: Array, transition: Array, initial: Array, mask: NDArray[np.bool_] | None = None
) -> Posterior:
    """Exact posterior of the states of independent sequences, with filters that are normalised at every step.

    Parameters
    ----------
    log_likelihood
        (..., sequence, time, state) log p(x_t | z_t). Leading dimensions are models, such as restarts.
    transition
        (..., state, state) p(to | from), rows sum to 1.
    initial
        (..., state) p(z_0).
    mask
        (sequence, time) False past the end of a shorter sequence.

    Notes
    -----
    alpha_t = (alpha_{t-1} A) * p(x_t | z_t) / c_t, beta_t = A (p(x_{t+1} | z_{t+1}) * beta_{t+1}) / c_{t+1}; the log-likelihood is
    sum log c_t. Probabilities are multiplied: in the log domain the transition is *added* to the filter and both go
    through a log-sum-exp. A published routine adds where it should multiply; the test holds this against all paths.
    """
    there = np.ones(log_likelihood.shape[-3:-1], bool) if mask is None else mask
    largest = log_likelihood.max(-1, keepdims=True)
    likely = np.where(there[..., None], np.exp(log_likelihood - largest), 1.0)
    length = log_likelihood.shape[-2]
    likely = np.ascontiguousarray(np.moveaxis(likely, -2, 0))  # time first: each step is one block of memory
    ahead = np.empty_like(likely)
    scale = np.empty(likely.shape[:-1])
    now = np.broadcast_to(initial[..., None, :], likely.shape[1:])
    for t in range(length):
        now = likely[t] * (now @ transition if t else now)
        scale[t] = now.sum(-1)
        now = now / scale[t][..., None]
        ahead[t] = now
    back = np.empty_like(likely)
    back[-1] = 1.0
    turned = np.ascontiguousarray(np.swapaxes(transition, -1, -2))
    for t in range(length - 1, 0, -1):
        back[t - 1] = (likely[t] * back[t] / scale[t][..., None]) @ turned
    states = ahead * back
    later = likely[1:] * back[1:] / scale[1:, ..., None]
    later = later * np.moveaxis(there[:, 1:], 1, 0)[(slice(None), *[None] * (later.ndim - 3))][..., None]
    pairs = transition * np.einsum("t...bi,t...bj->...ij", ahead[:-1], later)
    total = np.moveaxis(np.log(scale), 0, -1) + np.where(there, largest[..., 0], 0.0)
    return Posterior(np.moveaxis(states, 0, -2), np.asarray(pairs), np.where(there, total, 0.0))


def viterbi(log_likelihood: Array, transition: Array, initial: Array) -> NDArray[np.int64]:
    """(time,) the most likely path of states through one sequence.

    Parameters
    ----------
    log_likelihood
        (time, state).
    transition, initial
        (state, state) from row to column, (state,).
    """
    with np.errstate(divide="ignore"):
        move, score = np.log(transition), np.log(initial) + log_likelihood[0]
    origin = np.zeros(log_likelihood.shape, np.int64)
    for t in range(1, len(log_likelihood)):
        reached = score[:, None] + move
        origin[t] = reached.argmax(0)
        score = reached.max(0) + log_likelihood[t]
    path = np.empty(len(log_likelihood), np.int64)
    path[-1] = score.argmax()
    for t in range(len(path) - 1, 0, -1):
        path[t - 1] = origin[t, path[t]]
    return path


def match_states(found: ArrayLike, reference: ArrayLike, n_states: int | None = None) -> NDArray[np.int64]:
    """For each state of `reference` the state of `found` that shares most samples with it, one to one (Hungarian).

    Labels of hidden states are arbitrary; compare runs only after this.

    Examples
    --------
    >>> match_states([2, 2, 0, 1], [0, 0, 1, 2]).tolist()
    [2, 0, 1]
    """
    a, b = np.asarray(found, np.int64).ravel(), np.asarray(reference, np.int64).ravel()
    if len(a) != len(b):
        raise PatchclampError(f"paths of {len(a)} and {len(b)} samples; match states on the same samples")
    n = n_states or int(max(a.max(), b.max())) + 1
    shared = np.zeros((n, n))
    np.add.at(shared, (b, a), 1)
    return np.asarray(match(shared).columns, np.int64)


def state_accuracy(found: ArrayLike, reference: ArrayLike) -> float:
    """Share of samples in the same state, after matching.

    Examples
    --------
    >>> state_accuracy([1, 1, 0, 0], [0, 0, 1, 0])
    0.75
    """
    order = match_states(found, reference)
    return float(np.mean(order[np.asarray(reference, np.int64).ravel()] == np.asarray(found).ravel()))
