"""SNMF against multiplicative updates on the whole matrix, to the same loss: 20,000 x 1,536, k = 100.

python -m benchmarks.snmf [--smollm2 | --store FOLDER] [--cap 10] [--threads 1]

Ours runs first and ends by itself. Each baseline then runs until its loss is no higher than ours, or for `cap` times
our seconds; where it was cut off, the ratio is a lower bound and the row says what loss it had reached. Seconds are
CPU seconds of the process, so that other work on the machine counts for neither side.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import save, show
from patchclamp.decompose import SNMF
from patchclamp.nouns.recording.recording import Recording, Samples

SAMPLES, UNITS, K, SPARSITY = 20_000, 1_536, 100, 0.01
State = tuple[Tensor, Tensor]


def planted() -> Tensor:
    """200 groups of 10 neurons whose rates and strengths fall off, with noise."""
    random = torch.Generator().manual_seed(0)
    groups = torch.zeros(200, UNITS)
    for k in range(200):
        groups[k, torch.randperm(UNITS, generator=random)[:10]] = torch.randn(10, generator=random) / 3
    rate = 0.2 / (1 + torch.arange(200) / 20)
    codes = torch.rand(SAMPLES, 200, generator=random) * (torch.rand(SAMPLES, 200, generator=random) < rate)
    return codes @ groups + 0.02 * torch.randn(SAMPLES, UNITS, generator=random)


def recorded(store: Path | None) -> Tensor:
    """The neurons of SmolLM2's layer 15 on the bundled sample, or those of a store with that site."""
    if store is not None:
        chunks = Recording.open(store).select("mlp_act.15").chunks(4096)
        parts = [next(iter(arrays.values()))[samples.content] for samples, arrays in chunks]
        return torch.cat(parts)[:SAMPLES].float().contiguous()
    import patchclamp
    from patchclamp.record import record
    from patchclamp.record.texts import documents

    lm: Any = patchclamp.open_subject("smollm2")
    texts: list[str] = []
    tokens = 0
    for document in documents("sample"):
        texts.append(document.text)
        tokens += len(lm.encode([document.text])[0])
        if tokens > SAMPLES + 2 * len(texts):
            break
    with tempfile.TemporaryDirectory() as folder:
        found = record(lm, texts, "mlp_act.15", store=Path(folder) / "store", progress=False)
        parts = [next(iter(arrays.values()))[samples.content] for samples, arrays in found.chunks(4096)]
    return torch.cat(parts)[:SAMPLES].float().contiguous()


def paper_step(a: Tensor, z: Tensor, d: Tensor, winners: int | None) -> State:
    """One iteration as in the SNMF paper's code: D by least squares, winners, unit codes, then the codes."""
    d = torch.linalg.solve(z.T @ z + 1e-6 * torch.eye(K), z.T @ a)
    if winners is not None:
        places = d.abs().topk(winners, dim=1).indices
        d = torch.zeros_like(d).scatter(1, places, d.gather(1, places))
    norm = z.norm(dim=0).clamp_min(1e-12)
    z, d = z / norm, d * norm[:, None]
    p, q = a @ d.T, d @ d.T
    up = p.clamp_min(0) + z @ (-q).clamp_min(0)
    return z * (up / ((-p).clamp_min(0) + z @ q.clamp_min(0) + 1e-6)).sqrt(), d


def overcomplete_step(a: Tensor, z: Tensor, d: Tensor, winners: int | None) -> State:
    """One iteration of overcomplete's semi-NMF: the codes first, then D by a pseudo-inverse."""
    p, q = a @ d.T, d @ d.T
    up = p.clamp_min(0) + z @ (-q).clamp_min(0)
    z = z * (up / ((-p).clamp_min(0) + z @ q.clamp_min(0) + 1e-8) + 1e-8).sqrt()
    inverse = torch.linalg.pinv(z.T @ z + 1e-8 * torch.eye(K))
    return z, ((a.T @ z) @ inverse).T


def paper_start(a: Tensor) -> State:
    return torch.rand(len(a), K, generator=torch.Generator().manual_seed(0)), torch.zeros(K, a.shape[1])


def overcomplete_start(a: Tensor) -> State:
    scale = (a.abs().mean() / K).sqrt()
    z = (torch.randn(len(a), K, generator=torch.Generator().manual_seed(0)) * scale).abs()
    return z, ((a.T @ z) @ torch.linalg.pinv(z.T @ z)).T


