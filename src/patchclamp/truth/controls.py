"""Negative controls: twins with random weights, pure noise, and the subspace illusion in three units."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng, torch_rng
from patchclamp.subjects.module import TensorTask, TorchModule
from patchclamp.truth.base import (
    QUANTITIES,
    SUFFIXES,
    TRUTHS,
    Circuit,
    Population,
    System,
    Truth,
    enter,
    load_truth,
)
from patchclamp.truth.populations_wired import simulated
from patchclamp.truth.wiring import linear

REINITIALISED = "-reinitialised"
NOISE_UNITS = 32
NOISE_ITEMS = 64


def twin(truth: str | Truth | Circuit, seed: int = 0) -> Circuit:
    """The same architecture, task and candidates with random weights: what a method says of it owes nothing to training.

    Every parameter is drawn anew from a normal distribution with the root mean square of the original, so that the
    scale of activity is kept roughly; parameters that are zero throughout stay so. Buffers are kept.

    Parameters
    ----------
    truth
        A live system, by name or itself.
    seed
        Of the weights (and, for a name, of the system).

    Returns
    -------
    Circuit
        No node or edge is true, and no effect is known: the mechanism is gone. Units of a random network have effects
        all the same. The control is that scores do not follow the original truth, which is `data["original"]`
        (``"nodes"``, ``"edges"``): the area under the curve against it is about one half.

    Raises
    ------
    PatchclampError
        For a system that is not live, or not a plain module.

    Examples
    --------
    >>> circuit = twin("or", 1)
    >>> circuit.subject.name, any(circuit.nodes.values())
    ('truth:or-reinitialised', False)
    """
    system: System = load_truth(truth, seed) if isinstance(truth, str) else truth  # type: ignore[assignment]
    if isinstance(truth, Truth):
        system = truth.build(seed)
    if not isinstance(system, Circuit) or not isinstance(system.subject, TorchModule):
        name = truth if isinstance(truth, str) else getattr(truth, "name", type(truth).__name__)
        raise PatchclampError(
            f"twin of {name}: it has no weights to draw anew; give a live system (kind circuit)"
        )
    model = copy.deepcopy(system.subject.model)
    draw = torch_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.double().pow(2).mean().sqrt()
            new = torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * scale
            parameter.copy_(new)
    subject = TorchModule(model, system.subject.example, system.subject.name + REINITIALISED)
    return Circuit(
        subject,
        system.task,
        system.sites,
        nodes=dict.fromkeys(system.nodes, False),
        ablation=system.ablation,
        level=system.level,
        edges=dict.fromkeys(system.edges, False),
        data={"original": {"nodes": dict(system.nodes), "edges": dict(system.edges)}},
    )


SUFFIXES[REINITIALISED] = twin


class ReadOut(nn.Module):
    """A linear read-out of the units of the input."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.units = nn.Identity()
        self.out = linear(weights[:, None])

    def forward(self, inputs: Tensor) -> Tensor:
        """(item, unit) -> (item, 1)."""
        out: Tensor = self.out(self.units(inputs))
        return out


def noise(seed: int = 0) -> Circuit:
    """Clean and corrupted inputs from one distribution: every effect varies over items, and is zero on average.

    All 32 units are read, with random weights, so that no method gives zeros for single items. But clean and corrupted
    activity are independent draws of the same standard normal distribution: the expected effect of every unit is 0, in
    both directions and for every estimate, the read-out being linear. A claim about any unit is a false one.

    Examples
    --------
    >>> circuit = noise()
    >>> len(circuit.nodes), any(circuit.nodes.values())
    (32, False)
    """
    draw = torch_rng(seed)
    weights, clean, corrupted = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in ((NOISE_UNITS,), (NOISE_ITEMS, NOISE_UNITS), (NOISE_ITEMS, NOISE_UNITS))
    )
    subject = TorchModule(ReadOut(weights).eval(), clean[:1], "truth:noise")
    task = TensorTask("noise", clean, corrupted, lambda out: out[:, 0])
    nodes = {f"units.out[{i}]": False for i in range(NOISE_UNITS)}
    return Circuit(subject, task, ("units.out",), nodes, data={"weights": weights.numpy()})


