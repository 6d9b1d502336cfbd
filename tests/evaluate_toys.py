"""Networks whose units are their inputs, and gates of two units: what the tests of `evaluate` have closed forms for."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from hooks import hook_counts
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Site
from patchclamp.subjects import TensorTask, TorchModule

DELTA = 0.01
GATES = {
    "OR": lambda a, b: 1 - torch.relu(1 - a - b),
    "AND": lambda a, b: torch.relu(a + b - 1),
    "SUM": lambda a, b: (a + b) / 2,
    "BACKUP": lambda a, b: a + torch.relu(b - a - DELTA),
    "CANCEL": lambda a, b: a - b + 1,
}
UNITS = Site("units", io="out")


class Toy(nn.Module):
    """Units that are the inputs, and a read-out of them."""

    def __init__(self, width, readout):
        super().__init__()
        self.units = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.units.weight)
        self.readout = readout

    def forward(self, x):
        return self.readout(self.units(x))[:, None]


def toy(readout, clean, corrupted=None, groups=()):
    clean = torch.as_tensor(np.asarray(clean), dtype=torch.float32)
    other = None if corrupted is None else torch.as_tensor(np.asarray(corrupted), dtype=torch.float32)
    task = TensorTask("toy", clean, other, lambda out: out[:, 0], groups)
    return TorchModule(Toy(clean.shape[1], readout).eval(), clean[:1]), task


def gate(name, n=16, idle=0):
    """Clean ones, corrupted zeros; `idle` further units that nothing reads."""
    function = GATES[name]
    return toy(lambda h: function(h[:, 0], h[:, 1]), np.ones((n, 2 + idle)), np.zeros((n, 2 + idle)))


def linear(weights, n=12, seed=0):
    """A read-out of items that vary; scores are the exact effects of zeroing."""
    x = np.random.default_rng(seed).uniform(0.5, 1.5, (n, len(weights)))
    weights = torch.tensor(weights, dtype=torch.float32)
    subject, task = toy(lambda h: h @ weights, x, np.zeros_like(x))
    return subject, task, scores(x * weights.numpy())


def scores(values, direction="noising", site=UNITS, method="test", **more) -> Scores:
    values = np.atleast_2d(np.asarray(values, dtype=np.float32))
    return Scores(method, direction, "m", "toy", {site: values}, {site: "unit"}, **more)


@contextmanager
def untouched(subject):
    """The model's bits, flags and hooks are the same afterwards."""
    model = subject.model
    before = {name: t.clone() for name, t in model.state_dict().items()}
    flags = [(p.requires_grad, p.data_ptr()) for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    yield
    after = model.state_dict()
    assert list(before) == list(after)
    for name, value in before.items():
        assert value.numpy().tobytes() == after[name].numpy().tobytes(), name
    assert flags == [(p.requires_grad, p.data_ptr()) for p in model.parameters()]
    assert modes == [m.training for m in model.modules()]
    assert not any(hook_counts(model))
