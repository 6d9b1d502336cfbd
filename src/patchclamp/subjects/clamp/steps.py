"""Modules that are called several times in a pass: calls are put side by side as positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError


@dataclass(frozen=True)
class Called:
    """How often a module is called in a pass, and its name for errors."""

    name: str
    times: int

    def refuse(self, times: int, more: str = "") -> PatchclampError:
        """The error for a pass in which it is called another number of times (``"more than "`` so many)."""
        return PatchclampError(
            f"{self.name}: is called {more}{_times(times)} in this pass, and {_times(self.times)} when the model runs one such item alone, "
            "so that its calls are no steps that items share (a loop that stops early?); fix the number of steps"
        )


Calls = Mapping[nn.Module, Called]


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


class _Watch(torch.autograd.Function):
    """The very values of `units`; the gradient goes to them and to `shadow`."""

    @staticmethod
    def forward(ctx: Any, units: Tensor, shadow: Tensor) -> Tensor:
        return units.clone()  # no view, which a model that writes in place could not change

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient


_watch: Callable[[Tensor, Tensor], Tensor] = _Watch.apply


class CallSeries:
    """The activity of one site over the calls of its module, put together as a pass goes on.

    With gradients, `whole` is a tensor of its own whose gradient is, call by call, that of what the pass went on with: so
    it holds what the activity of a step does to the metric, through all later steps.
    """

    def __init__(self, times: int) -> None:
        self.times = times
        self._pieces: list[Tensor] = []
        self._shadow: Tensor | None = None
        self._parts: tuple[Tensor, ...] = ()
        self._live = False

    def take(self, units: Float[Tensor, "batch pos *unit"]) -> Tensor:
        """Keep one call's activity; returns what the pass goes on with."""
        number = len(self._pieces)
        self._pieces.append(units.detach().clone())
        if not torch.is_grad_enabled() or not units.is_floating_point():
            return units
        self._live |= units.requires_grad
        if self._shadow is None:
            shape = (units.shape[0], units.shape[1] * self.times, *units.shape[2:])
            self._shadow = torch.zeros(shape, dtype=units.dtype, device=units.device, requires_grad=True)
            self._parts = self._shadow.split(units.shape[1], dim=1)
        return _watch(units, self._parts[number])

    def whole(self) -> Float[Tensor, "batch step *unit"]:
        """All calls: (batch, call x pos, units)."""
        values = torch.cat(self._pieces, 1)
        if self._shadow is None or not self._live:
            return values
        with torch.no_grad():
            self._shadow.copy_(values)
        return self._shadow


def at_all_steps(units: Tensor, times: int) -> Tensor:
    """One call's activity as if every call had it, (batch, call x pos, units): what an edit is shown."""
    if units.shape[1] == 1:
        return units.expand(-1, times, *units.shape[2:])
    return units.repeat(1, times, *[1] * (units.ndim - 2))


def at_step(wide: Tensor, number: int, size: int) -> Tensor:
    """The part of one call."""
    return wide[:, number * size : (number + 1) * size]


__all__ = ["Called", "Calls", "CallSeries", "at_all_steps", "at_step"]
