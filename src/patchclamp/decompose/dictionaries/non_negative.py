"""Dictionaries whose codes are the best non-negative ones: what SNMF and NMF return."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.decompose.factor.nnls import encode_non_negative
from patchclamp.nouns.dictionary import StoredDictionary, aligned_copy
from patchclamp.nouns.units import Site


class NonNegativeDictionary(StoredDictionary):
    """x is about z D with z >= 0: `encode` solves argmin over z >= 0 of |x - z D|^2 for every sample by itself.

    Directions have norm 1, so that a code is in the units of activity. Encoding is differentiable (the derivative of
    the solution), nothing is centred, and `offset` is zero. The codes of a sample do not depend on its batch, up to
    1e-6 of the largest code, where the solver stops.

    Parameters
    ----------
    site
        What was decomposed.
    directions
        (features, units); a row of zeros is a feature that is never active.
    """

    def __init__(
        self, site: Site | str, directions: Float[Tensor, "feature unit"], meta: dict[str, Any] | None = None
    ) -> None:
        super().__init__(site, None, meta)
        self._directions = aligned_copy(directions)

    @property
    def directions(self) -> Float[Tensor, "feature unit"]:
        """What each feature writes when its activity is 1."""
        return self._directions

    def encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        """The best non-negative codes.

        Raises
        ------
        PatchclampError
            For another width, NaN or Inf.
        """
        self.check(activity)
        return encode_non_negative(activity.to(self._directions.dtype), self._directions.to(activity.device))

    def state(self) -> dict[str, Tensor]:
        """The directions, under the name that SAELens gives a decoder."""
        return {"W_dec": self._directions}

    @classmethod
    def from_state(
        cls,
        site: Site,
        target: Site,
        meta: dict[str, Any],
        state: dict[str, Tensor],
        settings: dict[str, Any],
    ) -> Self:
        """Build from what was saved."""
        return cls(site, state["W_dec"], meta)

    def dead(self) -> Tensor:
        """Indices of features with no direction."""
        return torch.nonzero(self._directions.norm(dim=1) == 0).flatten()


class SNMFDictionary(NonNegativeDictionary):
    """What `SNMF` returns: non-negative codes, signed directions of few units."""

    method: ClassVar[str] = "snmf"
    kind: ClassVar[str] = "snmf"


class NMFDictionary(NonNegativeDictionary):
    """What `NMF` returns: non-negative codes and directions."""

    method: ClassVar[str] = "nmf"
    kind: ClassVar[str] = "nmf"
