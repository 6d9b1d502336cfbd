"""Partial gradients: exact where parts interact, attribution patching and integrated gradients at their ends."""

import numpy as np
import pytest
import torch
from torch import nn

from patchclamp.attribute import activation_patching, attribution_patching, partial_gradients
from patchclamp.attribute.partial_gradients import cell_weight
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects import LanguageModel, TensorTask, TorchModule
from patchclamp.subjects.clamp.batch import Pair, right_pad
from tiny import tiny_model

A = Site("0", io="out")


class Fn(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x)


def net(fn, width):
    return TorchModule(nn.Sequential(nn.Identity(), Fn(fn)), torch.zeros(1, width))


@pytest.mark.parametrize(("direction", "effect"), [("denoising", [1.0, 1.0]), ("noising", [0.0, 0.0])])
def test_an_or_gate_is_exact_in_both_directions(direction, effect):
    gate = net(lambda a: 1 - (1 - a.sum(1, keepdim=True)).relu(), 2)
    task = TensorTask("or", torch.ones(9, 2), torch.zeros(9, 2), lambda out: out[:, 0])
    exact = activation_patching(gate, task, "0.out", direction=direction)
    # Four cells: the gate's kink, half way, lies between two of them.
    partial = partial_gradients(gate, task, "0.out", direction=direction, steps=4)
    for scores in (exact, partial):
        assert np.allclose(scores.values[A], effect, atol=1e-6)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_a_single_saturating_unit_is_exact(direction):
    unit = net(lambda a: (2 * a).clamp(max=1), 1)
    task = TensorTask("saturation", torch.ones(40, 1), torch.zeros(40, 1), lambda out: out[:, 0])
    scores = partial_gradients(unit, task, "0.out", direction=direction)
    assert abs(scores.mean(A)[0] - 1) < 0.02  # one item sees five points, the mean of 40 sees 200
    assert scores.values[A].std() > 0


def test_a_part_without_weight_gets_the_gradient_at_the_patched_run():
    bent = net(lambda a: torch.tanh(a.sum(1, keepdim=True)), 2)
    task = TensorTask("t", torch.tensor([[3.0, 1e-3]]), torch.zeros(1, 2), lambda out: out[:, 0])
    partial, local, exact = (
        m(bent, task, "0.out").mean(A) for m in (partial_gradients, attribution_patching, activation_patching)
    )
    assert np.isclose(partial[1], local[1], rtol=1e-3) and np.isclose(partial[1], exact[1], rtol=1e-3)
    assert abs(partial[0] - exact[0]) < 0.1 < abs(local[0] - exact[0])


def test_linear_networks_are_exact():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    subject, task = (
        TorchModule(model.eval(), torch.zeros(1, 5)),
        TensorTask("linear", torch.randn(6, 5), torch.randn(6, 5), lambda out: out[:, 0] - out[:, 2]),
    )
    exact, partial = (m(subject, task, batch_size=4) for m in (activation_patching, partial_gradients))
    for site in exact.sites:
        assert abs(exact.values[site] - partial.values[site]).max() < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_weights_are_an_average(steps):
    share = torch.linspace(0, 1, 23)
    weights = torch.stack([cell_weight(share, cell, steps) for cell in range(-1, steps)])
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(0), torch.ones(23), atol=1e-5)
    assert torch.allclose(weights[:, -1], torch.tensor([0.0] + steps * [1 / steps]), atol=1e-6)
    assert weights[0, 0] == 1


class Tokens(LanguageModel):
    def pairs(self, task, batch_size=32):
        for first in range(0, len(task), batch_size):
            rows = list(range(first, min(first + batch_size, len(task))))
            clean = right_pad([task[r] for r in rows], rows)
            corrupted = right_pad([[task[r][0], 50, *task[r][2:]] for r in rows], rows)
            metric = lambda logits, reference=None: logits[:, 5] - logits[:, 6]
            yield Pair(clean, corrupted, metric, clean.last, {"end": clean.last})


class Texts(list):
    name, metric_name, groups = "tokens", "contrast", ()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox", "mixtral", "bert"])
def test_transformers_and_batch_sizes(name):
    subject = Tokens(tiny_model(name))
    draw = torch.Generator().manual_seed(0)
    texts = Texts(torch.randint(3, 49, (4 + i % 3,), generator=draw).tolist() for i in range(5))
    one, many = (partial_gradients(subject, texts, positions="roles", batch_size=size) for size in (1, 9))
    exact = activation_patching(subject, texts, "resid_post.*", positions="roles")
    for site in one.sites:
        assert np.allclose(one.values[site], many.values[site], atol=2e-5, equal_nan=True)
    last = Site("resid_post", subject.n_layers - 1)
    assert np.corrcoef(one.values[last][:, 0, 0], exact.values[last][:, 0, 0])[0, 1] > 0.9


def test_bad_options_are_refused():
    task = TensorTask("t", torch.ones(1, 2), torch.zeros(1, 2), lambda out: out[:, 0])
    for options in ({"steps": 0}, {"reach": {"head": 0.0}}):
        with pytest.raises(PatchclampError, match="at least one step"):
            partial_gradients(net(lambda a: a, 2), task, "0.out", **options)
