"""All benchmarks, one after the other: ``make bench``. Each also runs alone, ``python -m benchmarks.recording``."""

from __future__ import annotations

import importlib.util
import runpy
import sys

PEERS = ("transformer_lens", "nnsight")

# Benchmarks beside a peer run where the peer is installed (extras brain and crosscheck).
BESIDE = {"tensor": "tensorly", "banded_ridge": "himalaya", "rsa": "rsatoolbox", "nwb": "pynwb"}
NAMES = (
    "overhead", "recording", "attribution", "memory", "snmf", "sae", "describe", "null_calibration", "coverage", "connect_power",
    "cka", "stimulation", "circuits",
)  # fmt: skip

for name in (*NAMES, *(name for name, peer in BESIDE.items() if importlib.util.find_spec(peer))):
    peers = name == "recording" and all(importlib.util.find_spec(peer) for peer in PEERS)
    sys.argv = [name, "--peers"] if peers else [name]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")

runpy.run_module("benchmarks.tables", run_name="__main__")
