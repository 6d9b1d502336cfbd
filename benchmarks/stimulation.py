"""Does functional connectivity say who changes when a neuron is stimulated? Leaky integrate-and-fire neurons.

python -m benchmarks.stimulation

Areas under the curve, mean over three networks: of |weight| for a connection, and for a change of rate of more than 4 Hz, or
1 Hz, when the source is driven by 10 mV. In brackets 95 % of the same areas on networks whose neurons were shifted against each other.
"""

from __future__ import annotations

import numpy as np

from benchmarks.common import save, show
from patchclamp.connect import glm_coupling
from patchclamp.connect.series import series
from patchclamp.connect.surrogates import circular_shift
from patchclamp.nouns.graph import Graph
from patchclamp.truth.populations_wired import FireSettings, integrate_and_fire

DRAWS, SEEDS = 5, (0, 1, 2)


def graphs(values: np.ndarray, groups: np.ndarray, width: int) -> dict[str, Graph]:
    """The regression and, inside it, its baselines."""
    glm = glm_coupling(values, groups, window=max(3, 6 // width), n_basis=1, null=None, folds=2)
    assert glm.baseline is not None and glm.baseline.baseline is not None
    return {
        "GLM": glm,
        "lagged correlation": glm.baseline,
        "zero-lag correlation": glm.baseline.baseline,
    }


def main() -> None:
    """Networks in bins of 1 ms and of 5 ms; a spike acts after 1 ms."""
    rows = []
    for width in (1, 5):
        areas: dict[tuple[str, str], list[float]] = {}
        shifted: dict[tuple[str, str], list[float]] = {}
        for seed in SEEDS:
            system = integrate_and_fire(seed, FireSettings(trials=20, time=1000, bin=width))
            effect = np.abs(np.stack([system.stimulate(i) for i in range(20)], 1))
            truths = {"connection": system.coupling.T, **{f"change > {hz} Hz": effect > hz for hz in (4, 1)}}
            units = series(system.recording)
            groups = system.recording.samples.group.numpy()
            rng = np.random.default_rng(seed)
            for draw in range(DRAWS + 1):
                values = units.values if draw == 0 else circular_shift(units, rng).values
                into = shifted if draw else areas
                for name, graph in graphs(values, groups, width).items():
                    for what, truth in truths.items():
                        into.setdefault((name, what), []).append(graph.auroc(truth))
        for name in ("GLM", "lagged correlation", "zero-lag correlation"):
            row: dict[str, object] = {"bins": f"{width} ms", "method": name}
            for what in ("connection", "change > 4 Hz", "change > 1 Hz"):
                low, high = np.quantile(shifted[name, what], (0.025, 0.975))
                row[what] = f"{np.mean(areas[name, what]):.2f} [{low:.2f}, {high:.2f}]"
            rows.append(row)
    show(
        "Area under the curve, mean over 3 networks of 20 neurons, 20 s each; in brackets shifted networks",
        rows,
    )
    save("stimulation", rows, "areas: mean over 3 networks [95 % of 5 shifted ones each]")


if __name__ == "__main__":
    main()
