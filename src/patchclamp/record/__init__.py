"""Record: what did the units do? A subject streamed over text, into a store, into measures, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patchclamp.record.api import plan, record
from patchclamp.record.measuring import Measures, Recorded, measure_recording
from patchclamp.record.plan import Plan
from patchclamp.record.texts import Document, documents

METHODS: dict[str, Callable[..., Any]] = {"text": record, "recording": measure_recording}

__all__ = [
    "METHODS",
    "Document",
    "Measures",
    "Plan",
    "Recorded",
    "documents",
    "measure_recording",
    "plan",
    "record",
]
