"""Relevance rules: conservation on paper, values to the bit, scoped, refused where unknown."""

import pytest
import torch
from torch import nn

from hooks import hook_counts
from patchclamp.attribute import relevance_patching, relevance_rules
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects import LanguageModel, TensorTask, TorchModule
from patchclamp.subjects.clamp.batch import Edit, right_pad
from tiny import tiny_model

FOUR = ("LN", "Identity", "Half", "AH")


@pytest.fixture(scope="module")
def stack():
    """Norms, attention, gated MLPs, no biases, no epsilon: a homogeneous function of its embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        rms_norm_eps=0.0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.4)
    return LanguageModel(model.double().eval())


def input_times_gradient(subject, rules, batch):
    held = {}
    with relevance_rules(subject, rules):
        run = subject.run(
            batch, read={Site("embeddings"): lambda t: held.update(x=t)}, logits="last", grad=True
        )
        f = run.logits[:, 7]
        (gradient,) = torch.autograd.grad(f.sum(), held["x"])
    return (held["x"] * gradient).sum((1, 2)).detach(), f.detach()


def test_four_rules_conserve_relevance_and_each_missing_one_shows(stack):
    batch = right_pad([[3, 14, 15, 9, 2, 6]])
    total, f = input_times_gradient(stack, FOUR, batch)
    assert torch.allclose(total, f, rtol=1e-6, atol=1e-9)
    for missing in FOUR:
        total, _ = input_times_gradient(stack, [r for r in FOUR if r != missing], batch)
        assert (total - f).abs().item() > 1e-3, missing
    total, _ = input_times_gradient(stack, [], batch)
    assert (total - f).abs().item() > 1e-3


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.eps = 0.0

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def gradient(subject, x, rules):
    x = x.clone().requires_grad_(True)
    with relevance_rules(subject, rules):
        f = subject.model(x)[:, 0]
        (g,) = torch.autograd.grad(f.sum(), x)
    return g, f.detach()


def test_norm_scale_held_fixed_turns_nothing_into_everything():
    torch.manual_seed(0)
    subject = TorchModule(nn.Sequential(RMSNorm(8), nn.Linear(8, 1, bias=False)), torch.zeros(1, 8))
    x = torch.randn(4, 8)
    plain, f = gradient(subject, x, [])
    assert (x * plain).sum(1).abs().max() < 1e-5
    held, _ = gradient(subject, x, ["LN"])
    assert torch.allclose((x * held).sum(1), f, atol=1e-5)


def test_centring_keeps_its_gradient():
    torch.manual_seed(0)
    norm = nn.LayerNorm(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 8)
    g, _ = gradient(TorchModule(nn.Sequential(norm, nn.Linear(8, 1)), x[:1]), x, ["LN"])
    assert g.sum(1).abs().max() < 1e-5


@pytest.mark.parametrize(
    "act",
    [nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU()],
    ids=["silu", "gelu", "tanh", "relu"],
)
def test_gradient_at_an_activation_is_its_ratio(act):
    z = torch.linspace(-4, 4, 41)[None]  # passes through 0
    g, _ = gradient(TorchModule(nn.Sequential(act), z), z, ["Identity"])
    with torch.no_grad():
        y = act(z)
    inner = (z != 0)[0]
    # only the first output is differentiated
    assert torch.allclose(g[0, 0], y[0, 0] / z[0, 0], atol=1e-6)
    with relevance_rules(TorchModule(nn.Sequential(act), z), ["Identity"]):
        leaf = z.clone().requires_grad_(True)
        (full,) = torch.autograd.grad(act(leaf).sum(), leaf)
    assert torch.allclose(full[0, inner], (y / z)[0, inner], atol=1e-6)
    assert torch.isfinite(full).all()


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "bloom", "olmo2", "bert", "qwen3"])
def test_values_are_the_same_to_the_bit_and_nothing_is_left_behind(name):
    subject = LanguageModel(tiny_model(name))
    batch = right_pad([[5, 6, 7, 8], [9, 10, 11]])
    before = subject.run(batch, logits="all").logits
    with relevance_rules(subject, ("LN", "Identity", "Half")) as applied:
        inside = subject.run(batch, logits="all").logits
    assert torch.equal(before, inside)
    assert applied.report()["LN"] and applied.report()["Identity"]
    assert bool(applied.report()["Half"]) == subject.row.gated
    with pytest.raises(ZeroDivisionError), relevance_rules(subject):
        raise ZeroDivisionError
    assert not any(hook_counts(subject.model))


def test_half_acts_on_the_factors_and_not_on_the_neuron_itself():
    subject = LanguageModel(tiny_model("llama"))
    batch, sites = right_pad([[5, 6, 7, 8]]), [Site("mlp_act", 2), Site("mlp_pre", 2)]

    def gradients(rules):
        found = {}
        reads = {s: lambda t, s=s: t.register_hook(lambda g: found.update({s: g.clone()})) for s in sites}
        with relevance_rules(subject, rules):
            subject.run(batch, read=reads, logits="last", grad=True).logits[:, 3].sum().backward()
        return found

    plain, half = gradients([]), gradients(["Half"])
    assert torch.allclose(plain[sites[0]], half[sites[0]])
    assert torch.allclose(plain[sites[1]] / 2, half[sites[1]], atol=1e-7)


class Odd(nn.Module):
    def forward(self, x):
        return x.pow(3)


def test_unknown_operations_are_refused_by_name():
    subject = TorchModule(nn.Sequential(nn.Linear(3, 3), Odd()), torch.zeros(1, 3))
    task = TensorTask("t", torch.ones(1, 3), torch.zeros(1, 3), lambda out: out[:, 0])
    with pytest.raises(PatchclampError, match="^1: no rule is known for Odd"):
        relevance_patching(subject, task)
    with pytest.raises(PatchclampError, match="rule 'Halve'.*did you mean Half"):
        relevance_patching(subject, task, rules=["Halve"])
    with pytest.raises(PatchclampError, match="leave AH out"):
        relevance_patching(TorchModule(nn.Sequential(nn.Linear(3, 3)), torch.zeros(1, 3)), task, rules=["AH"])
    with pytest.raises(PatchclampError, match="no rule is known for MixtralTopKRouter"):
        relevance_patching(LanguageModel(tiny_model("mixtral")), task)
    training = TorchModule(nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train(), torch.zeros(1, 3))
    with pytest.raises(PatchclampError, match="training mode"):
        relevance_patching(training, task)


def test_a_norm_that_is_not_what_it_says_is_refused():
    class SquareNorm(RMSNorm):
        def forward(self, x):
            return super().forward(x).pow(2)

    subject = TorchModule(nn.Sequential(SquareNorm(3)), torch.zeros(1, 3))
    with (
        pytest.raises(PatchclampError, match="no rule is known for SquareNorm"),
        relevance_rules(subject, ["LN"], False),
    ):
        pass


def test_edits_and_rules_go_together():
    subject = LanguageModel(tiny_model("llama"))
    batch, edit = right_pad([[5, 6, 7, 8]]), Edit(Site("mlp_act", 1), lambda a, b: a * 0)
    before = subject.run(batch, write=[edit], logits="last").logits
    with relevance_rules(subject):
        inside = subject.run(batch, write=[edit], logits="last").logits
    assert torch.equal(before, inside)
