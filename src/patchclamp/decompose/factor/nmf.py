"""Non-negative factorisation of non-negative activity: A is about Z D with Z >= 0 and D >= 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.decompose.dictionaries.non_negative import NMFDictionary
from patchclamp.decompose.factor.factorise import Streamed
from patchclamp.nouns.recording.matrix import ActivityMatrix


@dataclass(frozen=True)
class NMF(Streamed[NMFDictionary]):
    """min |A - Z D|^2 over Z >= 0 and D >= 0 (Frobenius), streaming as `SNMF` does.

    Parameters
    ----------
    n_features
        Features.
    seed, held_out, search, average, polish, tolerance, restarts
        As in `Factorisation` and `Streamed`.

    References
    ----------
    Lee and Seung, *Learning the parts of objects by non-negative matrix factorization* (1999); as concepts of a
    network: Fel et al., *CRAFT* (2023).

    Examples
    --------
    >>> import torch
    >>> random = torch.Generator().manual_seed(0)
    >>> parts = torch.eye(2).repeat_interleave(5, 1)
    >>> codes = torch.rand(200, 2, generator=random) * (torch.rand(200, 2, generator=random) > 0.5)
    >>> round(NMF(n_features=2).fit(codes @ parts).meta["error"], 4)
    0.0
    """

    name: ClassVar[str] = "nmf"

    n_features: int = 20
    polish: int = 20

    makes: ClassVar[type[NMFDictionary]] = NMFDictionary
    signed: ClassVar[bool] = False

    def factor(
        self, seen: ActivityMatrix, progress: Progress | None, resume: str | Path | None
    ) -> NMFDictionary:
        """As `SNMF`; activity below zero is refused."""
        self.check_size(seen)
        for block in seen.blocks():
            if float(block.min()) < 0:
                raise PatchclampError(
                    f"{seen.site}: activity goes down to {float(block.min()):.3g}; NMF takes none below zero, SNMF does"
                )
        return super().factor(seen, progress, resume)
