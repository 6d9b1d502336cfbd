"""1,000 bootstraps of a representational similarity over 92 conditions, against rsatoolbox's.

python -m benchmarks.rsa [--draws 1000]

One model, one region; conditions are drawn, pairs of a condition with itself left out. CPU seconds of the
process, one thread. Both draw at random, so that values are equal and intervals agree up to the noise of the
draws.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from benchmarks.common import save, show
from patchclamp.compare import dissimilarities, rsa

COMPARATORS = {"spearman": "spearman", "rho_a": "rho-a", "pearson": "corr", "cosine": "cosine"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    import rsatoolbox

    g = np.random.default_rng(0)
    x = g.normal(size=(92, 60))
    a, b = dissimilarities(x), dissimilarities(x + 1.5 * g.normal(size=x.shape))
    rows: list[dict[str, Any]] = []
    for ours, theirs in COMPARATORS.items():
        began = time.process_time()
        found = rsa(a, b, ours, n_boot=options.draws)  # type: ignore[arg-type]
        mine = time.process_time() - began
        model = rsatoolbox.model.ModelFixed("m", rsatoolbox.rdm.RDMs(a[None]))
        data = rsatoolbox.rdm.RDMs(b[None])
        np.random.seed(0)
        began = time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):
            held = rsatoolbox.inference.eval_bootstrap_pattern(
                model, data, method=theirs, N=options.draws, boot_noise_ceil=False
            )
        yours = time.process_time() - began
        low, high = np.nanquantile(held.evaluations[:, 0], [0.025, 0.975])
        rows.append(
            {
                "comparator": ours,
                "ours cpu s": round(mine, 3),
                "rsatoolbox cpu s": round(yours, 2),
                "times faster": round(yours / mine, 1),
                "ours": f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]",
                "rsatoolbox": f"[{low:.3f}, {high:.3f}]",
            }
        )
    show(f"{options.draws} bootstraps of 92 conditions", rows)
    save("rsa", rows, f"{options.draws} draws of 92 conditions; rsatoolbox {version('rsatoolbox')}")


if __name__ == "__main__":
    main()
