"""Log-linear buckets: the leading bits of a float32 as the number of a bucket, without a logarithm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.nouns.measure import require


@dataclass(frozen=True)
class Buckets:
    """Buckets whose width is a fixed fraction of their value, for both signs.

    A float32 is 2^e (1 + f). The bucket is e and the first `bits` bits of f, so that an octave has 2^bits
    buckets of equal width, and the value given for a bucket is off by at most ``relative_error`` = 1 /
    (2^(bits+1) + 1) of the true one. Values below `smallest` in size share one bucket around zero; those of
    `largest` and above share the last. Equal values fall into equal buckets wherever and whenever they are
    counted, so counts merge exactly.

    Buckets are numbered from the most negative to the most positive: 0 ... 2 * per_sign.
    """

    bits: int = 5
    smallest: float = 2.0**-12
    largest: float = 2.0**16

    def __post_init__(self) -> None:
        require(1 <= self.bits <= 16, f"bits={self.bits}: between 1 and 16 bits of the mantissa")
        for name in ("smallest", "largest"):
            value = getattr(self, name)
            require(
                2.0**-120 <= value <= 2.0**120 and math.frexp(value)[0] == 0.5,
                f"{name}={value}: a power of two, because buckets begin at powers of two",
            )
        require(self.smallest < self.largest, f"smallest={self.smallest} is not below largest={self.largest}")

    @property
    def relative_error(self) -> float:
        """Largest error of a bucket's value relative to any value in the bucket."""
        return 1 / ((2 << self.bits) + 1)

    @property
    def per_sign(self) -> int:
        """Buckets of one sign, the overflow bucket included."""
        return (round(math.log2(self.largest / self.smallest)) << self.bits) + 1

    @property
    def count(self) -> int:
        """Buckets of both signs and the one around zero."""
        return 2 * self.per_sign + 1

    @property
    def _first(self) -> int:
        bits = int(torch.tensor(self.smallest, dtype=torch.float32).view(torch.int32))
        return bits >> (23 - self.bits)

    def index(self, values: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Bucket of each value, int32."""
        raw = values.float().contiguous().view(torch.int32)
        # The sign bit moves to all bits by the arithmetic shift: -1 for negative values, 0 for the others.
        sign = raw >> 31
        size = (raw & 0x7FFFFFFF).bitwise_right_shift_(23 - self.bits).sub_(self._first - 1)
        size.clamp_(0, self.per_sign)
        return size.bitwise_xor_(sign).sub_(sign).add_(self.per_sign)

    def edges(self) -> Float[Tensor, " per_sign"]:
        """Lower edges of the positive buckets, float64."""
        raw = (torch.arange(self.per_sign, dtype=torch.int32) + self._first) << (23 - self.bits)
        return raw.view(torch.float32).double()

    def values(self) -> Float[Tensor, " count"]:
        """The value given for each bucket [a, b): 2 a b / (a + b), which splits the relative error."""
        low = self.edges()
        high = torch.cat([low[1:], low[-1:]])
        positive = 2 * low * high / (low + high)
        return torch.cat([-positive.flip(0), torch.zeros(1, dtype=torch.float64), positive])
