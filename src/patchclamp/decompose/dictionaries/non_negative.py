"""Dictionaries whose codes are the best non-negative ones: what SNMF and NMF return."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.decompose.factor.nnls import encode_non_negative
from patchclamp.nouns.dictionary import StoredDictionary
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
    W_dec
        (features, units), the directions; a row of zeros is a feature that is never active.
    """

    W_dec: Float[Tensor, "feature unit"]

    def __init__(
        self, site: Site | str, W_dec: Float[Tensor, "feature unit"], meta: dict[str, Any] | None = None
    ) -> None:
        super().__init__(site, {"W_dec": W_dec}, meta=meta)

    def _encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        return encode_non_negative(activity.to(self.directions.dtype), self._on("W_dec", activity))

    def dead(self) -> Tensor:
        """Indices of features with no direction."""
        return torch.nonzero(self.directions.norm(dim=1) == 0).flatten()


class SNMFDictionary(NonNegativeDictionary):
    """What `SNMF` returns: non-negative codes, signed directions of few units."""

    method: ClassVar[str] = "snmf"
    kind: ClassVar[str] = "snmf"


class NMFDictionary(NonNegativeDictionary):
    """What `NMF` returns: non-negative codes and directions."""

    method: ClassVar[str] = "nmf"
    kind: ClassVar[str] = "nmf"
