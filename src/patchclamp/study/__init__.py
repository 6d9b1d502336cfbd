"""study: from a model and a behaviour to units, proof, claims and a report.

The names below are loaded when they are first used: reading a claims file needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "CircuitOptions": "circuits.options",
    "Claim": "claims",
    "Column": "stages",
    "Context": "stages",
    "Cover": "stages",
    "Figure": "stages",
    "Section": "stages",
    "Stage": "stages",
    "Study": "stages",
    "StudyOptions": "options",
    "Table": "stages",
    "Verdict": "verify",
    "label_nodes": "circuits.labels",
    "load_for_study": "study",
    "read_claims": "claims",
    "render": "report.report",
    "run_circuit_study": "circuits.run",
    "run_stages": "stages",
    "run_study": "study",
    "schema": "claims",
    "verify_claims": "verify",
    "write_claims": "claims",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'patchclamp.study' has no attribute {name!r}")
    return getattr(import_module(f"patchclamp.study.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
