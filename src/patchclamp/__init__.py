"""patchclamp: record any unit of a network, say what it encodes, prove what it causes, change it.

The names below are loaded when they are first used, so that ``import patchclamp`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "open_subject": "patchclamp.subjects",
    "LanguageModel": "patchclamp.subjects",
    "VisionModel": "patchclamp.subjects",
    "TorchModule": "patchclamp.subjects",
    "TensorTask": "patchclamp.subjects",
    "Edit": "patchclamp.subjects",
    "Site": "patchclamp.units",
    "Unit": "patchclamp.units",
    "Units": "patchclamp.units",
    "Task": "patchclamp.task",
    "Item": "patchclamp.task",
    "load_task": "patchclamp.tasks",
    "Intervention": "patchclamp.intervention",
    "Scores": "patchclamp.scores",
    "Effect": "patchclamp.scores",
    "Recording": "patchclamp.recording",
    "Samples": "patchclamp.recording",
    "SpikeTrains": "patchclamp.recording",
    "open_recording": "patchclamp.record",
    "effect": "patchclamp.intervene",
    "faithfulness": "patchclamp.evaluate",
    "agreement": "patchclamp.evaluate",
    "run_study": "patchclamp.study",
    "PatchclampError": "patchclamp.errors",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'patchclamp' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
