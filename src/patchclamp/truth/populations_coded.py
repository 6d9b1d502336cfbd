"""Populations whose activity follows something known: motifs over animals, smooth signals, place cells, voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from patchclamp.base.seeds import numpy_rng
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.samples import Samples
from patchclamp.nouns.units import Site
from patchclamp.truth.base import Population
from patchclamp.truth.populations_wired import roll_trials, simulated

Array = NDArray[np.float64]


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> Array:
    """Gaussian noise smoothed along the first axis, then of unit variance along it."""
    values = gaussian_filter1d(rng.normal(size=shape), width, axis=0, mode="reflect")
    return np.asarray((values - values.mean(0)) / values.std(0))


# ---- motifs over animals

MOTIFS = ((0, 50, 150, (0, 1, 2, 3, 4, 5)), (1, 200, 300, (0, 1, 2)), (2, 200, 300, (3, 4, 5)))


def motifs(
    seed: int = 0,
    *,
    animals: int = 6,
    units: int = 30,
    time: int = 400,
    missing: int = 0,
    shuffled: bool = False,
) -> Population:
    """Three groups of neurons, each of which shares a signal during an interval, in some of the animals.

    Group 0 moves together at 50..150 in all animals, group 1 at 200..300 in animals 0 to 2, group 2 at 200..300 in
    animals 3 to 5 (2 common + .3 private); else every neuron is smooth noise of its own (a Gaussian of 4 bins).

    Parameters
    ----------
    seed
        Of everything.
    animals, units, time
        Size; groups are thirds of the neurons.
    missing
        Neurons that were not seen, a random choice in each animal.
    shuffled
        Roll each neuron in time, in each animal: a control without motifs.

    Returns
    -------
    Population
        A site for each animal, ``animal0`` ...: (time, neuron), NaN and ``present`` False where a neuron is missing;
        labels ``identity`` (the same neuron in all animals) and ``animal``. `data`: ``groups`` (neuron,),
        ``motifs`` ((group, start, stop, animals) ...), ``present`` (animal, neuron). The groups are not labels of the
        recording: they are what is to be found.

    Examples
    --------
    >>> system = motifs(0, missing=3)
    >>> system.recording.present("animal2").sum().item()
    27
    """
    rng = numpy_rng([seed, 5401])
    groups = np.arange(units) * 3 // units
    traces = np.stack([_smooth(rng, (time, units), 4.0) for _ in range(animals)])
    for group, start, stop, where in MOTIFS:
        for animal in (a for a in where if a < animals):
            common = _smooth(rng, (time, 1), 4.0)[start:stop]
            own = traces[animal, start:stop, groups == group].T
            traces[animal, start:stop, groups == group] = (2 * common + 0.3 * own).T
    if shuffled:
        traces = np.stack([roll_trials(one[None], rng)[0] for one in traces])
    present = np.ones((animals, units), bool)
    for animal in range(animals):
        present[animal, rng.choice(units, missing, replace=False)] = False
    values = np.where(present[:, None], traces, np.nan).astype(np.float32)
    names = [f"animal{a}" for a in range(animals)]
    labels: dict[Site | str, dict[str, list[Any]]] = {
        name: {"identity": list(range(units)), "animal": [a] * units, "present": present[a].tolist()}
        for a, name in enumerate(names)
    }
    place = torch.arange(time)
    samples = Samples.of(torch.zeros_like(place), place)
    manifest = {"source": "motifs" + "-shuffled" * shuffled, "seed": seed}
    recording = Recording.from_arrays(dict(zip(names, values, strict=True)), samples, manifest, labels)
    facts = {"groups": groups, "motifs": [] if shuffled else list(MOTIFS), "present": present}
    return Population(recording, data=facts)


# ---- signals that are smooth in time


def autocorrelated(
    seed: int = 0,
    *,
    runs: int = 10,
    time: int = 60,
    features: int = 100,
    targets: int = 50,
    width: float = 8.0,
) -> Population:
    """Features and responses that have nothing to do with each other, both smooth in time, in independent runs.

    A model scored on shuffled folds predicts almost perfectly, because neighbours in time are nearly equal; scored on
    folds that keep runs (`group`) whole it predicts nothing, which is the truth.

    Parameters
    ----------
    seed
        Of everything.
    runs, time
        Independent runs, and samples in each.
    features, targets
        Units of the sites ``features`` and ``responses``.
    width
        Standard deviation of the Gaussian (bins) that smooths white noise.

    Returns
    -------
    Population
        Run is `doc` and `group`, time is `position`. `data`: ``ceiling`` (R2 of each response: 0), ``width``.

    Examples
    --------
    >>> autocorrelated(0, runs=3, time=20, features=2, targets=1).recording
    Recording(60 samples; features: 2 units, responses: 1 units)
    """
    rng = numpy_rng([seed, 5501])
    x = np.stack([_smooth(rng, (time, features), width) for _ in range(runs)])
    y = np.stack([_smooth(rng, (time, targets), width) for _ in range(runs)])
    recording = simulated("autocorrelated", seed, features=x, responses=y)
    return Population(recording, data={"ceiling": np.zeros(targets), "width": width})


def one_run(seed: int = 0) -> Population:
    """`autocorrelated` in one run of 600 samples: cutting it into blocks without a gap still lets some through."""
    return autocorrelated(seed, runs=1, time=600)


def autocorrelated_signal(
    seed: int = 0,
    *,
    runs: int = 10,
    time: int = 60,
    features: int = 10,
    targets: int = 20,
    width: float = 8.0,
) -> Population:
    """Smooth features, and responses that follow them through known weights, with smooth noise.

    response = features @ weights + noise; signal and noise have variance `ceiling` and 1 - `ceiling` in expectation,
    from .1 to .9 over the targets: no model explains more than that of the response in a new run.

    Returns
    -------
    Population
        As `autocorrelated`, with ``weights`` (feature, target) and ``ceiling`` (R2) in `data`.

    Examples
    --------
    >>> autocorrelated_signal(0, targets=3).data["ceiling"].tolist()
    [0.1, 0.5, 0.9]
    """
    rng = numpy_rng([seed, 5502])
    x = np.stack([_smooth(rng, (time, features), width) for _ in range(runs)])
    noise = np.stack([_smooth(rng, (time, targets), width) for _ in range(runs)])
    ceiling = np.linspace(0.1, 0.9, targets)
    weights = rng.normal(size=(features, targets))
    weights *= np.sqrt(ceiling) / np.linalg.norm(weights, axis=0)
    y = x @ weights + np.sqrt(1 - ceiling) * noise
    recording = simulated("autocorrelated-signal", seed, features=x, responses=y)
    return Population(recording, data={"ceiling": ceiling, "weights": weights, "width": width})


# ---- place cells


def place_cells(
    seed: int = 0,
    *,
    tuned: int = 40,
    untuned: int = 20,
    laps: int = 30,
    time: int = 100,
    shuffled: bool = False,
) -> Population:
    """Spike counts of neurons on a circular track of length 1, some of which fire in one place.

    A tuned neuron's expected count a bin is .1 + peak exp(-d^2 / 2 w^2), d the distance along the circle to its centre;
    an untuned one's is constant, with means like theirs. Counts are Poisson. The animal runs at a speed that drifts.

    Parameters
    ----------
    seed
        Of everything.
    tuned, untuned
        Numbers of neurons; the tuned ones come first.
    laps, time
        Trials, and bins in each.
    shuffled
        Permute and roll laps neuron by neuron: a control in which no neuron knows the place.

    Returns
    -------
    Population
        Sites ``neurons`` (counts) and ``place`` (cos and sin of the angle). `data`: ``tuned`` (bool), ``centre``,
        ``width``, ``peak``, ``position`` (lap, bin), ``rates`` (lap, bin, neuron), ``information`` (Skaggs, bits a
        spike, of the true tuning over the places visited) and ``ceiling``: the squared correlation of a neuron's counts
        with its true rate, Var(rate) / (Var(rate) + mean rate), which no predictor of single bins can exceed in
        expectation.

    Examples
    --------
    >>> system = place_cells(0, laps=4)
    >>> [round(float(x.mean()), 1) for x in (system.data["ceiling"][:40], system.data["ceiling"][40:])]
    [0.5, 0.0]
    """
    rng = numpy_rng([seed, 5601])
    position = _track(rng, laps, time)
    centre, width = rng.random(tuned), rng.uniform(0.05, 0.12, tuned)
    peak = rng.uniform(1.0, 4.0, tuned)
    distance = np.abs((position[..., None] - centre + 0.5) % 1 - 0.5)
    rates = 0.1 + peak * np.exp(-(distance**2) / (2 * width**2))
    flat = np.broadcast_to(rng.choice(rates.mean((0, 1)), untuned), (laps, time, untuned))
    rates = np.concatenate([rates, flat], 2)
    counts = rng.poisson(rates).astype(float)
    is_tuned = np.arange(tuned + untuned) < tuned
    spread = np.where(is_tuned, rates.var((0, 1)), 0.0)
    if shuffled:
        counts = roll_trials(counts, numpy_rng([seed, 5602]))
        is_tuned, spread = np.zeros_like(is_tuned), np.zeros_like(spread)
    relative = rates / rates.mean((0, 1))
    information = np.where(is_tuned, (relative * np.log2(relative)).mean((0, 1)), 0.0)
    angle = 2 * np.pi * position
    place = np.stack([np.cos(angle), np.sin(angle)], 2)
    recording = simulated("place-cells" + "-shuffled" * shuffled, seed, neurons=counts, place=place)
    facts = {
        "tuned": is_tuned,
        "centre": centre,
        "width": width,
        "peak": peak,
        "position": position,
        "rates": rates,
        "information": information,
        "ceiling": spread / (spread + rates.mean((0, 1))),
    }
    return Population(recording, data=facts)


def _track(rng: np.random.Generator, laps: int, time: int) -> Array:
    """(lap, bin) positions in 0..1: three rounds a lap of 100 bins, faster and slower, from a random start."""
    speed = 0.03 * (1 + 0.3 * np.stack([_smooth(rng, (time,), 5.0) for _ in range(laps)]))
    return np.asarray((rng.random((laps, 1)) + speed.cumsum(1)) % 1)


# ---- voxels


def voxels(
    seed: int = 0,
    *,
    stimuli: int = 120,
    repeats: int = 3,
    features: int = 10,
    targets: int = 50,
    shuffled: bool = False,
) -> Population:
    """Responses to stimuli with repeats: a linear function of features, and noise whose variance is known.

    The signal of each voxel has variance 1 over the stimuli, exactly; the noise variance runs from .25 to 16 over the
    voxels. With n repeats averaged, no prediction explains more than 1 / (1 + noise / n) of the variance (r2, in
    expectation).

    Parameters
    ----------
    seed
        Of everything.
    stimuli, repeats
        Each stimulus is shown `repeats` times.
    features, targets
        Units of the sites ``features`` (the stimulus, equal for its repeats) and ``voxels``.
    shuffled
        Permute which stimulus evoked which response: as reliable as before, and no feature predicts it.

    Returns
    -------
    Population
        Stimulus is `doc`, `group` and `label`; repeat is `position`. `data`: ``weights`` (feature, voxel), ``signal``
        (stimulus, voxel), ``noise_variance``, ``ceiling`` (r2 for the mean of the repeats), ``ceiling_single``.

    Examples
    --------
    >>> system = voxels(0)
    >>> [round(float(x), 3) for x in system.data["ceiling"][[0, -1]]]
    [0.923, 0.158]
    """
    rng = numpy_rng([seed, 5701])
    x = rng.normal(size=(stimuli, features))
    weights = rng.normal(size=(features, targets))
    weights /= (x @ weights).std(0)
    signal = (x - x.mean(0)) @ weights
    noise_variance = np.geomspace(0.25, 16, targets)
    y = signal[:, None] + np.sqrt(noise_variance) * rng.normal(size=(stimuli, repeats, targets))
    if shuffled:
        order = numpy_rng([seed, 5702]).permutation(stimuli)
        y, signal, weights = y[order], signal[order], np.zeros_like(weights)
    index = torch.arange(stimuli).repeat_interleave(repeats)
    samples = Samples.of(index, torch.arange(repeats).repeat(stimuli), label=index)
    shown, responses = np.repeat(x, repeats, 0), y.reshape(-1, targets)
    source = "voxels" + "-shuffled" * shuffled
    recording = simulated(source, seed, samples, features=shown, voxels=responses)
    facts = {
        "weights": weights,
        "signal": signal,
        "noise_variance": noise_variance,
        "ceiling": 1 / (1 + noise_variance / repeats),
        "ceiling_single": 1 / (1 + noise_variance),
    }
    return Population(recording, data=facts)
