"""Attribution on the embedded model and real prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchclamp.attribute import (
    METHODS,
    activation_patching,
    direct_logit_attribution,
    partial_gradients,
    relevance_patching,
    relevance_rules,
)
from patchclamp.nouns.tasks.builtin import load_task
from patchclamp.nouns.units import Site
from patchclamp.subjects import open_subject

pytestmark = pytest.mark.smollm2


@pytest.fixture(scope="module")
def lm():
    return open_subject("smollm2", device="cpu")


@pytest.fixture(scope="module")
def ioi(lm):
    return load_task("ioi", lm.tokenizer, n=128, corruption="s2_io_flip").split("train").take(4)


def test_values_under_the_rules_are_the_same_to_the_bit(lm, ioi):
    (pair,) = lm.pairs(ioi)
    plain = lm.run(pair.clean, logits="all").logits
    with relevance_rules(lm) as applied:
        assert torch.equal(lm.run(pair.clean, logits="all").logits, plain)
    assert {rule: len(found) for rule, found in applied.report().items()} == {
        "LN": 61,
        "Identity": 30,
        "Half": 30,
    }


def test_estimates_agree_with_exact_patching_on_heads(lm, ioi):
    sites = ["head.17", "head.20", "head.23", "head.24", "head.29"]
    exact = np.concatenate([v.mean(0) for v in activation_patching(lm, ioi, sites).values.values()])
    for name, least in (
        ("partial_gradients", 0.9),
        ("relevance_patching", 0.9),
        ("integrated_gradients", 0.9),
    ):
        guess = np.concatenate([v.mean(0) for v in METHODS[name](lm, ioi, sites).values.values()])
        assert np.corrcoef(exact, guess)[0, 1] > least, name


def test_the_last_stream_carries_everything(lm, ioi):
    scores = activation_patching(lm, ioi, "resid_post.29")
    total = np.subtract(*(scores.meta["metric"][run] for run in ("clean", "corrupted")))
    assert np.allclose(scores.values[Site("resid_post", 29)][:, 0] / total, 1, atol=1e-3)


def test_the_five_heads_of_indirect_object_identification_are_ranked_first(lm):
    task = load_task("ioi", lm.tokenizer, n=128, corruption="random_s2").split("train").take(16)
    first = [str(u) for u in partial_gradients(lm, task, "head.*").top(5, by="signed")]
    assert set(first) == {"head.23[3]", "head.20[0]", "head.17[4]", "head.29[1]", "head.19[2]"}


def test_direct_attribution_sums_to_the_logit_difference(lm, ioi):
    scores = direct_logit_attribution(lm, ioi)
    total = sum(v.sum(1) for v in scores.values.values()) + np.array(scores.meta["bias"])
    assert np.allclose(total, scores.meta["metric"]["clean"], atol=1e-3, rtol=1e-5)


def test_neurons_and_heads_in_one_pass(lm, ioi):
    scores = relevance_patching(lm, ioi, ["head.*", "mlp_act.*"], positions="roles")
    assert sum(v.shape[1] for v in scores.values.values()) == 30 * (9 + 1536)
    assert scores.positions is not None and scores.positions[-1] == "other"
