"""The version of the package: results, stores and claims carry it."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

__version__ = "0.1.0"


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """Hash of the package's own source: what one code computed, another does not go on with."""
    top, found = Path(__file__).parents[1], hashlib.blake2b(digest_size=8)
    for file in sorted(top.rglob("*.py")):
        found.update(f"{file.relative_to(top).as_posix()} {len(data := file.read_bytes())} ".encode() + data)
    return found.hexdigest()
