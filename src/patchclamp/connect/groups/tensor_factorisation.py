"""Non-negative factorisation of a tensor (time, animal, pair): one pass over the pairs an iteration, masked, restarted.

Notation: X[t, w, p] ~ sum_r T[t, r] W[w, r] P[p, r], all >= 0; columns of T and W have unit norm, P holds the scale.
A pass updates P pair by pair and sums Y[t, w, r] = sum_p X[t, w, p] P[p, r], from which T and W are then updated as often
as is useful without touching X again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from patchclamp.base.assignment import cosines, match
from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.draw.cards import shown

Array = NDArray[np.float64]
TINY = 1e-12
SCOUTS = 6  # starts on part of the pairs, of which the best goes on to all
FLOOR = 0.1  # share of a component's energy in time and animals that a pair must have been seen in
ROUNDS = 2  # of time and animals after each pass; solving each mode exactly leads into worse optima


class PairTensor(Protocol):
    """A tensor (time, animal, pair) that is read a block of pairs at a time."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(time, animals, pairs)."""
        ...

    @property
    def mask(self) -> Tensor | None:
        """(animal, pair) bool, False where a pair was not seen; None where all were."""
        ...

    def block(self, pairs: Tensor | slice) -> Tensor:
        """(time * animal, pairs) values, 0 where missing, before `smooth`."""
        ...

    def smooth(self, factors: Tensor) -> Tensor:
        """Apply the (symmetric) smoothing in time, which is part of the tensor, along the first axis."""
        ...


class DenseTensor:
    """A tensor in memory.

    Parameters
    ----------
    values
        (time, animal, pair), not negative; NaN in all times of an (animal, pair) that was not seen.
    """

    def __init__(self, values: ArrayLike | Tensor) -> None:
        x = torch.as_tensor(values)
        x = x if x.dtype in (torch.float32, torch.float64) else x.double()
        if x.ndim != 3 or min(x.shape) == 0:
            raise PatchclampError(f"tensor: wanted time x animal x pair, got shape {tuple(x.shape)}")
        total = x.sum()
        gone = None
        if not bool(torch.isfinite(total)):
            missing = x.isnan()
            gone = missing.all(0)
            if bool((missing != gone).any()) or bool(x.isinf().any()):
                raise PatchclampError(
                    "tensor: NaN marks a pair that an animal lacks at all times; here only at some (or Inf)"
                )
            x = torch.where(missing, torch.zeros((), dtype=x.dtype), x)
        if bool(x.min() < 0):
            raise PatchclampError(
                f"tensor: smallest value {float(x.min()):g}; a non-negative factorisation needs values from 0 on"
            )
        self.shape = (x.shape[0], x.shape[1], x.shape[2])
        self.mask = None if gone is None else ~gone
        self._flat = x.reshape(self.shape[0] * self.shape[1], self.shape[2])

    def block(self, pairs: Tensor | slice) -> Tensor:
        """(time * animal, pairs)."""
        return self._flat[:, pairs]

    def smooth(self, factors: Tensor) -> Tensor:
        """Nothing is smoothed."""
        return factors


@shown
@dataclass(frozen=True, eq=False)
class Factors:
    """A factorisation, largest component first.

    Parameters
    ----------
    time, animals, pairs
        (time, r), (animal, r), (pair, r); columns of the first two have unit norm.
    error
        ||X - sum|| / ||X||.
    stability
        (r,) mean over the other restarts of the cosine (product over the three modes) of the component matched to this
        one; NaN with one restart.
    errors
        Of every restart, in order.
    passes
        Over all pairs, of the restart that was kept.
    energy
        ||X||^2.
    """

    time: Array
    animals: Array
    pairs: Array
    error: float
    stability: Array
    errors: tuple[float, ...]
    passes: int
    energy: float

    @property
    def rank(self) -> int:
        """Number of components."""
        return int(self.time.shape[1])


