"""Non-negative factorisation of non-negative activity: A is about Z D with Z >= 0 and D >= 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Unpack

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.base import (
    Checkpoint,
    Decomposer,
    Progress,
    activity,
    check_k,
    unexplained_variance,
)
from patchclamp.decompose.dictionaries.non_negative import NMFDictionary
from patchclamp.decompose.factor.factorise import Run
from patchclamp.nouns.recording.matrix import Reading
from patchclamp.nouns.units import Site


@dataclass(frozen=True)
class NMF(Decomposer):
    """min |A - Z D|^2 over Z >= 0 and D >= 0 (Frobenius), streaming as `SNMF` does.

    Parameters
    ----------
    k
        Features.
    seed, held_out, search, average, polish, tolerance, restarts
        As in `SNMF`.

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
    >>> round(NMF(k=2).fit(codes @ parts).meta["error"], 4)
    0.0
    """

    name: ClassVar[str] = "nmf"

    k: int = 20
    seed: int = 0
    held_out: float = 0.1
    search: int = 2
    average: int = 3
    polish: int = 20
    tolerance: float = 1e-3
    restarts: int = 1

    def fit(
        self,
        source: Any,
        site: Site | str | None = None,
        progress: Progress | None = None,
        resume: str | Path | None = None,
        **reading: Unpack[Reading],
    ) -> NMFDictionary:
        """Find `k` features of one site whose activity is nowhere negative; `meta` as in `SNMF.fit`.

        Raises
        ------
        PatchclampError
            For negative activity (SNMF takes it), and as `SNMF.fit`.
        """
        seen, held = activity(source, site, **reading).split(self.held_out, self.seed)
        check_k(self.k, seen)
        for block in seen.blocks():
            if float(block.min()) < 0:
                raise PatchclampError(
                    f"{seen.site}: activity goes down to {float(block.min()):.3g}; NMF takes none below zero, SNMF does"
                )
        run = Run(self, None, False, seen, Checkpoint(resume, self.described(), seen), progress)
        found = NMFDictionary(seen.site, run.go(), {**self.described(), **run.meta()})
        found.meta["unexplained"] = None if held is None else unexplained_variance(found, held)
        return found
