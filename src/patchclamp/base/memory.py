"""Sizes that a file claims, held against the file and against memory before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path

from patchclamp.base.errors import PatchclampError

LARGE = 1 << 30  # bytes below which nobody asks
DENSEST = 100  # times that packed activity can be smaller than itself, generously


def available() -> int:
    """Bytes of memory that can be had now; where the system does not say, all that it has."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def refuse_unpacking(what: str, size: int, stored: int) -> None:
    """Refuse data that would unpack to more than memory holds, or to far more than what is stored can say.

    Parameters
    ----------
    what
        The file, and the thing in it.
    size, stored
        Bytes that it says it has, and bytes on disk.

    Raises
    ------
    PatchclampError
        With both sizes.

    Examples
    --------
    >>> refuse_unpacking("a.npz", 4 << 30, 1 << 20)
    Traceback (most recent call last):
    ...
    patchclamp.base.errors.PatchclampError: a.npz: says that it unpacks to 4.3 GB, and 1.0 MB are stored; ...
    """
    if size <= LARGE:
        return
    told = f"{what}: says that it unpacks to {size / 1e9:,.1f} GB, and {stored / 1e6:,.1f} MB are stored"
    if size > DENSEST * stored:
        raise PatchclampError(
            f"{told}; if that is right, unpack it yourself and pass arrays to Recording.from_arrays"
        )
    if size > available():
        raise PatchclampError(f"{told}; {available() / 1e9:,.1f} GB of memory are free: cut it in pieces")
