"""Dictionaries that encode by a linear map: what PCA and ICA return."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from jaxtyping import Float
from torch import Tensor

from patchclamp.nouns.dictionary import StoredDictionary, aligned_copy
from patchclamp.nouns.units import Site


class LinearDictionary(StoredDictionary):
    """z = (x - mean) E, x^ = z D + mean, with E (units, features) and D (features, units)."""

    method: ClassVar[str] = "linear"
    kind: ClassVar[str] = "linear"

    def __init__(
        self,
        site: Site | str,
        encoder: Float[Tensor, "unit feature"],
        directions: Float[Tensor, "feature unit"],
        mean: Float[Tensor, " unit"],
        meta: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(site, None, meta)
        self._encoder = aligned_copy(encoder)
        self._directions = aligned_copy(directions)
        self._mean = aligned_copy(mean)

    @property
    def directions(self) -> Float[Tensor, "feature unit"]:
        """What each feature writes when its activity is 1."""
        return self._directions

    @property
    def offset(self) -> Float[Tensor, " unit"]:
        """The mean."""
        return self._mean

    @property
    def encoder(self) -> Float[Tensor, "unit feature"]:
        """E."""
        return self._encoder

    def encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        """(x - mean) E.

        Raises
        ------
        PatchclampError
            For another width, NaN or Inf.
        """
        self.check(activity)
        x = activity.to(self._encoder.dtype) - self._mean.to(activity.device)
        return x @ self._encoder.to(activity.device)

    def state(self) -> dict[str, Tensor]:
        """Encoder, directions and mean, under SAELens' names."""
        return {"W_enc": self._encoder, "W_dec": self._directions, "b_dec": self._mean}

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
        return cls(site, state["W_enc"], state["W_dec"], state["b_dec"], meta)


class PCADictionary(LinearDictionary):
    """What `PCA` returns: orthonormal directions, the one of most variance first."""

    method: ClassVar[str] = "pca"
    kind: ClassVar[str] = "pca"


class ICADictionary(LinearDictionary):
    """What `ICA` returns: codes of variance 1 that are as independent as can be."""

    method: ClassVar[str] = "ica"
    kind: ClassVar[str] = "ica"
