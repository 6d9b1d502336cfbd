"""Continuations of prompts under an intervention."""

from __future__ import annotations

import pytest
import torch

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.describe import Description, predicates
from patchclamp.intervene import match_kl, steer
from patchclamp.nouns.intervention import Intervention
from patchclamp.study.steering import steered_texts

PROMPTS = ["w1 w2", "w3 w4 w5 w6", "w7"]


@pytest.fixture(scope="module")
def subject():
    return planted.subject()


@pytest.fixture(scope="module")
def wanted(subject) -> tuple[int, Intervention]:
    """A token, and a push along its own unembedding at the end of the stream."""
    token = subject.tokenizer("w8", add_special_tokens=False)["input_ids"][0]
    unembed, _ = subject.unembed()
    site = f"resid_post.{subject.n_layers - 1}"
    return token, Intervention(site, "add", value=1.0, vector=tuple(unembed[token].tolist()))


def test_a_strong_push_writes_one_token(subject, wanted):
    token, change = wanted
    found = steer(
        subject, Intervention(change.units, "add", value=1e4, vector=change.vector), PROMPTS, new_tokens=4
    )
    assert all(set(row) == {token} and len(row) == 4 for row in found.steered)
    assert not any(set(row) == {token} for row in found.clean)
    assert min(found.kl) > 1
    assert found.steered_texts == tuple(subject.tokenizer.decode([token] * 4) for _ in PROMPTS)


def test_no_change_writes_the_same_text_at_no_divergence(subject, wanted):
    _, change = wanted
    found = steer(
        subject, Intervention(change.units, "add", value=0.0, vector=change.vector), PROMPTS, new_tokens=5
    )
    assert found.clean == found.steered
    assert found.kl == (0.0,) * 3


def test_same_seed_same_text_whatever_the_batch(subject, wanted):
    one, other = (
        steer(subject, wanted[1], PROMPTS, new_tokens=5, temperature=4, seed=3, batch_size=size)
        for size in (1, 3)
    )
    assert (one.clean, one.steered) == (other.clean, other.steered)
    assert one.kl == pytest.approx(other.kl, abs=1e-6)
    assert steer(subject, wanted[1], PROMPTS, new_tokens=5, temperature=4, seed=4).clean != one.clean
    greedy = [steer(subject, wanted[1], PROMPTS, new_tokens=5, temperature=0, seed=seed) for seed in (0, 1)]
    assert greedy[0].clean == greedy[1].clean


def test_greedy_text_is_what_transformers_generates(subject):
    found = steer(
        subject, Intervention("mlp_act.0[0]", "scale", value=1.0), PROMPTS[:1], new_tokens=6, temperature=0
    )
    ids = torch.tensor(subject.encode(PROMPTS[:1]))
    made = subject.model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=63)[
        0, ids.shape[1] :
    ].tolist()
    assert list(found.clean[0]) == made


def test_value_for_a_divergence(subject, wanted):
    change = match_kl(subject, wanted[1], PROMPTS, kl=0.3)
    assert sum(steer(subject, change, PROMPTS, new_tokens=1).kl) / 3 == pytest.approx(0.3, rel=0.01)
    idle = Intervention(wanted[1].units, "add", vector=(0.0,) * subject.d_model)
    with pytest.raises(PatchclampError, match="less than 0.3 nats"):
        match_kl(subject, idle, PROMPTS, kl=0.3)
    with pytest.raises(PatchclampError, match="zero has no value"):
        match_kl(subject, Intervention("mlp_act.0[0]", "zero"), PROMPTS)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "give a list"),
        ("one", {}, "give a list"),
        (["one"], {"new_tokens": 0}, "new_tokens=0"),
        (["one"], {"temperature": -1}, "temperature=-1"),
    ],
)
def test_bad_input(subject, wanted, prompts, options, message):
    with pytest.raises(PatchclampError, match=message):
        steer(subject, wanted[1], prompts, **options)


def test_intervention_score_of_a_description(subject, wanted):
    """What the push brings about is described rightly by its token, and not by another."""
    from patchclamp.describe import SCORES

    score = SCORES["intervention"]
    push = steered_texts(subject, wanted[1], kl=1.0, new_tokens=6)
    right, wrong = (
        Description("x", f"the token {word}", "by hand", predicates.TokenSet((word,)))
        for word in ("w8", "w9")
    )
    prompts = [f"{a} {b}" for a in ("w1", "w2", "w3", "w4") for b in ("w5", "w6", "w7")]
    found = score(right, push, prompts, others=[wrong])
    assert found.value > 0.1 and found.estimate.low > 0
    assert found.estimate.null.mean < found.value
