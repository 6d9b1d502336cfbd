"""patchclamp: record any unit of a network, say what it encodes, prove what it causes, change it.

The names below, and the verbs as modules (``pc.measure.Moments``), are loaded when they are first used, so that
``import patchclamp`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from patchclamp.base.version import __version__ as __version__

_WHERE = {
    "open_subject": "patchclamp.subjects",
    "LanguageModel": "patchclamp.subjects",
    "VisionModel": "patchclamp.subjects",
    "TorchModule": "patchclamp.subjects",
    "TensorTask": "patchclamp.subjects",
    "Edit": "patchclamp.subjects",
    "Site": "patchclamp.nouns.units",
    "Unit": "patchclamp.nouns.units",
    "Units": "patchclamp.nouns.units",
    "Task": "patchclamp.nouns.tasks.task",
    "Item": "patchclamp.nouns.tasks.task",
    "load_task": "patchclamp.nouns.tasks.builtin",
    "Intervention": "patchclamp.nouns.intervention",
    "Scores": "patchclamp.nouns.scores",
    "Effect": "patchclamp.nouns.scores",
    "Recording": "patchclamp.nouns.recording.recording",
    "Samples": "patchclamp.nouns.recording.recording",
    "SpikeTrains": "patchclamp.nouns.recording.spikes",
    "open_recording": "patchclamp.record",
    "Dictionary": "patchclamp.nouns.dictionary",
    "Graph": "patchclamp.nouns.graph",
    "Estimate": "patchclamp.base.estimate",
    "effect": "patchclamp.intervene",
    "effects": "patchclamp.intervene",
    "Bench": "patchclamp.subjects.clamp.bench",
    "faithfulness": "patchclamp.evaluate",
    "agreement": "patchclamp.evaluate",
    "run_study": "patchclamp.study",
    "run_circuit_study": "patchclamp.study",
    "PatchclampError": "patchclamp.base.errors",
}

_MODULES = (
    "record",
    "measure",
    "decompose",
    "describe",
    "attribute",
    "connect",
    "compare",
    "intervene",
    "evaluate",
    "truth",
    "study",
)

__all__ = list(_WHERE) + list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"patchclamp.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'patchclamp' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
