"""The table of architectures, and one of them by its name."""

from __future__ import annotations

from typing import Any

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
