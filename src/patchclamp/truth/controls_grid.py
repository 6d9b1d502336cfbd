"""A mosaic whose cells are seen by a network each: what lies in the other cells cannot matter, and must score exactly 0."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchclamp.base.seeds import torch_rng
from patchclamp.subjects.module import TensorTask, TorchModule
from patchclamp.truth._digits import digit_images
from patchclamp.truth.base import Circuit, enter

SIZE, GRID, CHANNELS, CLASSES = 8, 2, 4, 10
ITEMS = 8
LEVELS = 16  # of grey; pixels are multiples of 1 / LEVELS


class Cell(nn.Module):
    """Three convolutions, the mean over pixels, a linear classifier.

    Weights are multiples of 1/8 in float64. With pixels that are multiples of 1/16 no operation of the pass rounds, so
    that outputs do not depend on how many items run together, and equal means equal to the last bit.
    """

    def __init__(self, draw: torch.Generator) -> None:
        super().__init__()
        widths = [1, CHANNELS, CHANNELS, CHANNELS]
        pairs = list(pairwise(widths))
        convolutions = [nn.Conv2d(a, b, 3, padding=1, dtype=torch.float64) for a, b in pairs]
        self.features = nn.Sequential(*(m for c in convolutions for m in (c, nn.ReLU())))
        self.classify = nn.Linear(CHANNELS, CLASSES, dtype=torch.float64)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randint(-4, 5, parameter.shape, generator=draw) / 8)

    def forward(self, image: Float[Tensor, "item 1 row column"]) -> Float[Tensor, "item class"]:
        """Logits."""
        out: Tensor = self.classify(self.features(image).mean((2, 3)))
        return out


class Mosaic(nn.Module):
    """A mosaic of GRID x GRID cells, given as a row of pixels; every cell has a network of its own."""

    def __init__(self, draw: torch.Generator) -> None:
        super().__init__()
        self.pixels = nn.Identity()
        self.cells = nn.ModuleList(Cell(draw) for _ in range(GRID**2))

    def forward(self, inputs: Float[Tensor, "item pixel"]) -> Float[Tensor, "item cell class"]:
        """Logits of each cell."""
        image = self.pixels(inputs).view(-1, 1, GRID * SIZE, GRID * SIZE)
        crops = [
            image[..., r * SIZE : (r + 1) * SIZE, c * SIZE : (c + 1) * SIZE]
            for r in range(GRID)
            for c in range(GRID)
        ]
        return torch.stack([cell(crop) for cell, crop in zip(self.cells, crops, strict=True)], 1)


def difull(seed: int = 0, cell: int = 0) -> Circuit:
    """Build a 2 x 2 mosaic of digits with four separate networks; the metric is a logit of one of them.

    The networks are untrained: that a cell cannot act on another's output holds for any weights, and it is all that
    is asked of a method. Every pixel differs between the clean and the corrupted mosaic.

    Parameters
    ----------
    seed
        Of weights and images.
    cell
        The one whose network is asked, in reading order; in the literature corners 0 and 3.

    Returns
    -------
    Circuit
        `nodes`: pixels of the cell are true, all others false, with an effect of exactly 0 by any method
        (`data["tolerance_outside"]`).

    Notes
    -----
    DiFull: Rao, Böhle and Schiele 2022. There the map's positive part inside the cell over that in all is scored: 1
    for any method that respects the disconnection, 1/4 by chance.

    Examples
    --------
    >>> circuit = difull()
    >>> len(circuit.nodes), sum(circuit.nodes.values())
    (256, 64)
    """
    draw = torch_rng(seed)
    net = Mosaic(draw).eval()
    clean, corrupted = (_mosaics(draw) for _ in range(2))
    # A pixel that is equal in both is moved by one grey level, so that each of them has something to say.
    corrupted = torch.where(clean == corrupted, (corrupted + 1 / LEVELS) % 1, corrupted)
    subject = TorchModule(net, clean[:1], "truth:difull")
    right = torch.randint(CLASSES, (ITEMS,), generator=draw)
    task = TensorTask(
        "difull", clean, corrupted, lambda out, y: out[:, cell].gather(1, y[:, None])[:, 0], targets=right
    )
    side = GRID * SIZE
    place = torch.arange(side**2)
    cells = (place // side // SIZE) * GRID + place % side // SIZE
    return Circuit(
        subject,
        task,
        ("pixels.out",),
        nodes={f"pixels.out[{i}]": int(cells[i]) == cell for i in range(side**2)},
        data={"cells": cells.numpy(), "cell": cell, "tolerance_outside": 0.0},
    )


def _mosaics(draw: torch.Generator) -> Float[Tensor, "item pixel"]:
    images, classes = digit_images()
    rows = []
    for _ in range(ITEMS):
        chosen = torch.randperm(CLASSES, generator=draw)[: GRID**2]
        tiles = [images[_one_of(classes == digit, draw)] for digit in chosen]
        rows.append(
            torch.cat([torch.cat(tiles[r * GRID : (r + 1) * GRID], 1) for r in range(GRID)]).flatten()
        )
    return torch.stack(rows)


def _one_of(mask: Tensor, draw: torch.Generator) -> Int[Tensor, ""]:
    found = mask.nonzero()[:, 0]
    return found[torch.randint(len(found), (1,), generator=draw)[0]]


enter(
    "difull",
    "circuit",
    difull,
    "2 x 2 mosaic of digits, a network a cell: pixels of the other cells score exactly 0",
    "DiFull: Rao et al. 2022",
)
