"""What a comparison gives back: a number with its interval, scale and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from patchclamp.base.estimate import Estimate
from patchclamp.draw.cards import shown


class Comparison:
    """What every entry of `patchclamp.compare.METHODS` returns: a `value`, and what more the method has to say."""

    value: float

    def __float__(self) -> float:
        return self.value


@shown
@dataclass(frozen=True)
class Result(Estimate, Comparison):
    """An estimate of how alike, or how far apart, two populations are; n is the number of samples (or conditions).

    Attributes
    ----------
    method : str
        Name in `patchclamp.compare.METHODS`, with the variant.
    scale : str
        What the number is: ``"similarity"``, ``"r"``, ``"r2"``, ``"radians"`` ...
    ceiling : (float, float) or None
        Lower and upper bound of what any model could reach, on the same scale.
    meta : dict
    """

    method: str = field(kw_only=True)
    scale: str = field(kw_only=True)
    ceiling: tuple[float, float] | None = field(default=None, kw_only=True)
    meta: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __str__(self) -> str:
        text = f"{self.method}: {self.value:.3f} ({self.scale})"
        if self.low is not None and self.high is not None:
            text += f" [{self.low:.3f}, {self.high:.3f}]"
        if self.ceiling is not None:
            text += f", ceiling {self.ceiling[0]:.3f} to {self.ceiling[1]:.3f}"
        return f"{text}, n={self.n}"
