"""Scores of features: those of neurons for the identity, sums for complete dictionaries, right gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feature_toys import Curved, Plain, identity, lossy, one_pair, rotation
from language_toys import TokenModel, items
from patchclamp.attribute import METHODS, attribution_patching, direct_logit_attribution
from patchclamp.nouns.units import Site
from patchclamp.subjects import Edit, TensorTask, TorchModule
from tiny import tiny_model


@pytest.fixture
def llama():
    return TokenModel(tiny_model("llama"), name="llama")


def net_and_task(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 1)).eval()
    task = TensorTask("net", torch.randn(7, 6), torch.randn(7, 6), lambda out: out[:, 0])
    return TorchModule(net, torch.zeros(1, 6)), task


LIVE = [name for name in METHODS if name != "direct_logit_attribution"]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", LIVE)
def test_features_of_the_identity_have_the_scores_of_neurons(name, direction):
    subject, task = net_and_task()
    base = subject.resolve("1.out")[0]
    with subject.attach("id", identity(base, 8)) as site:
        want = METHODS[name](subject, task, base, direction=direction, batch_size=3).values[base]
        got = METHODS[name](subject, task, site, direction=direction, batch_size=3).values[site]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(want), atol=1e-6, rtol=1e-5)
    assert abs(want).max() > 1e-3


@pytest.mark.parametrize("name", list(METHODS))
def test_on_a_transformer_too(llama, name):
    base = Site("mlp_act", 1)
    options = {} if name == "direct_logit_attribution" else {"direction": "noising"}
    if name == "activation_patching":
        options["nodes"] = {base: [0, 5], Site("mlp_act", 1, "id"): [0, 5]}
    with llama.attach("id", identity(base, llama.width(base))) as site:
        found = METHODS[name](llama, items(), [base, site], positions="roles", batch_size=2, **options)
    want, got = (torch.tensor(found.values[s]).nan_to_num() for s in (base, site))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    assert want.abs().max() > 1e-4


@pytest.mark.parametrize("name", ["attribution_patching", "integrated_gradients", "relevance_patching"])
def test_scores_of_a_complete_orthonormal_dictionary_add_up(llama, name):
    base = Site("resid_post", 1)
    with llama.attach("turned", rotation(base, 32)) as site:
        found = METHODS[name](llama, items(), [base, site])
    sums = torch.tensor(found.values[site]).sum(1)
    torch.testing.assert_close(sums, torch.tensor(found.values[base])[:, 0], atol=1e-5, rtol=1e-4)
    assert found.level[site] == "unit"
    assert found.values[site].shape[1] == 32


@pytest.mark.parametrize("address", ["resid_post.1", "mlp_act.1", "z.1", "mlp_out.1"])
def test_direct_attribution_of_features_adds_up(llama, address):
    base = Site(*[address.split(".")[0], 1])
    with llama.attach("turned", rotation(base, llama.width(base))) as site:
        found = direct_logit_attribution(llama, items(), [base, site])
    want = torch.tensor(found.values[base]).sum(1)
    torch.testing.assert_close(torch.tensor(found.values[site]).sum(1), want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [Plain, Curved])
@pytest.mark.parametrize("address", ["resid_mid.1", "z.1", "resid_post.0"])
def test_gradients_of_codes_are_those_of_small_changes(address, kind):
    llama = TokenModel(tiny_model("llama", dtype=torch.float64), name="llama")
    pair = one_pair(llama, items(2))
    base = llama.resolve(address)[0]
    dictionary = lossy(base, llama.width(base), kind=kind)
    for name in ("encoder", "rows", "bias", "shift"):
        setattr(dictionary, name, getattr(dictionary, name).double())
    with llama.attach("sae", dictionary) as site:
        run = llama.run(pair.clean, read=[site], logits="last", grad=True)
        (gradient,) = torch.autograd.grad(pair.metric(run.logits).sum(), run.activity[site])
        for unit in (0, 4):
            step = 1e-3 * (torch.arange(11) == unit).double()
            ends = [
                llama.run(
                    pair.clean, write=[Edit(site, lambda z, b, s=s, e=step: z + s * e)], logits="last"
                ).logits
                for s in (1, -1)
            ]
            slope = (pair.metric(ends[0]) - pair.metric(ends[1])) / 2e-3
            torch.testing.assert_close(gradient[..., unit].sum(1), slope, atol=1e-4, rtol=1e-3)


def test_reading_features_does_not_change_the_gradients_before_them(llama):
    pair = one_pair(llama, items())
    early, late = Site("mlp_act", 0), Site("resid_post", 1)
    plain = attribution_patching(llama, items(), early).values[early]
    with llama.attach("sae", lossy(late, 32)) as site:
        beside = attribution_patching(llama, items(), [early, site]).values[early]
        torch.testing.assert_close(torch.tensor(beside), torch.tensor(plain), atol=1e-6, rtol=1e-5)
        with llama.attach("early", lossy(early, llama.width(early), seed=2)) as first:
            run = llama.run(pair.clean, read=[first, site], logits="last", grad=True)
            code = run.activity[site][0, -1].sum()
            (gradient,) = torch.autograd.grad(code, run.activity[first])
        assert gradient[0].abs().max() > 0  # a later feature depends on an earlier one
        assert gradient[1:].abs().max() == 0
