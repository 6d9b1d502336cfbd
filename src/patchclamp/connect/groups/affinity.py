"""Affinities: when do two units change together? A tensor (time, animal, pair) that is made a block of pairs at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.matrix import ActivityMatrix, MatrixLike, Reading, matrix
from patchclamp.nouns.recording.recording import Recording

Array = NDArray[np.float64]
Kind = Literal["geometric", "minimum"]


class Affinities:
    """Affinity of every pair of neurons at every time in every animal, never held in memory unless it fits.

    Parameters
    ----------
    slopes
        (animal, time, neuron) scaled time derivatives; NaN where an animal lacks a neuron.
    kind, sign
        As in `affinities`.
    smooth
        Width of the smoothing of the affinities in samples.
    names, animals
        Of neurons and animals.
    cache
        Bytes up to which the tensor is kept in memory once it has been made.
    about
        How a recording was read (`ActivityMatrix.about`).
    """

    def __init__(
        self,
        slopes: Array,
        kind: Kind,
        sign: int,
        smooth: float,
        names: Sequence[str],
        animals: Sequence[str],
        cache: int = 2**31,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.about = dict(about or {})
        count, steps, neurons = slopes.shape
        self.slopes, self.kind, self.sign, self.width = slopes, kind, sign, smooth
        self.names, self.animals, self.cache = tuple(names), tuple(animals), cache
        self.i, self.j = (torch.from_numpy(np.ascontiguousarray(k)) for k in np.triu_indices(neurons, 1))
        self.shape = (steps, count, len(self.i))
        there = torch.from_numpy(np.isfinite(slopes).all(1))
        both = there[:, self.i] & there[:, self.j]
        self.mask: Tensor | None = None if bool(both.all()) else both
        flat = np.nan_to_num(slopes).transpose(1, 0, 2).reshape(steps * count, neurons)
        self._flat = torch.from_numpy(np.ascontiguousarray(flat, np.float32))
        self._kernel = torch.from_numpy(_kernel(steps, smooth)).float() if smooth > 0 else None
        self._kept: Tensor | None = None

    def block(self, pairs: Tensor | slice) -> Tensor:
        """(time * animal, pairs) affinities before smoothing."""
        if self._kept is None and self._flat.shape[0] * self.shape[2] * 4 <= self.cache:
            self._kept = self._make(slice(None))
        return self._make(pairs) if self._kept is None else self._kept[:, pairs]

    def _make(self, pairs: Tensor | slice) -> Tensor:
        a, b = self._flat[:, self.i[pairs]], self._flat[:, self.j[pairs]]
        product = (a * b) if self.sign > 0 else -(a * b)
        if self.kind == "geometric":
            return product.clamp_min_(0).sqrt_()
        return torch.minimum(a.abs(), b.abs()) * (product > 0)

    def smooth(self, factors: Tensor) -> Tensor:
        """The smoothing along time, which commutes with all sums over pairs and so is applied to factors alone."""
        return factors if self._kernel is None else self._kernel.to(factors.dtype) @ factors

    def dense(self) -> Array:
        """(time, animal, pair) all of it, NaN where a pair is missing; for small data and pictures."""
        steps, animals, n = self.shape
        out = (
            self.smooth(self.block(slice(None)).reshape(steps, -1))
            .reshape(steps, animals, n)
            .double()
            .numpy()
        )
        if self.mask is not None:
            out = np.where(self.mask.numpy(), out, np.nan)
        return out

    def square(self, pairs: Array) -> Array:
        """(neuron, neuron) symmetric from one value a pair; the diagonal is 0."""
        n = len(self.names)
        out = np.zeros((n, n))
        out[self.i.numpy(), self.j.numpy()] = pairs
        return out + out.T

    def shifted(self, how: str, rng: np.random.Generator) -> Affinities:
        """The same from surrogate slopes; see `dynamic_connectome` for the nulls."""
        made = _surrogate(self.slopes, how, rng)
        return Affinities(
            made, self.kind, self.sign, self.width, self.names, self.animals, self.cache, self.about
        )


def affinities(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    kind: Kind = "geometric",
    sign: Literal[1, -1] = 1,
    smooth_trace: float = 2.0,
    smooth_affinity: float = 5.0,
    cache: int = 2**31,
    **reading: Unpack[Reading],
) -> Affinities:
    """Differential affinity: large only where two units change at the same time in the same direction.

    Traces are smoothed (Gaussian) and differentiated, each neuron's derivative is divided by its own standard deviation,
    and a_ij(t) = sqrt(max(0, x_i' x_j')), smoothed in time (both widths in samples).

    Parameters
    ----------
    data
        A `Recording` with one site an animal (all with as many neurons, in the same order, the missing ones not
        `present`) or one site and as many samples in every group; or an array (animal, time, neuron), NaN for missing
        neurons; or (time, neuron) of one animal.
    groups
        For (sample, neuron): the animal (or trial) of each sample. All must be equally long.
    kind
        ``"minimum"``: min(|x_i'|, |x_j'|) where the signs agree.
    sign
        -1 gives the tensor of pairs that change in *opposite* directions, which the other cannot see.
    smooth_trace, smooth_affinity
        Widths in samples; 0 = none. Calcium traces must be smoothed before they are differentiated.
    cache
        Bytes up to which affinities are kept in memory; above, they are made again in every pass.
    reading
        As in `correlation`; a neuron that is not present in one animal of several is a gap there, whatever `missing` is.

    Returns
    -------
    Affinities
        What `tensor_factorisation` takes.

    Notes
    -----
    After Dyballa et al., whose exact formula could not be verified; both forms recover the planted motifs. The raw
    product is heavy-tailed and splits components.
    """
    if kind not in ("geometric", "minimum") or sign not in (1, -1):
        raise PatchclampError(f"kind={kind!r}, sign={sign}: 'geometric' or 'minimum', 1 or -1")
    if smooth_trace < 0 or smooth_affinity < 0:
        raise PatchclampError(f"smoothing of {smooth_trace}, {smooth_affinity} samples: from 0 on")
    traces, names, animals, about = read_animals(data, groups, **reading)
    slopes = slopes_of(traces, smooth_trace)
    return Affinities(slopes, kind, sign, smooth_affinity, names, animals, cache, about)


def slopes_of(traces: Array, width: float) -> Array:
    """(animal, time, neuron) derivatives in units of each neuron's own standard deviation; 0 for one that never moves."""
    smooth = gaussian_filter1d(traces, width, axis=1) if width > 0 else traces
    slopes = np.gradient(smooth, axis=1)
    spread = slopes.std(axis=1, keepdims=True)
    return slopes / np.where(spread == 0, 1, spread)


