"""A head that chooses among four options with three directions is found to need three, and its keys must be centred."""

import numpy as np
import pytest
import torch

import tiny
from circuit_toys import InductionModel, InductionTask, induction_model
from hooks import hook_counts
from language_toys import TokenModel, items
from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import choices, head_subspace, subspace_of
from patchclamp.nouns.units import Site


def planted(n=400, seed=0):
    """Key of option i = e_i + a common vector of norm 10 + noise; query = e_right + noise."""
    draw = torch.Generator().manual_seed(seed)
    noise = lambda *shape: 0.05 * torch.randn(*shape, generator=draw, dtype=torch.float64)
    common = torch.zeros(64, dtype=torch.float64)
    common[10] = 10
    options = torch.eye(64, dtype=torch.float64)[:4]
    jitter = 1 + 0.3 * torch.randn(n, 1, 1, generator=draw, dtype=torch.float64)
    k = options + common * jitter + noise(n, 4, 64)
    q = options[torch.randint(0, 4, (n,), generator=draw)] + common / 10 + noise(n, 64)
    return q, k


def test_four_options_need_three_directions_and_four_where_keys_are_not_centred():
    (q, k), (q2, k2) = planted(), planted(seed=1)
    table = choices(q2, k2, *subspace_of(q, k), [1, 2, 3, 4]).set_index("rank")
    assert table.loc[3, "choice"] > 0.99 and table.loc[2, "choice"] < 0.85 and table.loc[1, "choice"] < 0.65
    assert table.loc[3, "choice_random"] < 0.6
    raw = choices(q2, k2, *subspace_of(q, k, centre=False), [1, 2, 3, 4]).set_index("rank")
    assert raw.loc[3, "choice"] < 0.9


def test_all_directions_give_the_scores_themselves():
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(50, 6, generator=draw, dtype=torch.float64), torch.randn(50, 3, 6, generator=draw, dtype=torch.float64)  # fmt: skip
    left, right = subspace_of(q, k)
    k = k - k.mean(1, keepdim=True)
    assert torch.allclose((q @ left.T)[:, None] @ (k @ right.T).mT, q[:, None] @ k.mT, atol=1e-8)
    row = choices(q, k, left, right, [6]).iloc[0]
    assert row.choice == 1 and row.scores == pytest.approx(1, abs=1e-8)


def options_task(n=80, seed=0):
    """Of three candidates, the last token repeats one of two: the induction head chooses what followed it."""
    draw = torch.Generator().manual_seed(seed)
    clean, corrupted, answers = [], [], []
    for _ in range(n):
        a, b = torch.randperm(3, generator=draw)[:2].tolist()
        x, y = (torch.randperm(12, generator=draw)[:2] + 4).tolist()
        right = int(torch.randint(0, 2, (1,), generator=draw))
        clean.append([a, x, b, y, (a, b)[right]])
        corrupted.append([a, x, b, y, (b, a)[right]])
        answers.append([(x, y)[right], (y, x)[right]])
    return InductionTask(clean=clean, corrupted=corrupted, answers=answers)


def test_the_planted_head_needs_as_many_directions_as_its_tokens_and_what_it_writes_is_more():
    subject, task, other = InductionModel(induction_model(sharp=1.5)), options_task(), options_task(seed=1)
    new = [i for i, row in enumerate(other.clean) if row not in task.clean]
    held_out = InductionTask(
        clean=[other.clean[i] for i in new],
        corrupted=[other.corrupted[i] for i in new],
        answers=[other.answers[i] for i in new],
    )
    found = head_subspace(subject, task, "head.1[0]", [1, 3], held_out=held_out, ranks=[1, 2, 3, 16])
    table = found.table.set_index("rank")
    assert (
        table.loc[2, "choice"] > 0.98 and table.loc[1, "choice"] < 0.9
    )  # three tokens, compared: two directions
    assert table.loc[16, "written"] == pytest.approx(1, abs=1e-3)
    assert table.loc[2, "written"] < 0.6  # twelve tokens can be what is fetched
    assert table.loc[2, "choice_random"] < 0.95
    assert not any(hook_counts(subject.model))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2", "gptj"])
def test_keys_as_the_query_meets_them_choose_as_the_pattern_does(name):
    subject, task = TokenModel(tiny.tiny_model(name), name=name), items(24)
    size = subject.unit_dim(Site("head", 1))
    found = head_subspace(
        subject, task, "head.1[2]", [1, 2, 3], 3, held_out=items(8, seed=1), ranks=[1, size]
    )
    assert found.table["choice"].iloc[1] >= found.table["choice"].iloc[0]
    assert found.table["scores"].iloc[1] == pytest.approx(1, abs=1e-6)  # all directions
    assert np.isfinite(found.table["written"]).all()


def test_what_is_no_choice_is_refused():
    subject, task = TokenModel(tiny.tiny_model("llama"), name="llama"), items(4)
    for options, says in (
        ({"keys": [1]}, "at least two keys"),
        ({"keys": [1, 2], "ranks": [13]}, r"1\.\.12"),
    ):
        with pytest.raises(PatchclampError, match=says):
            head_subspace(subject, task, "head.1[0]", held_out=items(4, seed=1), **options)
    with pytest.raises(PatchclampError, match="made the directions and among those that verify"):
        head_subspace(subject, task, "head.1[0]", [1, 2], held_out=task)
