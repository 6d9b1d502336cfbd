"""How often a study claims an effect where there is none: 200 seeded studies of each system without effect.

python -m benchmarks.null_calibration [RUNS]
"""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks.common import RESULTS, save, show
from patchclamp.study.null import null_claims, null_rate

SYSTEMS = {
    "bystanders: no unit has an effect": {"alike": False},
    "alike: every head has the same effect": {"alike": True},
}


# The rule of a claim was chosen while looking at seeds 0 to 199 (and 1000 on): these are others.
SEED = 10_000
PAGE = Path(__file__).resolve().parents[1] / "docs" / "leaderboard.md"
MARK = re.compile(r"(<!-- null calibration -->\n).*?(<!-- /null calibration -->)", re.DOTALL)


def filled(text: str) -> str:
    """The page with the stored rates."""
    rows = json.loads((RESULTS / "null_calibration.json").read_text())["rows"]
    lines = [
        "| system | studies | with a false claim | rate, 95 % | stated | statements |",
        "| --- |" + " --- |" * 5,
    ]
    for r in rows:
        rate = f"{r['rate']:.1%} [{r['low']:.1%}, {r['high']:.1%}]"
        lines.append(
            f"| {r['system']} | {r['studies']} | {r['with a false claim']} | {rate} | {r['stated']:.0%} | "
            f"{r['false']} of {r['of statements']} |"
        )
    return MARK.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text)


def main(n_runs: int = 200) -> None:
    """Run the studies, show and store the rates."""
    torch.set_num_threads(1)
    rows = []
    for name, how in SYSTEMS.items():
        found = null_rate(n_runs, SEED, claims=partial(null_claims, **how))
        rows.append(
            {
                "system": name,
                "studies": found.runs,
                "with a false claim": found.claimed,
                "rate": found.rate,
                "low": found.low,
                "high": found.high,
                "stated": found.stated,
                "false": found.false,
                "of statements": found.tests,
                "refused": found.refused,
            }
        )
    show(f"Null calibration, {n_runs} seeded studies each; 95 % intervals by Clopper and Pearson", rows)
    save(
        "null_calibration",
        rows,
        f"{n_runs} seeded studies of each system, seeds {SEED} to {SEED + n_runs - 1}",
    )
    PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
