"""Lempel-Ziv complexity of spike trains, beside that of trains with the same rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.measure.activity.kept import Rows, check_memory
from patchclamp.nouns.measure import require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples


def lempel_ziv(train: ArrayLike) -> int:
    """Number of words in the exhaustive history of a sequence: the complexity of Lempel and Ziv (1976).

    The sequence is read from the left. Each word is the shortest one that does not occur earlier, where an earlier
    occurrence may overlap the word itself but for its last symbol; what is left at the end counts as one word.
    A random binary sequence of n symbols with p(1) = 1/2 has about n / log2(n) words (more at finite n).

    This is LZ76. The dictionary coder LZ78, which some packages compute under the same name, counts other words
    (its words do not overlap, and 1,000 random bits have about 173 of them, against 107).

    Parameters
    ----------
    train
        (bins,): zero or not zero.

    Raises
    ------
    PatchclampError
        If the train is empty or not one-dimensional.

    References
    ----------
    Lempel, Ziv (1976), On the complexity of finite sequences. Kaspar, Schuster (1987), Easily calculable measure
    for the complexity of spatiotemporal patterns.

    Examples
    --------
    >>> lempel_ziv([0] * 50), lempel_ziv([0, 1] * 25), lempel_ziv([int(b) for b in "0001101001000101"])
    (2, 3, 6)
    """
    bits = np.asarray(train)
    require(bits.ndim == 1 and len(bits) > 0, f"lempel_ziv: a train of shape {bits.shape}; wanted (bins,)")
    require(not (np.isnan(bits).any() if bits.dtype.kind == "f" else False), "lempel_ziv: NaN in the train")
    text = (bits != 0).astype(np.uint8).tobytes()
    n, start, words = len(text), 0, 0
    while start < n:
        start += _word(text, start, n)
        words += 1
    return words


def _word(text: bytes, start: int, n: int) -> int:
    """Length of the word that begins at `start`: the longest earlier match and one symbol more."""
    length, source = 1, 0
    while start + length <= n:
        # A longer match cannot begin before the first place where the shorter one does.
        source = text.find(text[start : start + length], source, start + length - 1)
        if source < 0:
            return length
        while start + length < n and text[source + length] == text[start + length]:
            length += 1
        length += 1
    return length


class LempelZiv(Rows):
    """Lempel-Ziv complexity of each unit's binary train, beside that of trains of the same rate.

    A train is a stretch of consecutive positions of one document (trial, text), with 1 where activity exceeds
    `threshold`. Per unit: ``complexity`` = words of all its trains, ``normalised`` = words / sum of n / log2 n
    (about 1 for coin flips). Both follow the rate above all: a train with few spikes has few words. So
    every train is also shuffled in time (rate kept, order lost) `n_surrogates` times: ``relative`` = words / mean
    words of shuffled trains (1 = no order beyond the rate, small = regular), ``p`` = (1 + shuffles at least as
    far from their mean) / (1 + n_surrogates), two-sided and for one unit: correct for their number.

    Order within a document is needed, so the bits are kept: 1 bit a sample and unit, and 16 bytes a sample (the one
    thing that grows with the data; refused above `memory_limit`). A train of 1,000 bins takes .5 ms, one of 10,000
    35 ms, once and again for every surrogate: select the units and trials that are wanted.

    Parameters
    ----------
    threshold
        Activity above it is a 1.
    n_surrogates, seed
        Shuffled trains. Their order depends on the seed, document, position and unit alone.
    min_length
        Shorter trains are left out (n / log2 n means little below some tens of bins).
    memory_limit
        Bytes; more is refused.

    Notes
    -----
    Not evidence for: information carried. A regular train and a noise-free code of a regular stimulus look alike.
    A shuffle also destroys bursts and slow rate changes; a small ``relative`` says only that there is some order.

    References
    ----------
    Lempel, Ziv (1976). Szczepanski et al. (2003), Application of Lempel-Ziv complexity to the analysis of neural
    discharges.
    """

    name = "lempel_ziv"
    fields = ("bits", "doc", "position")

    bits: Tensor  # samples x bytes: eight units a byte
    doc: Tensor
    position: Tensor

    def __init__(
        self,
        *,
        threshold: float = 0.0,
        n_surrogates: int = 19,
        seed: int = 0,
        min_length: int = 32,
        memory_limit: int = 2**30,
    ) -> None:
        require(n_surrogates >= 0, f"LempelZiv: n_surrogates={n_surrogates} is negative")
        require(min_length >= 2, f"LempelZiv: min_length={min_length}; a train has at least 2 bins")
        self.threshold, self.n_surrogates = float(threshold), int(n_surrogates)
        self.seed, self.min_length, self.memory_limit = int(seed), int(min_length), int(memory_limit)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        packed = np.packbits((values > self.threshold).cpu().numpy(), axis=1)
        n = self.n_samples + len(values)
        check_memory(self, n * (packed.shape[1] + 16), f"{n} samples of {values.shape[1]} units")
        part = {"doc": samples.doc.cpu(), "position": samples.position.cpu()}
        self._pending = [*self._pending, {"bits": torch.from_numpy(packed), **part}]

    def trains(self) -> list[tuple[int, int]]:
        """First row and row after the last of every train, among the rows in order of document and position."""
        self._need_data()
        self._settle()
        doc, position = self.doc.numpy(), self.position.numpy()
        twice = np.flatnonzero((np.diff(doc) == 0) & (np.diff(position) == 0))
        if len(twice):
            raise PatchclampError(
                f"{self._who}: document {doc[twice[0]]} has position {position[twice[0]]} more than once; "
                "a train needs one sample for each time: were documents given the same number?"
            )
        cut = np.flatnonzero((np.diff(doc) != 0) | (np.diff(position) != 1)) + 1
        starts, ends = np.concatenate([[0], cut]), np.concatenate([cut, [len(doc)]])
        long = ends - starts >= self.min_length
        if not long.any():
            raise PatchclampError(
                f"{self._who}: the longest train has {int((ends - starts).max())} consecutive positions, "
                f"min_length is {self.min_length}; record longer stretches of time, or lower min_length"
            )
        return list(zip(starts[long].tolist(), ends[long].tolist(), strict=True))

    def result(self) -> xr.Dataset:
        """Dataset over `unit`: complexity, normalised, rate, surrogate_mean, surrogate_std, relative, p."""
        units = self._need_data()
        trains = self.trains()
        words, active, null = np.zeros(units), np.zeros(units), np.zeros((self.n_surrogates, units))
        for start, end in trains:
            bits = np.ascontiguousarray(np.unpackbits(self.bits[start:end].numpy(), axis=1, count=units).T)
            active += bits.sum(1)
            where = [self.seed, _natural(int(self.doc[start])), _natural(int(self.position[start]))]
            for unit, train in enumerate(bits):
                words[unit] += lempel_ziv(train)
                rng = numpy_rng([*where, unit])
                for draw in range(self.n_surrogates):
                    null[draw, unit] += lempel_ziv(rng.permutation(train))
        bins = np.array([end - start for start, end in trains], dtype=float)
        out = {
            "complexity": words.astype(np.int64),
            "normalised": words / (bins / np.log2(bins)).sum(),
            "rate": active / bins.sum(),
            **_against(words, null),
        }
        variables = {name: (("unit",), values) for name, values in out.items()}
        return self._dataset(variables, n_trains=len(trains), n_bins=int(bins.sum()), seed=self.seed)


def _natural(number: int) -> int:
    """Whole numbers to natural ones, which a seed is made of."""
    return 2 * number if number >= 0 else -2 * number - 1


def _against(words: NDArray[np.float64], null: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Words beside those of shuffled trains."""
    if not len(null):
        return {}
    mean = null.mean(0)
    far = np.abs(null - mean) >= np.abs(words - mean) - 1e-9
    return {
        "surrogate_mean": mean,
        "surrogate_std": null.std(0),
        "relative": words / mean,
        "p": (1 + far.sum(0)) / (1 + len(null)),
    }
