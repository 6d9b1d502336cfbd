"""Agreement with captum where it defines the same thing: integrated gradients, layer by layer."""

import pytest
import torch
from torch import nn

from patchclamp.attribute import attribution_patching, integrated_gradients
from patchclamp.nouns.units import Site
from patchclamp.subjects import TensorTask, TorchModule

captum = pytest.importorskip("captum.attr")
pytestmark = pytest.mark.crosscheck


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 9), nn.GELU(), nn.LayerNorm(9), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 2)
    )
    return model.eval()


@pytest.fixture
def task():
    torch.manual_seed(1)
    return TensorTask("t", torch.randn(5, 6), torch.randn(5, 6), lambda out: out[:, 1])


@pytest.mark.parametrize(
    ("rule", "method"), [("gauss-legendre", "gausslegendre"), ("midpoint", "riemann_middle")]
)
@pytest.mark.parametrize("steps", [5, 20])
def test_integrated_gradients_at_the_input(net, task, rule, method, steps):
    """An identity in front makes the input a site."""
    subject = TorchModule(nn.Sequential(nn.Identity(), net), torch.zeros(1, 6))
    ours = integrated_gradients(subject, task, "0.out", steps=steps, rule=rule, ln_rule=False)
    theirs = captum.IntegratedGradients(net).attribute(
        task.clean, task.corrupted, target=1, n_steps=steps, method=method
    )
    assert abs(ours.values[Site("0", io="out")] - theirs.numpy()).max() < 1e-5


def test_gradient_times_difference(net, task):
    subject = TorchModule(nn.Sequential(nn.Identity(), net), torch.zeros(1, 6))
    ours = attribution_patching(subject, task, "0.out").values[Site("0", io="out")]
    gradient = captum.Saliency(net).attribute(
        task.corrupted.clone().requires_grad_(True), target=1, abs=False
    )
    assert abs(ours - ((task.clean - task.corrupted) * gradient).detach().numpy()).max() < 1e-6


def test_a_layer_reached_along_a_straight_path(net, task):
    """Behind a linear layer the path over activity is straight, and captum's layer method the same integral."""
    ours = integrated_gradients(TorchModule(net, torch.zeros(1, 6)), task, "0.out", steps=30, ln_rule=False)
    theirs = captum.LayerIntegratedGradients(net, net[0]).attribute(
        task.clean, task.corrupted, target=1, n_steps=30, method="riemann_middle"
    )
    assert abs(ours.values[Site("0", io="out")] - theirs.detach().numpy()).max() < 1e-5
