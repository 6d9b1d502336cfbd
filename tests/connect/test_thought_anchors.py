"""Sentences that matter: closed forms of kurtosis and divergence, causality to the floor, and what hides from what."""

import numpy as np
import pytest
import torch

import tiny
from circuit_toys import InductionModel, induction_model
from hooks import hook_counts
from language_toys import TokenModel
from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import (
    Rollout,
    counterfactual_importance,
    excess_kurtosis,
    received_attention,
    receiver_heads,
    sentence_matrix,
    sentence_suppression,
)


@pytest.mark.parametrize(("n", "expected"), [(20, 15.05), (50, 45.02), (100, 95.01)])
def test_one_sentence_that_gets_all_has_the_kurtosis_of_one_draw(n, expected):
    assert excess_kurtosis(np.eye(n)[3]) == pytest.approx(expected, abs=0.005)
    jitter = np.random.default_rng(0).normal(1, 0.1, (200, n))
    assert abs(excess_kurtosis(jitter).mean()) < 0.5


def uniform(tokens):
    pattern = torch.ones(tokens, tokens).tril()
    return pattern / pattern.sum(1, keepdim=True)


def test_uniform_attention_is_no_receiver_by_ranks_and_a_planted_one_is():
    lengths = [3] * 16
    n = sum(lengths)
    draw = torch.Generator().manual_seed(0)
    noisy = uniform(n) * (1 + 0.3 * torch.rand(n, n, generator=draw))
    focused = uniform(n).clone()
    focused[:, 15:18] += 2 * (torch.arange(n)[:, None] >= 18)
    focused = focused / focused.sum(1, keepdim=True)
    matrix = sentence_matrix(torch.stack([noisy / noisy.sum(1, keepdim=True), focused]), lengths)
    plain = received_attention(matrix, 4)
    assert plain[0, 0] > 1.5 * plain[0, 11]  # early sentences win by plain means
    flat = received_attention(matrix[:1], 4, by_rank=True)[0]
    assert np.nanmax(flat[:8]) < 2 * np.nanmin(flat[:8])
    score = excess_kurtosis(received_attention(matrix, 4, by_rank=True))
    assert score[1] > score[0] + 2
    assert np.nanargmax(received_attention(matrix, 4, by_rank=True)[1]) == 5


def test_means_between_sentences_are_means():
    draw = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0))
    matrix = sentence_matrix(draw, [2, 4, 1])
    assert torch.allclose(matrix[:, 1, 0], draw[:, 2:6, :2].mean((1, 2)), atol=1e-6)
    with pytest.raises(PatchclampError, match="over 7"):
        sentence_matrix(draw, [2, 4])
    with pytest.raises(PatchclampError, match="sentence 1: has no tokens"):
        sentence_matrix(draw, [3, 0, 4])


def test_receiver_heads_of_a_model_and_too_short_a_text():
    subject = TokenModel(tiny.tiny_model("llama"), name="llama")
    draw = torch.Generator().manual_seed(0)
    texts = [[torch.randint(3, 97, (3,), generator=draw).tolist() for _ in range(10)] for _ in range(4)]
    found = receiver_heads(subject, texts, top=3)
    assert len(found.table) == 12 and found.table["kurtosis"].is_monotonic_decreasing
    assert np.allclose(found.table[["even", "odd"]].mean(axis=1), found.table["kurtosis"])  # four texts
    assert len(found.broadcast) == 4 and np.isnan(found.broadcast[0][[0, 6, 7, 8, 9]]).all()
    assert np.isfinite(found.broadcast[0][1:6]).all()
    with pytest.raises(PatchclampError, match="8 are needed"):
        receiver_heads(subject, [texts[0][:7]])


def test_a_hidden_sentence_acts_on_later_ones_alone_and_on_the_one_that_copies_it_most():
    subject = InductionModel(induction_model(sharp=4.0))
    # 7 looks for what followed it, and says the 9 of the last sentence
    parts = [[2, 5], [8, 7, 9], [1], [7], [9]]
    found = sentence_suppression(subject, parts, centred=False)
    assert np.isnan(found[np.triu_indices(5)]).all()
    assert np.nanargmax(found[4]) == 1 and found[4, 1] > -1
    assert max(found[4, 0], found[4, 2]) < found[4, 1] - 3
    # said by 7, from which 7 is not hidden
    assert np.isnan(found[4, 3]) and np.isfinite(found[4, :3]).all()
    rows = sentence_suppression(subject, parts)
    assert np.allclose(np.nanmean(rows[1:], 1), 0)
    with pytest.raises(PatchclampError, match="sentence 1: has no tokens"):
        sentence_suppression(subject, [[1, 2], [], [3]])
    assert not any(hook_counts(subject.model))
    with pytest.raises(PatchclampError, match="at least 2"):
        sentence_suppression(subject, [[1, 2]])


def chain(anchor, n=5, size=200, seed=0):
    """Keeping sentence `anchor` gives 90 % right answers, replacing it 50 %; every sentence is replaced in half of the rollouts."""
    draw = np.random.default_rng(seed)
    found = []
    for i in range(n + 1):
        other = draw.random(size) < 0.5
        lost = other & (i == anchor)
        p = np.where(lost, 0.5, 0.9)
        if i < anchor:  # written anew from before it: the anchor itself comes out different half of the time
            p = np.full(size, 0.7)
        right = draw.random(size) < p
        found.append([Rollout("something else" if o else f"step {i}", "4" if r else "5") for o, r in zip(other, right, strict=True)])  # fmt: skip
    return [f"step {i}" for i in range(n)], found


def test_the_planted_anchor_is_found_and_the_others_are_within_noise():
    original, rollouts = chain(anchor=2)
    table = counterfactual_importance(original, rollouts, "4")
    assert table["importance"].idxmin() == 2
    assert table.loc[2, "importance"] == pytest.approx(-0.4, abs=0.12)
    assert table.loc[2, "divergence"] == pytest.approx(0.511, abs=0.25)
    rest = table.drop([1, 2])  # what is kept before sentence 2 still has sentence 2 to come
    assert (rest["importance"].abs() < 4 * rest["standard_error"]).all()
    assert table.loc[2, "divergence"] > 10 * table.loc[2, "null_divergence"]
    assert table.loc[4, "null_divergence"] < 0.02


def test_shares_of_one_and_of_none_have_an_error_and_the_null_a_seed():
    rollouts = [[Rollout("step 0", "4")] * 10 + [Rollout("other", "5")] * 10, [Rollout("step 0", "4")] * 10]
    row = counterfactual_importance(["step 0"], rollouts, "4").loc[0]
    assert row.importance == -1
    # 1 of 12 and 21 of 22
    assert row.standard_error == pytest.approx(np.sqrt(1 * 11 / 144 / 10 + 21 / 484 / 20))
    nulls = [
        counterfactual_importance(["step 0"], rollouts, "4", seed=k).loc[0, "null_divergence"]
        for k in (0, 0, 1)
    ]
    assert nulls[0] == nulls[1] != nulls[2]
    with pytest.raises(PatchclampError, match="fewest=0"):
        counterfactual_importance(["step 0"], rollouts, "4", fewest=0)


def test_what_was_never_different_is_undefined_and_not_nil():
    same = [[Rollout("step 0", "4")] * 20, [Rollout("step 1", "4")] * 20]
    assert np.isnan(counterfactual_importance(["step 0"], same, "4").loc[0, "importance"])
    with pytest.raises(PatchclampError, match="one from behind"):
        counterfactual_importance(["a", "b"], same, "4")
