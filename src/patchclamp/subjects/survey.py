"""What the modules of a network do in a pass: how often each is called, and with tensors of which shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch
from patchclamp.subjects.clamp.hooks import in_turn
from patchclamp.subjects.clamp.modes import evaluating, own_precision

Path = tuple[int | str, ...]
Shape = tuple[int, ...]
Tensors = dict[Path, list[Shape]]

_STATES: dict[type[nn.Module], dict[str, Path]] = {
    nn.LSTM: {"hidden": (1, 0), "cell": (1, 1)},
    nn.GRU: {"hidden": (1,)},
    nn.RNN: {"hidden": (1,)},
    nn.LSTMCell: {"hidden": (0,), "cell": (1,)},
    nn.MultiheadAttention: {"weights": (1,)},
}


@dataclass
class Survey:
    """One pass: module -> number of calls, and element of its input or output -> the shape in each call."""

    calls: dict[str, int] = field(default_factory=dict)
    ins: dict[str, Tensors] = field(default_factory=dict)
    outs: dict[str, Tensors] = field(default_factory=dict)

    def of(self, io: Literal["in", "out"], name: str) -> Tensors:
        """The elements of a module's input or output."""
        return (self.ins if io == "in" else self.outs).get(name, {})


def survey(
    model: nn.Module, modules: Mapping[str, nn.Module], run: Callable[[], Any], device: torch.device
) -> Survey:
    """Look on while a model runs, in evaluation mode; modules are listed in the order in which they first finish."""
    found = Survey()

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            found.calls[name] = found.calls.get(name, 0) + 1
            given: dict[Any, Any] = dict(enumerate(args)) | dict(kwargs)
            for table, value in ((found.ins, given), (found.outs, output)):
                here = table.setdefault(name, {})
                for path, tensor in _tensors(value):
                    here.setdefault(path, []).append(tuple(tensor.shape))

        return hook

    with in_turn(model), evaluating(model), own_precision(device), torch.no_grad(), ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(look(name), with_kwargs=True))
        run()
    return found


def numbers_of_positions(subject: Subject, batch: Batch, sites: Sequence[Site]) -> dict[int, Site]:
    """How many positions sites have on a batch: number -> the first of the sites that has as many."""
    seen = subject.run(batch, read={site: lambda activity: activity.shape[1] for site in sites}, stop=False)
    found: dict[int, Site] = {}
    for site in sites:
        found.setdefault(int(seen.activity[site]), site)
    return found


def _tensors(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, (tuple, list)) and not isinstance(value, PackedSequence):
        for place, inner in enumerate(value):
            yield from _tensors(inner, (*path, place))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(name, (int, str)):
                yield from _tensors(inner, (*path, name))


def element_of(module: nn.Module, words: str, there: Tensors) -> Path | None:
    """The path that the words behind ``.out`` or ``.in`` name; None where there is no such element.

    Without words it is the tensor itself, or the first one; an argument may be given by its name.
    """
    names = {"output": (0,), **named_states(module)}
    if not words:
        return () if () in there else next(iter(there), None)
    if words in names and names[words] in there:
        return names[words]
    found: Path = tuple(int(word) if word.isdecimal() else word for word in words.split("."))
    if found in there:
        return found
    arguments = list(inspect.signature(module.forward).parameters)
    if found[0] in arguments and (arguments.index(str(found[0])), *found[1:]) in there:
        return (arguments.index(str(found[0])), *found[1:])
    return () if found == (0,) and () in there else None


def words_of(module: nn.Module, path: Path, there: Tensors) -> str:
    """Undo `element_of`: a name where the module's kind has one; empty for the first element."""
    if path == next(iter(there)):
        return ""
    names = {found: name for name, found in named_states(module).items()}
    return names.get(path) or ".".join(map(str, path))


def named_states(module: nn.Module) -> dict[str, Path]:
    """Names of what torch's own recurrent and attention modules return beside their output."""
    return next((names for kind, names in _STATES.items() if isinstance(module, kind)), {})


def item_axis(one: list[Shape], two: list[Shape]) -> tuple[int, int] | None:
    """The axis that grows when two items run in place of one, and how many entries an item has on it.

    None where no axis does in some call, or another one does in another call.
    """
    found = {_grows(a, b) for a, b in zip(one, two, strict=False)}
    return found.pop() if len(found) == 1 else None


def _grows(one: Shape, two: Shape) -> tuple[int, int] | None:
    if len(one) != len(two):
        return None
    grown = [(axis, a) for axis, (a, b) in enumerate(zip(one, two, strict=True)) if b == 2 * a and a]
    return grown[0] if grown else None


__all__ = [
    "Path",
    "Survey",
    "element_of",
    "item_axis",
    "named_states",
    "numbers_of_positions",
    "survey",
    "words_of",
]
