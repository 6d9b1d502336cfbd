"""Studies of circuits: which units carry a behaviour together, proved on held-out items, and which acts on which."""

from __future__ import annotations

from patchclamp.study.circuits.options import CircuitOptions
from patchclamp.study.circuits.run import run_circuit_study

__all__ = ["CircuitOptions", "run_circuit_study"]
