"""Attribution where the answer is known on paper: linear nets, saturation, gates, completeness, directions."""

import math

import pytest
import torch
from torch import nn

from patchclamp.attribute import (
    METHODS,
    activation_patching,
    attribution_patching,
    integrated_gradients,
    relevance_patching,
)
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects import TensorTask, TorchModule

GRADIENTS = {
    "attribution_patching": attribution_patching,
    "relevance_patching": relevance_patching,
    "integrated_gradients": lambda *a, **k: integrated_gradients(*a, ln_rule=False, **k),
    "with the LN rule": integrated_gradients,
}


class Written(nn.Module):
    """A function of what a named module hands on."""

    def __init__(self, fn):
        super().__init__()
        self.a = nn.Identity()
        self.fn = fn

    def forward(self, x):
        return self.fn(self.a(x))


def scored(method, fn, clean, corrupted, **options):
    task = TensorTask("t", torch.tensor([clean]), torch.tensor([corrupted]), lambda out: out[:, 0])
    subject = TorchModule(Written(fn), torch.zeros(1, len(clean)))
    return method(subject, task, "a.out", **options).mean(Site("a", io="out")).tolist()


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("method", GRADIENTS.values(), ids=GRADIENTS.keys())
def test_all_methods_agree_with_exact_patching_on_a_linear_network(method, direction):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Identity(), nn.Linear(7, 4), nn.Linear(4, 3))
    subject = TorchModule(net.eval(), torch.zeros(1, 5))
    task = TensorTask("linear", torch.randn(6, 5), torch.randn(6, 5), lambda out: out[:, 0] - out[:, 2])
    exact = activation_patching(subject, task, direction=direction, batch_size=4)
    estimate = method(subject, task, direction=direction, batch_size=4)
    assert exact.sites == estimate.sites and len(exact.sites) == 4
    for site in exact.sites:
        assert exact.values[site].shape == (6, subject.width(site))
        assert abs(exact.values[site] - estimate.values[site]).max() < 1e-5


def test_saturation_unit():
    def f(a):
        return (2 * a).clamp(max=1)

    one, none = [1.0], [0.0]
    # Scores are positive where the unit raises the metric: noising's -1 is an effect of +1.
    assert scored(activation_patching, f, one, none, direction="noising") == [1.0]
    assert scored(attribution_patching, f, one, none, direction="noising") == [0.0]
    assert scored(activation_patching, f, one, none) == [1.0]
    assert scored(attribution_patching, f, one, none) == [2.0]
    assert scored(integrated_gradients, f, one, none, steps=4) == [1.0]


def test_or_gate_separates_the_directions():
    def f(a):
        return 1 - (1 - a.sum(1, keepdim=True)).relu()

    both, neither = [1.0, 1.0], [0.0, 0.0]
    assert scored(activation_patching, f, both, neither, direction="noising") == [0.0, 0.0]
    assert scored(activation_patching, f, both, neither, direction="denoising") == [1.0, 1.0]
    assert scored(integrated_gradients, f, both, neither, steps=4) == [0.5, 0.5]


@pytest.fixture
def bent():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(6, 9), nn.GELU(), nn.LayerNorm(9), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 2)
    )
    return TorchModule(net.eval(), torch.zeros(1, 6))


def task_for(n=7, width=6):
    torch.manual_seed(2)
    return TensorTask("t", torch.randn(n, width), torch.randn(n, width), lambda out: out[:, 0] - out[:, 1])


def test_integrated_gradients_are_complete(bent):
    task = task_for()
    scores = integrated_gradients(bent, task, "0.out", steps=50, rule="gauss-legendre", ln_rule=False)
    total = torch.tensor(scores.values[Site("0", io="out")]).sum(1)
    metric = scores.meta["metric"]
    assert torch.allclose(total, torch.tensor(metric["clean"]) - torch.tensor(metric["corrupted"]), atol=1e-4)
    few = integrated_gradients(bent, task, "0.out", steps=1, ln_rule=False).values[Site("0", io="out")]
    assert abs(few.sum(1) - total.numpy()).max() > 1e-3


@pytest.mark.parametrize("name", ["activation_patching", "attribution_patching", "integrated_gradients"])
def test_results_do_not_depend_on_batch_size(bent, name):
    one, many = (METHODS[name](bent, task_for(), batch_size=size) for size in (2, 100))
    for site in one.sites:
        assert abs(one.values[site] - many.values[site]).max() < 1e-5


