"""Semi-non-negative factorisation with winner-take-all: groups of neurons that act together, in one small loop.

A (samples, units) is about Z (samples, features) D (features, units), Z >= 0, D signed and a few units in each row.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from patchclamp.decompose import snmf_updates as step
from patchclamp.decompose.base import (
    BLOCK,
    Activity,
    Checkpoint,
    Decomposer,
    Progress,
    check_k,
    unexplained_variance,
)
from patchclamp.decompose.nnls import non_negative_codes
from patchclamp.decompose.non_negative import SNMFDictionary
from patchclamp.errors import PatchclampError
from patchclamp.units import Site

SEARCH_STEPS = 20  # updates of D at least before the search ends, however small the recording
SAVE_SECONDS = 30.0


@dataclass(frozen=True)
class SNMF(Decomposer):
    """min |A - Z D|^2 over Z >= 0 and D with ceil(sparsity * units) entries in each row.

    Without the winner-take-all step (``sparsity=None``) this is plain semi-NMF, which explains the activity as well
    and does not find the groups: it is this step that identifies features.

    The activity passes by in blocks. For a block the codes are solved for the present D, and C = Z^T Z and
    B = Z^T A, all that the update of D takes, are added to sums; no codes are kept, so that memory does not grow
    with the recording. Three stages:

    1. *search*: D is updated after every block from that block alone, and the number of winners falls from all
       units to its value in equal factors. Features dead on a block restart from its worst row.
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

    References
    ----------
    Shafran et al., *Decomposing MLP Activations into Interpretable Features via Semi-Nonnegative Matrix
    Factorization* (2025); Ding, Li and Jordan, *Convex and Semi-Nonnegative Matrix Factorizations* (2010). Theirs are
    multiplicative updates that hold all codes; the model and the winner-take-all step are the same, the solver is
    ours, and it refits the winners' values.

    Examples
    --------
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

    def fit(
        self,
        source: Any,
        site: Site | str | None = None,
        progress: Progress | None = None,
        resume: str | Path | None = None,
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
        seen, held = Activity(source, site).split(self.held_out, self.seed)
        check_k(self.k, seen)
        run = _Run(self, seen, Checkpoint(resume, self.settings(), seen), progress)
        directions = run.go()
        meta = {
            "method": self.name,
            **self.settings(),
            "n_samples": seen.n,
            "error": run.error,
            "passes": run.passes,
            "errors": run.errors,
            "dead": int((directions.norm(dim=1) == 0).sum()),
        }
        found = SNMFDictionary(seen.site, directions.float(), meta)
        found.meta["unexplained"] = None if held is None else unexplained_variance(found, held)
        return found


@dataclass
class _Run:
    """One fit: the stages and their state."""

    settings: SNMF
    activity: Activity
    checkpoint: Checkpoint
    progress: Progress | None
    errors: list[float] = field(default_factory=list)
    place: int = 0  # blocks done, in all
    done: bool = False

    def __post_init__(self) -> None:
        self.rows = max(BLOCK, 20 * self.settings.k)
        self.blocks = self.activity.n_blocks(self.rows)
        wide = self.activity.width
        self.winners = wide if self.settings.sparsity is None else math.ceil(self.settings.sparsity * wide)
        searching = max(self.settings.search, -(-SEARCH_STEPS // self.blocks)) if self.settings.search else 0
        averaging = self.settings.average if self.blocks > 1 else 0
        self.searching, self.averaging = searching * self.blocks, averaging * self.blocks
        self.total = self.searching + self.averaging + self.settings.polish * self.blocks

    @property
    def passes(self) -> int:
        """Passes over the activity so far."""
        return self.place // self.blocks

    @property
    def error(self) -> float | None:
        """|A - Z D|^2 / |A|^2 of the result."""
        return self.errors[-1] if self.errors else None

    def go(self) -> Tensor:
        """Run all stages, from the beginning or from where a killed fit was."""
        kept = self.checkpoint.load()
        if kept is None:
            self.energy = self.activity.moments().energy
            pool = self.activity.sample(max(BLOCK, 20 * self.settings.k), self.settings.seed)
            self.directions = step.spread_rows(pool, self.settings.k, self.settings.seed)
            if not self.searching:
                self.directions = step.winner_take_all(self.directions, self.winners)
            self.c = torch.zeros(self.settings.k, self.settings.k, dtype=torch.float64)
            self.b = torch.zeros(self.settings.k, self.activity.width, dtype=torch.float64)
        else:
            tensors, plain = kept
            self.directions, self.c, self.b = tensors["directions"], tensors["c"], tensors["b"]
            self.place, self.done, self.energy = plain["place"], plain["done"], plain["energy"]
            self.errors = list(plain["errors"])
        last = time.monotonic()
        while not self.done and self.place < self.total:
            for block in self.activity.blocks(self.rows, self.place % self.blocks):
                self.take(block)
                if self.done or self.place % self.blocks == 0 or time.monotonic() - last > SAVE_SECONDS:
                    self.keep()
                    last = time.monotonic()
                if self.progress is not None:
                    self.progress(self.total if self.done else self.place, self.total)
                if self.done:
                    break
        return self.directions

    def keep(self) -> None:
        """Save the state."""
        self.checkpoint.save(
            {"directions": self.directions, "c": self.c, "b": self.b},
            {"place": self.place, "done": self.done, "energy": self.energy, "errors": self.errors},
        )

    def take(self, block: Tensor) -> None:
        """Solve the codes of one block, add to the sums, and update D where the stage says so."""
        polishing = self.place >= self.searching + self.averaging
        gram = self.directions @ self.directions.T
        codes = non_negative_codes(block @ self.directions.T, gram, iterations=30 if polishing else 10)
        self.forget(polishing)
        self.c += codes.T @ codes
        self.b += codes.T @ block
        if not polishing:
            winners = self.annealed()
            found = step.winner_take_all(step.least_squares(self.c, self.b), winners)
            if winners < self.activity.width:
                found = step.refit(found, self.c, self.b, sweeps=1)
            self.directions = step.unit_rows(found).float()
            if self.place < self.searching:
                self.directions = step.revive(self.directions, block, codes, winners)
        self.place += 1
        if polishing and self.place % self.blocks == 0:
            self.update_after_pass()

    def forget(self, polishing: bool) -> None:
        """Scale the sums: a window of one block while searching, growing after, whole passes at the end."""
        if polishing:
            keep = 0.0 if self.place % self.blocks == 0 else 1.0
        else:
            window = max(1.0, 0.5 * (self.place - self.searching))
            keep = 1 - 1 / window
        self.c *= keep
        self.b *= keep

    def annealed(self) -> int:
        """Winners at this step: from all units down in equal factors over the search."""
        if not self.searching:
            return self.winners
        part = min(1.0, self.place / max(1, self.searching - 1))
        return max(self.winners, round(self.activity.width ** (1 - part) * self.winners**part))

    def update_after_pass(self) -> None:
        """Record the error of D on this pass; stop, or take the better of new winners and refitted ones."""
        before = step.squared_error(self.directions.double(), self.c, self.b, self.energy) / self.energy
        self.errors.append(max(0.0, before))
        if len(self.errors) > 1 and self.errors[-2] - before <= self.settings.tolerance * self.errors[-2]:
            self.done = True
            return
        if self.place >= self.total:
            return
        best = step.winner_take_all(step.least_squares(self.c, self.b), self.winners)
        if self.winners < self.activity.width:
            fresh = step.refit(best, self.c, self.b)
            same = step.refit(self.directions.double(), self.c, self.b)
            best = min(fresh, same, key=lambda one: step.squared_error(one, self.c, self.b, self.energy))
        self.directions = step.unit_rows(best).float()
