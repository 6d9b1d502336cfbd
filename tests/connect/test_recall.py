"""Recall by stages on a planted mover, and the terms of an MLP: known coefficients, and collinear ones that are refused."""

import numpy as np
import pytest
import torch

import tiny
from circuit_toys import InductionModel, InductionTask, induction_model
from hooks import hook_counts
from language_toys import TokenModel, items
from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import factual_recall, fit_terms, mlp_terms
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.freeze import Unseen


def induced(n=12, seed=0):
    """A B ... A: the token B differs between clean and corrupted, so B is the subject, which head 1.0 extracts."""
    draw = torch.Generator().manual_seed(seed)
    clean, corrupted, answers = [], [], []
    for _ in range(n):
        order = torch.randperm(16, generator=draw).tolist()
        at = int(torch.randint(1, 4, (1,), generator=draw))
        row, other = order[:7], order[:7]
        other = [*other[: at + 1], order[8], *other[at + 2 :]]
        clean.append([*row, row[at]])
        corrupted.append([*other, row[at]])
        answers.append([row[at + 1], order[8]])
    return InductionTask(clean=clean, corrupted=corrupted, answers=answers)


def test_the_planted_head_extracts_in_its_layer_alone_and_mlps_add_nothing():
    subject = InductionModel(induction_model(sharp=2.0))
    table = factual_recall(subject, induced(), windows=2).table.set_index(["stage", "layers"])
    late, early = table.loc[("extraction", "1-1")], table.loc[("extraction", "0-0")]
    # Without the token neither answer is said, and the corrupted run says the other one: half of the way.
    assert late.lost == pytest.approx(0.5, abs=0.03) and abs(early.lost) < 0.1
    assert abs(late.control) < 0.05  # the token before the last has nothing to fetch
    assert table.loc[("extraction", "all"), "lost"] == pytest.approx(late.lost, abs=0.1)
    assert table.loc["enrichment", ["lost", "control"]].abs().max().max() < 0.1
    assert table.loc[("relation", "1-1"), "lost"] < 0.3
    assert late.low < late.lost < late.high
    assert not any(hook_counts(subject.model))


def test_a_control_that_can_change_nothing_is_no_control():
    """In every other item the subject is the last but one token: nothing is between, and that token sees itself alone of it."""
    subject, task = InductionModel(induction_model(sharp=2.0)), induced(16)
    for i in range(0, 16, 2):
        at = task.clean[i].index(task.clean[i][-1])
        # A B ... A becomes B A' B' with the subject B' before the end
        task.clean[i], task.corrupted[i] = (
            [*(t for k, t in enumerate(side[:-1]) if k not in (at, at + 1)), side[at], side[at + 1], side[at]]
            for side in (task.clean[i], task.corrupted[i])
        )
    found = factual_recall(subject, task, windows=1)
    table = found.table.set_index(["stage", "layers"])
    for stage in ("enrichment", "extraction"):
        values = found.items[stage, "all", "control"]
        assert np.isnan(values[::2]).all() and np.isfinite(values[1::2]).all()
        row = table.loc[(stage, "all")]
        lost = (found.clean - values)[1::2].sum() / (found.clean - found.corrupted)[1::2].sum()
        assert row.control_n == 8 and row.control == pytest.approx(lost, abs=1e-9)
        assert np.isfinite(row.lost)
    assert table.loc[("relation", "all"), "control_n"] == 16
    for side in (task.clean, task.corrupted):
        side[1::2] = side[::2]
    task.answers[1::2] = task.answers[::2]
    none = factual_recall(subject, task, windows=1, stages=["extraction"]).table.iloc[0]
    assert none.control_n == 0 and np.isnan([none.control, none.control_low, none.control_high]).all()


