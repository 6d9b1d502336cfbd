"""``open_subject("truth:NAME")``: a live system of the suite as a subject like any other."""

from __future__ import annotations

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.subjects.base import Subject
from patchclamp.truth.base import TRUTHS, Circuit, load_truth

GIVES = {
    "dictionary": "a recording of planted features",
    "population": "a recording of a simulated population",
    "function": "a function to be described",
}


def open_truth(name: str, *, device: str = "auto", dtype: str = "auto") -> Subject:
    """Build a system of seed 0 and return its subject; `load_truth` gives the task and the answer as well.

    Parameters
    ----------
    name
        In `TRUTHS`, or that of a live system followed by ``-reinitialised``.
    device, dtype
        Systems are small, run on the CPU, and have the precision in which their truth is exact; anything else than
        ``"auto"`` (or ``"cpu"``) is refused.

    Raises
    ------
    PatchclampError
        For an unknown name, for a system that has no network to open (with what to call instead), for another device
        or precision.

    Examples
    --------
    >>> [str(site) for site in open_truth("or").known_sites()]
    ['units.out', 'skip.out', 'hidden.out', 'relu.out', 'out.out']
    """
    if device not in ("auto", "cpu"):
        raise PatchclampError(
            f"truth:{name}: device {device!r}: systems of the suite run on the CPU; leave it out"
        )
    if dtype != "auto":
        raise PatchclampError(
            f"truth:{name}: dtype {dtype!r}: a system has the precision in which its truth is exact; leave it out"
        )
    known = TRUTHS.get(name)
    if known is not None and known.kind != "circuit":
        live = [o for o, truth in TRUTHS.items() if truth.kind == "circuit" and o.startswith(name)]
        raise PatchclampError(
            f"truth:{name} is {GIVES[known.kind]}, not a network, so it cannot be opened as a subject; get it by "
            f"patchclamp.truth.load_truth({name!r}){did_you_mean(name, live)}"
        )
    system = load_truth(name)
    if not isinstance(system, Circuit):
        raise PatchclampError(
            f"truth:{name} has no network to open; get it by patchclamp.truth.load_truth({name!r})"
        )
    return system.subject
