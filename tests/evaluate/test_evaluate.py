"""Faithfulness, agreement and the row-space figures on systems whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.evaluate import Bench, agreement, faithfulness, row_space
from patchclamp.evaluate.circuits.faithfulness import default_sizes
from patchclamp.evaluate.scores import compare
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Site
from patchclamp.subjects import TensorTask, TorchModule


class Toy(nn.Module):
    """Units that are the inputs, and a read-out of them."""

    def __init__(self, width, readout):
        super().__init__()
        self.units = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.units.weight)
        self.readout = readout

    def forward(self, x):
        return self.readout(self.units(x))[:, None]


UNITS = Site("units", io="out")


def toy(readout, clean, corrupted=None):
    clean = torch.as_tensor(clean, dtype=torch.float32)
    other = None if corrupted is None else torch.as_tensor(corrupted, dtype=torch.float32)
    task = TensorTask("toy", clean, other, lambda out: out[:, 0])
    return TorchModule(Toy(clean.shape[1], readout).eval(), clean[:1]), task


def scores(values, direction="noising", site=UNITS, **more) -> Scores:
    values = np.atleast_2d(np.asarray(values, dtype=np.float32))
    return Scores("test", direction, "m", "toy", {site: values}, {site: "unit"}, **more)


# ---- faithfulness

WEIGHTS = torch.tensor([4.0, -1.0, 2.0, 3.0, 0.0])


def linear(n=9):
    x = torch.rand(n, 5, generator=torch.Generator().manual_seed(0)) + 0.5
    subject, task = toy(lambda h: h @ WEIGHTS, x)
    return subject, task, scores((x * WEIGHTS).numpy())


def test_curves_of_a_linear_network_are_cumulative_shares():
    subject, task, ranking = linear()
    found = faithfulness(Bench(subject, task, "zero"), ranking, [1, 2, 3, 4, 5], n_random=3)
    mean = ranking.mean(UNITS)
    mean = mean[np.argsort(-np.abs(mean), kind="stable")]
    share = np.cumsum(mean) / mean.sum()
    assert found.curve("kept")["value"].tolist() == pytest.approx(share.tolist(), abs=1e-5)
    assert found.curve("ablated")["value"].tolist() == pytest.approx((1 - share).tolist(), abs=1e-5)
    assert (found.full, found.empty) == pytest.approx((mean.sum(), 0.0), abs=1e-5)
    fraction = np.arange(1, 6) / 5
    assert found.cpr == pytest.approx(np.trapezoid(share, fraction) / 0.8)
    assert found.cmd == pytest.approx(np.trapezoid(np.abs(1 - share), fraction) / 0.8)
    steps = np.log(fraction)
    assert found.cpr_log == pytest.approx(np.trapezoid(share, steps) / (steps[-1] - steps[0]))
    assert found.curve("kept", "random")["value"].iloc[0] < share[0]
    assert found.per_item.shape == (len(found.runs), 9)
    assert json.loads(json.dumps(found.to_json()))["candidates"] == 5


def test_all_units_kept_is_the_whole_model_and_all_ablated_the_empty_one():
    subject, task, ranking = linear()
    found = faithfulness(Bench(subject, task, "zero"), ranking)
    assert found.curve("kept").iloc[-1][["value", "low", "high"]].tolist() == pytest.approx([1.0] * 3)
    assert found.curve("ablated").iloc[-1][["value", "low", "high"]].tolist() == pytest.approx(
        [0.0] * 3, abs=1e-5
    )
    table = found.table
    assert ((table["low"] <= table["value"] + 1e-9) & (table["value"] <= table["high"] + 1e-9))[
        table["order"] == "ranked"
    ].all()


def test_redundant_units_are_faithful_alone_and_lost_only_together():
    gate = lambda h: 1 - torch.relu(1 - h[:, 0] - h[:, 1])
    subject, task = toy(gate, np.ones((4, 2)), np.zeros((4, 2)))
    found = faithfulness(Bench(subject, task, "patch"), scores(np.ones((4, 2))), n_random=0)
    assert found.curve("kept")["value"].tolist() == pytest.approx([1.0, 1.0])
    assert found.curve("ablated")["value"].tolist() == pytest.approx([1.0, 0.0])
    assert not found.beats_model


def test_a_signed_ranking_can_beat_the_model():
    subject, task = toy(lambda h: 2 * h[:, 0] - h[:, 1], np.ones((4, 2)))
    ranking = scores(np.tile([2.0, -1.0], (4, 1)))
    found = faithfulness(Bench(subject, task, "zero"), ranking, rank_by="signed")
    assert found.beats_model
    assert found.curve("kept")["value"].tolist() == pytest.approx([2.0, 1.0])


@pytest.mark.parametrize("ablation", ["mean", "zero", "resample", "patch"])
def test_a_planted_head_is_the_whole_curve(ablation):
    subject = planted.subject()
    task, train = planted.task(16), planted.task(24, seed=1)
    values = {}
    for layer in range(3):
        values[Site("head", layer)] = np.zeros((16, 4), np.float32) + [[0.01, 0.02, 0.03, 0.04]]
    values[Site("head", planted.LAYER)][:, planted.HEAD] = 5.0
    values[Site("mlp_act", 0)] = np.zeros((16, 32), np.float32)
    ranking = Scores("test", "noising", "logit_diff", "copying", values, dict.fromkeys(values, "unit"))
    found = faithfulness(
        Bench(subject, task, ablation, train),
        ranking,
        [1, 3, 0.5],
        baselines=("random", "matched"),
        n_random=4,
    )
    assert found.candidates == 12
    assert found.curve("kept")["size"].tolist() == [1, 3, 6]
    assert found.curve("kept")["value"].iloc[0] > 0.95
    assert found.curve("ablated")["value"].iloc[0] < 0.05
    for order in ("random", "matched"):
        assert found.curve("kept", order)["value"].iloc[0] < 0.6
    assert found.full > 1 > found.empty + 0.5


def test_results_follow_from_the_seed_whatever_the_batch_size():
    subject, task, ranking = linear(12)
    one, two = (
        faithfulness(Bench(subject, task, "resample", batch_size=size, seed=4), ranking).table
        for size in (5, 12)
    )
    np.testing.assert_allclose(one["value"], two["value"], atol=1e-5)
    np.testing.assert_allclose(one["low"], two["low"], atol=1e-5, rtol=1e-5)


def test_default_sizes():
    assert default_sizes(12) == [1, 2, 5, 10, 12]


def test_bad_calls_of_faithfulness_are_refused():
    subject, task, ranking = linear()
    head, out = Site("head", 0), Site("attn_out", 0)
    both = Scores(
        "m", "noising", "m", "t", {head: np.ones((2, 4), np.float32), out: np.ones((2, 1), np.float32)},
        {head: "unit", out: "site"},
    )  # fmt: skip
    for call, message in (
        (lambda: faithfulness(Bench(subject, task), ranking, [9]), "1..5"),
        (lambda: faithfulness(Bench(subject, task, "means"), ranking), "did you mean mean"),
        (lambda: faithfulness(Bench(subject, task), ranking, baselines=("matches",)), "did you mean matched"),
        (lambda: faithfulness(Bench(subject, task), ranking, points=("head",)), "no score at head"),
        (lambda: faithfulness(Bench(subject, task), ranking, rank_by="size"), "'abs' or 'signed'"),
        (lambda: faithfulness(Bench(subject, task), both, points=("head", "attn_out")), "overlap"),
        (lambda: faithfulness(Bench(subject, task), both, points=("resid_post", "attn_out")), "overlap"),
        (
            lambda: faithfulness(Bench(*toy(lambda h: 0 * h[:, 0], np.eye(5)[:3])), scores(np.ones(5))),
            "only",
        ),
    ):
        with pytest.raises(PatchclampError, match=message):
            call()


# ---- agreement


def test_agreement_matches_nodes_by_unit_not_by_place():
    true = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    one = Scores("a", "none", "m", "t", {UNITS: true}, {UNITS: "unit"}, nodes={UNITS: (4, 7, 9)})
    other = Scores("b", "none", "m", "t", {UNITS: true[:, ::-1]}, {UNITS: "unit"}, nodes={UNITS: (9, 7, 4)})
    assert agreement(one, other, n_boot=0)["pearson"].iloc[0] == pytest.approx(1.0)


def test_agreement_of_known_vectors():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(8, 40))
    guess = 2.0 * true + 0.3 * rng.normal(size=(8, 40)) + 1.0
    row = agreement(scores(guess), scores(true)).iloc[0]
    a, b = guess.mean(0), true.mean(0)
    fit = stats.linregress(b, a)
    assert row["pearson"] == pytest.approx(fit.rvalue, abs=1e-5)
    assert row["spearman"] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-4)
    assert row["slope"] == pytest.approx(fit.slope, abs=1e-5)
    assert row["scale"] == pytest.approx(np.abs(a).sum() / np.abs(b).sum(), abs=1e-5)
    assert (row["cells"], row["k"]) == (40, 4)
    for name in ("pearson", "spearman", "slope", "scale", "sign", "top"):
        assert row[f"{name}_low"] <= row[f"{name}_high"]
    assert row["slope_low"] < 2.0 < row["slope_high"]


def test_equal_scores_agree_wholly_and_shuffled_ones_by_chance():
    rng = np.random.default_rng(1)
    true = rng.normal(size=(9, 2000))
    same = agreement(scores(true), scores(true), n_boot=20).iloc[0]
    for name in ("pearson", "spearman", "slope", "scale", "sign", "top"):
        assert same[name] == same[f"{name}_low"] == pytest.approx(1.0)
    other = agreement(scores(true[:, rng.permutation(2000)]), scores(true), n_boot=20).iloc[0]
    assert abs(other["pearson"]) < 0.1
    assert other["sign"] == pytest.approx(0.5, abs=0.06)
    assert other["top"] == pytest.approx(0.1, abs=0.06)


def test_points_are_compared_apart_on_what_both_have():
    rng = np.random.default_rng(2)
    head, mlp, stream = Site("head", 0), Site("mlp_out", 0), Site("resid_post", 1)
    level = {head: "unit", mlp: "site", stream: "site"}
    true = {s: rng.normal(size=(5, n, 3)).astype(np.float32) for s, n in ((head, 4), (mlp, 1), (stream, 1))}
    true[head][0, :, 2] = np.nan
    guess = {head: -true[head][:, [1, 3]], mlp: 3 * true[mlp]}
    roles = ("a", "b", "end")
    exact = Scores("exact", "denoising", "m", "t", true, level, roles)
    estimate = Scores(
        "guess", "denoising", "m", "t", guess, {s: level[s] for s in guess}, roles, nodes={head: (1, 3)}
    )
    table = agreement(estimate, exact, top=2).set_index("point")
    assert list(table.index) == ["head", "mlp_out"]
    assert table.loc["head", ["cells", "k", "pearson", "sign"]].tolist() == pytest.approx([6, 2, -1.0, 0.0])
    assert table.loc["mlp_out", ["cells", "slope", "scale"]].tolist() == pytest.approx([3, 3.0, 3.0])


def test_scores_of_different_questions_are_not_compared():
    a = scores(np.ones((2, 3)))
    for other, message in (
        (scores(np.ones((2, 3)), "denoising"), "never mixed"),
        (scores(np.ones((3, 3))), "same items"),
        (Scores("x", "noising", "kl", "toy", a.values, a.level), "same task and metric"),
        (scores(np.ones((2, 3)), site=Site("head", 0)), "share no cell"),
    ):
        with pytest.raises(PatchclampError, match=message):
            agreement(other, a)
    assert len(agreement(scores(np.ones((2, 3)), "none"), a)) == 1
    assert np.isnan(compare(np.ones(3), np.ones(3))["pearson"])


# ---- row space

READOUT = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def three_units(n=1, noise=0.0):
    """h = (x, 0, x); the site is read as o = (h2, h3), and y = 2 o1 + o2; base x = 3, source x = -1."""

    def inputs(x):
        jitter = noise * torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
        return (torch.tensor([[x, 0.0, x]]) + jitter * torch.tensor([[1.0, 0.0, 1.0]])).numpy()

    return toy(lambda h: 2 * h[:, 1] + h[:, 2], inputs(3.0), inputs(-1.0))


@pytest.mark.parametrize(
    ("vector", "full", "row", "null", "norms"),
    [([1, 1, 0], 1, 0, 0, (0.5**0.5, 0.5**0.5)), ([0, 0, 1], 1, 1, 0, (1, 0)), ([1, 0, 0], 0, 0, 0, (0, 1))],
)
def test_the_three_unit_example(vector, full, row, null, norms):
    subject, task = three_units()
    found = row_space(subject, task, UNITS, vector, readout=READOUT, n_random=20)
    assert [found[p]["transferred"] for p in ("full", "row", "null")] == pytest.approx(
        [full, row, null], abs=1e-5
    )
    assert (found["row"]["norm"], found["null"]["norm"]) == pytest.approx(norms, abs=1e-6)
    assert found["whole"]["transferred"] == pytest.approx(1.0)
    assert (found.clean, found.corrupted, found.rank, found.width) == pytest.approx((3.0, -1.0, 2, 3))


def test_the_null_part_separates_and_the_row_part_is_dormant():
    subject, task = three_units(50, noise=0.5)
    found = row_space(subject, task, UNITS, [1, 1, 0], readout=READOUT, n_random=0)
    assert found["row"]["spread"] == pytest.approx(0.0, abs=1e-6)
    assert found["null"]["spread"] == pytest.approx(0.5, abs=0.15)
    assert found["null"]["separation"] == pytest.approx(4 / found["null"]["spread"], rel=1e-4)
    plane = row_space(subject, task, UNITS, [[1, 1, 0], [0, 0, 1]], readout=READOUT, n_random=0)
    assert plane["row"]["transferred"] == pytest.approx(1.0, abs=1e-5)


def test_row_space_takes_tensors_of_any_precision():
    subject, task = three_units()
    vector, readout = (torch.tensor(x, dtype=torch.bfloat16) for x in ([1, 1, 0], READOUT))
    found = row_space(subject, task, UNITS, vector, readout=readout, n_random=0)
    assert found["full"]["transferred"] == pytest.approx(1.0, abs=1e-5)


def test_the_neurons_read_out_is_the_down_projection():
    subject, task = planted.subject(), planted.task(8)
    with pytest.raises(PatchclampError, match="no null space"):
        row_space(subject, task, "mlp_act.1", torch.randn(32))
    with pytest.raises(PatchclampError, match="readout="):
        row_space(subject, task, "resid_post.1", torch.randn(128))
    half = torch.randn(128, 40, generator=torch.Generator().manual_seed(0))
    found = row_space(
        subject, task, "resid_post.1", torch.randn(128), readout=half, n_random=3, positions="end"
    )
    assert found.rank == 40
    assert found["whole"]["transferred"] == pytest.approx(1.0, abs=0.02)


def test_meaningless_splits_are_refused():
    subject, task = three_units()
    for arguments, message in (
        ({"vector": [0, 0, 1], "readout": [[0.0], [2.0], [1.0]]}, "rank 1"),
        ({"vector": [0, 0, 1], "readout": np.eye(3)}, "no null space"),
        ({"vector": [0, 0, 0], "readout": READOUT}, "spans nothing"),
        ({"vector": [0, 1], "readout": READOUT}, "2 numbers"),
        ({"vector": [0, 0, 1], "readout": READOUT[:2]}, "shape"),
    ):
        with pytest.raises(PatchclampError, match=message):
            row_space(subject, task, UNITS, **arguments)
