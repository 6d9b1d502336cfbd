"""Causal path graphs against networks whose paths are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import causal_path_graph
from patchclamp.subjects import TensorTask, TorchModule


def wired() -> tuple[TorchModule, TensorTask]:
    """6-8-5-3: the logit of class 1 is fed by unit 0 of the second layer alone, that by units 1 and 4 of the first.

    Unit 2 of the second layer reads strongly from unit 6 of the first, and feeds class 0: no path to class 1. Unit 3 feeds class
    1 with a negative weight, from unit 7.
    """
    rng = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            layer.bias.zero_()
        net[0].weight.copy_(torch.rand(8, 6, generator=rng))
        net[2].weight.zero_()
        net[2].weight[0, 1], net[2].weight[0, 4], net[2].weight[2, 6], net[2].weight[3, 7] = (
            1.0,
            2.0,
            9.0,
            1.0,
        )
        net[4].weight.zero_()
        net[4].weight[1, 0], net[4].weight[0, 2], net[4].weight[1, 3] = 3.0, 1.0, -0.5
    inputs = torch.rand(60, 6, generator=rng)
    return TorchModule(net, inputs[:1]), TensorTask("class 1", inputs, None, lambda out: out[:, 1])


def test_paths_are_those_of_the_weights_and_their_effects_in_closed_form() -> None:
    subject, task = wired()
    graph = causal_path_graph(subject, task, ["1.out", "3.out"])
    assert graph.nodes == ("1.out[1]", "1.out[4]", "3.out[0]", "3.out[3]", "metric")
    roles = dict(zip(graph.node_data["node"], graph.node_data["role"], strict=True))
    assert roles["3.out[0]"] == "raises" and roles["3.out[3]"] == "lowers"
    first = subject.run(subject.batch(task.clean), read=["1.out"]).activity["1.out"][:, 0].mean(0)
    edges = {(e.source, e.target): e.weight for e in graph.edges().itertuples()}
    assert set(edges) == {
        ("1.out[1]", "3.out[0]"),
        ("1.out[4]", "3.out[0]"),
        ("3.out[0]", "metric"),
    }  # what lowers the metric is listed, and not followed
    assert edges["1.out[1]", "3.out[0]"] == pytest.approx(3.0 * float(first[1]), rel=1e-5)
    assert edges["1.out[4]", "3.out[0]"] == pytest.approx(6.0 * float(first[4]), rel=1e-5)


def test_paths_that_lower_the_metric_are_followed_when_asked_for() -> None:
    subject, task = wired()
    graph = causal_path_graph(subject, task, ["1.out", "3.out"], inhibitory=True)
    edges = {(e.source, e.target): e.weight for e in graph.edges().itertuples()}
    assert edges["1.out[7]", "3.out[3]"] < 0 and edges["3.out[3]", "metric"] < 0
    assert "1.out[6]" not in graph.nodes  # a large weight into a unit off the path
    assert graph.params["kept"].value == pytest.approx(1.0, abs=1e-6)


def test_the_graph_is_judged_on_other_items_beside_random_graphs() -> None:
    subject, task = wired()
    graph = causal_path_graph(subject, task.split("train"), ["1.out", "3.out"], inhibitory=True)
    assert graph.params["held_out"]
    assert graph.edge("3.out[0]", "metric").shape == (len(task.split("train")),)
    kept = graph.params["kept"]
    assert kept.value == pytest.approx(1.0, abs=1e-6) and kept.n == len(task.split("train").others())
    assert kept.null.high < 1 and kept.null.mean < 0.5
    assert graph.params["left"].value == pytest.approx(0.0, abs=1e-6)
    same = causal_path_graph(subject, task.split("train"), ["1.out", "3.out"], inhibitory=True, batch_size=7)
    np.testing.assert_allclose(same.weights, graph.weights, atol=1e-6)
    assert same.nodes == graph.nodes


def test_a_path_around_a_residual_block_is_its_own_path() -> None:
    class Block(nn.Module):
        def __init__(self, out: list[list[float]]) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3, bias=False)
            self.inner.weight = nn.Parameter(torch.tensor(out))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.relu(self.inner(x))

    read = nn.Linear(3, 1, bias=False)
    read.weight = nn.Parameter(torch.tensor([[1.0, 0.0, 0.0]]))
    first = Block([[0.0] * 3] * 3)
    second = Block([[0.0, 2.0, 0.0], [0.0] * 3, [0.0] * 3])  # unit 1 writes twice itself to unit 0
    inputs = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) + 0.5
    subject = TorchModule(nn.Sequential(first, second, read), inputs[:1])
    task = TensorTask("read", inputs, None, lambda out: out[:, 0])
    graph = causal_path_graph(subject, task, ["0.out", "1.out"])
    weights = {(e.source, e.target): e.weight for e in graph.edges().itertuples()}
    assert set(weights) == {("0.out[0]", "1.out[0]"), ("0.out[1]", "1.out[0]"), ("1.out[0]", "metric")}
    assert weights["0.out[0]", "1.out[0]"] == pytest.approx(float(inputs[:, 0].mean()), rel=1e-5)
    assert weights["0.out[1]", "1.out[0]"] == pytest.approx(2 * float(inputs[:, 1].mean()), rel=1e-5)


def test_channels_of_a_convolution_lead_to_the_units_behind_the_flattening() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3), nn.ReLU(), nn.Linear(3, 2)
    )
    with torch.no_grad():
        net[3].weight.zero_()
        net[3].weight[1, 2 * 16 : 3 * 16] = 0.2  # unit 1 reads channel 2 alone
        net[5].weight.copy_(torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]))
        net[0].bias.fill_(0.5)
    images = torch.rand(30, 1, 6, 6)
    subject = TorchModule(net, images[:1])
    task = TensorTask("class 0", images, None, lambda out: out[:, 0])
    graph = causal_path_graph(subject, task, ["1.out", "4.out"])
    assert graph.nodes == ("1.out[2]", "4.out[1]", "metric")
    assert graph.params["kept"].value == pytest.approx(1.0, abs=1e-5)


def test_noise_gives_no_graph() -> None:
    """The sign of what a unit does to the metric is a coin's, item by item."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 1))
    inputs = torch.randn(60, 5)
    subject = TorchModule(net, inputs[:1])
    coins = torch.randn(60).sign()
    coin = TensorTask("coin", inputs, None, lambda out, sign: out[:, 0] * sign, targets=coins)
    with pytest.raises(PatchclampError, match="40 units do .* not different from 0"):
        causal_path_graph(subject, coin, ["1.out"], least=0.0)
    two = nn.Linear(40, 2, bias=False)  # one unit with a part of its own, 39 whose part is a coin's
    with torch.no_grad():
        two.weight[0], two.weight[0, 0] = net[2].weight[0], 0.0
        two.weight[1], two.weight[1, 0] = 0.0, 1.0
        net[0].weight[0], net[0].bias[0] = 0.0, 1.0
    subject = TorchModule(nn.Sequential(net[0], net[1], two), inputs[:1])
    part = TensorTask("part", inputs, None, lambda out, sign: out[:, 0] * sign + out[:, 1], targets=coins)
    graph = causal_path_graph(subject, part, ["1.out"], least=0.0, inhibitory=True)
    assert "1.out[0]" in graph.nodes and len(graph.nodes) <= 4


def test_refusals_name_the_thing_and_the_way_out() -> None:
    subject, task = wired()
    with pytest.raises(PatchclampError, match="at least 8"):
        causal_path_graph(subject, task.select(range(5)), ["1.out"])
    with pytest.raises(PatchclampError, match="given twice"):
        causal_path_graph(subject, task, ["1.out", "1.out"])
    with pytest.raises(PatchclampError, match="none given"):
        causal_path_graph(subject, task, [])
