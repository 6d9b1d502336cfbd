"""decompose: what are the right units?

`METHODS` names the methods: estimators whose ``fit(recording, site)`` returns a `Dictionary`.
"""

from __future__ import annotations

from typing import Any

from patchclamp.decompose.sparse_dictionary import SparseDictionary
from patchclamp.decompose.stored import StoredDictionary

METHODS: dict[str, Any] = {}

__all__ = ["METHODS", "SparseDictionary", "StoredDictionary"]