def read_animals(
    data: MatrixLike, groups: Sequence[Any] | None = None, **reading: Unpack[Reading]
) -> tuple[Array, list[str], list[str], dict[str, Any]]:
    """(animal, time, neuron) traces with NaN for missing neurons, names of neurons and animals, how they were read."""
    if isinstance(data, Recording) and len(data.sites) > 1:
        return _sites(data, reading)
    if isinstance(data, (Recording, ActivityMatrix)):
        read = matrix(data, **reading)
        label = read.group if groups is None else np.asarray(groups)
        if groups is None and len(np.unique(label)) == len(label):
            label = np.zeros(len(label))  # samples without groups: one animal
        return *_cut(read.numpy(), label, list(read.units["unit"])), read.about
    values = np.asarray(data, dtype=np.float64)
    if values.ndim == 3:
        names = [f"unit[{i}]" for i in range(values.shape[2])]
        return _checked(values), names, [f"animal{a}" for a in range(len(values))], {}
    if values.ndim != 2:
        raise PatchclampError(f"affinities: wanted animal x time x neuron, got shape {values.shape}")
    label = np.zeros(len(values)) if groups is None else np.asarray(groups)
    return *_cut(values, label, [f"unit[{i}]" for i in range(values.shape[1])]), {}


def _sites(data: Recording, reading: Reading) -> tuple[Array, list[str], list[str], dict[str, Any]]:
    widths = {str(site): data[site].shape[1] for site in data.sites}
    if len(set(widths.values())) > 1:
        raise PatchclampError(
            f"animals have {widths} neurons; give all of them, and mark the missing ones not present"
        )
    # A neuron that one animal lacks is a gap in that animal, and stays in the others.
    reading = {**reading, "missing": "drop"}
    blocks = []
    for site in data.sites:
        read, here = matrix(data, site, **reading), data.present(site).numpy()
        parts = read.width // int(here.sum())
        blocks.append(np.full((read.n, parts * len(here)), np.nan))
        blocks[-1][:, np.repeat(here, parts)] = read.numpy()
    table = data.units(data.sites[0])
    named = table["identity"] if "identity" in table else table["index"]
    for site in data.sites[1:]:
        other = data.units(site)
        if "identity" in other and list(other["identity"]) != list(named):
            raise PatchclampError(
                f"{site}: identities of neurons differ from {data.sites[0]}; bring them into one order"
            )
    names = [f"neuron[{i}]" + (f".{p}" if parts > 1 else "") for i in named for p in range(parts)]
    animals = [str(site) for site in data.sites]
    about = {**read.about, "site": ", ".join(animals), "units": len(names)}
    return _checked(np.stack(blocks)), names, animals, about


