"""Dictionaries on disk: the layouts of SAELens, dictionary_learning, sparsify, circuit-tracer and GemmaScope."""

from __future__ import annotations

from pathlib import Path

from patchclamp.decompose.stored import StoredDictionary
from patchclamp.errors import PatchclampError


def save_dictionary(dictionary: StoredDictionary, folder: str | Path) -> Path:
    """Write a dictionary into a folder (see `StoredDictionary.save`)."""
    raise PatchclampError(f"{folder}: writing dictionaries is not built yet")
