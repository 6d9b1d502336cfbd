"""Crosscoders: one code for the same tokens at several sites, or in several models, and a decoder for each.

f = act(sum_m x_m W_enc,m + b_enc), x^_m = f W_dec,m + b_dec,m, with each side scaled to one unit of variance a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.decompose.base import activity
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.decompose.sae.architectures import Composed
from patchclamp.decompose.sae.training import Sides, train
from patchclamp.nouns.dictionary import StoredDictionary
from patchclamp.nouns.recording.matrix import Reading
from patchclamp.nouns.recording.recording import Recording, named
from patchclamp.nouns.units import Site


@dataclass(frozen=True, init=False)
class Crosscoder(Composed):
    """Sparse autoencoder whose features are shared by several sides (Lindsey et al. 2024).

    With the ReLU, the loss is sum_m |x_m - x^_m|^2 + penalty sum_i f_i sum_m |W_dec,i,m|: rows are free, and a sum of
    lengths (not the length of all sides together) lets a feature have no decoder on a side that does not have it.
    With the other architectures a feature's row over all sides has length 1.

    Sides must have the same tokens in the same order. Leave out BOS and sinks: they would rule each side's scale. A
    feature that looks exclusive under an L1 penalty may be an artefact of shrinkage; check it with BatchTopK.

    Parameters
    ----------
    n_features
        Features; four times the units of all sides where None.
    architecture
        Name in `patchclamp.decompose.sae.ARCHITECTURES`.
    settings
        Of the architecture.

    Examples
    --------
    >>> x = torch.relu(torch.randn(400, 4, generator=torch.Generator().manual_seed(0)))
    >>> made = Crosscoder(8, steps=50, batch_size=100).fit([x, 10 * x], ["resid_post.1", "resid_post.2"])
    >>> made.relative_norms().shape
    torch.Size([8, 2])
    """

    name: ClassVar[str] = "crosscoder"
    unfit: ClassVar[str] = "has no encoder of its own; choose another"

    def __init__(self, n_features: int | None = None, architecture: str = "relu_l1", **settings: Any) -> None:
        super().__init__(n_features, architecture, settings)

    def fit(
        self,
        source: Recording | Sequence[Recording | Tensor],
        site: Sequence[Site | str],
        progress: Progress | None = None,
        resume: str | Path | None = None,
        **reading: Unpack[Reading],
    ) -> CrosscoderDictionary:
        """Train on paired rows of the sides.

        Parameters
        ----------
        source
            A recording of all sites, or one recording or tensor for each.
        site
            The site of each side; two models may have the same.
        progress, resume, reading
            As in `SparseAutoencoder.fit`.

        Raises
        ------
        PatchclampError
            As `SparseAutoencoder.fit`; for fewer than two sides, or sides of different length.
        """
        if isinstance(site, (str, Site)) or len(site) < 2:
            raise PatchclampError(f"crosscoder: site={site!r}; wanted the sites of two sides or more")
        given = [source] * len(site) if isinstance(source, Recording) else list(source)
        if len(given) != len(site):
            raise PatchclampError(f"crosscoder: {len(given)} recordings for {len(site)} sites")
        auto = self.trainee()
        sources = [activity(one, name, **reading) for one, name in zip(given, site, strict=True)]
        sites = [one.site for one in sources]
        trained = train(auto, Sides(sources, sites), progress, resume)
        weights = auto.weights(trained.params, trained.geometry, (1.0, 1.0))
        inner = SparseDictionary(joined(sites), **weights)
        meta = {**trained.meta, "method": self.name}
        return CrosscoderDictionary(inner, sites, trained.geometry.sides, trained.factors, meta)


def joined(sites: Sequence[Site]) -> str:
    """The name of the sites side by side."""
    return " + ".join(map(str, sites))


class CrosscoderDictionary(StoredDictionary):
    """Features of several sides. It encodes and decodes the sides' activity put side by side (`join`, `split`).

    Parameters
    ----------
    inner
        The dictionary over the scaled sides.
    sides
        Sites.
    widths
        Units of each.
    factors
        What each side is multiplied by.
    """

    method: ClassVar[str] = "crosscoder"
    kind: ClassVar[str] = "crosscoder"

    def __init__(
        self,
        inner: SparseDictionary,
        sides: Sequence[Site | str],
        widths: Sequence[int],
        factors: Sequence[float],
        meta: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(joined([named(side) for side in sides]), {}, meta=meta)
        if sum(widths) != inner.input_width or not len(sides) == len(widths) == len(factors):
            raise PatchclampError(
                f"{self.site}: sides of {list(widths)} units and {len(factors)} factors for {len(sides)} sides, but "
                f"the weights read {inner.input_width} units"
            )
        self.inner, self.widths, self.factors = inner, tuple(widths), tuple(factors)
        self.sides = tuple(str(side) for side in sides)

    def _scales(self, like: Tensor) -> Float[Tensor, " unit"]:
        return torch.cat([like.new_full((n,), f) for n, f in zip(self.widths, self.factors, strict=True)])

    def join(self, activities: Sequence[Float[Tensor, "*batch unit"]]) -> Float[Tensor, "*batch units"]:
        """The activity of all sides, side by side."""
        return torch.cat(list(activities), -1)

    def split(self, activity: Float[Tensor, "*batch units"]) -> list[Float[Tensor, "*batch unit"]]:
        """Undo `join`."""
        return list(activity.split(list(self.widths), -1))

    def _encode(self, activity: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch feature"]:
        return self.inner.encode(activity * self._scales(activity))

    @property
    def directions(self) -> Float[Tensor, "feature units"]:
        """Decoder rows over all sides, in the units of the data."""
        return self.inner.W_dec / self._scales(self.inner.W_dec)

    @property
    def offset(self) -> Float[Tensor, " units"]:
        """Biases of all sides."""
        return self.inner.b_dec / self._scales(self.inner.b_dec)

    def decoder(self, side: int) -> Float[Tensor, "feature unit"]:
        """Decoder of one side, in the units of its data."""
        return self.split(self.directions)[side]

    def _norms(self) -> Float[Tensor, "feature side"]:
        return torch.stack([part.norm(dim=1) for part in self.split(self.inner.W_dec)], 1)

    def relative_norms(self) -> Float[Tensor, "feature side"]:
        """|W_dec,i,m| / sum_m |W_dec,i,m| over scaled sides: with two, near (1, 0) or (0, 1) is exclusive, near .5 shared.

        A feature without a decoder on any side gets an equal share on each.
        """
        norms = self._norms()
        total = norms.sum(1, keepdim=True)
        return torch.where(total > 0, norms / total.clamp_min(1e-30), 1 / len(self.widths))

    def cosines(self, a: int = 0, b: int = 1) -> Float[Tensor, " feature"]:
        """Cosine of each feature's decoder on side `a` with that on side `b` (which must be equally wide)."""
        if self.widths[a] != self.widths[b]:
            raise PatchclampError(
                f"{self.sides[a]} has {self.widths[a]} units and {self.sides[b]} {self.widths[b]}; "
                "directions of different spaces have no cosine"
            )
        return torch.nn.functional.cosine_similarity(self.decoder(a), self.decoder(b), dim=1)

    def state(self) -> dict[str, Tensor]:
        """The inner dictionary's weights."""
        return self.inner.state()

    def settings(self) -> dict[str, Any]:
        """The inner dictionary's settings, and the sides."""
        sides = {"sides": list(self.sides), "widths": list(self.widths), "factors": list(self.factors)}
        return {**self.inner.settings(), **sides}

    @classmethod
    def from_state(
        cls,
        site: Site,
        target: Site,
        meta: dict[str, Any],
        state: dict[str, Tensor],
        settings: dict[str, Any],
    ) -> Self:
        """Build from `state` and `settings`."""
        rest = dict(settings)
        sides, widths, factors = rest.pop("sides"), rest.pop("widths"), rest.pop("factors")
        inner = SparseDictionary.from_state(site, site, {}, state, rest)
        return cls(inner, sides, widths, factors, meta)
