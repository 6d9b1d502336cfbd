"""How often each measure of coupling finds what is planted on one long run, and how often it finds something in noise.

python -m benchmarks.connect_power [DATA SETS] [MEASURE ...]

With names of measures their rows alone are made anew, and the others stay as they are stored.

Data: 1,200 samples of 12 units (spikes: 3,000 of 8) that keep their value for 5 samples (autocorrelation exp(-t / 5), of heavy tails about 4); in
every other data set no unit has anything to do with another, in the others the first ten are five pairs that share .7 of
their signal (the later unit one sample later for measures of direction). False: share of data sets without coupling in which an edge
has q <= .05, which is what the null promises. Power: share of planted pairs found. Further rows: 94 units (4,371 pairs);
lengths at which steps without near coincidence do not fit and another null stands in; and for CD-NOD, whose tests take samples
that do not depend on each other from mechanisms that change, such data ("changing": 600 of 6, every second unit drifts).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import lfilter
from scipy.stats import binomtest

from benchmarks.common import RESULTS, save, show
from patchclamp.connect import METHODS
from patchclamp.nouns.graph import Graph

PAGE = Path(__file__).resolve().parents[1] / "docs" / "connect.md"
MARK = re.compile(r"(<!-- connect power -->\n).*?(<!-- /connect power -->)", re.DOTALL)
DRAWS = 49
SEED = 20_000


def smooth(n: int, units: int, width: float, rng: np.random.Generator) -> np.ndarray:
    """Independent units (sample, unit) of autocorrelation exp(-lag / width)."""
    return np.asarray(lfilter([1], [1, -np.exp(-1 / width)], rng.normal(size=(n + 200, units)), axis=0)[200:])


def planted(x: np.ndarray, lag: int) -> np.ndarray:
    """Units 0 -> 1, 2 -> 3, ..., as many as there are, at most five."""
    out = x.copy()
    for source in range(0, min(10, x.shape[1] - 1), 2):
        out[lag:, source + 1] = 0.7 * x[: len(x) - lag, source] + np.sqrt(0.51) * x[lag:, source + 1]
    return out


def changing(x: np.ndarray, coupled: bool) -> np.ndarray:
    """Samples that do not depend on each other, of which every second unit drifts: what CD-NOD assumes."""
    out = planted(x, 0) if coupled else x.copy()
    out[:, 1::2] += np.linspace(-1.5, 1.5, len(x))[:, None]
    return out


def spikes(x: np.ndarray, coupled: bool, rng: np.random.Generator) -> np.ndarray:
    """Bins with or without a spike; where `coupled`, half of one unit's spikes make the next one fire a bin later."""
    out = (rng.random(x.shape) < 0.15 * np.exp(0.5 * x / x.std(0))).astype(float)
    for source in range(0, 6, 2) if coupled else ():
        follow = out[:-1, source] * (rng.random(len(x) - 1) < 0.5)
        out[1:, source + 1] = np.maximum(out[1:, source + 1], follow)
    return out


def shares(x: np.ndarray) -> np.ndarray:
    """Parts of a whole."""
    e = np.exp(0.5 * x / x.std(0))
    return np.asarray(e / e.sum(1, keepdims=True))


# name -> what the measure takes, its lag, samples, units, options, data sets as a share of those asked for
Case = tuple[str, str, int, int, int, dict[str, Any], float]
CASES: tuple[Case, ...] = (
    ("correlation", "signal", 0, 1200, 12, {}, 1),
    ("partial_correlation", "signal", 0, 1200, 12, {}, 1),
    ("compositional_partial_correlation", "shares", 0, 1200, 12, {}, 1),
    ("lagged_correlation", "signal", 1, 1200, 12, {}, 1),
    ("transfer_entropy", "signal", 1, 1200, 12, {}, 1),
    ("glm_coupling", "spikes", 1, 3000, 8, {"window": 3}, 0.25),
    ("correlation", "signal", 0, 1200, 94, {}, 1),
    ("partial_correlation", "signal", 0, 1200, 94, {}, 0.5),
    ("correlation", "signal", 0, 800, 94, {}, 1),
    ("correlation", "heavy tails", 0, 2000, 300, {}, 0.2),
    ("switching_glm", "spikes", 1, 1500, 6, {"n_states": 2, "window": 3, "restarts": 2, "null_samples": 19}, 0.25),
    ("attention_connectivity", "spikes", 1, 2000, 6, {"window": 3, "epochs": 10, "null_samples": 12, "glm_null_samples": 19}, 0.25),
    ("cd_nod", "signal", 0, 600, 6, {"test": "fisherz", "alpha": 0.01, "null_samples": 19}, 1),
    ("cd_nod", "changing", 0, 600, 6, {"test": "fisherz", "alpha": 0.01, "null_samples": 19}, 1),
)  # fmt: skip


