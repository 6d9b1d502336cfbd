"""Lenses: exact where the rest of the network is linear, and their error measured where it is not."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import tiny
from hooks import hook_counts
from language_toys import TokenModel
from patchclamp.base.errors import PatchclampError
from patchclamp.describe.lenses import LENSES, jacobian_lens, lens_errors, logit_lens, ridge_lens
from patchclamp.nouns.units import Site


def linear_model(silent_after=None):
    """GPT-2 whose blocks are x + x W: no norms but the last, no attention, an identity for an activation."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_embd=16, n_layer=3, n_head=2, n_positions=32, n_inner=24, activation_function="linear")  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    for layer, block in enumerate(model.transformer.h):
        block.ln_1, block.ln_2 = nn.Identity(), nn.Identity()
        for weights in (block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            nn.init.normal_(weights.weight, 0, 0.2)
            nn.init.zeros_(weights.bias)
        nn.init.zeros_(block.attn.c_proj.weight)
        if silent_after is not None and layer > silent_after:
            nn.init.zeros_(block.mlp.c_proj.weight)
    return TokenModel(model, name="linear")


def texts(n, seed=0, length=12):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 97, (length - i % 3,), generator=draw).tolist() for i in range(n)]


def through(model, layer):
    """Product of (I + W) over the blocks after a layer, as a map from the left."""
    found = torch.eye(16)
    for block in model.transformer.h[layer + 1 :]:
        found = found @ (torch.eye(16) + block.mlp.c_fc.weight @ block.mlp.c_proj.weight)
    return found.T.detach()


def test_on_a_linear_network_the_jacobian_is_the_product_and_the_lens_reads_what_is_said():
    subject = linear_model()
    exact = jacobian_lens(subject, texts(4))
    assert list(exact.maps) == [0, 1]
    for layer in (0, 1):
        assert torch.allclose(exact.maps[layer], through(subject.model, layer), atol=1e-5)
    assert (exact.errors.half_error < 1e-6).all()
    fitted = ridge_lens(subject, texts(40), alpha=1e-10)
    for layer in (0, 1):
        assert torch.allclose(fitted.maps[layer], through(subject.model, layer), atol=1e-3)
    table = lens_errors(subject, texts(5, seed=9), [exact, fitted, logit_lens(subject)]).set_index(
        ["lens", "layer"]
    )
    assert (table.loc[["jacobian", "ridge"], "kl"] < 1e-6).all() and (
        table.loc["jacobian", "first"] == 1
    ).all()
    assert (table.loc["logit", "kl"] > 0.001).all()
    assert not any(hook_counts(subject.model))


def test_where_later_layers_are_silent_it_is_the_logit_lens():
    found = jacobian_lens(linear_model(silent_after=0), texts(3))
    assert all(torch.allclose(one, torch.eye(16), atol=1e-6) for one in found.maps.values())


def test_probes_are_unbiased_and_their_error_is_the_one_that_is_printed():
    subject = linear_model()
    truth = through(subject.model, 0)
    few, many = (jacobian_lens(subject, texts(n), [0], probes=4, batch_size=1) for n in (8, 200))
    off = [float((one.maps[0] - truth).norm() / truth.norm()) for one in (few, many)]
    assert off[1] < 0.35 * off[0]
    for one, error in zip((few, many), off, strict=True):
        assert 0.5 < one.errors.half_error.iloc[0] / error < 2


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox"])
def test_it_is_the_mean_of_gradients_of_the_model_itself(name):
    subject, some = TokenModel(tiny.tiny_model(name), name=name), texts(1, length=9)
    found = jacobian_lens(subject, some, [1], skip=3)
    site, last = Site("resid_post", 1), Site("resid_post", subject.n_layers - 1)
    batch = subject.batch(some)
    run = subject.run(batch, read={site: lambda t: t, last: lambda t: t}, grad=True, stop=False)
    row = torch.autograd.grad(run.activity[last][0, 3:8, 7].sum(), run.activity[site])[0][0, 3:8].mean(0)
    assert torch.allclose(found.maps[1][7], row, atol=1e-4)
    assert np.isnan(found.errors.half_error.iloc[0])


def test_a_direction_moves_its_token_in_a_linear_network():
    subject = linear_model()
    lens = jacobian_lens(subject, texts(3))
    way = lens.direction(subject, 41, 0)
    weights, gain = subject.unembed()
    effect = (weights * gain) @ (through(subject.model, 0) @ way)
    cosine = effect / (weights * gain @ through(subject.model, 0)).norm(dim=1)
    assert int(cosine.argmax()) == 41 and way.norm() == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_read_is_refused():
    subject = linear_model()
    assert set(LENSES) == {"logit", "jacobian", "ridge"}
    for call, says in (
        (lambda: jacobian_lens(subject, [[3, 4, 5]]), "longer ones"),
        (lambda: ridge_lens(subject, [[3, 4, 5]]), "longer ones"),
        (lambda: jacobian_lens(subject, texts(1), [7]), r"layers 0\.\.2"),
        (lambda: jacobian_lens(subject, texts(1), probes=0), r"1\.\.16"),
        (lambda: logit_lens(subject, [0]).carried(torch.zeros(16), 1), "has layers 0"),
        (lambda: jacobian_lens(subject, []), "list of texts"),
    ):
        with pytest.raises(PatchclampError, match=says):
            call()
