"""Peak memory of a call: resident memory of the whole process, torch and NumPy included."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
COVERS = (
    "peak resident memory of the process during the call above what it held when the call began (Linux: VmHWM, "
    "reset before each call; elsewhere: growth of ru_maxrss). It covers torch, NumPy and Python, and is 0 for a call "
    "that fits into pages that the process already had"
)


class peak(AbstractContextManager["peak"]):
    """Measure the peak of resident memory in a block, in 10^6 bytes (`megabytes`, None before its end).

    Examples
    --------
    >>> with peak() as memory:
    ...     _ = bytearray(64_000_000)
    >>> 32 < memory.megabytes < 512
    True
    """

    megabytes: float | None = None

    def __enter__(self) -> Self:
        gc.collect(1)  # the young alone: all of torch and transformers takes half a second
        _trim()
        self._resets = _reset()
        self._start = _resident("VmRSS") if self._resets else _maximum()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = _resident("VmHWM") if self._resets else _maximum()
        self.megabytes = max(0, end - self._start) / 1e6


def _reset() -> bool:
    """Make the kernel forget the peak so far; False where it does not offer that."""
    try:
        _RESET.write_text("5")
        return "VmHWM" in _STATUS.read_text()
    except OSError:
        return False


def _resident(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _maximum() -> int:
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def _trim() -> None:
    """Give freed memory back, so that a call's peak depends less on those before it (glibc only)."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