def data(kind: str, lag: int, n: int, units: int, coupled: bool, rng: np.random.Generator) -> np.ndarray:
    """One data set."""
    if kind == "changing":
        return changing(rng.normal(size=(n, units)), coupled)
    x = smooth(n, units, 4.0 if kind == "heavy tails" else 5.0, rng)
    if kind == "spikes":
        return spikes(x, coupled, rng)
    x = planted(x, lag) if coupled else x
    if kind == "heavy tails":
        return np.asarray(np.exp(x / x.std(0)))
    return shares(x) if kind == "shares" else x


def row(case: Case, sets: int) -> dict[str, Any]:
    """Rates of one method on one kind of data."""
    name, kind, lag, n, units, options, share = case
    method: Callable[..., Graph] = METHODS[name]
    count = max(5, round(sets * share))
    options = {"null_samples": DRAWS, **options}
    alarms, found, pairs, null = 0, 0, 0, ""
    for seed in range(SEED, SEED + count):
        for coupled in (False, True):
            rng = np.random.default_rng([seed, coupled])
            graph = method(data(kind, lag, n, units, coupled, rng), seed=seed, **options)
            assert graph.null is not None
            null, beyond = graph.null["name"], (graph.significant() & graph.pairs)[:units, :units]
            if not coupled:
                alarms += bool(beyond.any())
                continue
            for source in range(0, min(10, units - 1), 2):
                found += bool(beyond[source + 1, source])
                pairs += 1
    band = binomtest(alarms, count).proportion_ci(method="exact")
    return {
        "measure": name,
        "data": f"{n:,} x {units}, {kind}",
        "null": null,
        "sets": count,
        "false": alarms / count,
        "low": float(band.low),
        "high": float(band.high),
        "power": found / pairs,
    }


def filled(text: str) -> str:
    """The page with the stored rates."""
    rows = json.loads((RESULTS / "connect_power.json").read_text())["rows"]
    lines = ["| measure | samples x units | null | data sets | with a false edge | planted pairs found |"]
    lines.append("| --- |" + " --- |" * 5)
    for r in rows:
        rate = f"{r['false']:.0%} [{r['low']:.0%}, {r['high']:.0%}]"
        lines.append(
            f"| `{r['measure']}` | {r['data']} | `{r['null']}` | {r['sets']} | {rate} | {r['power']:.0%} |"
        )
    return MARK.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text)


def main(sets: int = 100, *names: str) -> None:
    """Run all cases, or those of some measures, show and store the rates, and put them on the page."""
    path = RESULTS / "connect_power.json"
    stored = json.loads(path.read_text())["rows"] if names and path.exists() else []
    known = {(r["measure"], r["data"]): r for r in stored}
    rows = []
    for case in CASES:
        there = known.get((case[0], f"{case[3]:,} x {case[4]}, {case[1]}"))
        if not names or case[0] in names:
            there = row(case, sets)
            print(there, flush=True)
        if there is not None:
            rows.append(there)
    show("Coupling on one long run: false edges and power", rows)
    notes = f"{DRAWS} draws (switching_glm, cd_nod: 19; attention_connectivity: 12), .05, seeds from {SEED}"
    save("connect_power", rows, notes)
    PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
