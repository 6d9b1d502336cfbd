"""The table of adaptors: which verbs are held against which kinds of truth. A new verb adds one entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from patchclamp.base.errors import check_choice
from patchclamp.study.leaderboard.base import Adaptor
from patchclamp.study.leaderboard.circuits import ATTRIBUTE
from patchclamp.study.leaderboard.dictionaries import DECOMPOSE
from patchclamp.study.leaderboard.edges import CONNECT
from patchclamp.study.leaderboard.functions import DESCRIBE
from patchclamp.study.leaderboard.measures import MEASURE

ADAPTORS: dict[tuple[str, str], Adaptor] = {
    (adaptor.verb, adaptor.kind): adaptor for adaptor in (MEASURE, DECOMPOSE, DESCRIBE, ATTRIBUTE, CONNECT)
}
"""(verb, kind of truth) -> adaptor."""


def verbs() -> tuple[str, ...]:
    """The verbs that have an adaptor, in order."""
    return tuple(dict.fromkeys(verb for verb, _ in ADAPTORS))


def methods_of(verb: str) -> Mapping[str, Callable[..., Any]]:
    """A verb's `METHODS`, and those of its circuits; empty for a verb that this version does not have.

    Raises
    ------
    PatchclampError
        For a verb without an adaptor.
    """
    check_choice("leaderboard: verb", verb, verbs())
    if find_spec(f"patchclamp.{verb}") is None:
        return {}
    module = import_module(f"patchclamp.{verb}")
    taken = frozenset[str]().union(*(one.tools for (own, _), one in ADAPTORS.items() if own == verb))
    tools = {name: tool for name, tool in getattr(module, "TOOLS", {}).items() if name in taken}
    inner = f"patchclamp.{verb}.circuits"
    circuits = getattr(import_module(inner), "METHODS", {}) if find_spec(inner) else {}
    return {**getattr(module, "METHODS", {}), **circuits, **tools}
