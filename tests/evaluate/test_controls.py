"""Illusion, stability, corrections, randomised twins and explained variance on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import planted
from evaluate_toys import UNITS, scores, toy, untouched
from patchclamp.attribute import activation_patching, attribution_patching
from patchclamp.base.errors import PatchclampError
from patchclamp.evaluate import TOOLS, illusion, max_statistic, randomisation, row_space, stability
from patchclamp.evaluate.scores import (
    benjamini_yekutieli,
    explained_variance,
    false_discovery,
    stability_of_sets,
)
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Site
from patchclamp.subjects import TensorTask, TorchModule

READOUT = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def three_units(n=30, noise=0.3):
    """h = (x, 0, x), read as o = (h2, h3), y = 2 o1 + o2; base x = 3, source x = -1, with noise in x."""
    jitter = noise * np.random.default_rng(0).normal(size=(n, 1)) * np.array([[1.0, 0.0, 1.0]])
    at = lambda x: np.array([[x, 0.0, x]]) + jitter
    return toy(lambda h: 2 * h[:, 1] + h[:, 2], at(3.0), at(-1.0))


# ---- illusion


@pytest.mark.parametrize(
    ("vector", "verdict", "full", "row"),
    [([1, 1, 0], "illusion", 1.0, 0.0), ([0, 0, 1], "read", 1.0, 1.0), ([1, 0, 0], "no effect", 0.0, 0.0)],
)
def test_the_illusion_is_flagged_and_the_read_direction_is_not(vector, verdict, full, row):
    subject, task = three_units()
    with untouched(subject):
        found = illusion(subject, task, UNITS, vector, readout=READOUT, n_random=100)
    assert found.verdict == verdict
    assert (found.full, found.row, found.null) == pytest.approx((full, row, 0.0), abs=1e-5)
    assert found.whole == pytest.approx(1.0, abs=1e-5)
    assert str(found).startswith(verdict)
    assert "nan" not in str(found)
    assert (found.kept is None) == (verdict == "no effect")
    if verdict == "illusion":
        assert abs(found.idle_part_separates) > 5  # what is not read tells clean from corrupted
        assert found.kept.high < 0.5


def test_the_figures_are_those_of_row_space():
    subject, task = three_units()
    one = illusion(subject, task, UNITS, [1, 1, 0], readout=READOUT, n_random=10, seed=3)
    two = row_space(subject, task, UNITS, [1, 1, 0], readout=READOUT, n_random=10, seed=3)
    pd.testing.assert_frame_equal(one.figures.table, two.table)
    assert two.gained["random"].shape == (10, 30)
    assert two.gained["full"].mean() / two.span.mean() == pytest.approx(two["full"]["transferred"])


@pytest.mark.slow
def test_the_rank_of_random_directions_is_uniform():
    rng = np.random.default_rng(0)
    weights = torch.tensor(rng.normal(size=8), dtype=torch.float32)
    subject, task = toy(lambda h: h @ weights, rng.normal(size=(8, 8)), rng.normal(size=(8, 8)))
    readout = np.linalg.qr(rng.normal(size=(8, 3)))[0]
    found = [
        illusion(subject, task, UNITS, rng.normal(size=8), readout=readout, n_random=39, n_boot=10, seed=run)
        for run in range(80)
    ]
    steps = rng.uniform(size=80) / 40
    assert stats.kstest(np.array([one.p for one in found]) - steps, "uniform").pvalue > 0.005
    assert not any(one.works and one.full < 0.1 for one in found)


# ---- stability


def test_equal_sets_are_stable_and_random_ones_are_not():
    rng = np.random.default_rng(0)
    clear = scores(
        np.concatenate([np.full((50, 5), 3.0), np.zeros((50, 95))], 1) + 0.1 * rng.normal(size=(50, 100))
    )
    found = stability(clear, 5)
    assert found.nogueira.value == found.jaccard == found.corrected == 1.0
    assert found.frequency["chosen"].sum() == 5
    assert found.frequency["share"].iloc[:5].tolist() == [1.0] * 5
    random = np.zeros((200, 100))
    for row in random:
        row[rng.choice(100, 20, replace=False)] = 1
    noise = stability_of_sets(random)
    assert noise.nogueira.value == pytest.approx(0.0, abs=0.01)
    assert noise.nogueira.low < 0 < noise.nogueira.high
    assert noise.jaccard == pytest.approx(noise.chance, abs=0.01)
    assert noise.corrected == pytest.approx(0.0, abs=0.01)
    assert noise.chance == pytest.approx(0.2 / 1.8)


def test_nogueira_is_one_minus_observed_over_expected_variance():
    sets = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 0, 0]], float)
    p = sets.mean(0)
    q = sets.mean()
    assert stability_of_sets(sets).nogueira.value == pytest.approx(
        1 - (3 / 2 * p * (1 - p)).mean() / (q * (1 - q))
    )
    assert stability_of_sets(sets).jaccard == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)


def test_the_interval_of_stability_covers_at_its_rate():
    """Sets that hold each of ten units with .8 and each of 40 others with .05."""
    chance = np.repeat([0.8, 0.05], [10, 40])
    density = chance.mean()
    true = 1 - (chance * (1 - chance)).mean() / (density * (1 - density))
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        found = stability_of_sets(rng.random((60, 50)) < chance)
        hits += found.nogueira.low <= true <= found.nogueira.high
    assert 0.88 <= hits / 200 <= 0.99


def test_items_in_groups_are_drawn_together():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=(6, 40)), 50, axis=0) + 0.01 * rng.normal(size=(300, 40))
    alone = stability(scores(values), 5)
    grouped = stability(scores(values, groups=tuple(str(i // 50) for i in range(300))), 5)
    assert grouped.nogueira.value < alone.nogueira.value - 0.1
    with pytest.raises(PatchclampError, match=r"1\.\.39"):
        stability(scores(values), 40)
    with pytest.raises(PatchclampError, match="nothing, or everything"):
        stability_of_sets(np.ones((3, 4)))


# ---- many units


def test_the_maximum_keeps_the_family_wise_error_and_the_planted_unit_is_found():
    """200 systems of 40 dependent units without effect: in about 1 in 20 anything is found."""
    rng = np.random.default_rng(0)
    wrong = 0
    for run in range(200):
        values = rng.normal(size=(30, 40)) + 2 * rng.normal(size=(30, 1))
        wrong += bool(max_statistic(scores(values), n_perm=199, seed=run)["found"].any())
    assert stats.binom.sf(wrong - 1, 200, 0.05) > 0.001
    assert wrong >= 2  # exact, not empty
    values = rng.normal(size=(30, 40))
    values[:, 7] += 2
    table = max_statistic(scores(values))
    assert table["unit"][table["found"]].tolist() == ["units.out[7]"]
    assert table["t"].iloc[0] == pytest.approx(stats.ttest_1samp(values[:, 7], 0).statistic, rel=1e-4)
    assert table["p"].iloc[0] == pytest.approx(1 / 1001)


def test_groups_are_flipped_together():
    """Copies of three prompts are three, not three hundred: nothing can be found."""
    values = np.repeat(np.random.default_rng(0).normal(1.0, 0.1, size=(3, 5)), 100, 0)
    assert max_statistic(scores(values))["found"].all()
    grouped = max_statistic(scores(values, groups=tuple(str(i // 100) for i in range(300))))
    assert not grouped["found"].any()
    assert grouped["p"].min() >= 0.2


def test_false_discoveries_are_held_at_their_rate():
    rng = np.random.default_rng(0)
    shares = {"bh": [], "by": []}
    power = dict.fromkeys(shares, 0)
    for _ in range(200):
        values = rng.normal(size=(20, 100))
        values[:, :10] += 1.0
        for method, wrong in shares.items():
            found = false_discovery(scores(values), method=method)
            chosen = found["unit"][found["found"]].str.extract(r"\[(\d+)\]")[0].astype(int)
            wrong.append((chosen >= 10).mean() if len(chosen) else 0.0)
            power[method] += int((chosen < 10).sum())
    assert 0.02 < np.mean(shares["bh"]) < 0.06
    assert np.mean(shares["by"]) < np.mean(shares["bh"])
    assert power["bh"] > power["by"] > 200


def test_benjamini_yekutieli_is_that_of_scipy():
    p = np.random.default_rng(0).random(30) ** 2
    np.testing.assert_allclose(benjamini_yekutieli(p), stats.false_discovery_control(p, method="by"))
    with pytest.raises(PatchclampError, match="'bh' or 'by'"):
        false_discovery(scores(np.ones((3, 2))), method="holm")
    with pytest.raises(PatchclampError, match="at least two"):
        max_statistic(scores(np.ones((1, 2))))


def test_constant_effects_are_certain_and_nothing_is_nothing():
    table = max_statistic(scores(np.tile([1.0, 0.0], (12, 1)))).set_index("unit")
    assert table.loc["units.out[0]", "found"]
    assert table.loc["units.out[1]", "p"] == 1.0


# ---- randomised twins


def net(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 1)).eval()
    x = torch.randn(12, 20)
    task = TensorTask("net", x, torch.zeros_like(x), lambda out: out[:, 0])
    return TorchModule(model, x[:1]), task


@pytest.mark.parametrize("how", ["gaussian", "shuffle", "reset"])
@pytest.mark.parametrize("order", ["top_down", "bottom_up", "single"])
def test_scores_of_learnt_weights_change_and_the_model_is_put_back(how, order):
    subject, task = net()
    before = subject.fingerprint
    with untouched(subject):
        found = randomisation(
            subject, lambda s: activation_patching(s, task, "1.out"), order=order, how=how, n_boot=50
        )
    assert subject.fingerprint == before
    table = found.table
    assert table.loc[0, ["spearman", "spearman_abs", "pearson", "scale"]].tolist() == pytest.approx([1.0] * 4)
    assert len(table) == 4
    assert not found.insensitive
    if order != "single":
        assert table["parameters"].iloc[-1] == pytest.approx(1.0)
        assert abs(table["spearman"].iloc[-1]) < 3 * found.noise
    assert table["module"].tolist()[1:] == (["3", "2", "0"] if order == "top_down" else ["0", "2", "3"])


def test_a_score_that_does_not_look_at_the_model_is_found_out():
    subject, task = net()
    fixed = scores(np.abs(task.clean.numpy()), site=Site("0", io="in"))
    found = randomisation(subject, lambda s: fixed)
    assert found.insensitive
    assert (found.table["spearman_abs"] == 1.0).all()


def test_signs_alone_can_change():
    """Signed scores turn round, and sizes stay: the two correlations say different things."""
    subject, task = net()
    fixed = np.abs(task.clean.numpy())
    own = subject.model[3].weight.detach().clone()

    def score(s):
        same = torch.equal(s.model[3].weight, own)
        return scores(fixed if same else -fixed, site=Site("0", io="in"))

    last = randomisation(subject, score).table.iloc[-1]
    assert (last["spearman"], last["spearman_abs"]) == pytest.approx((-1.0, 1.0))


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_the_model_is_put_back_after_an_exception_at_any_stage(stop):
    subject, task = net()
    own, calls = subject.fingerprint, []

    def score(s):
        calls.append(1)
        if len(calls) == stop:
            if stop > 2:  # what a score changes before anything is random is its own affair
                s.model.train()
                s.model[0].weight.requires_grad_(False)
                s.model[2].running_mean.add_(1.0)
            raise RuntimeError("stop")
        return activation_patching(s, task, "1.out")

    with untouched(subject), pytest.raises(RuntimeError, match="stop"):
        randomisation(subject, score)
    assert subject.fingerprint == own
    assert len(calls) == stop


def test_inside_the_twin_has_no_fingerprint_of_the_model():
    subject, task = net()
    own = subject.fingerprint
    seen = []

    def score(s):
        seen.append(s.fingerprint)
        return activation_patching(s, task, "1.out")

    randomisation(subject, score, max_stages=2)
    assert seen[0] == seen[1] == own
    assert len(set(seen[1:])) == 3
    assert subject.fingerprint == own


def test_tied_weights_and_a_language_model():
    subject, task = planted.subject(), planted.task(6)
    with untouched(subject):
        found = randomisation(
            subject, lambda s: attribution_patching(s, task, "head.*"), max_stages=3, n_boot=20
        )
    assert len(found.table) == 4
    assert found.table["spearman"].iloc[0] == pytest.approx(1.0)
    assert not found.insensitive
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    other = TorchModule(tied.eval(), torch.zeros(1, 4))
    with untouched(other):
        table = randomisation(other, lambda s: scores(s.model[0].weight.detach().numpy())).table
    assert table["parameters"].tolist() == [0.0, 1.0, 1.0]
    assert tied[1].weight is tied[0].weight


def test_bad_calls_of_randomisation():
    subject, _ = net()
    for options, message in (
        ({"order": "topdown"}, "did you mean top_down"),
        ({"how": "gauss"}, "did you mean gaussian"),
        ({"modules": ["9"]}, "no such module"),
        ({"modules": ["1"]}, "no weights"),
        ({"max_stages": 0}, "at least one"),
    ):
        with pytest.raises(PatchclampError, match=message):
            randomisation(subject, lambda s: scores(np.ones((2, 3))), **options)
    sites = iter(["0", "0", "1", "1", "1", "1"])
    with pytest.raises(PatchclampError, match="other sites or items"):
        randomisation(subject, lambda s: scores(np.ones((2, 3)), site=Site(next(sites), io="out")))


# ---- explained variance


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0, 10.0, 1e4])
@pytest.mark.parametrize("shift", [0.0, 3.0, -1e3])
def test_explained_variance_is_the_same_at_any_scale_and_shift(scale, shift):
    """The form that subtracts the square of the mean of squares reads a true .9 as .898, .836, 1.176 at 1, 5, 10."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 16)) + rng.normal(size=16)
    y = x + np.sqrt(0.1) * rng.normal(size=x.shape)
    found = explained_variance(scale * x + shift, scale * y + shift, n_boot=0)
    assert found.value == pytest.approx(explained_variance(x, y, n_boot=0).value, abs=1e-9)
    assert found.value == pytest.approx(0.9, abs=0.005)
    assert found.bias == pytest.approx(1.1, abs=0.01)


