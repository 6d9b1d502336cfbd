"""Debiased CKA between all pairs of 30 layers over 20,000 samples, in one pass over a recording on disk.

python -m benchmarks.cka

Layers are a drifting mixture of 576 units. Peak memory is that of a process of its own, less what it holds
before it opens the recording. A few pairs are computed from all pairs of samples at once, exactly, in float64.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import save, show
from patchclamp.compare import cka_matrix
from patchclamp.nouns.recording.recording import Recording, Samples

LAYERS, SAMPLES, UNITS = 30, 20_000, 576
PAIRS = [(0, 1), (0, 15), (0, 29), (10, 12), (20, 29)]


def write(path: Path) -> None:
    """Each layer keeps most of the one before it and adds some; directions fall off in size."""
    random = torch.Generator().manual_seed(0)
    turns = [
        torch.linalg.qr(torch.randn(UNITS, UNITS, generator=random))[0] * (1 + torch.arange(UNITS)) ** -0.5
        for _ in range(LAYERS)
    ]
    names = {f"layer{k}": (UNITS,) for k in range(LAYERS)}
    with Recording.create(path, {}, names, SAMPLES) as writer:
        for low in range(0, SAMPLES, 2000):
            x, arrays = torch.randn(2000, UNITS, generator=random), {}
            for k, name in enumerate(names):
                fresh = torch.randn(2000, UNITS, generator=random)
                x = 0.95 * x + 0.3 * fresh @ turns[k] * 5
                arrays[name] = torch.tanh(x @ turns[k])
            sites = dict(zip(writer_sites(names), arrays.values(), strict=True))
            writer.append(
                Samples.of(torch.arange(low, low + 2000), torch.zeros(2000, dtype=torch.int64)), sites
            )
        writer.finish()


def writer_sites(names: dict[str, tuple[int, ...]]) -> list[object]:
    """The sites that names stand for."""
    return list(Recording.from_arrays({name: torch.zeros(2, 1) for name in names}).sites)


def exact(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased linear CKA of all samples at once, through (unit, unit) products."""
    x, y, n = x - x.mean(0), y - y.mean(0), len(x)

    def criterion(a: np.ndarray, b: np.ndarray) -> float:
        q, r = (a**2).sum(1), (b**2).sum(1)
        # Columns sum to zero, so that a row of the kernel without its diagonal sums to minus the diagonal.
        trace = float(((a.T @ b) ** 2).sum() - q @ r)
        return trace + float(q.sum() * r.sum()) / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(q @ r)

    return criterion(x, y) / np.sqrt(criterion(x, x) * criterion(y, y))


def peak() -> int:
    """Largest resident size so far in kB. The resource module's figure would be inherited from the parent."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def child(path: Path) -> None:
    """The pass, its seconds and the growth of the peak memory, as JSON."""
    torch.set_num_threads(1)
    before = peak()
    wall, cpu = time.perf_counter(), time.process_time()
    found = cka_matrix(Recording.open(path))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = peak()
    values = [float(found.iloc[a, b]) for a, b in PAIRS]
    print(
        json.dumps(
            {
                "wall": wall,
                "cpu": cpu,
                "total": after / 1024,
                "growth": (after - before) / 1024,
                "values": values,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        write(path)
        command = [sys.executable, "-m", "benchmarks.cka", "--child", str(path)]
        out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        held = Recording.open(path)
        whole = []
        for a, b in PAIRS:
            x, y = (held[f"layer{k}"][:].double().numpy() for k in (a, b))
            whole.append(exact(x, y))
    rows = [
        {
            "layers": LAYERS,
            "samples": SAMPLES,
            "units": UNITS,
            "recording MB": round(LAYERS * SAMPLES * UNITS * 4 / 2**20),
            "wall s": round(out["wall"], 1),
            "cpu s": round(out["cpu"], 1),
            "peak MB of the process": round(out["total"]),
            "peak MB over start": round(out["growth"]),
            "largest difference from exact": round(
                max(abs(a - b) for a, b in zip(out["values"], whole, strict=True)), 4
            ),
        }
    ]
    show("debiased CKA of all pairs of layers", rows)
    pairs = [
        {"pair": f"{a}, {b}", "batches of 512": round(v, 4), "all samples at once": round(w, 4)}
        for (a, b), v, w in zip(PAIRS, out["values"], whole, strict=True)
    ]
    show("some pairs", pairs)
    save("cka", rows + pairs, "float32 store on disk, one pass, one thread")


if __name__ == "__main__":
    main()