def test_noising_and_denoising_mirror_each_other(bent):
    task = task_for()
    turned = TensorTask("t", task.corrupted, task.clean, lambda out: out[:, 1] - out[:, 0])
    for method in (activation_patching, attribution_patching):
        there, back = method(bent, task), method(bent, turned, direction="noising")
        for site in there.sites:
            assert abs(there.values[site] - back.values[site]).max() < 1e-6


def test_equal_inputs_have_no_effects_at_all(bent):
    task = task_for()
    same = TensorTask("t", task.clean, task.clean.clone(), task.metric)
    for method in (activation_patching, attribution_patching, integrated_gradients):
        assert all((v == 0).all() for v in method(bent, same).values.values())
    assert activation_patching(bent, same).meta["runs"] == 0


def test_chosen_nodes_are_patched_and_no_others(bent):
    site = Site("1", io="out")
    all_, some = (activation_patching(bent, task_for(), "1.out", nodes=n) for n in (None, {site: [4, 2]}))
    assert some.index(site) == [2, 4]
    assert abs(some.values[site] - all_.values[site][:, [2, 4]]).max() < 1e-6
    with pytest.raises(PatchclampError, match=r"1\.out: nodes must be units 0\.\.8"):
        activation_patching(bent, task_for(), "1.out", nodes={site: [9]})


def test_images_have_a_score_for_every_channel():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2))
    subject = TorchModule(net.eval(), torch.zeros(1, 1, 4, 4))
    task = TensorTask("image", torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), lambda out: out[:, 0])
    for method in METHODS.values():
        if method is METHODS["direct_logit_attribution"]:
            continue
        assert method(subject, task, "1.out").values[Site("1", io="out")].shape == (2, 3)
    whole = attribution_patching(subject, task, "1.out").values[Site("1", io="out")]
    each = attribution_patching(subject, task, "1.out", positions="each").values[Site("1", io="out")]
    assert each.shape == (2, 3, 9)  # pixels
    assert abs(each.sum(2) - whole).max() < 1e-6
    with pytest.raises(PatchclampError, match=r"1\.out has 9 positions and 3\.out 1.*use positions='sum'"):
        attribution_patching(subject, task, ["1.out", "3.out"], positions="each")
    with pytest.raises(PatchclampError, match="roles say nothing of it"):
        attribution_patching(subject, task, "1.out", positions="roles")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "denoise"}, "give denoising or noising.*did you mean denoising"),
        ({"positions": "role"}, "did you mean roles"),
    ],
)
def test_bad_options_are_refused_by_name(bent, options, message):
    for name in ("activation_patching", "attribution_patching", "integrated_gradients", "relevance_patching"):
        with pytest.raises(PatchclampError, match=message):
            METHODS[name](bent, task_for(), **options)


def test_bad_input_is_refused(bent):
    with pytest.raises(PatchclampError, match="at least one step"):
        integrated_gradients(bent, task_for(), steps=0)
    with pytest.raises(PatchclampError, match="rule 'left'"):
        integrated_gradients(bent, task_for(), rule="left")
    alone = TensorTask("alone", torch.ones(2, 6), None, lambda out: out[:, 0])
    with pytest.raises(PatchclampError, match="no corrupted inputs"):
        attribution_patching(bent, alone)
    counted = TensorTask("counted", *[torch.randn(2, 6) for _ in "ab"], lambda out: (out[:, 0] > 0).float())
    with pytest.raises(PatchclampError, match="has no gradient"):
        attribution_patching(bent, counted)
    broken = TensorTask("nan", torch.full((2, 6), math.nan), torch.zeros(2, 6), lambda out: out[:, 0])
    with pytest.raises(PatchclampError, match="not finite"):
        attribution_patching(bent, broken)


class Fork(nn.Module):
    """Two modules that hand on the very same tensor, read with the weights 2 and 3."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Identity(), nn.Identity()

    def forward(self, x):
        x = x.view(len(x), 1, -1)
        return (2 * self.left(x) + 3 * self.right(x))[:, 0]


@pytest.mark.parametrize("method", GRADIENTS.values(), ids=GRADIENTS.keys())
def test_modules_that_share_a_tensor_keep_their_own_gradients(method):
    task = TensorTask("fork", torch.ones(1, 1), torch.zeros(1, 1), lambda out: out[:, 0])
    found = method(TorchModule(Fork(), torch.zeros(1, 1)), task, ["left.out", "right.out"])
    values = {str(site): found.mean(site).tolist() for site in found.sites}
    assert values == {"left.out": [2.0], "right.out": [3.0]}
