"""One pass under hooks: read and change tensors where modules make them, stop early, restore everything."""

from __future__ import annotations

import inspect
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Batch, Edit
from patchclamp.subjects.clamp.steps import Calls, CallSeries, at_all_steps, at_step

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


Element = int | tuple[int | str, ...]
"""Which tensor of a module's arguments or outputs: the n-th, or a path of places and names. A lone tensor is each of its own n."""


@dataclass(frozen=True)
class Place:
    """Where a site's tensor lives: a module, its input or output, which element, and how to view it as units.

    `to_units` gives (batch, pos, units...) from the module's tensor, `from_units` undoes it. `flat` says that the
    tensor comes as (batch * pos, units); `inplace`, that the model changes it in place afterwards, so that an edit
    must hand over a tensor of its own.
    """

    module: nn.Module
    io: Literal["in", "out"]
    index: Element = 0
    to_units: Callable[[Tensor], Tensor] = lambda t: t
    from_units: Callable[[Tensor, Tensor], Tensor] = lambda t, like: t
    flat: bool = False
    inplace: bool = False

    def units(self, tensor: Tensor, batch: Batch) -> Tensor:
        """The tensor as (batch, pos, units...)."""
        return self.to_units(tensor.unflatten(0, (len(batch), -1)) if self.flat else tensor)

    def positions(self, tensor: Tensor, batch: Batch) -> int:
        """How many positions the tensor of one call has."""
        return self.units(tensor, batch).shape[1]

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
        Whether to end the pass once every read has happened; not with a read of a module that is called several times.
    calls
        How often modules are called, where that is known: the calls of one are then put side by side as positions, and
        another number of calls is refused.
    """

    def __init__(
        self,
        batch: Batch,
        reads: Sequence[tuple[Site, Place, Callable[[Tensor], Any]]],
        writes: Sequence[tuple[Place, Callable[[Tensor, Batch], Tensor]]],
        stop: bool,
        calls: Calls | None = None,
    ) -> None:
        self.batch = batch
        self.calls = calls or {}
        self.stop = stop and not any(self._times(place.module) > 1 for _, place, _ in reads)
        self.seen: dict[Site, Any] = {}
        self._waiting = len(reads)
        self._stopped = False
        self._turns: Counter[tuple[nn.Module, str]] = Counter()
        self._series: dict[Site, CallSeries] = {}
        self._points: dict[nn.Module, dict[tuple[str, Element], _Point]] = defaultdict(
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

    def finish(self) -> None:
        """Hand over what was read of modules that are called several times.

        Raises
        ------
        PatchclampError
            For a module that was called another number of times than is known of it.
        """
        for module, points in self._points.items():
            called = self.calls.get(module)
            for io in {io for io, _ in points}:
                if called is not None and not self._stopped and self._turns[module, io] != called.times:
                    raise called.refuse(self._turns[module, io])
            for site, _, reader in [read for point in points.values() for read in point.reads]:
                if site in self._series:
                    self.seen[site] = reader(self._series[site].whole())

    def _times(self, module: nn.Module) -> int:
        return self.calls[module].times if module in self.calls else 1

    def _turn(self, module: nn.Module, io: str) -> int:
        """Which call of a module this is."""
        number = self._turns[module, io]
        self._turns[module, io] += 1
        if module in self.calls and number >= self._times(module):
            raise self.calls[module].refuse(number, "more than ")
        return number

    def missing(self, reads: Sequence[Site]) -> list[Site]:
        """Sites that the pass never reached."""
        return [site for site in reads if site not in self.seen]

    def _pre(self, points: Mapping[Element, _Point]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            changed = False
            turn = self._turn(module, "in"), self._times(module)
            for index, point in points.items():
                if isinstance(index, tuple):
                    key, path = _argument(module, args, kwargs, index)
                    given: Any = args if isinstance(key, int) else kwargs
                    old = reach(given[key], path, module)
                    new = self._visit(old, point, *turn)
                    if new is not old:
                        whole = replaced(given[key], path, new)
                        args = (*args[:key], whole, *args[key + 1 :]) if isinstance(key, int) else args
                        kwargs = {**kwargs, key: whole} if isinstance(key, str) else kwargs
                        changed = True
                elif index < len(args):
                    new = self._visit(args[index], point, *turn)
                    if new is not args[index]:
                        args, changed = (*args[:index], new, *args[index + 1 :]), True
                else:
                    name = _tensor_argument(module, kwargs)
                    new = self._visit(kwargs[name], point, *turn)
                    if new is not kwargs[name]:
                        kwargs, changed = {**kwargs, name: new}, True
            return (args, kwargs) if changed else None

        return hook

    def _post(self, points: Mapping[Element, _Point]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            result = output
            turn = self._turn(module, "out"), self._times(module)
            for index, point in points.items():
                if isinstance(result, Tensor) and not isinstance(index, tuple):
                    result = self._visit(result, point, *turn)
                    continue
                if isinstance(index, tuple):
                    path = index
                else:
                    path = (index if isinstance(result, (tuple, list)) else list(result)[index],)
                old = reach(result, path, module)
                new = self._visit(old, point, *turn)
                if new is not old:
                    result = replaced(result, path, new)
            return None if result is output else result

        return hook

    def _visit(self, tensor: Tensor, point: _Point, number: int, times: int) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise PatchclampError(f"there is no tensor to read here but a {type(tensor).__name__}")
        for place, fn in point.writes:
            units = place.units(tensor, self.batch)
            shown = units if times == 1 else at_all_steps(units, times)
            new = fn(shown, self.batch)
            if new is not shown:
                if new.shape != shown.shape:
                    raise PatchclampError(
                        f"an edit changed the shape of the activity from {tuple(shown.shape)} to {tuple(new.shape)}"
                    )
                new = new if times == 1 else at_step(new, number, units.shape[1])
                tensor = _laid_out_like(place.tensor(new, tensor), tensor)
        for site, place, reader in point.reads:
            if times > 1:
                tensor = self._append(site, place, tensor, number, times)
                continue
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
            self._stopped = True
            raise StopPass
        return tensor

    def _append(self, site: Site, place: Place, tensor: Tensor, number: int, times: int) -> Tensor:
        """Take one of several calls; returns the tensor that the pass goes on with."""
        series = self._series.setdefault(site, CallSeries(times))
        units = place.units(tensor, self.batch)
        if site.dictionary is not None:
            if torch.is_grad_enabled():
                raise PatchclampError(
                    f"{site}: its module is called {times} times in a pass, where features have no gradients; use "
                    "activation_patching, or the units of the site itself"
                )
            size = place.positions(tensor, self.batch)
            # Codes that were changed are those of an edit, which is shown all calls.
            series.take(units if size == units.shape[1] else at_step(units, number, size))
            return tensor
        watched = series.take(units)
        return tensor if watched is units else place.tensor(watched, tensor)


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


def _argument(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: tuple[int | str, ...]
) -> tuple[int | str, tuple[int | str, ...]]:
    """Where an argument is found, by its place or its name, and the rest of the path."""
    first, rest = path[0], path[1:]
    names = list(inspect.signature(module.forward).parameters)
    if isinstance(first, str) and first not in kwargs and first in names:
        first = names.index(first)
    elif isinstance(first, int) and first >= len(args) and first < len(names):
        first = names[first]
    if first not in kwargs and not (isinstance(first, int) and first < len(args)):
        there = ", ".join([*map(str, range(len(args))), *kwargs])
        raise PatchclampError(
            f"{type(module).__name__} is not given {path[0]!r} in this pass; it is given {there}"
        )
    return first, rest


def reach(value: Any, path: tuple[int | str, ...], module: nn.Module) -> Any:
    """The element at a path of nested tuples and mappings."""
    for key in path:
        inside = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, (tuple, list)) and isinstance(key, int) and key < len(value):
            inside = value[key]
        if inside is None:
            raise PatchclampError(
                f"{type(module).__name__} has no element {key} in this pass (attention probabilities need the "
                "eager attention implementation)"
            )
        value = inside
    return value


def replaced(value: Any, path: tuple[int | str, ...], new: Any) -> Any:
    """The same nested tuples and mappings with another element at a path; mappings are changed themselves."""
    if not path:
        return new
    inner = replaced(value[path[0]], path[1:], new)
    if isinstance(value, (tuple, list)):
        at = int(path[0])
        parts = (*value[:at], inner, *value[at + 1 :])
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    value[path[0]] = inner
    return value


def on_gradient(site: Site, activity: Tensor, act: Callable[[Tensor], None]) -> None:
    """Call `act` with the gradient of a site's activity, once, in the backward pass.

    Raises
    ------
    PatchclampError
        For activity that is made without a gradient, naming the site and the ways out.
    """
    if not activity.requires_grad:
        raise PatchclampError(
            f"{site}: has no gradient: its module makes it by a step that cannot be differentiated, such as "
            "(v > 1).float() or an argmax, or from no input that has one; give the step a surrogate gradient, or use "
            "activation_patching, which needs none"
        )
    activity.register_hook(act)


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


__all__ = [
    "Batch", "Edit", "Element", "Place", "Session", "StopPass", "frozen", "in_turn", "keep", "on_gradient", "reach", "replaced",
]  # fmt: skip
