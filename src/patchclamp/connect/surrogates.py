"""Surrogates: data in which each unit keeps its own statistics and has nothing to do with the others.

How far a unit reaches into its own future is its autocorrelation width: the lag at which the size of its autocorrelation falls
below 1/e, for good or for four times as long. Two units that are shifted against each other by less than 2.5 widths keep
some of their coupling, so steps are laid on a lattice that leaves that much between all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, kurtosis

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.series import Series

Array = NDArray[np.float64]
Null = Literal["auto", "circular_shift", "block_permuted", "phase_randomised", "permutation"]
NULLS = ("auto", "circular_shift", "block_permuted", "phase_randomised", "permutation")
APART = 2.5  # least distance of steps, in autocorrelation widths
PLACE = (
    4.0  # widths that a correlation at some shift takes to become another: the area under its autocorrelation
)
PLACES = 20  # of these that a shift must have: with fewer, p = .05 cannot be had
STRETCHES = 20  # widths from which random phases are calibrated
BLOCK, BLOCKS = 20, 20  # widths in a block, blocks in a recording
SAME = 0.25  # largest share of the samples in which independent steps may leave two units aligned by chance
HEAVY = 3.0  # excess kurtosis from which random phases, which make a signal Gaussian, are no null


def autocorrelation_widths(series: Series) -> Array:
    """(unit,) lag in samples at which the size of the autocorrelation, over all segments, falls below 1/e."""
    x = series.centred().values
    longest = max(part.stop - part.start for part in series.segments)
    total = np.zeros((longest, series.n_units))
    for part in series.segments:
        n = part.stop - part.start
        spectrum = np.fft.rfft(x[part], 2 * n, axis=0)
        total[:n] += np.fft.irfft(spectrum.real**2 + spectrum.imag**2, 2 * n, axis=0)[:n]
    size = np.abs(total / np.where(total[0] > 0, total[0], 1))
    return np.array([_width(column) for column in size.T])


def _width(size: Array) -> float:
    high = size >= 1 / np.e
    last = int(high.argmin()) - 1 if not high.all() else len(size) - 1
    while True:  # a rhythm comes back: as long as it does within four times the lag reached so far, go on
        ahead = np.flatnonzero(high[last + 1 : 5 * (last + 1)])
        if not len(ahead):
            break
        last += 1 + int(ahead[-1])
    if last + 1 >= len(size):
        return float(len(size))
    above, below = size[max(last, 0)], size[last + 1]
    return float(max(last, 0) + (above - 1 / np.e) / (above - below)) if above > 1 / np.e else float(last + 1)


@dataclass(frozen=True, eq=False)
class Surrogates:
    """A way to draw surrogates of a series.

    Parameters
    ----------
    series
        The data.
    name
        One of `NULLS`, not ``"auto"``.
    widths
        (unit,) autocorrelation widths, in samples.
    reach
        Samples over which the measure looks for coupling (largest lag, window): steps stay that much further apart.
    """

    series: Series
    name: str
    widths: Array
    reach: int = 0

    @classmethod
    def of(cls, series: Series, null: Null = "auto", reach: int = 0) -> Surrogates:
        """Those of a name, or for ``"auto"`` the first that is valid here.

        Samples without time are permuted. In time: circular shifts where steps without near coincidence exist; else blocks
        of 20 widths in random order, where there are 20; else random phases, where units are not discrete and have no heavy
        tails.

        Raises
        ------
        PatchclampError
            For an unknown name; where none (or the named one) is valid, with the length of a recording that would do.
        """
        if null not in NULLS:
            raise PatchclampError(f"null={null!r}: one of {', '.join(NULLS)}, or None")
        if not series.ordered and null in ("auto", "permutation"):
            return cls(series, "permutation", np.ones(series.n_units), reach)
        made = cls(series, null, autocorrelation_widths(series), reach)
        if null in ("phase_randomised", "permutation"):
            return made
        tried = ("circular_shift", "block_permuted", "phase_randomised") if null == "auto" else (null,)
        problems = {name: made.problem(name) for name in tried}
        valid = [name for name in tried if problems[name] is None]
        if not valid:
            raise PatchclampError(made._refusal(null, {k: v for k, v in problems.items() if v}))
        return cls(series, valid[0], made.widths, reach)

    @property
    def slow(self) -> float:
        """Width of the second slowest unit: two units share no more than the faster of them keeps of itself."""
        return float(np.sort(self.widths)[-2])

    def problem(self, name: str) -> tuple[str, int] | None:
        """What speaks against surrogates of this name, and the samples of one run that would do (0: none would)."""
        n = len(self.series.values)
        if name == "circular_shift":
            needed = max(self._room(), PLACES * PLACE * self.slow)
            short = self._places(np.array(self.slow)) < PLACES or aligned_by_chance(self) > SAME
            return ("steps without near coincidence", int(np.ceil(needed))) if short else None
        if name == "block_permuted":
            least = BLOCKS * self._block()
            blocks = sum((part.stop - part.start) // self._block() for part in self.series.segments)
            return ("blocks", least) if blocks < BLOCKS else None
        tails = kurtosis(self.series.values, axis=0)
        if float(np.median(tails)) > HEAVY or _discrete(self.series.values):
            return "random phases of units that are discrete or have heavy tails", 0
        least = int(np.ceil(STRETCHES * self.slow))
        return ("random phases", least) if n < least else None

    def places(self) -> Array:
        """(unit, unit) how many places, 4 widths long each, a pair's shifts have; without end for other surrogates."""
        n = self.series.n_units
        if self.name != "circular_shift":
            return np.full((n, n), np.inf)
        return self._places((self.widths[:, None] + self.widths) / 2)

    def draw(self, rng: np.random.Generator) -> Series:
        """One surrogate."""
        if self.name == "circular_shift":
            return self._shifted(rng)
        if self.name == "block_permuted":
            return block_permuted(self.series, rng, self._block())
        return MAKE[self.name](self.series, rng)

    def _places(self, width: Array) -> Array:
        """Over all segments, whose shifts combine."""
        lengths = np.array([part.stop - part.start for part in self.series.segments], np.float64)
        each = np.log(np.maximum(1, lengths / (PLACE * width[..., None]))).sum(-1)
        return np.asarray(np.exp(np.minimum(each, 50)))

    def _room(self) -> float:
        """Samples that steps without near coincidence take."""
        return float(APART * self.widths.sum() + self.reach * self.series.n_units)

    def _block(self) -> int:
        return int(np.ceil(BLOCK * self.slow)) + 2 * self.reach

    def _refusal(self, null: str, problems: dict[str, tuple[str, int]]) -> str:
        n, units = len(self.series.values), self.series.n_units
        unit = self.series.names[int(np.argsort(self.widths)[-2])]
        what = "; ".join(
            f"{why}: {least:,} samples" if least else f"no {why}" for why, least in problems.values()
        )
        other = "null='auto' looks for another, " if null != "auto" else ""
        return (
            f"null={null!r}: {n:,} samples of {units} units, which keep their value for {self.slow:.1f} samples "
            f"({unit}), are too few for a null. In one run would do: {what}. {other}null=None gives weights alone"
        )

    def _shifted(self, rng: np.random.Generator) -> Series:
        out = np.empty_like(self.series.values)
        for part in self.series.segments:
            length = part.stop - part.start
            step = lattice(self.widths, length, self.reach, rng)
            rows = part.start + (np.arange(length)[:, None] + step) % length
            out[part] = np.take_along_axis(self.series.values, rows, axis=0)
        return self.series.with_values(out)


