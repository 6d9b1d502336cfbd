"""What a comparison gives back: a number with its interval, scale and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


class Comparison:
    """What every entry of `patchclamp.compare.METHODS` returns: a `value`, and what more the method has to say."""

    value: float

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Result(Comparison):
    """A similarity or a distance of two populations.

    Attributes
    ----------
    method : str
        Name in `patchclamp.compare.METHODS`, with the variant.
    value : float
    scale : str
        What the number is: ``"similarity"``, ``"r"``, ``"r2"``, ``"radians"`` ...
    n : int
        Samples (or conditions).
    low, high : float or None
        Interval, where one was asked for.
    ceiling : (float, float) or None
        Lower and upper bound of what any model could reach, on the same scale.
    meta : dict
    """

    method: str
    value: float
    scale: str
    n: int
    low: float | None = None
    high: float | None = None
    ceiling: tuple[float, float] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.method}: {self.value:.3f} ({self.scale})"
        if self.low is not None and self.high is not None:
            text += f" [{self.low:.3f}, {self.high:.3f}]"
        if self.ceiling is not None:
            text += f", ceiling {self.ceiling[0]:.3f} to {self.ceiling[1]:.3f}"
        return f"{text}, n={self.n}"
