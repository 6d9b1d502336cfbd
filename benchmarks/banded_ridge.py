"""Banded ridge against himalaya's random search, on the same draws, penalties and folds.

python -m benchmarks.banded_ridge [--threads 1] [--repeats 3]

Seconds are CPU seconds of the process at one thread, in turn, so that other work on the machine counts for
neither side; scores are R2 on samples that neither has seen.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.common import save, show
from patchclamp.compare.encoding import BandedRidge, Blocked, r2

SIZES = [(200, (50, 400, 100), 500), (600, (300, 300, 300), 500), (400, (1500, 1500), 2000)]


def planted(n: int, widths: tuple[int, ...], targets: int) -> tuple[dict[str, Any], Any, dict[str, Any], Any]:
    """Each target reads one of the spaces; half of its variance is noise. As many samples again are held out."""
    g = np.random.default_rng(0)
    spaces = {f"space {k}": g.normal(size=(2 * n, width)) for k, width in enumerate(widths)}
    y = np.empty((2 * n, targets))
    for t in range(targets):
        x = spaces[f"space {t % len(widths)}"]
        w = g.normal(size=x.shape[1]) / np.sqrt(x.shape[1])
        y[:, t] = x @ w + g.normal(size=2 * n)
    return {k: x[:n] for k, x in spaces.items()}, y[:n], {k: x[n:] for k, x in spaces.items()}, y[n:]


def alone(train: dict[str, Any], y: Any, test: dict[str, Any], draws: int) -> tuple[float, Any]:
    """CPU seconds of himalaya by itself (kernels, search, refit), and its predictions of the held-out samples."""
    from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search as solve

    model = BandedRidge(n_draws=draws)
    moments = [(x.mean(0), x.std(0)) for x in train.values()]
    held = [(x - m) / s for x, (m, s) in zip(test.values(), moments, strict=True)]

    def fit() -> Any:
        spaces = [(x - m) / s for x, (m, s) in zip(train.values(), moments, strict=True)]
        kernels = np.stack([x @ x.T for x in spaces])
        found = solve(
            kernels,
            y - y.mean(0),
            n_iter=model._draws(len(spaces)),
            alphas=np.asarray(model.alphas),
            cv=5,
            return_weights="dual",
            progress_bar=False,
        )
        return spaces, found[0], found[1]

    took, (spaces, deltas, dual) = cpu(fit)
    parts = [(h @ x.T) @ (dual * np.exp(d)) for h, x, d in zip(held, spaces, deltas, strict=True)]
    return took, sum(parts) + y.mean(0)


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for n, widths, targets in SIZES:
        train, y, test, y_test = planted(n, widths, targets)
        seconds: dict[str, list[float]] = {"own": [], "himalaya": [], "alone": []}
        scores: dict[str, float] = {}
        for _ in range(options.repeats):
            for solver in ("own", "himalaya"):
                model = BandedRidge(n_draws=options.draws, cv=Blocked(5), solver=solver)
                took, fitted = cpu(partial(model.fit, train, y))
                seconds[solver].append(took)
                scores[solver] = float(np.mean(fitted.score(test, y_test)))
            took, predicted = alone(train, y, test, options.draws)
            seconds["alone"].append(took)
            scores["alone"] = float(np.mean(r2(y_test, predicted)))
        spent = {solver: statistics.median(held) for solver, held in seconds.items()}
        rows.append(
            {
                "samples": n,
                "features": "+".join(map(str, widths)),
                "targets": targets,
                "ours cpu s": round(spent["own"], 2),
                "himalaya cpu s": round(spent["alone"], 2),
                "ours / himalaya": round(spent["own"] / spent["alone"], 2),
                "solver='himalaya' cpu s": round(spent["himalaya"], 2),
                "ours R2": round(scores["own"], 4),
                "himalaya R2": round(scores["alone"], 4),
            }
        )
    show("banded ridge, random search", rows)
    save("banded_ridge", rows, f"{options.draws} draws, 21 penalties, 5 folds; CPU seconds")


if __name__ == "__main__":
    main()
