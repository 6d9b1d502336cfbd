"""Scores by step: exact where the network is linear, the network's own gradient elsewhere, refused where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from patchclamp import Intervention, TensorTask, TorchModule, effect
from patchclamp.attribute import METHODS, activation_patching, attribution_patching
from patchclamp.base.errors import PatchclampError
from timed_toys import LIF, CellLoop, LinearRNN, Recurrent, Universal, inputs, made

GRADIENTS = ("attribution_patching", "integrated_gradients", "partial_gradients")


def task_of(x: torch.Tensor, other: torch.Tensor, **more) -> TensorTask:
    return TensorTask("first", x, other, metric=lambda out: out[:, 0], **more)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", [*GRADIENTS, "activation_patching"])
def test_a_linear_networks_scores_by_step_are_the_closed_form(name: str, direction: str) -> None:
    model, x, other = made(LinearRNN).double(), inputs().double(), inputs(seed=1).double()
    subject = TorchModule(model, x[:1])
    found = METHODS[name](subject, task_of(x, other), "step.out", positions="each", direction=direction)
    a, b = (subject.run(subject.batch(one), read=["step.out"]).activity["step.out"] for one in (x, other))
    with torch.no_grad():
        powers = [torch.linalg.matrix_power(model.step.A, 4 - t) for t in range(5)]
        reads = torch.stack([model.readout.weight[0] @ power for power in powers])  # d m / d h_t
        wanted = ((a - b) * reads).transpose(1, 2)
    assert found.positions == ("0", "1", "2", "3", "4")
    assert np.abs(found.values[found.sites[0]] - wanted.numpy()).max() < 1e-5
    assert wanted.abs().mean() > 0.1


def test_patching_all_steps_together_is_patching_one_by_one_where_only_the_last_is_read() -> None:
    model, x, other = made(LinearRNN), inputs(), inputs(seed=1)
    subject = TorchModule(model, x[:1])
    together = activation_patching(subject, task_of(x, other), "step.out", level="site")
    assert together.values[together.sites[0]][:, 0] == pytest.approx(
        np.array(together.meta["metric"]["clean"]) - np.array(together.meta["metric"]["corrupted"]), abs=1e-5
    )
    one = activation_patching(subject, task_of(x, other), "step.out", direction="noising", positions="each")
    replay = Intervention("step.out[3]", "patch", positions=1)
    assert effect(subject, task_of(x, other), replay, control=None).per_item == pytest.approx(
        one.values[one.sites[0]][:, 3, 1].tolist(), abs=1e-6
    )


@pytest.mark.parametrize("kind", [LIF, CellLoop])
def test_the_gradient_of_a_step_is_that_of_the_bare_network(kind: type[nn.Module]) -> None:
    model, x, other = made(kind), inputs(), inputs(seed=1)
    site = "fc.out" if kind is LIF else "cell.out"
    subject = TorchModule(model, x[:1])
    found = attribution_patching(subject, task_of(x, other), site, positions="each", direction="noising")
    seen = []

    def watch(module: nn.Module, args: object, out: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        first = out if isinstance(out, torch.Tensor) else out[0]
        first.retain_grad()
        seen.append(first)

    handle = model.get_submodule(site[:-4]).register_forward_hook(watch)
    model(x)[:, 0].sum().backward()
    gradients = torch.stack([one.grad for one in seen], 1)
    clean = torch.stack([one.detach() for one in seen], 1)
    seen.clear()
    with torch.enable_grad():
        model(other)
    handle.remove()
    wanted = (clean - torch.stack([one.detach() for one in seen], 1)) * gradients
    assert np.abs(found.values[found.sites[0]] - wanted.transpose(1, 2).numpy()).max() < 1e-5
    assert (wanted != 0).any(0).any(-1).all(), "every step counts"


@pytest.mark.parametrize("name", GRADIENTS)
def test_scores_of_steps_add_up_to_their_sum(name: str) -> None:
    x, other = inputs(), inputs(seed=1)
    for model, sites in (
        (made(CellLoop), "cell.out, cell.out.cell"),
        (made(Recurrent, "GRU", True), "rnn.out"),
    ):
        subject = TorchModule(model, x[:1])
        task = TensorTask("first", x, other, metric=lambda out: out[..., 0].reshape(len(out), -1)[:, -1])
        options = {} if name == "attribution_patching" else {"ln_rule": False}
        each = METHODS[name](subject, task, sites, positions="each", **options)
        if name == "partial_gradients":  # a node's stretch of the path is its own
            assert all(np.isfinite(values).all() for values in each.values.values())
            continue
        whole = METHODS[name](subject, task, sites, **options)
        for site in whole.sites:
            assert np.abs(each.values[site].sum(2) - whole.values[site]).max() < 1e-5


def test_roles_of_a_task_are_scored_as_groups_of_steps() -> None:
    x, other = inputs(), inputs(seed=1)
    subject = TorchModule(made(LinearRNN), x[:1])
    task = task_of(x, other, roles={"cue": 1})
    roles = attribution_patching(subject, task, "step.out", positions="roles")
    each = attribution_patching(subject, task, "step.out", positions="each")
    assert roles.positions == ("end", "cue", "other")
    a, b = roles.values[roles.sites[0]], each.values[each.sites[0]]
    assert np.abs(a - np.stack([b[:, :, 4], b[:, :, 1], b[:, :, [0, 2, 3]].sum(2)], 2)).max() < 1e-5


def test_a_site_without_a_gradient_is_refused_by_name() -> None:
    x, other = inputs(), inputs(seed=1)
    hard = TorchModule(made(LIF, surrogate=False), x[:1])
    says = (
        r"spike\.out: has no gradient.*\(v > 1\)\.float\(\).*surrogate gradient, or use activation_patching"
    )
    for name in GRADIENTS:
        with pytest.raises(PatchclampError, match=says):
            METHODS[name](hard, task_of(x, other), "spike.out")
        with pytest.raises(
            PatchclampError, match="the metric has no gradient .*hard steps.*activation_patching"
        ):
            METHODS[name](hard, task_of(x, other), "fc.out")
    exact = activation_patching(hard, task_of(x, other), "spike.out", positions="each")
    assert np.abs(exact.values[exact.sites[0]]).max() > 0
    soft = TorchModule(made(LIF), x[:1])
    assert np.abs(attribution_patching(soft, task_of(x, other), "spike.out").values[exact.sites[0]]).max() > 0


def test_a_block_applied_again_is_scored_by_application() -> None:
    x, other = inputs(), inputs(seed=1)
    subject = TorchModule(made(Universal), x[:1])
    found = attribution_patching(subject, task_of(x, other), "block.out", positions="each")
    values = found.values[found.sites[0]]
    assert values.shape == (12, 8, 20)
    exact = activation_patching(
        subject, task_of(x, other), "block.out", positions="each", nodes={found.sites[0]: [2]}
    )
    last = exact.values[found.sites[0]][:, 0, 15:]
    assert np.abs(values[:, 2, 15:] - last).max() < 1e-5, "what is read is linear in the last application"


def test_a_network_that_takes_symbols_has_gradients_from_its_embedding_on() -> None:
    class Symbols(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.cell, self.readout = nn.Embedding(7, 3), nn.GRUCell(3, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.zeros(len(x), 8)
            for t in range(x.shape[1]):
                h = self.cell(self.embed(x[:, t]), h)
            return self.readout(h)

    draw = torch.Generator().manual_seed(0)
    x, other = torch.randint(0, 7, (2, 12, 6), generator=draw)
    subject = TorchModule(made(Symbols), x[:1])
    found = attribution_patching(subject, task_of(x, other), "embed.out, cell.out", positions="each")
    assert all((np.abs(values).max((0, 1)) > 0).all() for values in found.values.values())
    with pytest.raises(PatchclampError, match=r"input 'input' holds int64 and differs .* no path between"):
        METHODS["integrated_gradients"](subject, task_of(x, other), "cell.out")
