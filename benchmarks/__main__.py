"""All benchmarks, one after the other: ``make bench``. Each also runs alone, ``python -m benchmarks.recording``."""

from __future__ import annotations

import importlib.util
import runpy
import sys

PEERS = ("transformer_lens", "nnsight")

for name in ("overhead", "recording", "attribution", "memory", "snmf", "sae", "describe", "null_calibration"):
    peers = name == "recording" and all(importlib.util.find_spec(peer) for peer in PEERS)
    sys.argv = [name, "--peers"] if peers else [name]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")

runpy.run_module("benchmarks.tables", run_name="__main__")
