"""Coupling that switches: a hidden Markov chain over regressions, with a prior that ties its states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.chains import state_accuracy
from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import drawn_groups
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.connect.coupling import switching_fit as em
from patchclamp.connect.coupling.glm_basis import design, history_basis
from patchclamp.connect.coupling.glm_fit import family_of
from patchclamp.connect.coupling.lagged import lagged_correlation
from patchclamp.connect.coupling.one_hot import KINDS, OneHot
from patchclamp.connect.nulls import shared_scale_null
from patchclamp.connect.series import Series, series
from patchclamp.connect.surrogates import Null
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

Array = NDArray[np.float64]
LIMITS = (
    "synapses, causation, or states of the brain: a common input that was not recorded shows as coupling, and one that comes "
    "and goes as a switch; more states than one are supported only where the held-out gain is above its null"
)


def switching_glm(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    n_states: int = 3,
    prior: em.Prior = "one_hot",
    link: em.Link = "sigmoid",
    window: int = 5,
    sigma: float = 0.5,
    shared_bias: bool = True,
    own: bool = False,
    restarts: int = 8,
    held_out: float = 1 / 3,
    most: int = 200,
    null: Null | None = "auto",
    null_samples: int = 19,
    null_restarts: int = 2,
    seed: int = 0,
    **reading: Unpack[Reading],
) -> Graph:
    """Fit coupling that depends on a hidden state, and the state's path.

    x_i(t) ~ Poisson(f(b_i + sum_j W^z_ij sum_k phi_k x_j(t - k))), phi_k proportional to exp(-k), k = 1 .. window; z is a Markov
    chain. Expectation-maximisation: exact posterior of z, then one Fisher step of the weights.

    Parameters
    ----------
    data, groups
        As in `glm_coupling`: spike counts in bins; no past and no chain crosses from one group to the next.
    n_states
        Number of states.
    prior
        Of the weights over states. ``"naive"``: each state for itself; ``"gaussian"``: N(W_0, sigma^2) around their mean W_0,
        which is learnt; ``"one_hot"``: each weight is inhibitory, absent or excitatory, with odds P_ij that are learnt and shared by all
        states, and a half-normal strength of its own in each state.
    link
        f: ``"sigmoid"`` (at most one spike a bin expected), ``"softplus"`` or ``"exp"``.
    window
        Lags, in samples.
    sigma
        Of the Gaussian prior.
    shared_bias
        One bias a neuron in all states (else a state may be one of rates alone).
    own
        Whether a neuron's own past is in the model.
    restarts
        Random starts; the one of the best training likelihood is returned, the others say how stable it is.
    held_out
        Share of groups (with fewer than two groups: of the time, at its end) that are not fitted.
    most
        Iterations at most.
    null, null_samples
        As in `correlation`: everything is fitted anew on each surrogate, from `null_restarts` starts; q is against the
        largest weight of each surrogate.
    seed
        Of starts, of the held-out groups, of the null.
    reading
        As in `correlation`.

    Returns
    -------
    Graph
        Weights are the mean over training samples of the coupling in force; a graph of each state by `state_graphs`. The baseline is the same model with one state.
        `params`: ``state_weights`` (state, target, source), ``states`` (sample,) most likely state given all data, -1 for
        samples without a past, ``posterior`` (sample, state), ``transition``, ``bias``, ``restarts`` (a table:
        log-likelihood a sample, share of samples in the same state as the best after matching, converged), ``held_out``: nats a
        sample of ``switching`` and ``one_state``, ``gain`` with its 95 % interval over held-out groups (over 20 stretches
        where there are fewer than five), ``null_gain`` and ``gain_p`` from the surrogates. Under ``"one_hot"`` also
        ``kind`` (state, target, source, 3) and ``kind_prior`` (target, source, 3), over inhibitory, absent, excitatory.

    Notes
    -----
    The one-hot prior follows the HMM-GLM of that name in its model (a state-constant signed adjacency, strengths by state),
    not in its inference: the odds of the three kinds are exact under a quadratic likelihood instead of a Gumbel-softmax, and the
    objective is a divergence (`one_hot.kl`), so that fits are comparable. Compare priors by held-out likelihood only. The published diagonal is excluded
    as well unless `own`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.poisson(0.3, size=(600, 3))
    >>> found = switching_glm(x, n_states=2, restarts=2, null=None)
    >>> found.params["state_weights"].shape, found.params["states"][:6].tolist()[:5]
    ((2, 3, 3), [-1, -1, -1, -1, -1])
    """
    units = series(data, groups, what="switching_glm", time=True, **reading)
    family_of(units.values, "poisson")
    _check(n_states, prior, link, restarts, held_out)
    label = units.group
    how = em.Settings(link, prior, sigma, shared_bias, own)
    run = _SwitchingFit(
        how, n_states, window, most, _split(units, label, window, held_out, seed), label, seed
    )
    many = run.fitted(units, n_states, restarts)
    one = run.fitted(units, 1, 1)
    weights = run.weights(units, many)
    scores = run.scores(units, many, one)
    gains: list[float] = []

    def surrogate(values: Series) -> Array:
        again, alone = run.fitted(values, n_states, null_restarts, 1e-4), run.fitted(values, 1, 1, 1e-4)
        gains.append(run.scores(values, again, alone)["gain"])
        return run.weights(values, again)

    found = shared_scale_null(
        surrogate, units, weights, null=null, samples=null_samples, seed=seed, reach=window
    )
    if gains:
        scores["null_gain"] = gains
        scores["gain_p"] = (1 + sum(g >= scores["gain"] for g in gains)) / (1 + len(gains))
    lags = tuple(range(1, window + 1))
    simple = lagged_correlation(
        data, groups, lags=lags, null=null, null_samples=max(null_samples, 100), seed=seed, **reading
    )
    alone = run.weights(units, one)
    band = shared_scale_null(
        lambda values: run.weights(values, run.fitted(values, 1, 1, 1e-4)),
        units,
        alone,
        null=null,
        samples=null_samples,
        seed=seed,
    )
    baseline = Graph(units.names, alone, True, "glm (one state)", band, simple, LIMITS, units.table)
    settings = {
        **run.described(units, many),
        "held_out": scores,
        "n_states": n_states,
        "prior": prior,
        "seed": seed,
        "reading": units.about,
    }
    return Graph(units.names, weights, True, "switching_glm", found, baseline, LIMITS, units.table, settings)


def state_graphs(graph: Graph) -> tuple[Graph, ...]:
    """The graph of each state of a `switching_glm`, most frequent state first; `params["share"]` is its share of samples.

    Under the one-hot prior `params["kind"]` (target, source, 3) are the odds of inhibitory, absent, excitatory. These
    graphs have no null of their own: the null of the mean over states is the graph's.
    """
    if "state_weights" not in graph.params:
        raise PatchclampError(f"{graph.method}: has no states; this is for the graph of switching_glm")
    states = graph.params["states"]
    known = states[states >= 0]
    out = []
    for s, weights in enumerate(graph.params["state_weights"]):
        settings: dict[str, Any] = {"state": s, "share": float(np.mean(known == s))}
        if "kind" in graph.params:
            settings["kind"] = graph.params["kind"][s]
        method = f"{graph.method}, state {s}"
        out.append(
            Graph(graph.nodes, weights, True, method, None, graph.baseline, LIMITS, graph.node_data, settings)
        )
    return tuple(out)


def _check(n_states: int, prior: str, link: str, restarts: int, held_out: float) -> None:
    if n_states < 1 or restarts < 1:
        raise PatchclampError(f"n_states={n_states}, restarts={restarts}: at least one of each")
    if prior not in em.PRIORS or link not in em.LINKS:
        raise PatchclampError(
            f"prior={prior!r}, link={link!r}: priors are {', '.join(em.PRIORS)}; links {', '.join(em.LINKS)}"
        )
    if not 0 < held_out < 1:
        raise PatchclampError(f"held_out={held_out}: a share between 0 and 1")


def _split(
    units: Series, label: NDArray[np.int64], window: int, held_out: float, seed: int
) -> NDArray[np.bool_]:
    """(sample,) True where held out: whole groups, or the end of a single one after a gap of the window."""
    present = pd.unique(label)
    if len(present) > 1:
        n = min(max(1, round(held_out * len(present))), len(present) - 1)
        return drawn_groups(label, n, [seed, 6301])
    at = round((1 - held_out) * len(label))
    if at <= 2 * window or len(label) - at <= 2 * window:
        raise PatchclampError(
            f"{len(label)} samples of one group: too few to hold out {held_out:.2f} of them"
        )
    return np.arange(len(label)) >= at


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Models by training likelihood, best first, with that likelihood a sample and whether each converged."""

    models: list[em.Model]
    likelihood: Array
    converged: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _SwitchingFit:
    how: em.Settings
    n_states: int
    window: int
    most: int
    test: NDArray[np.bool_]
    label: NDArray[np.int64]
    seed: int

    def rows(self, units: Series, test: bool | None = None) -> tuple[em.PastRows, NDArray[np.int64]]:
        """Training, held-out or all samples with a past that is not in the other part."""
        past, rows = design(units, history_basis("exponential", 1, self.window))
        if test is None:
            keep = np.ones(len(rows), bool)
        else:
            keep = (self.test[rows] == test) & (self.test[rows - self.window] == test)
        return em.PastRows.of(past[keep], units.values[rows[keep]], rows[keep]), rows[keep]

    def fitted(self, units: Series, n_states: int, restarts: int, tol: float = 1e-5) -> _Fitted:
        rng = numpy_rng([self.seed, 6302])
        data, _ = self.rows(units, test=False)
        starts = [self._start(data, n_states, rng) for _ in range(restarts)]
        models, likelihood, converged = em.fit(starts, data, self.how, most=self.most, tol=tol)
        order = np.argsort(-likelihood, kind="stable")
        return _Fitted([models[i] for i in order], likelihood[order], converged[order])

    def _start(self, data: em.PastRows, n_states: int, rng: np.random.Generator) -> em.Model:
        n = data.past.shape[1]
        spread = 1.0 if self.how.link != "exp" else 0.3
        weights = spread * rng.normal(size=(n_states, n, n))
        if not self.how.own:
            weights[:, np.arange(n), np.arange(n)] = 0
        mean = data.counts.mean(0).clip(1e-3)
        bias = {
            "sigmoid": np.log(mean.clip(None, 0.95) / (1 - mean.clip(None, 0.95))),
            "exp": np.log(mean),
        }.get(self.how.link, np.log(np.expm1(mean)))
        transition = np.full((n_states, n_states), 0.02 / max(n_states - 1, 1))
        np.fill_diagonal(transition, 0.98 if n_states > 1 else 1.0)
        prior = OneHot.begin(weights) if self.how.prior == "one_hot" else None
        return em.Model(
            np.tile(bias, (n_states, 1)), weights, transition, np.full(n_states, 1 / n_states), prior
        )

    def scores(self, units: Series, many: _Fitted, one: _Fitted) -> dict[str, Any]:
        """Held-out nats a sample of the best model and of one state, and their difference with its interval."""
        data, rows = self.rows(units, test=True)
        steps = []
        for model in (many.models[0], one.models[0]):
            found, _ = em.posterior([model], data, self.how.link)
            steps.append(found.log_likelihood[0][data.mask])
        gain = steps[0] - steps[1]
        group = self.label[rows]
        if len(pd.unique(group)) < 5:
            group = np.arange(len(rows)) * 20 // len(rows)
        low, high = bootstrap_interval(gain, [str(g) for g in group], seed=self.seed)
        return {
            "switching": float(steps[0].mean()),
            "one_state": float(steps[1].mean()),
            "gain": float(gain.mean()),
            "gain_low": float(low),
            "gain_high": float(high),
            "samples": len(rows),
        }

    def weights(self, units: Series, fitted: _Fitted) -> Array:
        """(target, source) mean over training samples of the coupling in force."""
        data, _ = self.rows(units, test=False)
        posterior, _ = em.posterior(fitted.models[:1], data, self.how.link)
        share = data.flat(posterior.states)[0].mean(0)
        return np.asarray(np.einsum("s,sij->ij", share, fitted.models[0].weights))

    def described(self, units: Series, many: _Fitted) -> dict[str, Any]:
        """The best model with its states in order of frequency, and what the other restarts say."""
        data, rows = self.rows(units)
        posterior, _ = em.posterior(many.models, data, self.how.link)
        odds = data.flat(posterior.states)
        paths = odds.argmax(-1)
        order = np.argsort(-np.bincount(paths[0], minlength=odds.shape[-1]), kind="stable")
        best = many.models[0]
        states, soft = np.full(len(units.values), -1), np.full((len(units.values), len(order)), np.nan)
        states[rows] = np.argsort(order)[paths[0]]
        soft[rows] = odds[0][:, order]
        table = pd.DataFrame(
            {
                "log_likelihood": many.likelihood,
                "agreement": [state_accuracy(path, paths[0]) for path in paths],
                "converged": many.converged,
            }
        )
        out = {
            "state_weights": best.weights[order],
            "states": states,
            "posterior": soft,
            "transition": best.transition[np.ix_(order, order)],
            "bias": best.bias[order],
            "restarts": table,
            "window": self.window,
            "link": self.how.link,
        }
        if best.one_hot is not None:
            out |= {"kind": best.one_hot.kind[order], "kind_prior": best.one_hot.prior, "kinds": KINDS}
        return out
