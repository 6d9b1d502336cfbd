"""Peak memory of streaming many tokens into measures, against a tenth of them: it must not grow with the data.

python -m benchmarks.memory [--tokens 1000000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from benchmarks.common import save, show

CHILD = """
import json, resource, sys
import patchclamp
from patchclamp.measure import METHODS
from patchclamp.record import record
from patchclamp.record.texts import documents
tokens = int(sys.argv[1])
lm = patchclamp.open_subject("smollm2")
sample = [d.text for d in documents("sample")]
def texts():
    # Every round says it differently, so that no text is a repeat that is computed once.
    done = 0
    for number in range(10**9):
        for text in sample:
            yield f"{number}: {text}"
            done += len(text) // 4
            if done >= tokens:
                return
found = record(lm, texts(), "mlp_act.0", measures=[METHODS["moments"], METHODS["firing"]], progress=False)
count = next(iter(found.values()))["moments"].state()["count"]
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "count": float(count)}))
"""


def peak(tokens: int) -> dict[str, float]:
    """Peak resident MB of a process that streams so many tokens, and how many entered the measures."""
    out = subprocess.run(
        [sys.executable, "-c", CHILD, str(tokens)], capture_output=True, text=True, check=True
    ).stdout
    found = json.loads(out.splitlines()[-1])
    return {"tokens": found["count"], "peak MB": found["peak"] / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    options = parser.parse_args()
    small, large = peak(options.tokens // 10), peak(options.tokens)
    rows = [
        {"what": f"{int(row['tokens']):,} tokens into measures of mlp_act.0", "peak MB": row["peak MB"],
         "ratio": row["peak MB"] / small["peak MB"]}
        for row in (small, large)
    ]  # fmt: skip
    show("peak memory of streaming", rows)
    save("memory", rows)


if __name__ == "__main__":
    main()
