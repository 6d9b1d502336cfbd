"""The training loop: one for all architectures, autoencoders, transcoders and crosscoders."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.checkpoint import Checkpoint
from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.decompose.sae.architecture import Architecture
from patchclamp.decompose.sae.auxiliary import restart
from patchclamp.decompose.sae.core import Geometry, Moment, Pass, Step, Tensors
from patchclamp.decompose.sae.feed import Feed
from patchclamp.decompose.sae.state import RunState, load_run
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.matrix import ActivityMatrix
from patchclamp.nouns.units import Site

RECORDS = 50  # rows of history
RESTARTS = 7
NOT_SETTINGS = ("save_every", "device", "buffer_rows")


@dataclass(frozen=True)
class Sides:
    """What is read, and what is written if that is something else.

    Parameters
    ----------
    inputs, input_sites
        One matrix or tensor, or several that are read side by side (crosscoders).
    outputs, output_sites
        Nothing for autoencoders; one source for transcoders.
    skip
        A linear path beside the features.
    """

    inputs: list[Any]
    input_sites: list[Site]
    outputs: list[Any] = field(default_factory=list)
    output_sites: list[Site] = field(default_factory=list)
    skip: bool = False

    def feed(self, auto: Architecture) -> Feed:
        """Batches of all of them, paired."""
        names = [str(site) for site in (*self.input_sites, *self.output_sites)]
        sources = [
            one.whole if isinstance(one, ActivityMatrix) else one for one in (*self.inputs, *self.outputs)
        ]
        return Feed(sources, names, auto.batch_size, auto.buffer_rows, auto.seed, auto.device)

    def reading(self) -> list[dict[str, Any]]:
        """How each was read (`ActivityMatrix.about`)."""
        return [one.about for one in (*self.inputs, *self.outputs) if isinstance(one, ActivityMatrix)]

    def geometry(self, widths: list[int]) -> Geometry:
        """Widths of what is read and written."""
        read = widths[: len(self.inputs)]
        sides = tuple(read) if len(read) > 1 else ()
        wide = sum(widths[len(self.inputs) :]) if self.outputs else sum(read)
        return Geometry(sum(read), wide, not self.outputs, self.skip, sides)

    def pair(
        self, batch: list[Tensor], factors: list[float]
    ) -> tuple[Float[Tensor, "batch input"], Float[Tensor, "batch output"]]:
        """x and y of a batch, scaled."""
        scaled = [part * factor for part, factor in zip(batch, factors, strict=True)]
        read = scaled[: len(self.inputs)]
        x = torch.cat(read, 1) if len(read) > 1 else read[0]
        return x, (scaled[-1] if self.outputs else x)


@shown
@dataclass(frozen=True)
class Trained:
    """What training gave: parameters for scaled activity, the factor of each source, what is known of the run."""

    params: Tensors
    geometry: Geometry
    factors: list[float]
    meta: dict[str, Any]


def train(
    auto: Architecture, sides: Sides, progress: Progress | None = None, resume: str | Path | None = None
) -> Trained:
    """Train `auto` on `sides`; see `Architecture.fit`."""
    feed = sides.feed(auto)
    geometry = sides.geometry(feed.widths)
    n_features = 4 * geometry.inputs if auto.n_features is None else auto.n_features
    auto.check(n_features)
    run = TrainingRun(auto, sides, feed, geometry, n_features)
    kept = Checkpoint(resume, run.about, "run")
    state = load_run(kept, auto.device) or run.start()
    adam = state.optimiser(auto.betas)
    with torch.no_grad():
        while state.step < run.steps:
            run.advance(state, adam)
            if resume is not None and (state.step % auto.save_every == 0 or state.step == run.steps):
                state.save(kept)
            if progress is not None:
                progress(auto.name, state.step, run.steps)
        params = {**state.params, **auto.settle(state.params, lambda i: run.passes(state.params, i))}
    return Trained(params, geometry, run.factors, run.meta(state))


class TrainingRun:
    """The fixed part of a run, and one step of it."""

    def __init__(
        self, auto: Architecture, sides: Sides, feed: Feed, geometry: Geometry, n_features: int
    ) -> None:
        self.auto, self.sides, self.feed = auto, sides, feed
        self.geometry, self.n_features = geometry, n_features
        self.steps = auto.steps or max(2000, -(-10 * feed.n // feed.batch))
        rows = self.steps * feed.batch
        self.dead_after = auto.dead_after if auto.dead_after is not None else min(10_000_000, rows // 10)
        self.lr = auto.lr or 2e-4 * (2**14 / n_features) ** 0.5
        sample = feed.sample()
        self.factors = [
            _factor(part, name) if auto.scale else _varies(part, name)
            for part, name in zip(sample, feed.names, strict=True)
        ]
        self._x, self._y = sides.pair(sample, self.factors)
        self.spread = float((self._y - self._y.mean(0)).square().sum(1).mean())
        kept = {key: value for key, value in auto.settings().items() if key not in NOT_SETTINGS}
        self.about = {
            "method": auto.name,
            "settings": {**kept, "n_features": n_features},
            "skip": sides.skip,
            "data": feed.fingerprint,
            "reading": sides.reading(),
            "rows": feed.n,
            "steps": self.steps,
            # Rows of a larger-than-memory recording are shuffled within the buffer.
            "buffer": min(auto.buffer_rows, feed.n) if feed.n > auto.buffer_rows else feed.n,
        }

    def start(self) -> RunState:
        """A new run."""
        auto, device = self.auto, self.auto.device
        generator = torch_rng(auto.seed)
        params = auto.init(self.geometry, self.n_features, generator)
        params["b_dec"] = centre(self._y, auto.center)
        if not self.geometry.tied:
            params["b_pre"] = centre(self._x, auto.center)
        if self.geometry.skip:
            params["W_skip"] = torch.zeros(self.geometry.inputs, self.geometry.outputs)
        idle = torch.zeros(self.n_features, dtype=torch.int64, device=device)
        return RunState({name: p.to(device).contiguous() for name, p in params.items()}, idle)

    def passes(self, params: Tensors, number: int) -> Pass:
        """Batch `number` on its way through."""
        x, y = self.sides.pair(self.feed(number), self.factors)
        return Pass(params, self.geometry, x, y, self.auto.products)

    def advance(self, state: RunState, adam: torch.optim.Adam) -> None:
        """One step, in place."""
        auto = self.auto
        dead = state.idle > self.dead_after
        warm = min(1.0, (state.step + 1) / max(1.0, auto.penalty_warmup * self.steps))
        one = self.passes(state.params, state.step)
        done = auto.step(one, Moment(warm, dead if auto.revive and not auto.restarts else None))
        self._descend(state, adam, done)
        state.idle += self.feed.batch
        state.idle[done.active > 0] = 0
        state.step += 1
        if state.step % max(1, self.steps // RECORDS) == 0 or state.step == self.steps:
            self._record(state, done)
        if auto.revive and auto.restarts and self._restarts(state.step):
            generator = torch_rng(check_seed(auto.seed) * 1_000_003 + state.step)
            dead = state.idle > self.dead_after
            restart(state.params, [state.first, state.second], dead, one.centred, done.residual, generator)
            state.idle[dead] = 0

    def _restarts(self, step: int) -> bool:
        every = max(1, self.steps // (2 * (RESTARTS + 1)))
        return step % every == 0 and step // every <= RESTARTS

    def _descend(self, state: RunState, adam: torch.optim.Adam, done: Step) -> None:
        """Adam's step; decoder rows stay at length 1, and the gradient along them, which cannot act, is taken off."""
        auto, grads, decoder = self.auto, done.grads, state.params["W_dec"]
        unit = auto.unit_norm(self.geometry)
        if unit:
            along = torch.linalg.vecdot(grads["W_dec"], decoder)[:, None]
            grads["W_dec"].addcmul_(along, decoder, value=-1)
        if auto.clip is not None:
            norm = torch.stack([torch.linalg.vector_norm(g) for g in grads.values()]).norm()
            factor = (auto.clip / (norm + 1e-6)).clamp(max=1.0)
            for g in grads.values():
                g.mul_(factor)
        for name, p in state.params.items():
            p.grad = grads[name]
        for group in adam.param_groups:
            group["lr"] = self.lr * self._rate(state.step)
        adam.step()
        if unit:
            decoder.div_(torch.linalg.vector_norm(decoder, dim=1, keepdim=True).clamp_min_(1e-12))

    def _rate(self, step: int) -> float:
        auto = self.auto
        rise = (step + 1) / max(1.0, auto.lr_warmup * self.steps)
        fall = (self.steps - step) / max(1.0, auto.lr_decay * self.steps)
        return min(1.0, rise, fall)

    def _record(self, state: RunState, done: Step) -> None:
        loss = float(done.loss)
        if not loss < float("inf"):
            raise PatchclampError(
                f"{self.auto.name} over {self.feed.names[0]}: the loss is {loss} at step {state.step}; "
                "a lower lr, or clip=1.0, keeps training stable"
            )
        rows = self.feed.batch
        state.history.append(
            {
                "step": float(state.step),
                "loss": loss,
                "unexplained": float(done.error) / (rows * self.spread),
                "l0": float(done.active.sum()) / rows,
                "dead": float((state.idle > self.dead_after).double().mean()),
            }
        )

    def meta(self, state: RunState) -> dict[str, Any]:
        """Settings, data and figures."""
        last = [row for row in state.history if row["step"] > 0.9 * self.steps]
        figures = {key: sum(row[key] for row in last) / len(last) for key in ("unexplained", "l0", "dead")}
        # As JSON gives it back, so that a dictionary read from a file has the same.
        known: dict[str, Any] = json.loads(json.dumps(self.about))
        return {**known, **figures, "factors": self.factors, "history": state.history}


