"""What a module is given: a tensor, a tuple of tensors, or tensors by argument name; items are always the first axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError

Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
ALONE = "input"
"""Name of the one input of a module that takes a tensor."""


def as_inputs(given: Any, whose: str) -> Inputs:
    """A tensor, a tuple or a mapping of tensors with equally many items; anything else is refused.

    Examples
    --------
    >>> as_inputs([torch.zeros(2, 3), torch.ones(2)], "task")[1]
    tensor([1., 1.])
    """
    if isinstance(given, Tensor):
        return given
    if isinstance(given, Mapping):
        found: Inputs = dict(given)
    elif isinstance(given, (tuple, list)):
        found = tuple(given)
    else:
        raise PatchclampError(
            f"{whose}: inputs are a {type(given).__name__}; give a tensor, a tuple of tensors, or a dict of them by argument name"
        )
    tensors = named_inputs(found)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise PatchclampError(
                f"{whose}: input {name!r} is a {type(tensor).__name__}, and a tensor is wanted"
            )
    counts = {name: len(tensor) if tensor.ndim else 0 for name, tensor in tensors.items()}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
        raise PatchclampError(
            f"{whose}: inputs must have equally many items, on their first axis; there are {listed}"
        )
    return found


def named_inputs(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors by name: ``"input"`` for a lone one, ``"0"``, ``"1"`` ... for those of a tuple."""
    if isinstance(inputs, Tensor):
        return {ALONE: inputs}
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return {str(place): tensor for place, tensor in enumerate(inputs)}


def rebuilt(tensors: Mapping[str, Tensor], like: Inputs) -> Inputs:
    """Undo `named_inputs`."""
    if isinstance(like, Tensor):
        return tensors[ALONE]
    if isinstance(like, Mapping):
        return dict(tensors)
    return tuple(tensors[str(place)] for place in range(len(like)))


def n_items(inputs: Inputs) -> int:
    """Number of items."""
    return len(next(iter(named_inputs(inputs).values())))


def take_items(inputs: Inputs, rows: Sequence[int] | Tensor | slice) -> Inputs:
    """The items at these places."""
    return rebuilt({name: cast("Any", tensor)[rows] for name, tensor in named_inputs(inputs).items()}, inputs)


def shapes_of(inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """The shape of each input without its items."""
    return {name: tuple(tensor.shape[1:]) for name, tensor in named_inputs(inputs).items()}


def refuse_other_inputs(given: Inputs, example: Inputs, whose: str) -> None:
    """Refuse inputs of another kind than the example that a subject was opened with."""

    def said(inputs: Inputs) -> str:
        if isinstance(inputs, Tensor):
            return "a tensor"
        names = ", ".join(named_inputs(inputs))
        return f"a dict of {names}" if isinstance(inputs, Mapping) else f"a tuple of {len(inputs)} tensors"

    if said(given) != said(example) and not (
        isinstance(given, Mapping) and isinstance(example, Mapping) and set(given) == set(example)
    ):
        raise PatchclampError(
            f"{whose}: was opened with {said(example)} as an item's input, and is given {said(given)}"
        )


def two_of(inputs: Inputs) -> Inputs:
    """The first item twice."""
    return rebuilt({name: torch.cat([x[:1], x[:1]]) for name, x in named_inputs(inputs).items()}, inputs)


__all__ = [
    "ALONE", "Inputs", "as_inputs", "n_items", "named_inputs", "rebuilt", "refuse_other_inputs", "shapes_of", "take_items", "two_of",
]  # fmt: skip
