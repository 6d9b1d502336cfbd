"""`Dictionary`: features over a site. It encodes activity to features and decodes them back; features are units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp._inmemory import named
from patchclamp._sparse import SparseCodes
from patchclamp.errors import PatchclampError
from patchclamp.units import Site


class Dictionary(ABC):
    """Features over a site: A (samples, units) is about Z (samples, features) D (features, units).

    Once attached to a subject (``subject.attach("mine", dictionary)``) its features are units with the address
    ``SITE/mine[77]``: they record, attribute, patch and steer as neurons do.

    Attributes
    ----------
    site : Site
        What is encoded.
    target : Site
        What is decoded: `site` itself, but for a transcoder, which reads one site and writes another.
    method : str
        Name in `patchclamp.decompose.METHODS`, or of the layout that it was read from.
    meta : dict
        How it was made: settings, seed, data fingerprint, loss. Plain data.
    """

    method: ClassVar[str] = ""

    def __init__(
        self, site: Site | str, target: Site | str | None = None, meta: dict[str, Any] | None = None
    ) -> None:
        self.site = named(site)
        self.target = self.site if target is None else named(target)
        self.meta = dict(meta or {})

    @property
    @abstractmethod
    def directions(self) -> Float[Tensor, "feature unit"]:
        """What each feature writes at the target when its activity is 1 (the rows of D)."""

    @abstractmethod
    def encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        """Features of activity; differentiable where the method is."""

    def decode(self, codes: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch unit"]:
        """Activity from features: codes @ directions + `offset`."""
        return codes @ self.directions.to(codes.device, codes.dtype) + self.offset.to(
            codes.device, codes.dtype
        )

    def decode_at(
        self, codes: Float[Tensor, "*batch feature"], activity: Float[Tensor, "*batch input"]
    ) -> Float[Tensor, "*batch unit"]:
        """Decode with the input at hand: `decode`, but for dictionaries that need it (a scale of each sample, a skip path)."""
        return self.decode(codes)

    def reconstruct(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch unit"]:
        """What the dictionary makes of activity: decode(encode(activity)), and any path beside the features."""
        return self.decode(self.encode(activity))

    @property
    def offset(self) -> Float[Tensor, " unit"]:
        """What is decoded when no feature is active."""
        return torch.zeros(self.directions.shape[1])

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.directions)

    def encode_sparse(self, activity: Float[Tensor, "sample unit"]) -> SparseCodes:
        """Features as sparse codes; methods with few active features override this and never build the dense code."""
        with torch.no_grad():
            return SparseCodes.from_dense(self.encode(activity))

    def check(self, activity: Tensor) -> None:
        """Refuse activity of another width, or with NaN or Inf."""
        if not bool(torch.isfinite(activity).all()):
            raise PatchclampError(f"{self.site}: the activity to encode holds NaN or Inf")
        width = self.input_width
        if activity.shape[-1] != width:
            raise PatchclampError(
                f"{self.method} over {self.site}: encodes {width} units, the activity has {activity.shape[-1]}"
            )

    @property
    def input_width(self) -> int:
        """Number of units that are encoded; transcoders override this."""
        return int(self.directions.shape[1])

    def __repr__(self) -> str:
        arrow = "" if self.target == self.site else f" -> {self.target}"
        return f"<{type(self).__name__} {self.n_features} features over {self.site}{arrow}>"
