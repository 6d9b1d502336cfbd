"""One pass under hooks: read and change tensors where modules make them, stop early, restore everything."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Batch, Edit

_LOCKS: WeakKeyDictionary[nn.Module, AbstractContextManager[bool]] = WeakKeyDictionary()
_GUARD = threading.Lock()


def in_turn(model: nn.Module) -> AbstractContextManager[bool]:
    """The lock of a model: hooks belong to a module, not to a thread, so passes of several threads take turns.

    Subjects of one model share it; a thread that has it may take it again.
    """
    with _GUARD:
        return _LOCKS.setdefault(model, threading.RLock())


class StopPass(BaseException):
    """Raised inside a hook once everything asked for has been seen; never leaves the engine.

    A BaseException, so that model code with a broad `except Exception` cannot swallow it.
    """


@dataclass(frozen=True)
class Place:
    """Where a site's tensor lives: a module, its input or output, which element, and how to view it as units.

    `to_units` gives (batch, pos, units...) from the module's tensor, `from_units` undoes it. `flat` says that the
    tensor comes as (batch * pos, units); `inplace`, that the model changes it in place afterwards, so that an edit
    must hand over a tensor of its own.
    """

    module: nn.Module
    io: Literal["in", "out"]
    index: int = 0
    to_units: Callable[[Tensor], Tensor] = lambda t: t
    from_units: Callable[[Tensor, Tensor], Tensor] = lambda t, like: t
    flat: bool = False
    inplace: bool = False

    def units(self, tensor: Tensor, batch: Batch) -> Tensor:
        """The tensor as (batch, pos, units...)."""
        return self.to_units(tensor.unflatten(0, (len(batch), -1)) if self.flat else tensor)

    def tensor(self, units: Tensor, like: Tensor) -> Tensor:
        """Units back in the shape that the module works with."""
        new = units.reshape(like.shape) if self.flat else self.from_units(units, like)
        return new.clone() if self.inplace else new


@dataclass
class _Point:
    """All that happens at one tensor of one module."""

    writes: list[tuple[Place, Callable[[Tensor, Batch], Tensor]]] = field(default_factory=list)
    reads: list[tuple[Site, Place, Callable[[Tensor], Any]]] = field(default_factory=list)


class Session:
    """The hooks of one pass.

    Parameters
    ----------
    batch
        Handed to every edit.
    reads
        (site, place, function) triples; the function's value is kept in `seen[site]`.
    writes
        (place, function) pairs, carried out before the reads of the same tensor, in the order given.
    stop
        Whether to end the pass once every read has happened.
    """

    def __init__(
        self,
        batch: Batch,
        reads: Sequence[tuple[Site, Place, Callable[[Tensor], Any]]],
        writes: Sequence[tuple[Place, Callable[[Tensor, Batch], Tensor]]],
        stop: bool,
    ) -> None:
        self.batch = batch
        self.stop = stop
        self.seen: dict[Site, Any] = {}
        self._waiting = len(reads)
        self._points: dict[nn.Module, dict[tuple[str, int], _Point]] = defaultdict(
            lambda: defaultdict(_Point)
        )
        for place, fn in writes:
            self._points[place.module][place.io, place.index].writes.append((place, fn))
        for site, place, reader in reads:
            self._points[place.module][place.io, place.index].reads.append((site, place, reader))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the hooks on, swallow the early stop, take the hooks off whatever happens."""
        with suppress(StopPass), ExitStack() as hooks:
            for module, points in self._points.items():
                ins = {index: point for (io, index), point in points.items() if io == "in"}
                outs = {index: point for (io, index), point in points.items() if io == "out"}
                if ins:
                    hooks.enter_context(module.register_forward_pre_hook(self._pre(ins), with_kwargs=True))
                if outs:
                    hooks.enter_context(module.register_forward_hook(self._post(outs)))
            yield

    def missing(self, reads: Sequence[Site]) -> list[Site]:
        """Sites that the pass never reached."""
        return [site for site in reads if site not in self.seen]

    def _pre(self, points: dict[int, _Point]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            changed = False
            for index, point in points.items():
                if index < len(args):
                    new = self._visit(args[index], point)
                    if new is not args[index]:
                        args, changed = (*args[:index], new, *args[index + 1 :]), True
                else:
                    name = _tensor_argument(module, kwargs)
                    new = self._visit(kwargs[name], point)
                    if new is not kwargs[name]:
                        kwargs, changed = {**kwargs, name: new}, True
            return (args, kwargs) if changed else None

        return hook

    def _post(self, points: dict[int, _Point]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            result = output
            for index, point in points.items():
                if isinstance(result, Tensor):
                    result = self._visit(result, point)
                elif isinstance(result, (tuple, list)):
                    new = self._visit(_element(result, index, module), point)
                    if new is not result[index]:
                        result = type(result)((*result[:index], new, *result[index + 1 :]))
                else:
                    key = list(result)[index]
                    new = self._visit(result[key], point)
                    if new is not result[key]:
                        result[key] = new
            return None if result is output else result

        return hook

    def _visit(self, tensor: Tensor, point: _Point) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise PatchclampError(f"there is no tensor to read here but a {type(tensor).__name__}")
        for place, fn in point.writes:
            units = place.units(tensor, self.batch)
            new = fn(units, self.batch)
            if new is not units:
                if new.shape != units.shape:
                    raise PatchclampError(
                        f"an edit changed the shape of the activity from {tuple(units.shape)} to {tuple(new.shape)}"
                    )
                tensor = _laid_out_like(place.tensor(new, tensor), tensor)
        for site, place, reader in point.reads:
            if site in self.seen:
                raise PatchclampError(
                    f"{site}: its module is called more than once in a pass, so the address is ambiguous; "
                    "address a module that is called once"
                )
            units = place.units(tensor, self.batch)
            if tensor.requires_grad:
                # The pass goes on through a view of its own, so that a gradient hook on it sees the gradient through
                # this site: two modules that return the very same tensor would else see the sum of both.
                units = units.view_as(units) if units is tensor else units
                tensor = place.tensor(units, tensor)
            self.seen[site] = reader(units)
            self._waiting -= 1
        if self.stop and point.reads and self._waiting == 0:
            raise StopPass
        return tensor


def _laid_out_like(new: Tensor, old: Tensor) -> Tensor:
    """The new tensor with the strides of the old one.

    Kernels round differently on strided and on packed memory (Phi-3's activation reads one half of a wider
    tensor), so without this a write of the very same values would move the output by a last bit.
    """
    if new.stride() == old.stride() or 0 in old.stride():
        return new
    out = torch.empty_strided(old.size(), old.stride(), dtype=new.dtype, device=new.device)
    return out.copy_(new)


def _tensor_argument(module: nn.Module, kwargs: dict[str, Any]) -> str:
    if isinstance(kwargs.get("hidden_states"), Tensor):
        return "hidden_states"
    found = [
        name for name, value in kwargs.items() if isinstance(value, Tensor) and value.is_floating_point()
    ]
    if not found:
        raise PatchclampError(f"{type(module).__name__} receives no tensor, so its input cannot be read")
    return found[0]


def _element(output: Sequence[Any], index: int, module: nn.Module) -> Any:
    if index >= len(output) or output[index] is None:
        raise PatchclampError(
            f"{type(module).__name__} returns no element {index} in this pass (attention probabilities need the "
            "eager attention implementation)"
        )
    return output[index]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Parameters ask for no gradient inside, and are as they were afterwards."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def keep(tensor: Tensor) -> Tensor:
    """The default read: a copy that later in-place operations cannot reach; live where a graph is wanted."""
    return tensor if torch.is_grad_enabled() and tensor.requires_grad else tensor.detach().clone()


__all__ = ["Batch", "Edit", "Place", "Session", "StopPass", "frozen", "in_turn", "keep"]
