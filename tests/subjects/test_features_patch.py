"""Features under every kind of intervention: what neurons do is what features do, and effects have controls."""

from __future__ import annotations

import pytest
import torch

import planted
from feature_toys import Plain, identity, lossy, one_pair
from language_toys import TokenModel, items
from patchclamp.intervene import Reference, effect
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.units import Site
from patchclamp.subjects import Edit
from patchclamp.subjects.clamp.edits import compile_interventions
from tiny import tiny_model


@pytest.fixture
def llama():
    return TokenModel(tiny_model("llama"), name="llama")


@pytest.fixture
def lm():
    return planted.subject()


KINDS = {
    "zero": {},
    "mean": {},
    "resample": {"seed": 3},
    "clamp": {"value": 2.0},
    "scale": {"value": 0.5},
    "patch": {},
    "add": {"value": 1.5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_the_identity_are_neurons_under_every_intervention(lm, kind):
    task = planted.task(6)
    pair, reference = one_pair(lm, task), Reference(lm, planted.task(12, seed=1))
    base = Site("mlp_act", 1)
    with lm.attach("id", identity(base, 32)) as site:
        runs = []
        for units in ("mlp_act.1[3,7]", "mlp_act.1/id[3,7]"):
            change = Intervention(units, kind, positions="end", **KINDS[kind])
            edits = compile_interventions([change], lm, pair, reference)
            runs.append(lm.run(pair.clean, read=[base, site], write=edits, logits="last"))
        for one in (base, site):
            torch.testing.assert_close(runs[0].activity[one], runs[1].activity[one], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(runs[0].logits, runs[1].logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, "project_out"])
def test_interventions_on_features_touch_the_named_codes_alone(lm, kind):
    task = planted.task(6)
    pair, reference = one_pair(lm, task), Reference(lm, planted.task(12, seed=1))
    with lm.attach("sae", lossy("resid_post.1", 128)) as site:
        vector = {"vector": torch.eye(11)[[4]], "positions": "source"} if kind == "project_out" else {}
        units = site if vector else site[4]
        change = Intervention(units, kind, **{"positions": "source", **KINDS.get(kind, {}), **vector})
        edits = compile_interventions([change], lm, pair, reference)
        before = lm.run(pair.clean, read=[site]).activity[site]
        after = lm.run(pair.clean, read=[site], write=edits).activity[site]
        moved = (before != after).nonzero()
        assert set(moved[:, 2].tolist()) == {4}
        assert set(moved[:, 1].tolist()) == {1}
        if kind in ("zero", "project_out"):
            assert after[:, 1, 4].abs().max() < 1e-6


def test_steering_along_a_feature_is_adding_its_direction(lm):
    pair = one_pair(lm, planted.task(6))
    dictionary = lossy("resid_post.1", 128)
    with lm.attach("sae", dictionary) as site:
        one_hot = torch.eye(11)[5]
        ways = [
            Intervention(site[5], "add", value=3.0),
            Intervention(site, "add", value=3.0, vector=one_hot),
            Intervention("resid_post.1", "add", value=3.0, vector=dictionary.directions[5]),
        ]
        logits = [
            lm.run(pair.clean, write=compile_interventions([w], lm, pair), logits="last").logits for w in ways
        ]
        for other in logits[1:]:
            torch.testing.assert_close(logits[0], other, atol=1e-5, rtol=1e-5)
        assert "3 is added, at all positions" in str(ways[0])


def test_splicing_leaves_the_error_out_where_it_is_asked(lm):
    pair = one_pair(lm, planted.task(6))
    base = Site("resid_post", 1)
    dictionary = lossy(base, 128)
    with lm.attach("sae", dictionary) as site:
        plain = lm.run(pair.clean, read=[base, site]).activity
        splice = Intervention(site, "splice", positions="source")
        run = lm.run(pair.clean, read=[base, site], write=compile_interventions([splice], lm, pair)).activity
        torch.testing.assert_close(
            run[base][:, 1], dictionary.decode(plain[site][:, 1]), atol=1e-5, rtol=1e-5
        )
        others = [0, 2, 3, 4, 5]
        assert torch.equal(run[base][:, others], plain[base][:, others])
        both = [splice, Intervention(site[4], "clamp", value=9.0)]
        run = lm.run(pair.clean, read=[base, site], write=compile_interventions(both, lm, pair)).activity
        codes = plain[site].clone()
        codes[..., 4] = 9.0
        torch.testing.assert_close(run[base][:, 1], dictionary.decode(codes[:, 1]), atol=1e-5, rtol=1e-5)
        kept = plain[base] + (codes - plain[site]) @ dictionary.directions
        torch.testing.assert_close(run[base][:, others], kept[:, others], atol=1e-5, rtol=1e-5)
        found = effect(lm, planted.task(16), Intervention(site, "splice"), control=None)
        assert found.estimate.value != 0
        assert Intervention.from_json(found.intervention[0]) == Intervention(site, "splice")


@pytest.mark.parametrize(
    ("address", "writes"),
    [("resid_post.1", "resid_post.1"), ("mlp_act.1", "mlp_out.1"), ("z.1", "attn_out.1")],
)
def test_what_features_write_into_the_stream(llama, address, writes):
    base, end = llama.resolve(address)[0], llama.resolve(writes)[0]
    batch = one_pair(llama, items()).clean
    with llama.attach("sae", lossy(base, llama.width(base))) as site:
        more = Edit(site, lambda z, b: z + (torch.arange(11) == 2))
        before, after = (llama.run(batch, read=[end], write=w).activity[end] for w in ([], [more]))
        rows = llama.output_matrix(site)
        torch.testing.assert_close(after - before, rows[2].expand_as(before), atol=1e-4, rtol=1e-3)
        assert torch.equal(llama.output_norms(site), rows.norm(dim=1))


def test_effects_of_features_have_matched_controls(lm):
    task, reference = planted.task(24), Reference(lm, planted.task(12, seed=1))
    rows = torch.eye(128)[32:64]  # the directions that the unembedding reads
    dictionary = Plain("resid_post.1", rows.T.clone(), rows, relu=False)
    with lm.attach("sae", dictionary) as site:
        units = [f"{site}[{i}]" for i in range(8)]
        found = effect(lm, task, Intervention(units, "zero"), reference=reference)
        direct = effect(lm, task, Intervention("resid_post.1", "project_out", vector=rows[:8]), control=None)
    assert found.estimate.value == pytest.approx(direct.estimate.value, abs=1e-4)
    assert found.estimate.null is not None
    assert all(abs(x) < 10 for x in found.estimate.null.draws)
    assert str(found.units) == "resid_post.1/sae[0,1,2,3,4,5,6,7]"


def test_the_identity_has_the_effects_and_controls_of_neurons(lm):
    task, reference = planted.task(12), planted.task(12, seed=1)
    with lm.attach("id", identity("mlp_act.1", 32)):
        pair = [
            effect(lm, task, Intervention(units, "mean"), reference=reference)
            for units in ("mlp_act.1[3]", "mlp_act.1/id[3]")
        ]
    assert pair[0].estimate.value == pytest.approx(pair[1].estimate.value, abs=1e-6)
    assert sorted(pair[0].estimate.null.draws) == pytest.approx(sorted(pair[1].estimate.null.draws), abs=1e-6)