def _cut(values: Array, label: NDArray[Any], names: list[str]) -> tuple[Array, list[str], list[str]]:
    if len(label) != len(values):
        raise PatchclampError(f"affinities: {len(label)} groups for {len(values)} samples; give one a sample")
    found = list(dict.fromkeys(label.tolist()))
    parts = [values[label == one] for one in found]
    lengths = {len(part) for part in parts}
    if len(lengths) > 1:
        raise PatchclampError(
            f"affinities: groups of {min(lengths)} to {max(lengths)} samples; time is shared, so cut them to one length"
        )
    return _checked(np.stack(parts)), names, [f"group {one}" for one in found]


def _checked(traces: Array) -> Array:
    gone: NDArray[np.bool_] = np.asarray(np.isnan(traces).all(axis=1))
    rest = np.where(gone[:, np.newaxis], 0, traces)
    if not np.isfinite(rest).all():
        animal, sample, neuron = (int(i) for i in np.argwhere(~np.isfinite(rest))[0])
        raise PatchclampError(f"affinities: animal {animal}, sample {sample}, neuron {neuron} is not finite")
    if traces.shape[1] < 4 or traces.shape[2] < 3:
        raise PatchclampError(
            f"affinities: {traces.shape[1]} samples of {traces.shape[2]} neurons; from 4 and 3 on"
        )
    never = np.flatnonzero(gone.all(0))
    if len(never):
        raise PatchclampError(f"affinities: neuron {never[0]} is missing in every animal; leave it out")
    return traces


def _kernel(steps: int, width: float) -> Array:
    """(time, time) symmetric smoothing: a Gaussian reflected at the ends."""
    return np.asarray(gaussian_filter1d(np.eye(steps), width, axis=0, mode="reflect"))


NULLS = ("neuron_shift", "animal_shift", "phase")


def _surrogate(slopes: Array, how: str, rng: np.random.Generator) -> Array:
    animals, steps, neurons = slopes.shape
    if how == "neuron_shift":
        shift = rng.integers(0, steps, (animals, 1, neurons))
    elif how == "animal_shift":
        shift = np.broadcast_to(rng.integers(0, steps, (animals, 1, 1)), (animals, 1, neurons))
    elif how == "phase":
        return _common_phase(slopes, rng)
    else:
        raise PatchclampError(f"null={how!r}: one of {', '.join(NULLS)}")
    rows = (np.arange(steps)[None, :, None] + shift) % steps
    return np.take_along_axis(slopes, rows, axis=1)


def _common_phase(slopes: Array, rng: np.random.Generator) -> Array:
    """The same random phases for all neurons of an animal: spectra and all lagged correlations stay, timing goes."""
    steps = slopes.shape[1]
    spectrum = np.fft.rfft(np.nan_to_num(slopes), axis=1)
    phase = np.exp(2j * np.pi * rng.random((len(slopes), spectrum.shape[1], 1)))
    phase[:, 0] = 1
    if steps % 2 == 0:
        phase[:, -1] = rng.choice([-1.0, 1.0], (len(slopes), 1))
    made = np.fft.irfft(spectrum * phase, n=steps, axis=1)
    return np.where(np.isnan(slopes), np.nan, made)
