"""Populations whose wiring, states, motifs or tuning are known: the suite's entries. Each is a `Recording`.

`populations_wired` has systems of coupled neurons (a point process with direction, switching states, leaky
integrate-and-fire neurons that can be stimulated), `populations_coded` those whose activity follows something outside
(motifs over animals, signals that are correlated in time, place cells, voxels).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from patchclamp.truth.base import Population, enter
from patchclamp.truth.populations_coded import (
    autocorrelated,
    autocorrelated_signal,
    motifs,
    one_run,
    place_cells,
    voxels,
)
from patchclamp.truth.populations_wired import coupled, integrate_and_fire, switching

C1, C6, C7, C8 = (f"brain card {card}" for card in ("C1", "C6", "C7", "C8"))
WIRED, CODED = "populations_wired.py", "populations_coded.py"
ROLLED = "trials permuted and rolled neuron by neuron"


def _enter(
    name: str,
    build: Callable[..., Population],
    about: str,
    source: str,
    *,
    shuffled: bool = False,
    control: bool = False,
    fast: bool = True,
) -> None:
    made = partial(build, shuffled=True) if shuffled else build
    enter(name, "population", made, about, source, control=control or shuffled, fast=fast)


_enter("coupled", coupled, "12 spiking neurons, 8 directed connections", C7)
_enter(
    "coupled-busy",
    partial(coupled, busy=11),
    "the same, and an unconnected neuron that fires five times as much",
    C7,
)
_enter("coupled-shuffled", coupled, f"{ROLLED}: rates kept, nothing coupled", C7, shuffled=True)
_enter("switching", switching, "8 neurons, 3 states of coupling that switch", C8)
_enter(
    "switching-still", partial(switching, n_states=1), "the same with one state: no switch may be found", C8
)
_enter("switching-shuffled", switching, ROLLED, C8, shuffled=True)
_enter(
    "integrate-and-fire",
    integrate_and_fire,
    "20 leaky integrate-and-fire neurons, excitatory and inhibitory, two with common input; can be stimulated",
    WIRED,
    fast=False,
)
_enter(
    "integrate-and-fire-shuffled",
    integrate_and_fire,
    f"its spikes, {ROLLED}",
    WIRED,
    shuffled=True,
    fast=False,
)
_enter("motifs", motifs, "three groups that move together at times, in some animals", C6)
_enter("motifs-shuffled", motifs, "each neuron rolled in time on its own: no motif", C6, shuffled=True)
_enter(
    "autocorrelated",
    autocorrelated,
    "features and responses independent, smooth in time, ten runs: shuffled folds lie",
    C1,
    control=True,
)
_enter(
    "autocorrelated-one-run",
    one_run,
    "the same in one run of 600: only a gap around each fold is honest",
    C1,
    control=True,
)
_enter(
    "autocorrelated-signal",
    autocorrelated_signal,
    "smooth in time, and responses do follow the features: held-out R2 has a known ceiling",
    C1,
)
_enter("place-cells", place_cells, "40 tuned and 20 untuned neurons on a track", CODED)
_enter(
    "place-cells-shuffled",
    place_cells,
    "laps permuted and rolled neuron by neuron: no tuning",
    CODED,
    shuffled=True,
)
_enter("voxels", voxels, "50 voxels, 3 repeats, noise ceiling known for each", C1)
_enter(
    "voxels-shuffled",
    voxels,
    "stimuli of the responses permuted: reliable, and nothing to do with the features",
    C1,
    shuffled=True,
)
