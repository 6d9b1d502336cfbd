"""Coupled neurons: a point process with direction, coupling that switches, leaky integrate-and-fire neurons.

Weights are (source, target): row i is what neuron i does to the others. All are simulated on many trials at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.samples import Samples
from patchclamp.nouns.units import Site
from patchclamp.truth.base import Population

Array = NDArray[np.float64]

# ---- what is shared


def roll_trials(activity: Array, rng: np.random.Generator) -> Array:
    """(trial, time, unit) with each unit's trials in an order of their own, each rolled in time by a random step.

    Rates and autocorrelation of every unit stay; whatever units have to do with each other goes.
    """
    trials, time, units = activity.shape
    out = np.empty_like(activity)
    for unit in range(units):
        order, shift = rng.permutation(trials), rng.integers(0, time, (trials, 1))
        out[:, :, unit] = activity[order[:, None], (np.arange(time) + shift) % time, unit]
    return out


def simulated(source: str, seed: int, samples: Samples | None = None, **sites: Array) -> Recording:
    """A recording of these sites that says what made it and by which seed."""
    values: dict[Site | str, Array] = {name: x.astype(np.float32) for name, x in sites.items()}
    return Recording.from_arrays(values, samples, {"source": source, "seed": seed})


def _logistic(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _check_unit(unit: int, units: int) -> None:
    if not 0 <= unit < units:
        raise PatchclampError(f"stimulate {unit}: there are neurons 0..{units - 1}")


# ---- a point process with direction

EDGES = ((0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (2, 8), (3, 9), (6, 10))


def coupled(
    seed: int = 0, *, trials: int = 40, time: int = 500, busy: int | None = None, shuffled: bool = False
) -> Population:
    """Twelve neurons, eight directed connections.

    In each bin neuron j fires with probability logistic(-3.5 + 2.5 sum_i [s_i(t-1) + s_i(t-2) / 2]) over its sources i.

    Parameters
    ----------
    seed
        Of everything.
    trials, time
        Size; trials are independent.
    busy
        A neuron without connections that fires five times as much as a silent network's; a map that follows rates
        puts it on top.
    shuffled
        Permute and roll trials neuron by neuron: a control without coupling.

    Returns
    -------
    Population
        Site ``neurons``. `data`: ``edges``, ``rate`` (expected of an unconnected neuron), ``busy``. `stimulate(i)` is
        the change of every neuron's rate (spikes a bin) when neuron i is made to fire in 20 % of bins, with the same
        random numbers in both runs.

    Examples
    --------
    >>> system = coupled(0, trials=4, time=50)
    >>> system.recording
    Recording(200 samples; neurons: 12 units)
    >>> int((system.coupling > 0).sum())
    8
    """
    weights = np.zeros((12, 12))
    for source, target in EDGES:
        weights[source, target] = 2.5
    bias = np.full(12, -3.5)
    if busy is not None:
        _check_unit(busy, 12)
        if weights[busy].any() or weights[:, busy].any():
            raise PatchclampError(f"busy={busy}: this neuron is connected; only 11 is not")
        p = 5 * _logistic(bias[busy])
        bias[busy] = np.log(p / (1 - p))
    chance = numpy_rng([seed, 5101]).random((time, trials, 12))
    spikes = _point_process(chance, weights, bias)
    facts = {"edges": list(EDGES), "rate": float(_logistic(np.array(-3.5))), "busy": busy}
    if shuffled:
        rolled = roll_trials(spikes, numpy_rng([seed, 5102]))
        recording = simulated("coupled-shuffled", seed, neurons=rolled)
        return Population(recording, np.zeros((12, 12)), True, {**facts, "edges": []})

    def stimulate(unit: int) -> Array:
        _check_unit(unit, 12)
        drive = numpy_rng([seed, 5103]).random((time, trials)) < 0.2
        driven = _point_process(chance, weights, bias, (unit, drive))
        return np.asarray(driven.mean((0, 1)) - spikes.mean((0, 1)))

    return Population(simulated("coupled", seed, neurons=spikes), weights, True, facts, stimulate)


def _point_process(
    chance: Array, weights: Array, bias: Array, drive: tuple[int, NDArray[np.bool_]] | None = None
) -> Array:
    time, trials, units = chance.shape
    spikes = np.zeros((time + 2, trials, units))  # two empty bins before each trial
    for t in range(time):
        history = spikes[t + 1] + 0.5 * spikes[t]
        spikes[t + 2] = chance[t] < _logistic(bias + history @ weights)
        if drive is not None:
            spikes[t + 2, :, drive[0]] = drive[1][t]
    return spikes[2:].transpose(1, 0, 2)


# ---- coupling that switches

KERNEL = np.exp(-np.arange(1.0, 6.0)) / np.exp(-np.arange(1.0, 6.0)).sum()


def switching(
    seed: int = 0,
    *,
    n_states: int = 3,
    units: int = 8,
    trials: int = 6,
    time: int = 1000,
    stay: float = 0.98,
    shuffled: bool = False,
) -> Population:
    """Neurons whose coupling changes with a hidden state: counts are Poisson with rate logistic(b + W_z history).

    A connection has one sign in all states (20 % inhibitory, 20 % excitatory, 60 % absent, none to itself); its strength
    is uniform in 0..5, drawn for each state. History weighs the last five bins by exp(-k), normalised.

    Parameters
    ----------
    seed
        Of everything.
    n_states
        With 1 nothing switches.
    units, trials, time
        Size; trials are independent, each begins in a random state.
    stay
        Probability of keeping the state from one bin to the next; the others are equally likely.
    shuffled
        Permute and roll trials neuron by neuron: a control without coupling or states.

    Returns
    -------
    Population
        Site ``neurons``. `coupling`: mean over states. `data`: ``states`` (trial, time), ``weights`` (state, source,
        target), ``sign`` (source, target), ``bias``, ``transition``, ``kernel``, ``log_likelihood`` a bin under the
        parameters and states that made it. The state is *not* a label of the recording: it is what is to be found.

    Examples
    --------
    >>> system = switching(0, trials=2, time=100)
    >>> system.data["weights"].shape, system.data["states"].shape
    ((3, 8, 8), (2, 100))
    """
    rng = numpy_rng([seed, 5201])
    sign = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.6, 0.2], size=(units, units))
    np.fill_diagonal(sign, 0.0)
    weights = sign * rng.uniform(0, 5, (n_states, units, units))
    bias = rng.uniform(-1.5, -0.5, units)
    transition = np.eye(1)
    if n_states > 1:
        transition = np.full((n_states, n_states), (1 - stay) / (n_states - 1))
        np.fill_diagonal(transition, stay)
    states = _markov(rng, transition, trials, time)
    counts, rates = _switching_counts(rng, states, weights, bias)
    likelihood = (counts * np.log(rates) - rates - _log_factorial(counts)).sum(2).mean()
    facts = {
        "states": states,
        "weights": weights,
        "sign": sign,
        "bias": bias,
        "transition": transition,
        "kernel": KERNEL,
        "log_likelihood": float(likelihood),
    }
    if shuffled:
        rolled = roll_trials(counts, numpy_rng([seed, 5202]))
        nothing = {
            "states": np.zeros_like(states),
            "weights": np.zeros_like(weights),
            "sign": np.zeros_like(sign),
        }
        recording = simulated("switching-shuffled", seed, neurons=rolled)
        return Population(recording, np.zeros((units, units)), True, nothing)
    return Population(simulated("switching", seed, neurons=counts), weights.mean(0), True, facts)


def _markov(rng: np.random.Generator, transition: Array, trials: int, time: int) -> NDArray[np.int64]:
    cumulated = transition.cumsum(1)
    cumulated[:, -1] = 1.0  # rounding must not lead past the last state
    states = np.zeros((trials, time), np.int64)
    states[:, 0] = rng.integers(0, len(transition), trials)
    for t in range(1, time):
        states[:, t] = (rng.random((trials, 1)) >= cumulated[states[:, t - 1]]).sum(1)
    return states


def _switching_counts(
    rng: np.random.Generator, states: NDArray[np.int64], weights: Array, bias: Array
) -> tuple[Array, Array]:
    (trials, time), units, lags = states.shape, len(bias), len(KERNEL)
    counts, rates = np.zeros((trials, time + lags, units)), np.zeros((trials, time, units))
    for t in range(time):
        history = np.einsum("k,rku->ru", KERNEL[::-1], counts[:, t : t + lags])
        rates[:, t] = _logistic(bias + np.einsum("ru,ruv->rv", history, weights[states[:, t]]))
        counts[:, t + lags] = rng.poisson(rates[:, t])
    return counts[:, lags:], rates


def _log_factorial(counts: Array) -> Array:
    table = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, max(2, int(counts.max()) + 1))))])
    return np.asarray(table[counts.astype(int)])


# ---- leaky integrate-and-fire


@dataclass(frozen=True)
class FireSettings:
    """A network of leaky integrate-and-fire neurons.

    Parameters
    ----------
    excitatory, inhibitory
        Numbers of neurons; excitatory ones come first. The last two excitatory ones share a common input and no
        connection.
    connection
        Probability of a connection between two neurons.
    excite, inhibit
        Jump of a target's voltage (mV) at a source's spike, one millisecond later.
    drive, noise
        Mean of the constant input (mV at rest) and standard deviation of the fluctuating one (mV, over 10 ms).
    common
        Standard deviation of the input that the last two excitatory neurons share (mV); their own is 0.3 `noise`.
    tau, threshold, refractory
        Membrane time constant (ms), threshold above the reset (mV), dead time (ms).
    trials, time, bin
        Trials of `time` ms, after 100 ms that are dropped; spikes are counted in bins of `bin` ms.
    """

    excitatory: int = 16
    inhibitory: int = 4
    connection: float = 0.12
    excite: float = 3.0
    inhibit: float = -4.0
    drive: float = 13.0
    noise: float = 5.0
    common: float = 8.0
    tau: float = 10.0
    threshold: float = 15.0
    refractory: int = 2
    trials: int = 30
    time: int = 2000
    bin: int = 5


def integrate_and_fire(
    seed: int = 0, settings: FireSettings | None = None, *, shuffled: bool = False
) -> Population:
    """Neurons that can be recorded and stimulated, so that functional connectivity can be held against effect.

    Each millisecond v += (drive + fluctuation - v) / tau + sum over sources that fired; at the threshold the neuron
    fires and v is reset to 0. Two unconnected neurons share a fluctuating input: they correlate, and neither acts on the
    other.

    Parameters
    ----------
    seed
        Of wiring and noise.
    settings
        Size and biophysics; by default 20 neurons, 30 trials of 2 s.
    shuffled
        Permute and roll trials neuron by neuron.

    Returns
    -------
    Population
        Site ``neurons``: spikes a bin (trial, time, neuron), with label ``excitatory``. `coupling`: mV (source, target).
        `data`: ``common_input`` (the pair), ``rates`` (Hz), ``settings``. `stimulate(i)` drives neuron i by 10 mV more
        and returns the change of every neuron's rate (Hz); the noise is the same in both runs, so that a neuron that
        i cannot reach changes by exactly 0.

    Examples
    --------
    >>> system = integrate_and_fire(0, FireSettings(trials=2, time=200))
    >>> change = system.stimulate(0)
    >>> bool(change[0] > 0), change.shape
    (True, (20,))
    """
    s = settings or FireSettings()
    rng = numpy_rng([seed, 5301])
    weights = _wiring(rng, s)
    spikes = _fire(seed, s, weights)
    rates = spikes.mean((0, 1)) * 1000
    pair = (s.excitatory - 2, s.excitatory - 1)
    binned = _binned(spikes, s.bin)
    labels: dict[Site | str, dict[str, list[bool]]] = {
        "neurons": {"excitatory": [i < s.excitatory for i in range(len(weights))]}
    }
    facts = {"common_input": pair, "rates": rates, "settings": s}
    if shuffled:
        binned = roll_trials(binned, numpy_rng([seed, 5302]))
    manifest = {"source": "integrate-and-fire" + "-shuffled" * shuffled, "seed": seed, "bin_ms": s.bin}
    recording = Recording.from_arrays({"neurons": binned.astype(np.float32)}, None, manifest, labels)
    if shuffled:
        return Population(recording, np.zeros_like(weights), True, {"rates": rates, "settings": s})

    def stimulate(unit: int) -> Array:
        _check_unit(unit, len(weights))
        return np.asarray(_fire(seed, s, weights, unit).mean((0, 1)) * 1000 - rates)

    return Population(recording, weights, True, facts, stimulate)


def _wiring(rng: np.random.Generator, s: FireSettings) -> Array:
    n = s.excitatory + s.inhibitory
    strength = np.where(np.arange(n) < s.excitatory, s.excite, s.inhibit)[:, None]
    weights = strength * (rng.random((n, n)) < s.connection)
    np.fill_diagonal(weights, 0.0)
    first, second = s.excitatory - 2, s.excitatory - 1
    weights[first, second] = weights[second, first] = 0.0
    return weights


def _fire(seed: int, s: FireSettings, weights: Array, driven: int | None = None) -> Array:
    """Spikes (trial, ms, neuron); the noise depends on the seed alone, so that runs can be compared."""
    noise = _Fluctuations(numpy_rng([seed, 5303]), s, len(weights))
    extra = np.zeros(len(weights))
    if driven is not None:
        extra[driven] = 10.0
    warm = 100
    v = numpy_rng([seed, 5304]).uniform(0, s.threshold, (s.trials, len(weights)))
    dead = np.zeros_like(v)
    fired = np.zeros_like(v)
    spikes = np.zeros((s.trials, s.time, len(weights)))
    for t in range(warm + s.time):
        v = v + (s.drive + extra + next(noise) - v) / s.tau + fired @ weights
        v = np.where(dead > 0, 0.0, v)
        fired = (v >= s.threshold).astype(float)
        dead = np.where(fired > 0, s.refractory, np.maximum(dead - 1, 0))
        v = np.where(fired > 0, 0.0, v)
        if t >= warm:
            spikes[:, t - warm] = fired
    return spikes


class _Fluctuations:
    """Ornstein-Uhlenbeck input with a time constant of 10 ms, one millisecond after the other."""

    def __init__(self, rng: np.random.Generator, s: FireSettings, n: int) -> None:
        self.rng, self.s, self.keep = rng, s, float(np.exp(-1 / 10))
        self.own = rng.normal(size=(s.trials, n))
        self.common = rng.normal(size=(s.trials, 1))

    def __next__(self) -> Array:
        fresh = (1 - self.keep**2) ** 0.5
        self.own = self.keep * self.own + fresh * self.rng.normal(size=self.own.shape)
        self.common = self.keep * self.common + fresh * self.rng.normal(size=self.common.shape)
        out = self.s.noise * self.own
        pair = slice(self.s.excitatory - 2, self.s.excitatory)
        out[:, pair] = 0.3 * out[:, pair] + self.s.common * self.common
        return out


def _binned(spikes: Array, width: int) -> Array:
    trials, time, units = spikes.shape
    bins = time // width
    return np.asarray(spikes[:, : bins * width].reshape(trials, bins, width, units).sum(2))
