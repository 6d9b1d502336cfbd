"""Training a TopK autoencoder, against a plain PyTorch loop and a loop with the steps of dictionary_learning's trainer.

100,000 vectors of 576 units (planted: 4,608 directions of which 24 are active on average, and noise), 2,304 features,
k = 32, batch 2,048, as many steps for each, same learning rate and schedule. Baseline (1.00): the plain loop.
Vectors a second are interleaved, chunk of steps by chunk, so that a slow spell of the machine hits all; unexplained
variance is measured on 8,192 held-out vectors.

    python -m benchmarks.sae [--vectors 100000] [--epochs 4] [--chunks 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import save, show
from patchclamp.decompose.sae.core import Pass
from patchclamp.decompose.sae.topk import TopK
from patchclamp.decompose.sae.training import Sides, TrainingRun
from patchclamp.nouns.units import Site

UNITS, FEATURES, K, BATCH = 576, 2304, 32, 2048


def vectors(n: int, seed: int = 0) -> Tensor:
    """Sparse sums of planted directions, with rates that fall as 1 / rank**0.7, an offset and noise."""
    made = torch.Generator().manual_seed(12)
    directions = torch.nn.functional.normalize(torch.randn(2 * FEATURES, UNITS, generator=made), dim=1)
    rates = torch.arange(1, 2 * FEATURES + 1).float() ** -0.7
    rates = (rates * 24 / rates.sum()).clamp(max=0.5)
    offset = torch.randn(UNITS, generator=made)
    drawn = torch.Generator().manual_seed(seed)
    parts = []
    for first in range(0, n, 4096):
        rows = min(4096, n - first)
        active = torch.rand(rows, len(rates), generator=drawn) < rates
        codes = active * (0.5 + torch.rand(rows, len(rates), generator=drawn))
        parts.append(codes @ directions + offset + 0.02 * torch.randn(rows, UNITS, generator=drawn))
    return torch.cat(parts)


class Plain(nn.Module):
    """A TopK autoencoder as one writes it: autograd, dense codes."""

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        decoder = torch.nn.functional.normalize(
            torch.randn(FEATURES, UNITS, generator=torch.Generator().manual_seed(0)), dim=1
        )
        self.b_dec = nn.Parameter(centre.clone())
        self.encoder = nn.Linear(UNITS, FEATURES)
        self.decoder = nn.Linear(FEATURES, UNITS, bias=False)
        self.decoder.weight.data = decoder.T.contiguous()
        self.encoder.weight.data = decoder.clone()
        nn.init.zeros_(self.encoder.bias)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, and which features are active."""
        top = torch.relu(self.encoder(x - self.b_dec)).topk(K, sorted=False, dim=-1)
        empty = torch.zeros(len(x), FEATURES)
        return empty.scatter_(-1, top.indices, top.values), top.indices

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction."""
        return self.decoder(self.encode(x)[0]) + self.b_dec


class Loop:
    """`n` steps of training at a time, over shuffled rows."""

    def __init__(self, x: Tensor, steps: int, lr: float, bookkeeping: bool) -> None:
        self.x, self.steps, self.done, self.bookkeeping = x, steps, 0, bookkeeping
        self.factor = float((UNITS / (x - x.mean(0)).square().sum(1).mean()).sqrt())
        self.model = Plain(x[:32768].mean(0) * self.factor)
        self.adam = torch.optim.Adam(self.model.parameters(), lr=lr, betas=(0.9, 0.999))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.adam, lambda s: min(1.0, (s + 1) / (0.05 * steps), (steps - s) / (0.2 * steps))
        )
        self.order = torch.Generator().manual_seed(0)
        self.rows = torch.empty(0, dtype=torch.int64)
        self.idle = torch.zeros(FEATURES, dtype=torch.int64)

    def __call__(self, n: int) -> None:
        for _ in range(n):
            self.step(self.batch() * self.factor)

    def batch(self) -> Tensor:
        while len(self.rows) < BATCH:
            self.rows = torch.cat([self.rows, torch.randperm(len(self.x), generator=self.order)])
        taken, self.rows = self.rows[:BATCH], self.rows[BATCH:]
        return self.x[taken]

    def step(self, x: Tensor) -> None:
        model = self.model
        codes, active = model.encode(x)
        error = x - (model.decoder(codes) + model.b_dec)
        loss = error.square().sum(-1).mean()
        if self.bookkeeping:
            fired = torch.zeros(FEATURES, dtype=torch.bool)
            fired[active.flatten()] = True
            self.idle += len(x)
            self.idle[fired] = 0
        loss.backward()
        weight = model.decoder.weight
        assert weight.grad is not None
        if self.bookkeeping:
            unit = weight.data / (weight.data.norm(dim=0, keepdim=True) + torch.finfo(weight.dtype).eps)
            along = torch.einsum("df,df->f", weight.grad, unit)
            weight.grad -= torch.einsum("f,df->df", along, unit)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.adam.step()
        self.adam.zero_grad()
        self.schedule.step()
        with torch.no_grad():
            weight /= weight.norm(dim=0, keepdim=True)

    @torch.no_grad()
    def unexplained(self, held: Tensor) -> float:
        return _share(self.model(held * self.factor) / self.factor, held)


class Ours:
    """Our trainer, some steps at a time."""

    def __init__(self, x: Tensor, steps: int, lr: float) -> None:
        self.auto = TopK(FEATURES, k=K, steps=steps, lr=lr, batch_size=BATCH)
        sides = Sides([x], [Site("resid_post", 0)])
        feed = sides.feed(self.auto)
        self.run = TrainingRun(self.auto, sides, feed, sides.geometry(feed.widths), FEATURES)
        self.state = self.run.start()
        self.adam = self.state.optimiser(self.auto.betas)

    @torch.no_grad()
    def __call__(self, n: int) -> None:
        for _ in range(n):
            self.run.advance(self.state, self.adam)

    @torch.no_grad()
    def unexplained(self, held: Tensor) -> float:
        factor = self.run.factors[0]
        one = Pass(self.state.params, self.run.geometry, held * factor, held * factor)
        return _share(one.decode(*self.auto.codes(one)) / factor, held)


def _share(made: Tensor, x: Tensor) -> float:
    return float((x - made).square().sum() / (x - x.mean(0)).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--chunks", type=int, default=5)
    args = parser.parse_args()
    x, held = vectors(args.vectors), vectors(8192, seed=1)
    per_chunk = max(1, args.epochs * args.vectors // BATCH // args.chunks)
    steps = per_chunk * args.chunks
    lr = 2e-4 * (2**14 / FEATURES) ** 0.5
    loops: dict[str, Any] = {
        "plain loop": Loop(x, steps, lr, False),
        "steps of dictionary_learning's trainer": Loop(x, steps, lr, True),
        "patchclamp": Ours(x, steps, lr),
    }
    wall, cpu = measure(dict(loops), per_chunk, args.chunks)
    base = wall["plain loop"]
    rows = [
        {
            "trainer": name,
            "vectors/s": per_chunk * BATCH / wall[name],
            "times plain": base / wall[name],
            "times plain (CPU time)": cpu["plain loop"] / cpu[name],
            "unexplained": loop.unexplained(held),
        }
        for name, loop in loops.items()
    ]
    show(f"TopK, {args.vectors:,} x {UNITS}, {FEATURES} features, k {K}, {steps} steps of {BATCH}", rows)
    save("sae", rows, f"{args.vectors} vectors, {steps} steps")


def measure(
    loops: dict[str, Callable[[int], None]], n: int, chunks: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median wall and CPU seconds of `n` steps."""
    wall: dict[str, list[float]] = {name: [] for name in loops}
    cpu: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(chunks):
        for name, loop in loops.items():
            began, used = time.perf_counter(), time.process_time()
            loop(n)
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - used)
    return (
        {name: statistics.median(times) for name, times in wall.items()},
        {name: statistics.median(times) for name, times in cpu.items()},
    )


if __name__ == "__main__":
    main()