def test_the_known_error_is_not_ours():
    rng = np.random.default_rng(0)
    x = 10 * (rng.normal(size=(4000, 8)) + 0.2)
    y = x + 10 * np.sqrt(0.1) * rng.normal(size=x.shape)
    wrong = 1 - ((x - y) ** 2).sum(1).mean() / ((x**2).sum(1).mean() - ((x**2).mean(0) ** 2).sum())
    assert abs(wrong - 0.9) > 0.05
    assert explained_variance(x, y).value == pytest.approx(0.9, abs=0.01)


def test_explained_variance_is_pooled_and_has_known_ends():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)) * [10.0, 1.0, 1.0, 1.0]
    y = x.copy()
    y[:, 1:] = x[:, 1:].mean(0)  # all but the large unit is lost
    want = 1 - x[:, 1:].var(0).sum() / x.var(0).sum()
    found = explained_variance(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
    assert found.value == pytest.approx(want, abs=1e-5)
    assert found.low <= found.value <= found.high
    assert explained_variance(x, x).value == 1.0
    shifted = explained_variance(x, x + 1.0)
    assert shifted.offset == pytest.approx(1 - shifted.value)
    assert explained_variance(x, x.mean(0) + 0.5 * (x - x.mean(0))).bias == pytest.approx(0.5)
    parts = [(x[:123], y[:123]), (x[123:], y[123:])]
    assert explained_variance(parts).value == pytest.approx(want)


def test_the_interval_of_explained_variance_knows_groups():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3))
    y = x + np.repeat(rng.exponential(size=(12, 1)), 50, 0) * rng.normal(size=x.shape)
    alone = explained_variance(x, y)
    grouped = explained_variance(x, y, groups=[str(i // 50) for i in range(600)])
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
    for call, message in (
        (lambda: explained_variance(x, y[:3]), "equal"),
        (lambda: explained_variance(x * 0, y), "does not vary"),
        (lambda: explained_variance(x * np.nan, y), "not finite"),
        (lambda: explained_variance([]), "no batch"),
    ):
        with pytest.raises(PatchclampError, match=message):
            call()


# ---- the table


def test_every_method_is_in_the_table_and_says_what_it_does():
    assert {"calibration", "illusion", "redundancy", "auroc", "equivalence"} <= set(TOOLS)
    for name, method in TOOLS.items():
        assert method.__name__ == name
        assert method.__doc__
        assert method.__module__.startswith("patchclamp.evaluate.")
    assert isinstance(scores([[1.0]]), Scores)
