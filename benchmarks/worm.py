"""Which neuron's stimulation changes which other? C. elegans (wormneuroatlas, files of the package).

python -m benchmarks.worm [--level 0.05] [--permutations 1000]

Truth: pairs (responder, stimulated) of the wild type with q <= level, against all other pairs that were tested. The package
holds **no spontaneous activity**: only the responses to stimulation and the anatomy. So measures over time (lagged
correlation, transfer entropy) cannot be tried here. What can be: the wiring; distance; how alike two neurons respond to the
stimulation of all *others* (static measures over stimulations; the entry of the pair itself is never used); the same
measurement in a mutant without dense-core vesicle release, which says how far repetition goes. Nodes are permuted for the
null.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save, show
from patchclamp.base.errors import PatchclampError
from patchclamp.connect import against, correlation, partial_correlation
from patchclamp.nouns.graph import Graph


def folder() -> Path:
    """The data of the package, which is not imported."""
    spec = importlib.util.find_spec("wormneuroatlas")
    if spec is None or spec.origin is None:
        raise PatchclampError("wormneuroatlas is not installed; pip install --no-deps wormneuroatlas (GPL)")
    return Path(spec.origin).parent / "data"


def load() -> dict[str, Any]:
    """Names; responses and q (responder, stimulated) of wild type and mutant; synapses and gap junctions (to, from)."""
    import h5py

    with h5py.File(folder() / "funatlas.h5") as file:
        names = [name.decode() for name in file["neuron_ids"][:]]
        data = {
            f"{kind}_{strain}": file[strain][kind][:] for strain in ("wt", "unc31") for kind in ("dFF", "q")
        }
    with h5py.File(folder() / "aconnectome_default.h5") as file:
        data |= {"chem": file["chem"][:], "gap": file["gap"][:]}
    check_direction(names, data["chem"])
    return {"names": names, **data}


def check_direction(names: list[str], chem: np.ndarray) -> None:
    """AVA drives the motor neurons DA and VA: (to, from) must say so."""
    command = [names.index(name) for name in ("AVAL", "AVAR")]
    motor = [i for i, name in enumerate(names) if name[:2] in ("DA", "VA") and name[2:].isdigit()]
    out, back = chem[np.ix_(motor, command)].sum(), chem[np.ix_(command, motor)].sum()
    if out < 5 * back:
        raise PatchclampError(f"synapses AVA -> DA, VA: {out:g}, back: {back:g}; rows should be targets")


def responses(data: dict[str, Any], least: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """(stimulation, responder) with missing entries at each responder's mean, and the neurons kept.

    A neuron's response to its own stimulation is set to its mean as well: then the product of a pair in the samples in which
    one of the two was stimulated is exactly 0, and the pair's own measurement does not enter its correlation.
    """
    x = data["dFF_wt"].T.copy()  # (stimulated, responder)
    np.fill_diagonal(x, np.nan)
    stimulated = np.isfinite(x).mean(1) > 0.1
    x = x[stimulated]
    kept = np.flatnonzero(np.isfinite(x).mean(0) >= least)
    x = x[:, kept]
    centred = x - np.nanmean(x, 0)
    return np.where(np.isfinite(centred), centred, 0.0), kept


def reach(wires: np.ndarray, hops: int = 3, fade: float = 0.5) -> np.ndarray:
    """Paths of up to `hops` synapses: sum of fade^h times the h-th power, each target's input scaled to 1."""
    share = wires / np.maximum(wires.sum(1, keepdims=True), 1)
    power, total = np.eye(len(wires)), np.zeros_like(wires)
    for hop in range(1, hops + 1):
        power = power @ share
        total += fade ** (hop - 1) * power
    return total


def candidates(data: dict[str, Any]) -> dict[str, tuple[np.ndarray, bool]]:
    """Name -> (weights over all neurons, directed)."""
    chem, gap = data["chem"], data["gap"]
    both = chem + gap
    x, kept = responses(data)
    cut = np.ix_(kept, kept)
    alike, direct = np.full(chem.shape, np.nan), np.full(chem.shape, np.nan)
    alike[cut] = correlation(x, null=None).weights
    direct[cut] = partial_correlation(x, null=None).weights
    mutant = np.abs(data["dFF_unc31"])
    degree = np.log1p(both.sum(1))[:, None] + np.log1p(both.sum(0))[None]
    return {
        "chemical synapses": (chem, True),
        "gap junctions": ((gap + gap.T) / 2, False),
        "synapses + junctions": (both, True),
        "the same, turned round": (both.T, True),
        "paths of up to 3": (reach(both), True),
        "in- and out-degree alone": (degree, True),
        "correlation of responses": (alike, False),
        "partial correlation of responses": (direct, False),
        "response in the unc-31 mutant": (mutant, True),
    }


def compare(data: dict[str, Any], level: float, n_perm: int) -> list[dict[str, Any]]:
    q = data["q_wt"].copy()
    np.fill_diagonal(q, np.nan)
    truth = np.where(np.isfinite(q), (q <= level).astype(float), np.nan)
    print(
        f"{int(np.nansum(truth))} of {int(np.isfinite(truth).sum())} tested pairs at q <= {level}", flush=True
    )
    rows = []
    for name, (weights, directed) in candidates(data).items():
        graph = Graph(tuple(data["names"]), weights, directed, name)
        known = np.isfinite(weights).any(0) | np.isfinite(weights).any(1)
        part = graph.subgraph([n for n, there in zip(graph.nodes, known, strict=True) if there])
        true = truth[np.ix_(known, known)]
        area = against(part, true, n_perm=n_perm)
        row = {
            "predictor": name,
            "neurons": int(known.sum()),
            "pairs": area.pairs,
            "area": round(area.value, 3),
        }
        row |= {
            "null": f"{area.null.low:.3f}..{area.null.high:.3f}",
            "p": round(area.p, 4),
            "direction": "",
            "p dir": "",
        }
        if directed:
            turn = against(part, true, "direction", n_perm=n_perm)
            row |= {
                "direction": f"{turn.value:.3f} ({turn.null.low:.2f}..{turn.null.high:.2f})",
                "p dir": f"{turn.p:.3f}",
            }
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", type=float, default=0.05)
    parser.add_argument("--permutations", type=int, default=1000)
    options = parser.parse_args()
    rows = compare(load(), options.level, options.permutations)
    show("which neuron's stimulation changes which other?", rows)
    save("worm", rows, f"wormneuroatlas; q <= {options.level}; nodes permuted {options.permutations} times")


if __name__ == "__main__":
    main()
