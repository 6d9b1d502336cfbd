"""Dictionaries that encode by a linear map: what PCA and ICA return."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from patchclamp.nouns.dictionary import StoredDictionary
from patchclamp.nouns.units import Site


class LinearDictionary(StoredDictionary):
    """z = (x - b_dec) W_enc, x^ = z W_dec + b_dec, W_enc (units, features), W_dec (features, units), b_dec the mean."""

    method: ClassVar[str] = "linear"
    kind: ClassVar[str] = "linear"

    W_enc: Float[Tensor, "unit feature"]
    W_dec: Float[Tensor, "feature unit"]
    b_dec: Float[Tensor, " unit"]

    def __init__(
        self,
        site: Site | str,
        W_enc: Float[Tensor, "unit feature"],
        W_dec: Float[Tensor, "feature unit"],
        b_dec: Float[Tensor, " unit"],
        meta: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(site, {"W_enc": W_enc, "W_dec": W_dec, "b_dec": b_dec}, meta=meta)

    def _encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        x = activity.to(self.W_enc.dtype) - self._on("b_dec", activity)
        return x @ self._on("W_enc", activity)


class PCADictionary(LinearDictionary):
    """What `PCA` returns: orthonormal directions, the one of most variance first."""

    method: ClassVar[str] = "pca"
    kind: ClassVar[str] = "pca"


class ICADictionary(LinearDictionary):
    """What `ICA` returns: codes of variance 1 that are as independent as can be."""

    method: ClassVar[str] = "ica"
    kind: ClassVar[str] = "ica"