def noise_recording(seed: int = 0) -> Population:
    """White noise, 20 trials of 200 steps of 24 units, nothing coupled to anything.

    Examples
    --------
    >>> noise_recording().coupling.any()
    np.False_
    """
    values = numpy_rng(seed).standard_normal((20, 200, 24))
    recording = simulated("noise-recording", seed, neurons=values)
    return Population(recording, np.zeros((24, 24)), directed=True)


class IllusionNet(nn.Module):
    """x -> h = (x, 0, x) -> o = (h2, h3) -> y = 2 o1 + o2: the output follows x by way of h3 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = linear(torch.tensor([[1.0, 0, 1]], dtype=torch.float64))
        self.write = linear(torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=torch.float64))
        self.out = linear(torch.tensor([[2.0], [1]], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """(item, 1) -> (item, 1)."""
        out: Tensor = self.out(self.write(self.hidden(inputs)))
        return out


def illusion(seed: int = 0) -> Circuit:
    """A direction that transfers the whole effect when patched, by way of a unit that is never used.

    h1 follows x and is not read; h2 is read and never moves; h3 does the work. Patching along v = (1, 1, 0) / sqrt 2
    carries x from h1 into h2, where it is read: the full effect, although neither part of v has any. Along (0, 0, 1)
    the effect is the model's own. `data` has both directions, the read-out (units, 2) for `row_space`, and the share of
    the effect that patching along each direction, its part in the row space of the read-out and its part in the null
    space transfers.

    Notes
    -----
    Makelov, Lange and Nanda 2023. The read-out must have more than one column: with the map from h to y collapsed
    into one, every row part points the same way and the split says nothing.

    Examples
    --------
    >>> illusion().data["transferred"]["illusory"]
    {'full': 1.0, 'row': 0.0, 'null': 0.0}
    """
    draw = torch_rng(seed)
    clean, corrupted = (torch.rand(16, 1, generator=draw, dtype=torch.float64) + 1 for _ in range(2))
    clean[0], corrupted[0] = 3, 1
    corrupted = -corrupted
    subject = TorchModule(IllusionNet().eval(), clean[:1], "truth:illusion")
    task = TensorTask("illusion", clean, corrupted, lambda out: out[:, 0])
    moved = float((clean - corrupted).mean())
    addresses = [f"hidden.out[{i}]" for i in range(3)]
    alone = dict(zip(addresses, (0.0, 0.0, moved), strict=True))
    return Circuit(
        subject,
        task,
        ("hidden.out",),
        nodes={address: effect != 0 for address, effect in alone.items()},
        effects=dict.fromkeys(QUANTITIES, alone),
        data={
            "illusory": (math.sqrt(0.5), math.sqrt(0.5), 0.0),
            "faithful": (0.0, 0.0, 1.0),
            "readout": ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)),
            "transferred": {
                "illusory": {"full": 1.0, "row": 0.0, "null": 0.0},
                "faithful": {"full": 1.0, "row": 1.0, "null": 0.0},
            },
        },
    )


enter(
    "illusion",
    "circuit",
    illusion,
    "three units: a direction that works when patched, though neither of its parts does anything",
    "Makelov et al. 2023",
)
enter("noise", "circuit", noise, "effects that vary and are zero on average", "controls.py", control=True)
enter(
    "noise-recording",
    "population",
    noise_recording,
    "white noise, nothing coupled",
    "controls.py",
    control=True,
)


def register_twins() -> None:
    """Twins as entries of their own; that of any other live system is had by its name and ``-reinitialised``."""
    for name in ("induction-20", "rasp-reverse"):
        about, source = f"{name} with random weights", "after Adebayo et al. 2018"
        build, fast = partial(twin, name), TRUTHS[name].fast
        enter(name + REINITIALISED, "circuit", build, about, source, control=True, fast=fast)