def _varies(values: Float[Tensor, "sample unit"], name: str) -> float:
    if bool((values == values[0]).all()):
        raise PatchclampError(
            f"{name}: all {len(values)} samples looked at are equal; there is nothing to decompose"
        )
    return 1.0


def _factor(values: Float[Tensor, "sample unit"], name: str) -> float:
    """What makes the variance, summed over units, the number of units."""
    _varies(values, name)
    exact = values.double()
    total = float((exact - exact.mean(0)).square().sum(1).mean())
    if not total > 0:
        raise PatchclampError(f"{name}: its variance is {total}; scale the activity up")
    return float((values.shape[1] / total) ** 0.5)


def centre(values: Float[Tensor, "sample unit"], how: str) -> Float[Tensor, " unit"]:
    """Mean, or geometric median (Weiszfeld's iteration, on at most 4,096 rows), or zero; in float64."""
    exact = values.double()
    if how == "zero":
        return torch.zeros_like(values[0])
    point = exact.mean(0)
    if how == "geometric_median":
        exact = exact[:4096]
        for _ in range(100):
            near = 1 / (exact - point).norm(dim=1).clamp_min(1e-9)
            moved = (near @ exact) / near.sum()
            shift, point = float((moved - point).norm()), moved
            if shift < 1e-9 * (1 + float(point.norm())):
                break
    return point.to(values.dtype)
