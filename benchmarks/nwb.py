"""Opening a large NWB file lazily, against h5py opening it with nothing understood.

Writes a file of 2 GB (calcium activity, spike trains, behaviour, trials) to a temporary folder, opens it in a fresh
process (so that imports and caches of the writer do not help), and deletes it. Baseline (1.00): h5py opening the file
and reading the shape of one dataset.

    python -m benchmarks.nwb [--gb 2] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save, show

UNITS, RATE = 1000, 30.0

# Each candidate is timed inside its own process; imports are timed apart from the opening.
TIMED = """
import json, sys, time
path, what = sys.argv[1:]
began = time.perf_counter()
{imports}
imported = time.perf_counter()
{body}
opened = time.perf_counter()
peak = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM'))
print(json.dumps([imported - began, opened - imported, peak / 1e3]))
"""
CANDIDATES = {
    "h5py: open, one shape (baseline)": (
        "import h5py",
        "f = h5py.File(path, 'r'); f['processing/ophys/DfOverF/dff/data'].shape",
        "-",
    ),
    "pynwb: open and read()": (
        "import pynwb",
        "io = pynwb.NWBHDF5IO(path, 'r', load_namespaces=True); io.read()",
        "-",
    ),
    "open_recording: calcium": (
        "import pynwb; from patchclamp.record import open_recording",
        "r = open_recording(path, what); r['dff'].shape, r.units()",
        "dff",
    ),
    "open_recording: spike trains": (
        "import pynwb; from patchclamp.record import open_recording",
        "r = open_recording(path, what); r.counts.sum()",
        "units",
    ),
    "open_recording: calcium, and 100 samples in its middle": (
        "import pynwb; from patchclamp.record import open_recording",
        "r = open_recording(path, what); n = len(r) // 2; r['dff'][n : n + 100], r.column('time')[n]",
        "dff",
    ),
}


def write(path: Path, gigabytes: float) -> None:
    """Nine tenths calcium, one tenth spike times; data go in by pieces."""
    import pynwb
    from hdmf.backends.hdf5.h5_utils import H5DataIO
    from hdmf.data_utils import DataChunkIterator

    rng = np.random.default_rng(0)
    n = int(gigabytes * 0.9e9 / (4 * UNITS))
    seconds = n / RATE
    file = pynwb.NWBFile(
        session_description="benchmark", identifier="b", session_start_time=datetime.now(UTC)
    )
    scope = file.create_device(name="scope")
    light = pynwb.ophys.OpticalChannel(name="green", description="light", emission_lambda=510.0)
    plane = file.create_imaging_plane(
        name="plane", optical_channel=light, description="layer 2", device=scope, excitation_lambda=920.0,
        indicator="GCaMP", location="V1", imaging_rate=RATE,
    )  # fmt: skip
    segments = pynwb.ophys.ImageSegmentation()
    cells = segments.create_plane_segmentation(name="cells", imaging_plane=plane, description="rois")
    for i in range(UNITS):
        cells.add_roi(pixel_mask=[(i, i, 1.0)])
    block = rng.normal(size=(1000, UNITS)).astype("float32")
    rows = (block[i % 1000] for i in range(n))
    data = DataChunkIterator(data=rows, buffer_size=1000, maxshape=(n, UNITS), dtype=np.dtype("float32"))
    series = pynwb.ophys.RoiResponseSeries(
        name="dff", data=H5DataIO(data, chunks=(250, UNITS)), unit="1", rate=RATE,
        rois=cells.create_roi_table_region(description="all", region=list(range(UNITS))),
    )  # fmt: skip
    ophys = file.create_processing_module(name="ophys", description="calcium")
    ophys.add(segments)
    ophys.add(pynwb.ophys.DfOverF(roi_response_series=series))
    per_unit = int(gigabytes * 0.1e9 / (8 * 200))
    for _ in range(200):
        file.add_unit(spike_times=np.sort(rng.uniform(0, seconds, per_unit)))
    speed = pynwb.TimeSeries(name="speed", data=rng.normal(size=n), unit="cm/s", rate=RATE)
    file.create_processing_module(name="behavior", description="what it did").add(
        pynwb.behavior.BehavioralTimeSeries(time_series=speed)
    )
    for start in np.arange(0, seconds - 5, 10.0):
        file.add_trial(start_time=start, stop_time=start + 4.0)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)


def timed(imports: str, body: str, path: Path, what: str) -> list[float]:
    """Seconds of importing and of opening, and the peak of memory in MB, in a fresh process."""
    code = TIMED.format(imports=imports, body=body)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), what], capture_output=True, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.nwb"
        write(path, options.gb)
        size = path.stat().st_size / 1e9
        runs: dict[str, list[list[float]]] = {name: [] for name in CANDIDATES}
        for _ in range(options.repeats):
            for name, (imports, body, what) in CANDIDATES.items():
                runs[name].append(timed(imports, body, path, what))
    medians = {name: np.median(values, 0) for name, values in runs.items()}
    base = medians["h5py: open, one shape (baseline)"][1]
    rows: list[dict[str, Any]] = [
        {
            "what": name,
            "seconds": float(opening),
            "ratio": float(opening / base),
            "import_seconds": float(importing),
            "peak_mb": float(peak),
        }
        for name, (importing, opening, peak) in medians.items()
    ]
    show(f"opening an NWB file of {size:.2f} GB", rows)
    save(
        "nwb", rows, f"{size:.2f} GB, {options.repeats} fresh processes each, medians; target: open under 2 s"
    )


if __name__ == "__main__":
    main()
