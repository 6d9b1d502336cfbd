"""Non-negative tensor factorisation against tensorly's HALS, to the same error: 1,000 times x 20 animals x 4,950 pairs, rank 10.

python -m benchmarks.tensor [--seeds 3] [--cap 10] [--small]

Ours runs first and ends by itself. tensorly (random start, which is cheaper than its default by singular vectors) then
runs until its error is at most 1.001 times ours, or for `cap` times our seconds; where it was cut off, the ratio is a lower
bound and the row says what error it had reached. Both get the same float32 array and one restart. Seconds are CPU seconds
of the process. A last row gives the peak memory of a factorisation of affinities that are made again in every pass.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.common import save, show
from patchclamp.connect import affinities, tensor_factorisation

SHAPE, RANK, SLACK = (1000, 20, 4950), 10, 1.001


def planted(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Ten components, each active in a tenth of the times, half of the animals and a fifth of the pairs; noise."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.random((n, RANK)) * (rng.random((n, RANK)) < share)
        for n, share in zip(shape, (0.1, 0.5, 0.2), strict=True)
    ]
    x = rng.random(shape, dtype=np.float32) * np.float32(0.05)
    for t, w, p in zip(*(part.T.astype(np.float32) for part in parts), strict=True):
        x += t[:, None, None] * (w[:, None] * p)
    return x


def error_of(x: np.ndarray, parts: Sequence[np.ndarray]) -> float:
    """||x - model|| / ||x|| in float64. tensorly's own figure comes from float32 sums, which are several percent off here."""
    t, w, p = (np.asarray(part, dtype=np.float64) for part in parts)
    left = total = 0.0
    for rows in np.array_split(np.arange(len(x)), 20):
        values = x[rows].astype(np.float64)
        design = (t[rows][:, None] * w).reshape(-1, t.shape[1])
        left += ((values.reshape(len(design), -1) - design @ p.T) ** 2).sum()
        total += (values**2).sum()
    return float((left / total) ** 0.5)


def ours(x: np.ndarray, seed: int) -> tuple[float, float, int]:
    began = time.process_time()
    found = tensor_factorisation(x, RANK, restarts=1, seed=seed)
    seconds = time.process_time() - began
    return seconds, error_of(x, (found.time, found.animals, found.pairs)), found.passes


def tensorlys(x: np.ndarray, seed: int, target: float, limit: float) -> tuple[float, float, int]:
    """(seconds, error, iterations) until the error is at the target or the seconds are spent."""
    import tensorly
    from tensorly.decomposition import non_negative_parafac_hals

    tensorly.set_backend("pytorch")
    tensor = torch.from_numpy(x)
    state: Any = "random"
    seconds, iterations = 0.0, 0
    while True:
        began = time.process_time()
        state = non_negative_parafac_hals(tensor, RANK, n_iter_max=5, init=state, tol=None, random_state=seed)
        seconds += time.process_time() - began
        iterations += 5
        first, *others = state.factors
        error = error_of(x, [(first * state.weights).numpy(), *(part.numpy() for part in others)])
        if error <= target or seconds > limit:
            return seconds, error, iterations


def compare(seeds: int, shape: tuple[int, int, int], cap: float) -> list[dict[str, Any]]:
    rows = []
    for seed in range(seeds):
        x = planted(seed, shape)
        seconds, error, passes = ours(x, seed)
        rows.append(_row(seed, "ours (baseline)", seconds, error, passes, "1"))
        took, reached, iterations = tensorlys(x, seed, SLACK * error, cap * seconds)
        ratio = f"{took / seconds:.1f}" if reached <= SLACK * error else f"> {took / seconds:.1f}"
        rows.append(_row(seed, "tensorly's HALS", took, reached, iterations, ratio))
    return rows


def _row(seed: int, method: str, seconds: float, error: float, passes: int, ratio: str) -> dict[str, Any]:
    return {
        "seed": seed,
        "method": method,
        "cpu s": round(seconds, 2),
        "error": round(error, 5),
        "passes": passes,
        "seconds / ours": ratio,
    }


def peak() -> None:
    """Factorise affinities of 100 neurons that are never held in memory; print the growth of peak memory in MB."""
    import resource

    x = np.random.default_rng(0).normal(size=(SHAPE[1], SHAPE[0], 100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tensor_factorisation(affinities(x, cache=0), RANK, restarts=1, iterations=3, block=256)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory() -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.tensor", "--peak"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [
        {
            "tensor": "x".join(map(str, SHAPE)),
            "tensor MB": round(np.prod(SHAPE) * 4 / 2**20),
            "peak MB over start": round(float(out)),
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cap", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="200 x 10 x 1000, to see that it runs")
    parser.add_argument("--peak", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        peak()
        return
    used = memory()  # first: a child inherits the peak of its parent
    rows = compare(options.seeds, (200, 10, 1000) if options.small else SHAPE, options.cap)
    show("non-negative tensor factorisation to the same error", rows)
    show("affinities made in every pass", used)
    if not options.small:
        save("tensor", rows + used, f"rank {RANK}; tensorly cut off at {options.cap:g} times our CPU seconds")


if __name__ == "__main__":
    main()
