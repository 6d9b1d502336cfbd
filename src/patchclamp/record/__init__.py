"""Record: what did the units do? A subject streamed over text, into a store, into measures, or both; or a file of a brain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patchclamp.nouns.recording.store import check_store
from patchclamp.record.api import plan, record
from patchclamp.record.files import file_contents, open_recording
from patchclamp.record.measuring import Measures, Recorded, measure_recording
from patchclamp.record.plan import Plan
from patchclamp.record.texts import Document, documents

TOOLS: dict[str, Callable[..., Any]] = {
    "text": record,
    "recording": measure_recording,
    "file": open_recording,
}

__all__ = [
    "TOOLS",
    "Document",
    "Measures",
    "Plan",
    "Recorded",
    "check_store",
    "documents",
    "file_contents",
    "measure_recording",
    "open_recording",
    "plan",
    "record",
]
