"""Attribution on tiny transformers: whole streams, roles, heads that copy, direct attribution that sums."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from language_toys import TokenModel, TokenTask, items
from patchclamp.attribute import (
    METHODS,
    activation_patching,
    attribution_patching,
    direct_logit_attribution,
    integrated_gradients,
    relevance_patching,
)
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site, Units
from patchclamp.subjects.clamp.batch import Edit, Pair, right_pad
from tiny import tiny_model

ESTIMATES = (attribution_patching, integrated_gradients, relevance_patching)


@pytest.fixture(scope="module")
def llama():
    return TokenModel(tiny_model("llama"), name="llama")


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2", "bert"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_whole_stream_carries_the_whole_effect(name, direction):
    subject = TokenModel(tiny_model(name))
    scores = activation_patching(subject, items(), "resid_post.*", direction=direction)
    total = np.subtract(*(scores.meta["metric"][run] for run in ("clean", "corrupted")))
    for site in scores.sites:
        assert np.allclose(scores.values[site][:, 0] / total, 1, atol=2e-3)


def test_a_unit_patched_with_its_own_value_changes_nothing_bitwise(llama):
    batch = right_pad(items().clean)
    plain = llama.run(batch, read=llama.resolve("head.*,mlp_act.*,resid_post.*"), logits="last")
    for site, own in plain.activity.items():
        edit = Edit(site, lambda activity, batch, own=own: own.clone())
        assert torch.equal(llama.run(batch, write=[edit], logits="last").logits, plain.logits), site
    same = TokenTask(items().clean, items().clean)
    assert all((v == 0).all() for v in activation_patching(llama, same).values.values())


@pytest.mark.parametrize("method", ESTIMATES)
def test_positions_add_up(llama, method):
    task = items()
    total, roles, each = (method(llama, task, positions=p, batch_size=2) for p in ("sum", "roles", "each"))
    assert roles.positions == ("changed", "fifth", "end", "other")
    assert total.values[Site("head", 0)].shape == (5, 4)
    assert total.values[Site("mlp_act", 1)].shape == (5, 56)
    assert total.values[Site("mlp_out", 1)].shape == (5, 1)
    for site in total.sites:
        for parts in (roles, each):
            assert np.allclose(np.nansum(parts.values[site], 2), total.values[site], atol=1e-5)
    # Items 0 and 3 have five tokens: their fifth is the end, and no token before the change has any effect.
    assert np.isnan(roles.values[Site("mlp_out", 0)][[0, 3], :, 1]).all()
    assert np.isnan(each.values[Site("mlp_out", 0)][0, :, 5:]).all()
    assert (each.values[Site("mlp_out", 0)][:, :, :2] == 0).all()


def test_positions_of_exact_patching(llama):
    task = items()
    roles, each = (activation_patching(llama, task, "resid_post.*", positions=p) for p in ("roles", "each"))
    last = Site("resid_post", 2)
    total = np.subtract(*(roles.meta["metric"][run] for run in ("clean", "corrupted")))
    assert np.allclose(roles.values[last][:, 0, 2], total, atol=1e-5)
    assert np.allclose(np.nan_to_num(roles.values[last])[:, 0, [0, 1, 3]], 0, atol=1e-6)
    for row, tokens in enumerate(task.clean):
        assert np.allclose(each.values[last][row, 0, len(tokens) - 1], total[row], atol=1e-5)
    first = Site("resid_post", 0)
    assert np.allclose(each.values[first][:, 0, 2], roles.values[first][:, 0, 0], atol=1e-5)


@pytest.mark.parametrize("method", [*ESTIMATES, activation_patching], ids=lambda m: m.__name__)
def test_results_do_not_depend_on_batch_size(llama, method):
    small, large = (method(llama, items(), positions="roles", batch_size=size) for size in (1, 64))
    for site in small.sites:
        assert np.allclose(small.values[site], large.values[site], atol=2e-5, equal_nan=True)


def test_exact_patching_equals_a_pass_from_the_start(llama):
    task, site = items(), Site("head", 1)
    (pair,) = llama.pairs(task)
    source = llama.run(pair.clean, read=[site]).activity[site]

    def write(activity, batch):
        activity = activity.clone()
        activity[:, :, 2] = source[:, :, 2]
        return activity

    base = llama.run(pair.corrupted, logits="last").logits
    want = llama.run(pair.corrupted, write=[Edit(site, write)], logits="last").logits
    want = pair.metric(want) - pair.metric(base)
    got = activation_patching(llama, task, Units.parse("head.1[2]"))
    assert got.index(site) == [2]
    assert np.allclose(got.values[site][:, 0], want.numpy(), atol=1e-5)


@pytest.mark.parametrize("method", ["activation_patching", "attribution_patching", "integrated_gradients"])
def test_units_that_are_named_are_scored_and_no_others(llama, method):
    """However they are named; the others of their site were scored with them, in silence."""
    task = items()
    site, out = Site("head", 1), Site("mlp_out", 0)
    whole = METHODS[method](llama, task, "head.1, mlp_out.0", level="unit")
    for named in (
        "head.1[2], mlp_out.0[3,5]",
        ["head.1[2]", "mlp_out.0[3,5]"],
        Units.parse("head.1[2], mlp_out.0[3,5]"),
    ):
        got = METHODS[method](llama, task, named)
        assert got.index(site) == [2] and got.index(out) == [3, 5]
        assert np.allclose(got.values[site], whole.values[site][:, [2]], atol=1e-6)
        assert np.allclose(got.values[out], whole.values[out][:, [3, 5]], atol=1e-6)
    with pytest.raises(PatchclampError, match="level='site'"):
        METHODS[method](llama, task, "head.1[2]", level="site")
    with pytest.raises(PatchclampError, match="give head.1, and choose units"):
        direct_logit_attribution(llama, task, "head.1[2]")


def copying_head(width=64, vocabulary=30):
    """One layer, four heads; head 2 of the last token looks at all tokens alike and hands their identity on."""
    config = GPT2Config(
        bos_token_id=None,
        eos_token_id=None,
        vocab_size=vocabulary,
        n_embd=width,
        n_layer=1,
        n_head=4,
        n_positions=16,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
        d = width // 4
        model.transformer.wte.weight[:, :vocabulary] = torch.eye(vocabulary)
        attention = model.transformer.h[0].attn
        # Values of head 2 are the first d token directions; its output writes them at a place of their own.
        attention.c_attn.weight[:d, 2 * width + 2 * d : 2 * width + 3 * d] = torch.eye(d)
        attention.c_proj.weight[2 * d : 3 * d, 40 : 40 + d] = torch.eye(d)
        model.lm_head.weight[:d, 40 : 40 + d] = torch.eye(d)
    return TokenModel(model)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_a_head_that_copies_a_token_is_found_and_no_other(direction):
    subject = copying_head()
    task = TokenTask([[1, 2, 5, 3]], [[1, 2, 6, 3]])  # the metric is logit of 5 minus logit of 6
    for name in ("activation_patching", "attribution_patching", "integrated_gradients", "relevance_patching"):
        score = METHODS[name](subject, task, "head.0", direction=direction, positions="roles")
        values = score.values[Site("head", 0)][0]
        total = np.subtract(*(score.meta["metric"][run] for run in ("clean", "corrupted")))[0]
        assert total > 1
        # The final norm bends the path, so that only exact patching is exact.
        assert np.allclose(values[2, 2], total, rtol=1e-4 if name == "activation_patching" else 0.2), name
        assert np.allclose(np.delete(np.nan_to_num(values), 2, axis=0), 0, atol=1e-6)
    direct = direct_logit_attribution(subject, task, "head.0").values[Site("head", 0)][0]
    assert direct[2] > 0.5 and np.allclose(np.delete(direct, 2), 0, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "falcon", "olmo2", "gemma3", "opt", "gptj"])
def test_direct_attribution_sums_to_the_metric(name):
    subject = TokenModel(tiny_model(name))
    scores = direct_logit_attribution(subject, items(), batch_size=2)
    total = sum(v.sum(1) for v in scores.values.values())
    total = total + np.array(scores.meta["bias"]) + np.array(scores.meta["attention_bias"])
    assert np.allclose(total, scores.meta["metric"]["clean"], atol=1e-5)
    assert scores.direction == "none"


def test_direct_attribution_of_neurons_sums_to_their_layer(llama):
    scores = direct_logit_attribution(llama, items(), "mlp_act.1,mlp_out.1", positions="roles")
    neurons, layer = (scores.values[Site(p, 1)] for p in ("mlp_act", "mlp_out"))
    assert np.allclose(neurons.sum(1)[:, 2], layer[:, 0, 2], atol=1e-5)  # llama has no MLP biases here
    assert np.allclose(np.nan_to_num(layer)[:, 0, [0, 1, 3]], 0)


def test_direct_attribution_refuses_what_is_no_sum(llama):
    with pytest.raises(PatchclampError, match="logits are capped"):
        direct_logit_attribution(TokenModel(tiny_model("gemma2")), items())
    with pytest.raises(PatchclampError, match="normalise the stream itself"):
        direct_logit_attribution(TokenModel(tiny_model("bert")), items())
    with pytest.raises(PatchclampError, match=r"attn_out\.1: is not added to the stream"):
        direct_logit_attribution(TokenModel(tiny_model("gemma3")), items(), "attn_out.1")

    class Probability(TokenModel):
        def pairs(self, task, batch_size=32):
            for p in super().pairs(task, batch_size):
                yield Pair(
                    p.clean,
                    p.corrupted,
                    lambda x, reference=None: x.softmax(1)[:, 5],
                    p.answer_position,
                    p.roles,
                )

    with pytest.raises(PatchclampError, match="not linear in the logits"):
        direct_logit_attribution(Probability(llama.model), items())


def test_integrated_gradients_of_the_embeddings_are_complete(llama):
    scores = integrated_gradients(
        llama, items(), "embeddings", steps=50, rule="gauss-legendre", ln_rule=False, positions="each"
    )
    total = np.subtract(*(scores.meta["metric"][run] for run in ("clean", "corrupted")))
    assert np.allclose(np.nansum(scores.values[Site("embeddings")], (1, 2)), total, atol=1e-4)


def test_what_has_no_score_is_refused(llama):
    with pytest.raises(PatchclampError, match=r"attn_probs\.1: has no score.*head\.1"):
        attribution_patching(llama, items(), "attn_probs.1")
    with pytest.raises(PatchclampError, match="did you mean"):
        attribution_patching(llama, items(), "mlp_outs.1")


def test_relevance_patching_reports_its_rules(llama):
    rules = relevance_patching(llama, items(), "head.*").meta["rules"]
    assert {name: len(modules) for name, modules in rules.items()} == {"LN": 7, "Identity": 3, "Half": 3}
    assert "model.layers.1.input_layernorm" in rules["LN"]