def tensor_factorisation(
    tensor: PairTensor | ArrayLike | Tensor,
    rank: int,
    *,
    restarts: int = 5,
    iterations: int = 200,
    tolerance: float = 1e-4,
    warm_pairs: int | None = 500,
    block: int = 4096,
    seed: int = 0,
) -> Factors:
    """Factorise a non-negative tensor (time, animal, pair) by hierarchical alternating least squares.

    Each restart begins with six starts on a random part of the pairs, which fixes time and animals at a fraction of the
    cost; the best passes over all pairs until the error falls by less than `tolerance` of itself.

    Parameters
    ----------
    tensor
        (time, animal, pair), or a source that is read a block of pairs at a time, such as `affinities` returns.
    rank
        Number of components.
    restarts
        From different random starts; the one with the smallest error is returned, the others give the stability.
    iterations, tolerance
        When to stop.
    warm_pairs
        Pairs of the first phase; None skips it.
    block
        Pairs read at a time. The result does not depend on it.
    seed
        Of everything.

    Returns
    -------
    Factors

    Notes
    -----
    HALS after Cichocki and Phan 2009. Components have no order and no sign; they are sorted by their share of energy.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> t, w, p = rng.random((30, 2)), rng.random((4, 2)), rng.random((50, 2))
    >>> found = tensor_factorisation(np.einsum("tr,wr,pr->twp", t, w, p), rank=2, tolerance=1e-6)
    >>> found.error < 0.01
    True
    """
    source: PairTensor = tensor if hasattr(tensor, "block") else DenseTensor(tensor)  # type: ignore[assignment]
    if not 1 <= rank <= min(source.shape[0] * source.shape[1], source.shape[2]):
        raise PatchclampError(
            f"rank={rank}: at least 1 and at most what a tensor of shape {source.shape} can hold"
        )
    if restarts < 1:
        raise PatchclampError(f"restarts={restarts}: at least one")
    pieces = _pieces(source.shape[2], block)
    energy = _energy(source, pieces)
    if energy <= 0:
        raise PatchclampError("tensor: all values are 0, so there is nothing to factorise")
    runs = [
        _run(source, pieces, energy, rank, iterations, tolerance, warm_pairs, [seed, 6101, k])
        for k in range(restarts)
    ]
    best = min(range(restarts), key=lambda k: runs[k].error)
    return _finish(runs, best, energy)


@dataclass
class _Restart:
    time: Tensor
    animals: Tensor
    pairs: Tensor
    error: float
    passes: int


def _pieces(n: int, block: int) -> list[Tensor | slice]:
    if block < 1:
        raise PatchclampError(f"block={block}: at least one pair at a time")
    return [slice(a, min(a + block, n)) for a in range(0, n, block)]


def _energy(source: PairTensor, pieces: Sequence[Tensor | slice]) -> float:
    """||X||^2, summed in float64: in float32 a hundred million squares lose several percent."""
    total, steps = 0.0, source.shape[0]
    for piece in pieces:
        values = source.smooth(source.block(piece).reshape(steps, -1))
        total += sum(float((row.double() ** 2).sum()) for row in values)
    return total


def _run(
    source: PairTensor,
    pieces: Sequence[Tensor | slice],
    energy: float,
    rank: int,
    iterations: int,
    tolerance: float,
    warm_pairs: int | None,
    seed: Sequence[int],
) -> _Restart:
    rng = numpy_rng(seed)
    n = source.shape[2]
    if warm_pairs is None or 2 * warm_pairs > n:
        run = _start(source, rank, rng)
        _iterate(source, pieces, energy, run, iterations, tolerance)
        return run
    chosen = torch.from_numpy(np.sort(rng.choice(n, warm_pairs, replace=False)))
    part, own = _Subset(source, chosen), [slice(0, warm_pairs)]
    scouts = [_start(part, rank, rng) for _ in range(SCOUTS)]
    for scout in scouts:
        _iterate(part, own, _energy(part, own), scout, iterations, tolerance)
    run = min(scouts, key=lambda scout: scout.error)
    run.pairs, run.passes = run.pairs.mean(0).expand(n, rank).clone(), 0
    _pass(source, pieces, energy, run, sweeps=5)  # the pairs are new, time and animals are not
    _iterate(source, pieces, energy, run, iterations, tolerance)
    run.passes += 1
    return run


def _start(source: PairTensor, rank: int, rng: np.random.Generator) -> _Restart:
    dtype = source.block(slice(0, 1)).dtype
    draw = [torch.from_numpy(rng.random((size, rank)) + 0.01).to(dtype) for size in source.shape]
    run = _Restart(draw[0], draw[1], draw[2], float("inf"), 0)
    _normalise(run)
    return run


class _Subset:
    """Some of the pairs of a tensor, kept in memory."""

    def __init__(self, source: PairTensor, chosen: Tensor) -> None:
        self.shape = (source.shape[0], source.shape[1], len(chosen))
        self.mask = None if source.mask is None else source.mask[:, chosen]
        self._values = source.block(chosen)
        self.smooth = source.smooth

    def block(self, pairs: Tensor | slice) -> Tensor:
        return self._values[:, pairs]


def _iterate(
    source: PairTensor,
    pieces: Sequence[Tensor | slice],
    energy: float,
    run: _Restart,
    iterations: int,
    tolerance: float,
) -> None:
    last = float("inf")
    for _ in range(iterations):
        run.error = _pass(source, pieces, energy, run)
        run.passes += 1
        if last - run.error < tolerance * run.error:
            return
        last = run.error


