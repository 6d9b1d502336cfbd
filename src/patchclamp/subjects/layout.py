"""How a module's tensor becomes (batch, pos, units), and goes back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorLayout:
    """Which axes of a module's tensor are items, positions and units.

    Parameters
    ----------
    items
        The axis of the items.
    units_first
        Of three axes, units come before positions: (batch, units, time).
    stacked
        All other axes are units side by side: the states of a recurrent module, (layer, batch, units).
    """

    items: int = 0
    units_first: bool = False
    stacked: bool = False

    def to_units(self, tensor: Tensor) -> Tensor:
        """A view (batch, pos, units): a (batch, units) tensor has one position, an image one a pixel."""
        tensor = tensor.movedim(self.items, 0) if self.items else tensor
        if self.stacked:
            return tensor.reshape(len(tensor), 1, -1)
        if tensor.ndim == 2:
            return tensor[:, None, :]
        if tensor.ndim == 4:
            return tensor.flatten(2).transpose(1, 2)
        if tensor.ndim == 3:
            return tensor.transpose(1, 2) if self.units_first else tensor
        return tensor.reshape(len(tensor), 1, -1)

    def from_units(self, units: Tensor, like: Tensor) -> Tensor:
        """Undo `to_units` for a tensor of the shape of `like`."""
        shape = like.movedim(self.items, 0).shape if self.items else like.shape
        turned = not self.stacked and (len(shape) == 4 or (len(shape) == 3 and self.units_first))
        tensor = (units.transpose(1, 2) if turned else units).reshape(shape)
        return tensor.movedim(0, self.items) if self.items else tensor

    def extent(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Positions and units of a tensor of this shape."""
        found = self.to_units(torch.empty(shape, device="meta")).shape
        return int(found[1]), int(found[2])


__all__ = ["TensorLayout"]