def lattice(widths: Array, length: int, reach: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(unit,) steps on a circle of `length` samples: in random order, with jitter, and APART widths + `reach` between any two.

    Where the circle is too short for that, steps are independent.
    """
    n = len(widths)
    order = rng.permutation(n)
    own = APART * widths[order] + reach
    gap = (own + np.roll(own, -1)) / 2  # between a unit and the next
    if gap.sum() > length:
        return rng.integers(0, length, n)
    space = gap * length / gap.sum()
    slack = float((space - gap).min()) / 2
    place = np.cumsum(space) - space + rng.uniform(-slack, slack, n) + rng.uniform(0, length)
    out = np.empty(n, np.int64)
    out[order] = np.floor(place).astype(np.int64) % length
    return out


def aligned_by_chance(made: Surrogates) -> float:
    """Share of samples (beyond the mean share) in which steps leave some pair aligned in one draw of twenty."""
    lengths = np.array([part.stop - part.start for part in made.series.segments], np.float64)
    loose = lengths[lengths < made._room()]
    if not len(loose):
        return 0.0
    n = made.series.n_units
    near = 2 * (APART * float(made.widths.mean()) + made.reach)
    chance = float(np.minimum(1, near / loose) @ loose / loose.sum())
    segments = max(1, round(loose.sum() ** 2 / (loose**2).sum()))
    pairs = n * (n - 1) / 2
    reached = np.flatnonzero(pairs * binom.sf(np.arange(segments + 1) - 1, segments, chance) > 0.05).max()
    return float((reached / segments - chance) * loose.sum() / lengths.sum())


def _discrete(x: Array) -> bool:
    """Whether most units take few values, as counts and codes do."""
    return float(np.median([len(np.unique(column)) for column in x.T])) < max(10, 0.1 * len(x))


def circular_shift(series: Series, rng: np.random.Generator, reach: int = 0) -> Series:
    """Roll each unit in each segment by a step of its own: keeps rate, distribution and autocorrelation.

    Steps are at least 2.5 autocorrelation widths and `reach` samples apart in each segment that has room for it, else
    independent.
    """
    return Surrogates(series, "circular_shift", autocorrelation_widths(series), reach).draw(rng)


def block_permuted(series: Series, rng: np.random.Generator, block: int) -> Series:
    """Put each unit's blocks into a random order, after a random roll: keeps the distribution, and time within blocks."""
    out = np.empty_like(series.values)
    for part in series.segments:
        length = part.stop - part.start
        count = max(1, length // block)
        edges = np.linspace(0, length, count + 1).astype(np.int64)
        for unit in range(series.n_units):
            order = np.concatenate([np.arange(edges[k], edges[k + 1]) for k in rng.permutation(count)])
            out[part, unit] = series.values[part.start + (order + rng.integers(length)) % length, unit]
    return series.with_values(out)


def phase_randomised(series: Series, rng: np.random.Generator) -> Series:
    """Give each Fourier component of each unit a random phase: keeps the spectrum, makes the distribution Gaussian."""
    out = np.empty_like(series.values)
    for part in series.segments:
        spectrum = np.fft.rfft(series.values[part], axis=0)
        phase = np.exp(2j * np.pi * rng.random(spectrum.shape))
        phase[0] = 1
        if (part.stop - part.start) % 2 == 0:
            phase[-1] = rng.choice([-1.0, 1.0], spectrum.shape[1])
        out[part] = np.fft.irfft(spectrum * phase, n=part.stop - part.start, axis=0)
    return series.with_values(out)


def permutation(series: Series, rng: np.random.Generator) -> Series:
    """Permute each unit over all samples: for samples that do not depend on each other."""
    return series.with_values(rng.permuted(series.values, axis=0))


MAKE: dict[str, Callable[[Series, np.random.Generator], Series]] = {
    "phase_randomised": phase_randomised,
    "permutation": permutation,
}
