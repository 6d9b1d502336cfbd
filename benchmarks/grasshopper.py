"""What a grasshopper's auditory receptor waits for: spike-triggered average and regression filter of nitime's recording.

python -m benchmarks.grasshopper
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.common import save, show
from patchclamp.connect import stimulus_filter


def recording() -> tuple[np.ndarray, np.ndarray]:
    """Spikes and the amplitude of the sound in bins of 1 ms, 10 s."""
    import nitime

    folder = Path(nitime.__file__).parent / "data"
    spikes = np.loadtxt(folder / "grasshopper_spike_times1.txt")  # microseconds
    sound = np.loadtxt(folder / "grasshopper_stimulus1.txt")[:, 1]  # every 50 microseconds
    counts = np.histogram(spikes, np.arange(0, 10_000_001, 1000))[0]
    return counts, sound.reshape(-1, 20).mean(1)


def main() -> None:
    """Print both filters at their peak, and store them."""
    counts, sound = recording()
    began = time.perf_counter()
    found = stimulus_filter(counts, sound, lags=25, null_samples=200)
    seconds = time.perf_counter() - began
    rows = []
    for name, values, band, peak, p in (
        ("spike-triggered average", found.average, found.average_band, found.average_peak, found.average_p),
        ("GLM filter", found.filter, found.filter_band, found.filter_peak, found.filter_p),
    ):
        rows.append(
            {
                "what": name,
                "peak (ms before the spike)": peak,
                "value there": float(values[peak]),
                "95 % of shifts, low": float(band[0, peak]),
                "high": float(band[1, peak]),
                "p of the largest": p,
            }
        )
    show(f"{found.params['n_spikes']} spikes in 10 s, bins of 1 ms, 200 shifted stimuli", rows)
    low, high = found.gain_interval
    line = (
        f"cosine of the two over 25 ms: {found.agreement:.2f}; the stimulus adds {found.gain:.3f} nats a bin to rate "
        f"and own past, held out [{low:.3f}, {high:.3f}]"
    )
    print(line)
    save("grasshopper", rows, f"{line}; {seconds:.1f} s")


if __name__ == "__main__":
    main()
