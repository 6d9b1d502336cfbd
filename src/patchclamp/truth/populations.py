"""Populations whose wiring, states, motifs or tuning are known: the suite's entries. Each is a `Recording`.

`populations_wired` has systems of coupled neurons (a point process with direction, switching states, leaky
integrate-and-fire neurons that can be stimulated), `populations_coded` those whose activity follows something outside
(motifs over animals, signals that are correlated in time, place cells, voxels).
"""

from __future__ import annotations

from patchclamp.truth.base import Truth, register
from patchclamp.truth.populations_coded import (
    autocorrelated,
    autocorrelated_signal,
    motifs,
    one_run,
    place_cells,
    voxels,
)
from patchclamp.truth.populations_wired import coupled, integrate_and_fire, switching

ENTRIES = (
    Truth(
        "coupled",
        "population",
        coupled,
        "12 spiking neurons, 8 directed connections",
        "brain card C7",
    ),
    Truth(
        "coupled-busy",
        "population",
        lambda seed: coupled(seed, busy=11),
        "the same, and an unconnected neuron that fires five times as much",
        "brain card C7",
    ),
    Truth(
        "coupled-shuffled",
        "population",
        lambda seed: coupled(seed, shuffled=True),
        "trials permuted and rolled neuron by neuron: rates kept, nothing coupled",
        "brain card C7",
        control=True,
    ),
    Truth(
        "switching",
        "population",
        switching,
        "8 neurons, 3 states of coupling that switch",
        "brain card C8",
    ),
    Truth(
        "switching-still",
        "population",
        lambda seed: switching(seed, n_states=1),
        "the same with one state: no switch may be found",
        "brain card C8",
    ),
    Truth(
        "switching-shuffled",
        "population",
        lambda seed: switching(seed, shuffled=True),
        "trials permuted and rolled neuron by neuron",
        "brain card C8",
        control=True,
    ),
    Truth(
        "integrate-and-fire",
        "population",
        integrate_and_fire,
        "20 leaky integrate-and-fire neurons, excitatory and inhibitory, two with common input; can be stimulated",
        "populations_wired.py",
        fast=False,
    ),
    Truth(
        "integrate-and-fire-shuffled",
        "population",
        lambda seed: integrate_and_fire(seed, shuffled=True),
        "its spikes, trials permuted and rolled neuron by neuron",
        "populations_wired.py",
        control=True,
        fast=False,
    ),
    Truth(
        "motifs",
        "population",
        motifs,
        "three groups that move together at times, in some animals",
        "brain card C6",
    ),
    Truth(
        "motifs-shuffled",
        "population",
        lambda seed: motifs(seed, shuffled=True),
        "each neuron rolled in time on its own: no motif",
        "brain card C6",
        control=True,
    ),
    Truth(
        "autocorrelated",
        "population",
        autocorrelated,
        "features and responses independent, smooth in time, ten runs: shuffled folds lie",
        "brain card C1",
        control=True,
    ),
    Truth(
        "autocorrelated-one-run",
        "population",
        one_run,
        "the same in one run of 600: only a gap around each fold is honest",
        "brain card C1",
        control=True,
    ),
    Truth(
        "autocorrelated-signal",
        "population",
        autocorrelated_signal,
        "smooth in time, and responses do follow the features: held-out R2 has a known ceiling",
        "brain card C1",
    ),
    Truth(
        "place-cells",
        "population",
        place_cells,
        "40 tuned and 20 untuned neurons on a track",
        "populations_coded.py",
    ),
    Truth(
        "place-cells-shuffled",
        "population",
        lambda seed: place_cells(seed, shuffled=True),
        "laps permuted and rolled neuron by neuron: no tuning",
        "populations_coded.py",
        control=True,
    ),
    Truth(
        "voxels", "population", voxels, "50 voxels, 3 repeats, noise ceiling known for each", "brain card C1"
    ),
    Truth(
        "voxels-shuffled",
        "population",
        lambda seed: voxels(seed, shuffled=True),
        "stimuli of the responses permuted: reliable, and nothing to do with the features",
        "brain card C1",
        control=True,
    ),
)
for _entry in ENTRIES:
    register(_entry)
