"""brain: tuning, spike-triggered averages, histograms over trials, reliability, decoding."""

from __future__ import annotations

from patchclamp.measure.brain.decoding import Decoded, decode_behaviour
from patchclamp.measure.brain.diffusion import (
    DiffusionEntropy,
    diffusion_entropy,
    diffusion_information,
    diffusion_spectrum,
)
from patchclamp.measure.brain.diffusion_curve import DiffusionCurve, diffusion_curve
from patchclamp.measure.brain.psth import PSTH, plot_psth, psth, raster
from patchclamp.measure.brain.reliability import Reliability, plot_reliability, split_half
from patchclamp.measure.brain.spike_triggered import SpikeTriggered, spike_triggered_average
from patchclamp.measure.brain.tuning import Tuning, tuning

__all__ = [
    "PSTH",
    "Decoded",
    "DiffusionCurve",
    "DiffusionEntropy",
    "Reliability",
    "SpikeTriggered",
    "Tuning",
    "decode_behaviour",
    "diffusion_curve",
    "diffusion_entropy",
    "diffusion_information",
    "diffusion_spectrum",
    "plot_psth",
    "plot_reliability",
    "psth",
    "raster",
    "spike_triggered_average",
    "split_half",
    "tuning",
]
