"""The streaming loop of SNMF and NMF: search, average, polish, with state that survives being killed."""

from __future__ import annotations

import time
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from patchclamp.base.checkpoint import Checkpoint
from patchclamp.base.progress import Progress
from patchclamp.decompose.base import Found, checkpoint, moments
from patchclamp.decompose.dictionaries.non_negative import NonNegativeDictionary
from patchclamp.decompose.factor import snmf_updates as step
from patchclamp.decompose.factor.base import Factorisation
from patchclamp.decompose.factor.nnls import non_negative_codes
from patchclamp.nouns.recording.matrix import BLOCK, ActivityMatrix, matrix

SEARCH_STEPS = 20  # updates of D at least before the search ends, however small the recording
SAVE_SECONDS = 30.0


@dataclass(frozen=True)
class Streamed(Factorisation[Found]):
    """Non-negative codes, found as the activity passes by (see `SNMF`).

    Parameters
    ----------
    search, average, polish
        Passes of each stage; of `polish`, at most. A small recording gets more of `search`, enough for 20 updates.
    tolerance
        When to stop polishing.
    restarts
        Starts to try on a sample of the activity (of max(2,048, 20 n_features) rows); the one of least error takes the
        place of the search. Each start ends in a local optimum, and with features that overlap some lose one.
    """

    _: KW_ONLY
    search: int = 2
    average: int = 3
    polish: int = 10
    tolerance: float = 1e-3
    restarts: int = 1

    makes: ClassVar[type[NonNegativeDictionary]]
    signed: ClassVar[bool] = True

    def factor(self, seen: ActivityMatrix, progress: Progress | None, resume: str | Path | None) -> Found:
        """Run the stages; `meta`: `error` (|A - Z D|^2 / |A|^2), `errors`, `passes`, `dead` (no direction)."""
        self.check_size(seen)
        kept = checkpoint(resume, self.described(), seen)
        run = FactorisationRun(self, self.winners(seen.width), self.signed, seen, kept, progress)
        found: Found = self.makes(seen.site, run.go())  # type: ignore[assignment]
        found.meta = run.meta()
        return found

    def winners(self, width: int) -> int | None:
        """Entries of each direction that may differ from zero, of so many units; None for all."""
        return None


@dataclass
class FactorisationRun:
    """One fit: the stages (see `SNMF`) and their state.

    Parameters
    ----------
    count
        Entries of each direction that may differ from zero; None for all.
    signed
        Whether directions may have negative entries.
    """

    settings: Streamed[Any]
    count: int | None
    signed: bool
    activity: ActivityMatrix
    checkpoint: Checkpoint
    progress: Progress | None
    errors: list[float] = field(default_factory=list)
    place: int = 0  # blocks done, in all
    done: bool = False

    def __post_init__(self) -> None:
        self.rows = max(BLOCK, 20 * self.settings.n_features)
        self.blocks = self.activity.n_blocks(self.rows)
        wide = self.activity.width
        self.winners = wide if self.count is None else min(wide, self.count)
        searching = max(self.settings.search, -(-SEARCH_STEPS // self.blocks)) if self.settings.search else 0
        averaging = self.settings.average if self.blocks > 1 else 0
        self.searching, self.averaging = searching * self.blocks, averaging * self.blocks
        self.total = self.searching + self.averaging + self.settings.polish * self.blocks

    @property
    def passes(self) -> int:
        """Passes over the activity so far."""
        return self.place // self.blocks

    def meta(self) -> dict[str, Any]:
        """What the dictionary says of its fit."""
        return {
            "error": self.error,
            "errors": self.errors,
            "passes": self.passes,
            "dead": int((self.directions.norm(dim=1) == 0).sum()),
        }

    @property
    def error(self) -> float | None:
        """|A - Z D|^2 / |A|^2 of the result."""
        return self.errors[-1] if self.errors else None

    def go(self) -> Tensor:
        """Run all stages, from the beginning or from where a killed fit was."""
        kept = self.checkpoint.load()
        if kept is None:
            self.energy = moments(self.activity).energy
            pool = self.activity.sample(self.rows, self.settings.seed)
            self.directions = self.start(pool)
            self.c = torch.zeros(self.settings.n_features, self.settings.n_features, dtype=torch.float64)
            self.b = torch.zeros(self.settings.n_features, self.activity.width, dtype=torch.float64)
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
                    self.progress(self.settings.name, self.total if self.done else self.place, self.total)
                if self.done:
                    break
        return self.directions

    def start(self, pool: Tensor) -> Tensor:
        """Rows of the pool that differ; or with restarts, the best of several fits to the pool, and no search."""
        settings = self.settings
        if settings.restarts <= 1:
            rows = step.spread_rows(pool, settings.n_features, settings.seed)
            return rows if self.searching else step.winner_take_all(rows, self.winners)
        tried = []
        for number in range(settings.restarts):
            # Three passes of polishing: enough to tell a start that has lost a feature from one that has not.
            short = replace(settings, seed=settings.seed + 1000 * number, restarts=1, average=0, polish=3)
            seen = matrix(pool, self.activity.site)
            run = FactorisationRun(short, self.count, self.signed, seen, Checkpoint(None, {}), None)
            directions = run.go()
            tried.append((run.error or 0.0, number, directions))
        self.place = self.searching
        return min(tried, key=lambda one: one[:2])[2]

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
            self.directions = step.unit_rows(self.update(winners, sweeps=1)).float()
            if self.place < self.searching:
                self.directions = step.exchange(self.directions, block, winners, self.signed)
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
        """Winners at this step: from all units down in equal factors, over seven tenths of the search."""
        if not self.searching:
            return self.winners
        part = min(1.0, self.place / max(1.0, 0.7 * self.searching - 1))
        return max(self.winners, round(float(self.activity.width ** (1 - part) * self.winners**part)))

    def update_after_pass(self) -> None:
        """Record the error of D on this pass; stop, or take the better of new winners and refitted ones."""
        before = step.squared_error(self.directions.double(), self.c, self.b, self.energy) / self.energy
        self.errors.append(max(0.0, before))
        if len(self.errors) > 1 and self.errors[-2] - before <= self.settings.tolerance * self.errors[-2]:
            self.done = True
            return
        if self.place >= self.total:
            return
        best = self.update(self.winners, sweeps=2)
        if self.winners < self.activity.width:
            same = step.refit(self.directions.double(), self.c, self.b)
            best = min(best, same, key=lambda one: step.squared_error(one, self.c, self.b, self.energy))
        self.directions = step.unit_rows(best).float()

    def update(self, winners: int, sweeps: int) -> Tensor:
        """New directions from the sums."""
        if not self.signed:
            return step.refit_non_negative(self.directions.double(), self.c, self.b, sweeps=2 * sweeps)
        found = step.winner_take_all(step.least_squares(self.c, self.b), winners)
        return step.refit(found, self.c, self.b, sweeps) if winners < self.activity.width else found
