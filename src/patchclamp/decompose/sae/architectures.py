"""The table of architectures, and one of them by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.decompose.sae.base import SparseAutoencoder
from patchclamp.decompose.sae.batch_topk import BatchTopK
from patchclamp.decompose.sae.gated import Gated
from patchclamp.decompose.sae.jumprelu import JumpReLU
from patchclamp.decompose.sae.matching_pursuit import MatchingPursuit
from patchclamp.decompose.sae.matryoshka import Matryoshka
from patchclamp.decompose.sae.relu_l1 import ReluL1
from patchclamp.decompose.sae.topk import TopK

ARCHITECTURES: dict[str, type[SparseAutoencoder]] = {
    one.name: one for one in (ReluL1, Gated, TopK, BatchTopK, JumpReLU, Matryoshka, MatchingPursuit)
}


def architecture(name: str, n_features: int | None, settings: dict[str, Any]) -> SparseAutoencoder:
    """An architecture by name, with its settings; unknown names and settings are refused with the near ones."""
    if name not in ARCHITECTURES:
        raise PatchclampError(
            f"architecture {name!r}: one of {', '.join(ARCHITECTURES)}{did_you_mean(name, ARCHITECTURES)}"
        )
    known = [key for key in ARCHITECTURES[name].__dataclass_fields__ if key != "_"]
    for key in settings:
        if key not in known:
            raise PatchclampError(
                f"{name} takes no setting {key!r}; it has {', '.join(known)}{did_you_mean(key, known)}"
            )
    return ARCHITECTURES[name](n_features, **settings)


@dataclass(frozen=True, init=False)
class Composed:
    """What an autoencoder of several sites, or of heads, is made of: a number of features, an architecture, its settings.

    Parameters
    ----------
    n_features
        Features; four times the units read (of all sides) where None.
    architecture
        Name in `ARCHITECTURES`.
    settings
        Of the architecture: k, penalty, seed, steps ...
    """

    n_features: int | None
    architecture: str
    settings: dict[str, Any]

    name: ClassVar[str] = ""
    unfit: ClassVar[str] = ""  # why matching pursuit, which has no encoder of its own, does not serve

    def __init__(
        self, n_features: int | None, architecture: str, settings: dict[str, Any], **own: Any
    ) -> None:
        self.__dict__.update(n_features=n_features, architecture=architecture, settings=settings, **own)

    def trainee(self) -> SparseAutoencoder:
        """The architecture with its settings; matching pursuit is refused where it does not serve."""
        found = architecture(self.architecture, self.n_features, self.settings)
        if self.unfit and found.name == "matching_pursuit":
            raise PatchclampError(f"{self.name}: matching_pursuit {self.unfit}")
        return found
