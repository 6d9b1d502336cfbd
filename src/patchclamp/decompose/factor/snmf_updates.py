"""The steps of semi-non-negative factorisation, pure: A (rows, units) is about Z D, Z >= 0, D signed.

All that a step needs of the activity is C = Z^T Z (features, features), B = Z^T A (features, units) and |A|^2, sums
over rows: however many rows there were.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.seeds import numpy_rng
from patchclamp.decompose.factor.nnls import non_negative_codes

RIDGE = 1e-6


def winner_take_all(directions: Float[Tensor, "feature unit"], winners: int) -> Float[Tensor, "feature unit"]:
    """Keep the `winners` entries of largest magnitude in each row, exactly that many even where some tie.

    Examples
    --------
    >>> winner_take_all(torch.tensor([[3.0, -4.0, 1.0], [2.0, 2.0, 2.0]]), 1).count_nonzero(1).tolist()
    [1, 1]
    """
    if winners >= directions.shape[1]:
        return directions
    places = directions.abs().topk(winners, dim=1).indices
    return torch.zeros_like(directions).scatter(1, places, directions.gather(1, places))


def least_squares(c: Float[Tensor, "feature feature"], b: Float[Tensor, "feature unit"]) -> Tensor:
    """D = (C + r I)^-1 B, r a millionth of the mean of C's diagonal; rows of features that were never active are 0."""
    alive = c.diagonal() > 0
    if not bool(alive.any()):
        return torch.zeros_like(b)
    ridge = RIDGE * float(c.diagonal()[alive].mean())
    eye = torch.eye(len(c), dtype=c.dtype, device=c.device)
    # A dead feature has a row and a column of zeros; the ridge alone would do, were it not for rounding.
    out: Tensor = torch.linalg.solve(c + ridge * eye, b) * alive[:, None]
    return out


def refit(
    directions: Float[Tensor, "feature unit"],
    c: Float[Tensor, "feature feature"],
    b: Float[Tensor, "feature unit"],
    sweeps: int = 2,
) -> Float[Tensor, "feature unit"]:
    """Lower |A - Z D|^2 over the entries of D that are not zero, one row after the other; the zeros stay.

    The least-squares values were found with all entries free and are off once most of them are gone.
    """
    out = directions.clone()
    supports = [row.nonzero().flatten() for row in out]
    for _ in range(sweeps):
        for k, support in enumerate(supports):
            if len(support) and c[k, k] > 0:
                out[k, support] += (b[k, support] - c[k] @ out[:, support]) / c[k, k]
    return out


def refit_non_negative(
    directions: Float[Tensor, "feature unit"],
    c: Float[Tensor, "feature feature"],
    b: Float[Tensor, "feature unit"],
    sweeps: int = 2,
) -> Float[Tensor, "feature unit"]:
    """Lower |A - Z D|^2 over D >= 0, one row after the other, each to its minimum (HALS; Cichocki and Phan, 2009)."""
    out = directions.clone()
    for _ in range(sweeps):
        for k in range(len(out)):
            if c[k, k] > 0:
                out[k] = (out[k] + (b[k] - c[k] @ out) / c[k, k]).clamp_min(0)
    return out


def squared_error(directions: Tensor, c: Tensor, b: Tensor, energy: float) -> float:
    """|A - Z D|^2 = |A|^2 - 2 <B, D> + <C D, D>."""
    return energy - 2 * float((b * directions).sum()) + float(((c @ directions) * directions).sum())


def unit_rows(directions: Float[Tensor, "feature unit"]) -> Float[Tensor, "feature unit"]:
    """Rows of norm 1; rows of zeros stay."""
    norm = directions.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, directions / norm.clamp_min(torch.finfo(directions.dtype).tiny), directions)


def spread_rows(pool: Float[Tensor, "row unit"], k: int, seed: int) -> Float[Tensor, "feature unit"]:
    """`k` rows of the pool that differ in direction, as k-means++ draws its centres (Arthur and Vassilvitskii, 2007).

    A row is drawn with probability in proportion to its norm times one minus its largest cosine with the rows drawn
    before; where no different row is left, the rest are zeros.
    """
    random = numpy_rng([seed, 3])
    norm = pool.double().norm(dim=1)
    unit = unit_rows(pool)
    nearest = torch.zeros(len(pool), dtype=torch.float64)
    out = torch.zeros(k, pool.shape[1])
    for feature in range(k):
        weight = ((1 - nearest).clamp_min(0) * norm).numpy()
        weight[nearest.numpy() > 1 - 1e-6] = 0
        if weight.sum() <= 0:
            break
        row = int(random.choice(len(pool), p=weight / weight.sum()))
        out[feature] = pool[row]
        nearest = torch.maximum(nearest, (unit @ unit[row]).double())
    return unit_rows(out)


def exchange(
    directions: Float[Tensor, "feature unit"],
    block: Float[Tensor, "row unit"],
    winners: int,
    signed: bool = True,
) -> Float[Tensor, "feature unit"]:
    """Give features that are hardly missed to structure that no feature explains: out of a local optimum.

    Leaving out feature k and solving the other codes again (with any sign) raises |A - Z D|^2 by C_kk / (Q^-1)_kk,
    Q = D D^T: nothing for dead and doubled features. A new direction d, a rank-one factor of the residual with
    non-negative codes, lowers it by |max(R d, 0)|^2. Where the second is at least twice the first, they change
    places; one feature in twenty at a block, at most, but all the dead ones.
    """
    codes = non_negative_codes(block @ directions.T, directions @ directions.T, iterations=10)
    gram = (directions @ directions.T).double()
    ridge = 1e-6 * torch.eye(len(gram), dtype=gram.dtype)
    missed = codes.double().square().sum(0) / torch.linalg.inv(gram + ridge).diagonal()
    wrong = block - codes @ directions
    least = 1e-8 * float(block.square().sum())  # what is less is rounding
    most = max(1, len(gram) // 20, int((missed <= least).sum()))
    out = directions.clone()
    for k in missed.argsort()[:most].tolist():
        direction = unexplained(wrong, winners, signed)
        gains = (wrong @ direction).clamp_min(0)
        if float(gains.square().sum()) <= max(2 * float(missed[k]), least):
            break
        out[k] = direction
        wrong = wrong - gains[:, None] * direction
    return out


def unexplained(
    wrong: Float[Tensor, "row unit"], winners: int, signed: bool, rounds: int = 6
) -> Float[Tensor, " unit"]:
    """A direction along which rows of the residual lie: power iteration with non-negative codes, from the worst row."""
    direction = wrong[wrong.square().sum(1).argmax()]
    for _ in range(rounds):
        direction = direction if signed else direction.clamp_min(0)
        direction = unit_rows(winner_take_all(direction[None], winners))[0]
        direction = (wrong @ direction).clamp_min(0) @ wrong
    direction = direction if signed else direction.clamp_min(0)
    return unit_rows(winner_take_all(direction[None], winners))[0]
