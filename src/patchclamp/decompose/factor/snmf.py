"""Semi-non-negative factorisation with winner-take-all: groups of neurons that act together, in one small loop.

A (samples, units) is about Z (samples, features) D (features, units), Z >= 0, D signed and a few units in each row.
"""

from __future__ import annotations

import math
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
from patchclamp.decompose.dictionaries.non_negative import SNMFDictionary
from patchclamp.decompose.factor.factorise import Run
from patchclamp.nouns.recording.matrix import Reading
from patchclamp.nouns.units import Site


@dataclass(frozen=True)
class SNMF(Decomposer):
    """min |A - Z D|^2 over Z >= 0 and D with ceil(sparsity * units) entries in each row.

    Without the winner-take-all step (``sparsity=None``) this is plain semi-NMF, which explains the activity as well
    and does not find the groups: it is this step that identifies features.

    The activity passes by in blocks. For a block the codes are solved for the present D, and C = Z^T Z and
    B = Z^T A, all that the update of D takes, are added to sums; no codes are kept, so that memory does not grow
    with the recording. Three stages:

    1. *search*: D is updated after every block from that block alone, and the number of winners falls from all
       units to its value in equal factors. Features that are hardly missed (dead, doubled) are given to what no
       feature explains.
    2. *average*: updates after every block from a window of blocks that grows to about one pass.
    3. *polish*: one update a pass from sums over the whole pass, until the error falls by less than `tolerance` of
       itself. An update that would raise the error keeps the entries and refits their values, so that the error
       never rises.

    Stages 1 and 2 depend on the order of the samples, not on the chunks on disk. A pass of stage 3 depends on
    neither, up to rounding; but it goes on from where the others ended.

    Parameters
    ----------
    k
        Features.
    sparsity
        Fraction of units in a feature's direction (the paper's 1 %), or None for all.
    seed
        Of the start and the held-out groups. The same seed gives the same bits.
    held_out
        Fraction of the groups that the fit never sees; `meta` reports the unexplained variance on them.
    search, average, polish
        Passes of each stage; of `polish`, at most. A small recording gets more of `search`, enough for 20 updates.
    tolerance
        When to stop polishing.
    restarts
        Starts to try on a sample of the activity (of max(2,048, 20 k) rows); the one of least error takes the place
        of the search. Each start ends in a local optimum, and with features that overlap some lose one.

    References
    ----------
    Shafran et al., *Decomposing MLP Activations into Interpretable Features via Semi-Nonnegative Matrix
    Factorization* (2025); Ding, Li and Jordan, *Convex and Semi-Nonnegative Matrix Factorizations* (2010). Theirs are
    multiplicative updates that hold all codes; the model and the winner-take-all step are the same, the solver is
    ours, and it refits the winners' values.

    Examples
    --------
    >>> import torch
    >>> active = (torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) > 0.6).float()
    >>> groups = torch.zeros(2, 40)
    >>> groups[0, :4], groups[1, 10:14] = 1.0, -2.0
    >>> found = SNMF(k=2, sparsity=0.1).fit(active @ groups)
    >>> sorted(row.nonzero().flatten().tolist() for row in found.directions)
    [[0, 1, 2, 3], [10, 11, 12, 13]]
    """

    name: ClassVar[str] = "snmf"

    k: int = 100
    sparsity: float | None = 0.01
    seed: int = 0
    held_out: float = 0.1
    search: int = 2
    average: int = 3
    polish: int = 10
    tolerance: float = 1e-3
    restarts: int = 1

    def fit(
        self,
        source: Any,
        site: Site | str | None = None,
        progress: Progress | None = None,
        resume: str | Path | None = None,
        **reading: Unpack[Reading],
    ) -> SNMFDictionary:
        """Find `k` features of one site.

        `meta` says: `error` (|A - Z D|^2 / |A|^2 on what was fitted), `unexplained` (pooled variance left on the
        held-out groups), `dead` (features with no direction), `passes`, and the settings.

        Raises
        ------
        PatchclampError
            For NaN or Inf, activity that is zero everywhere, fewer than two samples, more features than samples.
            Constant activity is allowed: one feature carries it and the others are dead.
        """
        if self.sparsity is not None and not 0 < self.sparsity <= 1:
            raise PatchclampError(
                f"sparsity={self.sparsity}: a fraction of the units in (0, 1], or None for all"
            )
        units = activity(source, site, **reading)
        count = None if self.sparsity is None else math.ceil(self.sparsity * units.width)
        seen, held = units.split(self.held_out, self.seed)
        check_k(self.k, seen)
        run = Run(self, count, True, seen, Checkpoint(resume, self.described(), seen), progress)
        directions = run.go()
        found = SNMFDictionary(seen.site, directions, {**self.described(), **run.meta()})
        found.meta["unexplained"] = None if held is None else unexplained_variance(found, held)
        return found
