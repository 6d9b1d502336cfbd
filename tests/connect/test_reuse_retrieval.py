"""Shared parts and recovered parts against chance in closed form; copying heads on patterns and on the planted induction."""

import numpy as np
import pytest
import torch

from circuit_toys import LENGTH, TOKENS, InductionModel, induction_model, induction_task
from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import (
    circuit_recovery,
    circuit_reuse,
    copied,
    edge_attribution,
    retrieval_heads,
    span_of,
)
from patchclamp.decompose import discrete_codes
from patchclamp.nouns.circuit import CircuitGraph

HEADS = [f"head.{layer}[{i}]" for layer in range(4) for i in range(25)]


def graph_of(strong, seed=0):
    """100 heads, each with an edge to the logits: strong ones 5 to 6, the others below 1."""
    draw = np.random.default_rng(seed)
    weight = draw.uniform(0, 1, 100)
    weight[strong] += 5
    nodes = [*HEADS, "logits"]
    return CircuitGraph.of(nodes, [(100, i) for i in range(100)], weight[None], method="by hand")


def test_reuse_is_counted_and_chance_is_that_of_the_hypergeometric_distribution():
    found = circuit_reuse(graph_of(range(10)), graph_of(range(5, 15), seed=1), [10])
    nodes = found.table.set_index("level").loc["nodes"]
    assert (nodes.shared, nodes.pool, nodes.share) == (5, 100, 0.5)
    assert nodes.jaccard == pytest.approx(5 / 15)
    draws = np.random.default_rng(0).hypergeometric(10, 90, 10, 200_000)
    assert nodes.chance == pytest.approx((draws / (20 - draws)).mean(), abs=5e-4)
    assert nodes.p == pytest.approx((draws >= 5).mean(), abs=1e-3)
    assert found.shared["nodes", 10] == tuple(HEADS[5:10])
    assert found.shared["edges", 10] == tuple(f"{head} -> logits" for head in HEADS[5:10])


def test_two_circuits_of_the_same_layer_alone_are_no_reuse():
    """10 of 25 heads of one layer each, drawn apart: far above chance of all heads, at chance within the layer."""
    table = circuit_reuse(graph_of(range(10)), graph_of(range(6, 16), seed=1), [10]).table
    row = table.iloc[0]
    assert row.shared == 4 and row.p < 0.02
    assert row.matched_p > 0.3 and row.matched_chance == pytest.approx(4 / 16, abs=0.03)
    apart = circuit_reuse(graph_of(range(10)), graph_of(range(60, 70)), [10]).table.iloc[0]
    assert apart.shared == 0 and apart.p == 1


def test_one_behaviour_on_other_items_reuses_its_circuit_and_an_unplanted_model_does_not():
    model, other = InductionModel(induction_model()), InductionModel(induction_model(1, 0.3, planted=False))
    a, b = (edge_attribution(model, induction_task(8, seed), steps=2, rules=()) for seed in (0, 1))
    c = edge_attribution(other, induction_task(8, 1), steps=2, rules=())
    same, none = (circuit_reuse(a, x, [5]).table.set_index("level").loc["edges"] for x in (b, c))
    assert same.share >= 0.8 and same.p < 1e-3
    assert none.share <= 0.4


def test_pools_that_differ_are_refused():
    small = CircuitGraph.of(["head.0[0]", "logits"], [(1, 0)], [[1.0]], method="by hand")
    with pytest.raises(PatchclampError, match="one graph only"):
        circuit_reuse(small, graph_of([0]))
    with pytest.raises(PatchclampError, match=r"1\.\.100"):
        circuit_reuse(graph_of([0]), graph_of([0]), [101])


def test_codes_of_heads_find_the_planted_heads():
    subject = InductionModel(induction_model(noise=1e-3))
    known = ["head.1[0]"]
    task = induction_task(24)
    task.corrupted = [[*row[:-1], next(t for t in range(TOKENS) if t not in row)] for row in task.clean]
    scores = discrete_codes(subject, task, n_perm=20, steps=200, n_codes=24).scores
    found = circuit_recovery(scores, known)
    assert set(found) == {"precision", "recall", "f1", "chance", "p", "auroc"}
    assert found["chance"] == 1 / 8 and found["auroc"] >= 0.85
    with pytest.raises(PatchclampError, match="not among"):
        circuit_recovery(["head.7[0]"], known, HEADS)
    pool = ["head.1[0]", "head.1[1]", "head.0[0]"]
    within = circuit_recovery(scores, known, pool)
    assert within["chance"] == 1 / 3
    ranked = [f"{site}[{i}]" for site, i in scores.ranked("abs")]
    assert within["recall"] == (min(pool, key=ranked.index) == "head.1[0]")
    with pytest.raises(PatchclampError, match="has no score"):
        circuit_recovery(scores, known, HEADS)