def test_a_fact_that_is_not_known_is_refused():
    subject = InductionModel(induction_model())
    task = induced()
    task.answers = [list(reversed(row)) for row in task.answers]
    with pytest.raises(PatchclampError, match="no recall"):
        factual_recall(subject, task, windows=2)
    task.corrupted = task.clean
    with pytest.raises(PatchclampError, match="do not differ"):
        factual_recall(subject, task, windows=2)
    with pytest.raises(PatchclampError, match="stages are"):
        factual_recall(subject, task, stages=["guess"])


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "bloom", "gpt_neox"])
def test_blocked_attention_is_nil_there_and_the_rest_is_as_it_was_in_proportion(name):
    subject = TokenModel(tiny.tiny_model(name), name=name)
    pair = next(subject.pairs(items(3)))
    where = torch.zeros(3, *[pair.clean.mask.shape[1]] * 2, dtype=torch.bool)
    where[:, 4, 1] = where[:, 0, 0] = True
    site = Site("attn_probs", 1)
    before = subject.run(pair.clean, read=[site]).activity[site]
    with Unseen(subject, where, [1]).active():
        after = subject.run(pair.clean, read=[site]).activity[site]
    assert (after[:, :, 4, 1] == 0).all()
    expected = before[:, :, 4].clone()
    expected[:, :, 1] = 0
    # by a window a key may be out of sight already
    expected = expected / expected.sum(-1, keepdim=True)
    assert torch.allclose(after[:, :, 4], expected, atol=1e-5)
    assert torch.allclose(
        after[:, :, [0, 1, 2, 3]], before[:, :, [0, 1, 2, 3]], atol=1e-6
    )  # a row keeps what it saw


def planted(n=60, collinear=False, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 12, 64, generator=draw, dtype=torch.float64)
    if collinear:
        x[:, 5] = x[:, 7]
    b = torch.randn(64, generator=draw, dtype=torch.float64)
    noise = 0.05 * torch.randn(n, 64, generator=draw, dtype=torch.float64)
    return x, -0.8 * x[:, 3] + 1.5 * x[:, 7] + b + noise, b


def test_planted_coefficients_come_back_with_their_shift():
    x, m, b = planted()
    names = [f"head.0[{i}]" for i in range(12)]
    found = fit_terms(x, m, names)
    truth = np.zeros(12)
    truth[3], truth[7] = -0.8, 1.5
    assert np.abs(found.table["coefficient"] - truth).max() < 1e-2
    assert np.abs(found.shift - b.numpy()).max() < 5e-2 and found.held_out > 0.99
    inside = (found.table["low"] <= truth) & (truth <= found.table["high"])
    assert inside.mean() > 0.7
    unrelated = fit_terms(x, m[torch.randperm(60, generator=torch.Generator().manual_seed(1))], names)
    assert unrelated.held_out < 0.1


def test_nothing_is_held_out_of_a_single_group():
    x, m, _ = planted()
    names = [str(i) for i in range(12)]
    assert np.isnan(fit_terms(x, m, names, groups=["one"] * 60, n_boot=10).held_out)
    assert fit_terms(x, m, names, groups=["one", "two"] * 30, n_boot=10).held_out > 0.99


def test_terms_that_are_the_same_are_not_told_apart():
    x, m, _ = planted(collinear=True)
    table = fit_terms(x, m, [str(i) for i in range(12)]).table
    assert np.isnan(table["coefficient"][[5, 7]]).all() and (table["inflation"][[5, 7]] > 1e4).all()
    assert abs(table["coefficient"][3] + 0.8) < 1e-2


def test_terms_of_a_model_are_those_of_its_own_tensors():
    subject, task = TokenModel(tiny.tiny_model("llama"), name="llama"), items(12)
    found = mlp_terms(subject, task, 1, n_boot=20)
    assert list(found.table["term"]) == [*(f"head.1[{h}]" for h in range(4)), "resid_pre.1"]
    assert found.fit >= found.held_out and found.shift.shape == (subject.d_model,)
    with pytest.raises(PatchclampError, match="beside its heads"):
        mlp_terms(TokenModel(tiny.tiny_model("gptj"), name="gptj"), task, 1)
    with pytest.raises(PatchclampError, match="roles"):
        mlp_terms(subject, task, 1, positions="country")
