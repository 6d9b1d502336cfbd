"""`leaderboard`: every method of a verb on every truth that fits."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.progress import Progress
from patchclamp.base.version import __version__
from patchclamp.study.leaderboard.base import Adaptor, Outcome, Row, Variant
from patchclamp.study.leaderboard.board import Board
from patchclamp.study.leaderboard.memory import COVERS, peak
from patchclamp.study.leaderboard.table import ADAPTORS, methods_of, verbs
from patchclamp.truth import TRUTHS
from patchclamp.truth.base import Truth

FAILURES = (
    ArithmeticError,  # numbers: a division, an overflow
    AssertionError,  # an identity that the method promises does not hold on this system
    AttributeError,  # the method asks the subject or the task for what this kind lacks
    LookupError,  # a site, unit or item that this system does not have
    MemoryError,
    RuntimeError,  # torch: shapes, devices, no gradient, out of memory
    TypeError,  # the method does not take what it is given
    ValueError,  # numpy and torch: shapes, singular matrices
)
"""What a method can die of on one system and yet be right on the next: it becomes a row that names it.

All else ends the run, since it would be the same in every row or is not the method's: names that do not exist, imports
(a method says by `PatchclampError` which package it wants), files and full disks.
"""


def leaderboard(
    verb: str | None = None,
    *,
    methods: Mapping[str, Callable[..., Any]] | None = None,
    only: Sequence[str] | None = None,
    truths: Sequence[str | Truth] | None = None,
    slow: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Board:
    """Run every method of a verb on every truth that fits, and say how much of the truth each recovers.

    Parameters
    ----------
    verb
        Such as ``"attribute"``; None for all verbs with an adaptor. With `methods`, None stands for ``"attribute"``.
    methods
        Name -> callable with the verb's signature: your own, run beside the verb's.
    only
        Names of the methods to run; by default all.
    truths
        Names (or entries that are not registered); by default all that fit and are fast.
    slow
        Whether slow truths and methods are run too.
    seed
        Of systems, methods that draw, and intervals.
    progress
        Called with (text, done, total).

    Returns
    -------
    Board
        A row for each verb, method, truth and variant (direction of patching, say).

    Raises
    ------
    PatchclampError
        For names that are not there.

    Notes
    -----
    A method that raises `PatchclampError` *refuses* a system; any other error is a *failure*. Both are rows with the
    error's text. A method that leaves other weights in the model than it found is a failure too.

    Examples
    --------
    >>> def mine(subject, task, sites, direction="denoising"):
    ...     return {"units.out[0]": 1.0, "units.out[1]": 1.0}
    >>> board = leaderboard(methods={"mine": mine}, only=["mine"], truths=["or"])
    >>> [(row.variant, row.outcome.error) for row in board.rows]
    [('denoising', 0.0), ('noising', 1.0)]
    """
    if methods and verb is None:
        verb = "attribute"
    chosen = verbs() if verb is None else (verb,)
    table = {name: {**methods_of(name), **(methods or {})} for name in chosen}
    if only is not None:
        for name in only:
            check_choice("method", name, [method for found in table.values() for method in found])
        table = {verb: {m: found[m] for m in found if m in only} for verb, found in table.items()}
    bench = _Bench(seed)
    jobs = list(_jobs(table, _truths(truths), slow or truths is not None))
    rows: list[Row] = []
    for number, (adaptor, name, method, truth) in enumerate(jobs):
        if progress is not None:
            progress(f"{adaptor.verb}: {name} on {truth.name}", number, len(jobs))
        rows += bench.rows(adaptor, name, method, truth)
    return Board(tuple(rows), _about(seed, slow))


def _truths(names: Sequence[str | Truth] | None) -> list[Truth]:
    if names is None:
        return list(TRUTHS.values())
    for name in names:
        if isinstance(name, str):
            check_choice("truth", name, TRUTHS)
    return [TRUTHS[name] if isinstance(name, str) else name for name in names]


def _jobs(
    table: Mapping[str, Mapping[str, Any]], truths: Sequence[Truth], slow: bool
) -> Iterator[tuple[Adaptor, str, Any, Truth]]:
    for (verb, _), adaptor in ADAPTORS.items():
        for truth in truths:
            for name, method in table.get(verb, {}).items():
                if adaptor.takes(name, method, truth, slow):
                    yield adaptor, name, method, truth


@dataclass
class _Bench:
    """Builds each system once and runs methods on it."""

    seed: int
    systems: dict[str, Any] = field(default_factory=dict)

    def rows(self, adaptor: Adaptor, name: str, method: Any, truth: Truth) -> list[Row]:
        """A row for each variant of a method on a truth."""

        def row(variant: str, outcome: Outcome, *cost: float | None) -> Row:
            return Row(adaptor.verb, name, truth.name, variant, truth.kind, truth.control, outcome, *cost)

        try:
            system = self._system(truth)
            variants = adaptor.variants(name, method, system)
        except (PatchclampError, *FAILURES) as error:
            return [row("", _named("failed", error, "building the system: "))]
        return [row(v.name, *self._one(adaptor, name, method, truth, system, v)) for v in variants]

    def _system(self, truth: Truth) -> Any:
        if truth.name not in self.systems:
            self.systems[truth.name] = truth.build(self.seed)
        return self.systems[truth.name]

    def _one(
        self, adaptor: Adaptor, name: str, method: Any, truth: Truth, system: Any, variant: Variant
    ) -> tuple[Outcome, float | None, float | None]:
        before = _bits(system)
        memory = peak()
        try:
            with memory:
                start = time.perf_counter()
                result = adaptor.call(method, system, variant, self.seed)
                seconds = time.perf_counter() - start
        except PatchclampError as error:
            return _named("refused", error), None, None
        except FAILURES as error:
            return _named("failed", error), None, None
        finally:
            changed = _bits(system) != before
            if changed:  # what comes after must not run on what this method left behind
                self.systems.pop(truth.name, None)
        if changed:
            return (
                Outcome("failed", note="it left other weights in the model than it found"),
                seconds,
                memory.megabytes,
            )
        try:
            outcome = adaptor.judge(name, result, system, variant, truth, self.seed)
        except (PatchclampError, *FAILURES) as error:
            outcome = _named("failed", error, "its result cannot be scored: ")
        return outcome, seconds, memory.megabytes


def _named(verdict: Any, error: BaseException, where: str = "") -> Outcome:
    kind = "" if isinstance(error, PatchclampError) else f"{type(error).__name__}: "
    text = " ".join(str(error).split())
    return Outcome(verdict, note=f"{where}{kind}{text}"[:400])


def _bits(system: Any) -> int:
    """A hash of all weights of a live system; 0 for a recording."""
    model = getattr(getattr(system, "subject", None), "model", None)
    if not isinstance(model, torch.nn.Module):
        return 0
    state = model.state_dict()
    return hash(tuple((name, state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
                      for name in state if state[name].numel()))  # fmt: skip


def _about(seed: int, slow: bool) -> dict[str, Any]:
    return {
        "version": __version__,
        "seed": seed,
        "slow": slow,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "memory": COVERS,
    }