def patterns_of(rows, n):
    return torch.stack([torch.nn.functional.one_hot(torch.tensor(row), n).float() for row in rows], 1)


def test_copying_is_told_from_looking():
    """Needle 11 12 13 14 at 3..6, and 11 12 13 14 written; a token 11 outside of it at 8."""
    tokens, needle = [1, 2, 3, 11, 12, 13, 14, 4, 11, 5, 11, 12, 13, 14], (3, 7)
    looks = [[3, 4, 5, 6], [4, 5, 6, 3], [8, 0, 0, 0], [3, 0, 0, 0]]
    assert copied(patterns_of(looks, 13), tokens, needle).tolist() == [1, 0, 0, 0.25]
    again = [1, 11, 12, 2, 11, 11, 11, 11, 11]
    assert copied(patterns_of([[1, 1, 1, 1, 1]], 8), again, (1, 3)).tolist() == [0.5]


def needle_prompts(n=8):
    """A B ... A: what followed the last token is the needle."""
    draws = [torch.Generator().manual_seed(k) for k in range(n)]
    rows = [torch.randperm(TOKENS, generator=draw).tolist() for draw in draws]
    prompts = [[*row[: LENGTH - 2], row[k % 3]] for k, row in enumerate(rows)]
    return prompts, [(k % 3 + 1, k % 3 + 2) for k in range(n)]


def test_the_induction_head_retrieves_and_without_it_nothing_is_written():
    subject = InductionModel(induction_model(sharp=2.0))
    prompts, needles = needle_prompts()
    found = retrieval_heads(subject, prompts, needles, new_tokens=1, check=1, n_random=4)
    assert found.table["head"].iloc[0] == "head.1[0]" and found.table["score"].iloc[0] == 1
    assert found.table["score"].iloc[1] < 0.5
    assert str(found.chosen(0.5)) == "head.1[0]"
    check = found.check.groupby("ablated")["recall"].mean()
    assert check["none"] == 1 and check["retrieval"] < 0.4 and check["random"] > 0.6


class Watched(InductionModel):
    """Says which heads were silent in each run, and on which prompt."""

    def run(self, batch, read=(), write=(), **options):
        if write:
            self.seen.append((batch.tokens[0].tolist(), sorted(str(edit.site) for edit in write)))
        return super().run(batch, read=read, write=write, **options)


def test_heads_are_chosen_on_other_prompts_than_those_without_them_and_random_ones_are_of_their_layer():
    subject = Watched(induction_model(sharp=2.0))
    subject.seen = []
    prompts, needles = needle_prompts()
    found = retrieval_heads(subject, prompts, needles, new_tokens=1, check=1, n_random=6)
    counted = np.flatnonzero(found.used).tolist()
    assert {tuple(tokens) for tokens, _ in subject.seen} == {tuple(prompts[i]) for i in counted[1::2]}
    assert {tuple(sites) for _, sites in subject.seen} == {("head.1",)}
    assert (found.check.prompts == len(counted) // 2).all()
    table = found.table.set_index("head")
    assert np.allclose(table.loc[list(found.heads), "even"], found.items[counted[::2]].mean(0))
    assert np.allclose(table.loc[list(found.heads), "odd"], found.items[counted[1::2]].mean(0))


def test_scores_have_an_interval_from_eight_prompts_on_and_a_bad_check_costs_no_pass():
    subject = Watched(induction_model(sharp=2.0))
    prompts, needles = needle_prompts(12)
    table = retrieval_heads(subject, prompts, needles, new_tokens=1).table
    assert (table.low <= table.score).all() and (table.score <= table.high).all()
    few = retrieval_heads(subject, prompts[:5], needles[:5], new_tokens=1).table
    assert few.low.isna().all() and few.high.isna().all()
    with pytest.raises(PatchclampError, match="at least 2"):
        retrieval_heads(subject, prompts[:1], needles[:1], new_tokens=1, check=1)
    subject.run = None  # no pass may begin
    for check in (10**6, -1):
        with pytest.raises(PatchclampError, match="at most half"):
            retrieval_heads(subject, prompts, needles, new_tokens=1, check=check)


def test_needles_are_found_exactly_or_refused():
    assert span_of([1, 2, 3, 4], [2, 3]) == (1, 3)
    for prompt, times in (([1, 3, 2, 4], 0), ([2, 3, 2, 3], 2)):
        with pytest.raises(PatchclampError, match=f"is {times} times"):
            span_of(prompt, [2, 3])
    subject = InductionModel(induction_model(1, 0.3, planted=False))
    with pytest.raises(PatchclampError, match="not within"):
        retrieval_heads(subject, [[1, 2]], [(1, 5)])
    with pytest.raises(PatchclampError, match="what it does not do"):
        retrieval_heads(subject, [[1, 2, 3]], [(0, 1)], new_tokens=1, least_recall=1.0)