def _pass(
    source: PairTensor, pieces: Sequence[Tensor | slice], energy: float, run: _Restart, sweeps: int = 1
) -> float:
    """Update all three factors with one reading of the tensor; return the relative error."""
    steps, animals, _ = source.shape
    rank = run.time.shape[1]
    smoothed = source.smooth(run.time)
    design = (smoothed[:, None] * run.animals[None]).reshape(steps * animals, rank)
    across = design.T.contiguous()  # a few long rows times x run ten times as fast as x' times a few columns
    grams = (run.time.T @ run.time) * run.animals[:, :, None] * run.animals[:, None]  # (animal, r, r)
    sums = torch.zeros(steps * animals, rank, dtype=design.dtype)
    mass = torch.zeros(animals, rank, rank, dtype=design.dtype)  # per animal: sum over its pairs of P P'
    for piece in pieces:
        x = source.block(piece)
        seen = None if source.mask is None else source.mask[:, piece].to(design.dtype)
        gram = grams.sum(0) if seen is None else torch.einsum("wp,wrs->prs", seen, grams)
        part = _hals(run.pairs[piece], (across @ x).T.contiguous(), gram, sweeps, FLOOR)
        run.pairs[piece] = part
        sums += (part.T.contiguous() @ x.T).T
        mass += part.T @ part if seen is None else torch.einsum("wp,pr,ps->wrs", seen, part, part)
    together = source.smooth(sums.reshape(steps, animals * rank)).reshape(steps, animals, rank)
    fit = _alternate(together, mass, run)
    _normalise(run)
    return float(float(max(energy + fit, 0.0) / energy) ** 0.5)


def _alternate(together: Tensor, mass: Tensor, run: _Restart) -> float:
    """Update time and animals from the sums over pairs; return ||model||^2 - 2 <X, model>."""
    for _ in range(ROUNDS):
        gram = torch.einsum("wr,ws,wrs->rs", run.animals, run.animals, mass)
        run.time = _hals(run.time, torch.einsum("twr,wr->tr", together, run.animals), gram, 1)
        gram = (run.time.T @ run.time) * mass
        cross = torch.einsum("twr,tr->wr", together, run.time)
        run.animals = _hals(run.animals, cross, gram, 1)
    model = torch.einsum("wr,ws,wrs->", run.animals.double(), run.animals.double(), gram.double())
    return float(model - 2 * (cross.double() * run.animals.double()).sum())


def _hals(factor: Tensor, cross: Tensor, gram: Tensor, sweeps: int, floor: float = 0.0) -> Tensor:
    """Column by column minimise ||x - factor design'||^2 over factor >= 0; `gram` (r, r), or (rows, r, r) where masked.

    A row whose gram is below `floor` (a pair that was hardly seen while the component was active) is shrunk towards 0 as
    if it had that much, since nothing else holds it.
    """
    factor = factor.clone()
    for _ in range(sweeps):
        for r in range(factor.shape[1]):
            if gram.ndim == 2:
                reach, own = factor @ gram[:, r], gram[r, r]
            else:
                own = gram[:, r, r].clamp_min(floor)
                reach = (factor * gram[:, :, r]).sum(1) + (own - gram[:, r, r]) * factor[:, r]
            step = (cross[:, r] - reach) / own.clamp_min(TINY)
            factor[:, r] = (factor[:, r] + torch.where(own > TINY, step, torch.zeros_like(step))).clamp_min(0)
    return factor


def _normalise(run: _Restart) -> None:
    for name in ("time", "animals"):
        factor = getattr(run, name)
        norm = factor.norm(dim=0)
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))
        setattr(run, name, factor / norm)
        run.pairs = run.pairs * norm


def _finish(runs: Sequence[_Restart], best: int, energy: float) -> Factors:
    kept = runs[best]
    order = torch.argsort(kept.pairs.norm(dim=0), descending=True)
    sorted_ = [f[:, order].double().numpy() for f in (kept.time, kept.animals, kept.pairs)]
    cosines = []
    for k, run in enumerate(runs):
        if k != best:
            other = [f.double().numpy() for f in (run.time, run.animals, run.pairs)]
            cosines.append(match_components(sorted_, other)[1])
    stability = np.mean(cosines, axis=0) if cosines else np.full(len(order), np.nan)
    errors = tuple(run.error for run in runs)
    time, animals, pairs = sorted_
    return Factors(time, animals, pairs, kept.error, stability, errors, kept.passes, energy)


def match_components(one: Sequence[Any], other: Sequence[Any]) -> tuple[NDArray[np.int64], Array]:
    """For each component of `one` the component of `other` that is assigned to it (Hungarian), and their cosine.

    The cosine is the product over the modes; ranks must agree.
    """
    total = np.ones((one[0].shape[1], other[0].shape[1]))
    for a, b in zip(one, other, strict=True):
        total = total * cosines(a.T, b.T)
    found = match(total)
    return found.columns, found.values