def until(
    a: Tensor,
    start: Callable[[Tensor], State],
    step: Callable[[Tensor, Tensor, Tensor, int | None], State],
    winners: int | None,
    target: float,
    limit: float,
) -> tuple[float, float, int]:
    """(seconds, loss, iterations) until the loss is at the target or the seconds are spent."""
    energy = float((a**2).sum())
    began = time.process_time()
    (z, d), measuring, iterations, loss = start(a), 0.0, 0, math.inf
    while True:
        z, d = step(a, z, d, winners)
        iterations += 1
        seconds = time.process_time() - began - measuring
        if iterations % 10 == 0 or seconds > limit:
            before = time.process_time()
            cross, gram = float(((a @ d.T) * z).sum()), float(((z.T @ z) * (d @ d.T)).sum())
            loss = (energy - 2 * cross + gram) / energy
            measuring += time.process_time() - before
            if loss <= target or seconds > limit:
                return seconds, loss, iterations


def compare(name: str, a: Tensor, cap: float) -> list[dict[str, Any]]:
    """Rows with and without winner-take-all on one matrix."""
    rows = []
    for sparsity in (SPARSITY, None):
        began = time.process_time()
        found = SNMF(n_features=K, sparsity=sparsity, held_out=0).fit(a)
        seconds, loss = time.process_time() - began, found.meta["error"]
        winners = None if sparsity is None else math.ceil(sparsity * UNITS)
        what = "winner-take-all 1 %" if sparsity else "no winner-take-all"
        rows.append(_row(name, what, "ours (baseline)", seconds, loss, found.meta["passes"], "1"))
        others = {"multiplicative, whole matrix": (paper_start, paper_step)}
        if sparsity is None:
            others["overcomplete's semi-NMF"] = (overcomplete_start, overcomplete_step)
        for other, (start, step) in others.items():
            took, reached, iterations = until(a, start, step, winners, loss, cap * seconds)
            ratio = f"{took / seconds:.1f}" if reached <= loss else f"> {took / seconds:.1f}"
            rows.append(_row(name, what, other, took, reached, iterations, ratio))
    return rows


def _row(
    data: str, what: str, method: str, seconds: float, loss: float, passes: int, ratio: str
) -> dict[str, Any]:
    return {
        "data": data,
        "what": what,
        "method": method,
        "cpu s": round(seconds, 2),
        "loss": round(loss, 4),
        "passes": passes,
        "seconds / ours": ratio,
    }


def write(path: Path, samples: int) -> None:
    """A recording of random activity on disk."""
    site = Recording.from_arrays({"x": torch.zeros(2, 512)}).sites[0]
    with Recording.create(path, {}, {site: (512,)}, samples) as writer:
        for low in range(0, samples, 5000):
            n = min(5000, samples - low)
            values = torch.randn(n, 512, generator=torch.Generator().manual_seed(low)).relu()
            writer.append(Samples.of(torch.arange(low, low + n), torch.zeros(n)), {site: values})
        writer.finish()


def peak(path: Path) -> None:
    """Fit a recording on disk and print the growth of the process' peak memory in MB."""
    import resource

    stored = Recording.open(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    SNMF(n_features=50, polish=1, held_out=0).fit(stored)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory() -> list[dict[str, Any]]:
    """Peak memory of a fit in a process of its own, by number of samples."""
    rows = []
    for samples in (80_000, 320_000):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / "store", samples)
            command = [sys.executable, "-m", "benchmarks.snmf", "--peak", str(Path(folder) / "store")]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(
            {"samples": samples, "recording MB": samples * 512 * 4 / 2**20, "peak MB over start": float(out)}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smollm2", action="store_true", help="also the neurons of SmolLM2")
    parser.add_argument("--store", type=Path, help="where those are recorded already")
    parser.add_argument("--cap", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        peak(options.peak)
        return
    rows = compare("planted groups", planted(), options.cap)
    if options.smollm2 or options.store:
        rows += compare("SmolLM2 mlp_act.15", recorded(options.store), options.cap)
    show("SNMF to the same loss", rows)
    used = memory()
    show("peak memory of a fit from disk", used)
    save(
        "snmf",
        rows + used,
        f"{SAMPLES} x {UNITS}, k={K}; baselines cut off at {options.cap:g} times our CPU seconds",
    )


if __name__ == "__main__":
    main()
