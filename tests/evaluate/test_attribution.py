"""Insertion, deletion, comprehensiveness, rank agreement and calibration, in closed form where there is one."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy import stats

import planted
from evaluate_toys import UNITS, linear, scores, toy, untouched
from patchclamp.attribute import activation_patching, attribution_patching
from patchclamp.base.errors import PatchclampError
from patchclamp.evaluate import calibration, comprehensiveness, insertion_deletion
from patchclamp.evaluate.scores import compare, rank_agreement
from patchclamp.evaluate.scores.weighted import MEASURES, weighted_compare
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Site, Units

ALL = "units.out"

# ---- insertion and deletion


def test_curves_of_a_linear_network_are_cumulative_shares():
    subject, task, exact = linear([4.0, -1.0, 2.0, 3.0])
    with untouched(subject):
        found = insertion_deletion(subject, task, exact, steps=4, baseline="zero", oracle=exact)
    values = np.sort(exact.values[UNITS].astype(float), 1)[:, ::-1]
    insertion = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, 1)], 1)
    for curve, want in (("insertion", insertion), ("deletion", values.sum(1)[:, None] - insertion)):
        rows = found.table[(found.table["curve"] == curve) & (found.table["order"] == "scores")]
        np.testing.assert_allclose(rows["value"], want.mean(0), atol=1e-5)
        area = np.trapezoid(want, dx=1 / 4).mean()
        assert found.area(curve) == pytest.approx(area, abs=1e-5)
    table = found.auc.set_index(["curve", "order"])
    assert table.loc[("insertion", "scores"), "normalised"] == pytest.approx(1.0)
    assert (
        table.loc[("insertion", "scores"), "above_low"] > 0 > table.loc[("deletion", "scores"), "above_high"]
    )
    assert table.loc[("insertion", "random"), "normalised"] == pytest.approx(0.0)


def test_random_orders_of_a_linear_network_have_the_straight_line():
    """Every order of equal weights gives the straight line; the mean order of any weights as well."""
    subject, task, exact = linear([1.0] * 5, n=4)
    found = insertion_deletion(subject, task, scores(np.ones((4, 5))), steps=5, baseline="zero", n_random=400)
    total = exact.values[UNITS].sum(1).mean()
    assert found.area("insertion", "random") == pytest.approx(total / 2, rel=0.02)


def test_ties_are_broken_at_random_and_the_order_of_features_is_shown_apart():
    """The weight is in the first features: a constant score profits from a stable sort, and here it does not."""
    subject, task, _ = linear([5.0, 5.0, 0.0, 0.0, 0.0, 0.0], n=200)
    found = insertion_deletion(
        subject, task, scores(np.ones((200, 6))), steps=6, baseline="zero", n_random=10
    )
    equal, tied, random = (found.area("insertion", order) for order in ("equal", "scores", "random"))
    assert equal > 1.3 * random
    assert tied == pytest.approx(random, rel=0.05)


def test_steps_between_features_and_absent_positions():
    """Two positions, of which the second item has one; a quarter of four features and of two."""
    site = Site("units", io="out")
    x = np.ones((2, 2))
    subject, task = toy(lambda h: h.sum(1), x, np.zeros((2, 2)))
    values = np.array([[[4.0], [3.0]], [[2.0], [np.nan]]], dtype=np.float32)
    given = Scores("m", "noising", "m", "toy", {site: values}, {site: "unit"}, ("0",))
    found = insertion_deletion(subject, task, given, steps=2, n_random=0)
    rows = found.table[(found.table["curve"] == "insertion") & (found.table["order"] == "scores")]
    # 0, 1 of 2 and round(.5) = 0 of 1, all; what is absent keeps its activity
    assert rows["value"].tolist() == pytest.approx([(0 + 1) / 2, (1 + 1) / 2, 2.0])


@pytest.mark.parametrize("baseline", ["corrupted", "zero", "mean"])
def test_tokens_of_a_language_model(baseline):
    """The planted head copies the second word: its embedding put in restores the behaviour."""
    subject, task = planted.subject(), planted.task(8)
    site = Site("embeddings")
    values = np.zeros((8, 1, 6), np.float32)
    values[:, 0, 1] = 1.0
    given = Scores("m", "denoising", "m", "t", {site: values}, {site: "site"}, tuple(map(str, range(6))))
    with untouched(subject):
        found = insertion_deletion(subject, task, given, steps=6, baseline=baseline, n_random=3, batch_size=3)
    rows = found.table[(found.table["curve"] == "insertion") & (found.table["order"] == "scores")][
        "value"
    ].to_numpy()
    assert rows[1] - rows[0] > 0.6 * (rows.max() - rows.min())
    assert found.area("insertion") > found.area("insertion", "random")
    one = insertion_deletion(subject, task, given, steps=6, baseline=baseline, n_random=3, batch_size=8)
    np.testing.assert_allclose(one.table["value"], found.table["value"], atol=1e-4)


def test_scores_that_do_not_fit_are_refused():
    subject, task, exact = linear([1.0, 2.0])
    roles = Scores(
        "m", "none", "m", "toy", {UNITS: np.ones((12, 2, 2), np.float32)}, {UNITS: "unit"}, ("a", "end")
    )
    other = Scores(
        "m",
        "none",
        "m",
        "toy",
        {Site("0", io="out"): np.ones((12, 2), np.float32)},
        {Site("0", io="out"): "unit"},
    )
    for call, message in (
        (lambda: insertion_deletion(subject, task, exact.items([0, 1])), "2 items were scored"),
        (lambda: insertion_deletion(subject, task, roles), "positions='sum' or 'each'"),
        (lambda: insertion_deletion(subject, task, exact, baseline="zeros"), "did you mean zero"),
        (lambda: insertion_deletion(subject, task, exact, steps=0), "at least one step"),
        (lambda: insertion_deletion(subject, task, exact, oracle=other), "other features"),
        (lambda: comprehensiveness(subject, task, exact, shares=(0.0,)), "above 0"),
    ):
        with pytest.raises(PatchclampError, match=message):
            call()


# ---- comprehensiveness and sufficiency


def test_eraser_of_a_linear_network():
    weights = [6.0, 3.0, 1.0, *[0.0] * 7]
    subject, task, exact = linear(weights)
    with untouched(subject):
        found = comprehensiveness(subject, task, exact, baseline="zero")
    values = np.sort(exact.values[UNITS].astype(float), 1)[:, ::-1]
    counts = [1, 1, 1, 2, 5]  # of ten features: 1, 5, 10, 20, 50 %, rounded upwards
    taken = np.stack([values[:, :k].sum(1) for k in counts])
    assert found.value("comprehensiveness") == pytest.approx(taken.mean(), abs=1e-5)
    assert found.value("sufficiency") == pytest.approx((values.sum(1) - taken).mean(), abs=1e-5)
    assert found.drop == pytest.approx(values.sum(1).mean(), abs=1e-5)
    assert found.value("comprehensiveness") > found.value("comprehensiveness", "random")
    assert found.value("sufficiency") < found.value("sufficiency", "random")
    rows = found.aopc.set_index(["measure", "order"])
    assert rows.loc[("sufficiency", "scores"), "normalised"] == pytest.approx(
        1 - taken.mean() / found.drop, abs=1e-5
    )


# ---- rank agreement


def test_tau_of_equal_opposed_and_unrelated_scores():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(300, 50))
    same = rank_agreement(scores(a), scores(a)).set_index("measure")
    assert same["mean"].tolist() == [1.0, 1.0, 1.0]
    turned = rank_agreement(scores(a), scores(-a)).set_index("measure")
    assert turned["mean"].tolist() == [-1.0, 1.0, 1.0]
    other = rank_agreement(scores(a), scores(rng.normal(size=(300, 50)))).set_index("measure")
    assert other.loc["tau", "noise"] == pytest.approx(0.19, abs=0.005)
    assert other.loc["tau", "spread"] == pytest.approx(other.loc["tau", "noise"] / 1.96, rel=0.1)
    assert other.loc["tau", "low"] < 0 < other.loc["tau", "high"]
    assert other.loc["top", "mean"] == pytest.approx(0.1, abs=0.03)
    assert other.loc["top", "chance"] == pytest.approx(0.1)


def test_constant_items_have_no_tau_and_other_features_are_refused():
    table = rank_agreement(scores([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]), scores([[1.0, 2.0, 3.0]] * 2), top=0.3)
    assert table["items"].tolist() == [1, 1, 2]
    with pytest.raises(PatchclampError, match="other items"):
        rank_agreement(scores([[1.0]]), scores([[1.0], [1.0]]))
    with pytest.raises(PatchclampError, match="other units"):
        rank_agreement(scores([[1.0]]), scores([[1.0, 2.0]]))


# ---- calibration


def system(units=4000, seed=0, items=4, noise=0.5, slope=0.6):
    rng = np.random.default_rng(seed)
    true = np.repeat(rng.laplace(size=(1, units)) ** 3, items, 0)
    guess = slope * true + noise * np.abs(true) ** 0.5 * rng.normal(size=true.shape[1])
    return scores(guess, method="estimate"), scores(true, method="exact")


def exactly(whole):
    """A function of units that patches: it looks the answer up, and says what it was asked."""
    asked = []

    def patch(units: Units) -> Scores:
        asked.append(units)
        index = list(units[UNITS] or ())
        return Scores(
            "exact", whole.direction, "m", "toy", {UNITS: whole.values[UNITS][:, index]}, {UNITS: "unit"},
            nodes={UNITS: tuple(index)},
        )  # fmt: skip

    return patch, asked


def test_weights_count_as_copies():
    rng = np.random.default_rng(0)
    guess, true = rng.normal(size=(2, 12)).round(1)
    weight = rng.integers(1, 5, 12)
    wide = [np.repeat(v, weight) for v in (guess, true)]
    ones = np.ones(len(wide[0]))
    first = np.argsort(np.argsort(-np.abs(guess))) < 4
    one = weighted_compare(guess, true, weight.astype(float), first, 0.2)
    two = weighted_compare(*wide, ones, np.repeat(first, weight), 0.2)
    assert one == pytest.approx(two)
    plain = compare(*wide, 0.2)
    for name in ("pearson", "spearman", "slope", "scale", "sign"):
        assert one[name] == pytest.approx(plain[name])
    assert one["correction"] == pytest.approx(stats.linregress(*wide).slope)


def test_everything_checked_is_agreement_without_error():
    guess, true = system(300)
    found = calibration(guess, true)
    plain = compare(guess.mean(UNITS), true.mean(UNITS), 0.01)
    for name in ("pearson", "spearman", "slope", "scale", "sign", "top"):
        row = found.measures.loc[name]
        assert row.tolist() == pytest.approx([plain[name]] * 3, abs=1e-6)
    assert found.checked == found.estimated == 300


@pytest.mark.slow
def test_a_sample_tells_of_all_units_and_its_interval_covers():
    """Over many samples each measure is near that of all units, and the interval holds it nearly always."""
    guess, true = system(2000)
    patch, asked = exactly(true)
    whole = calibration(guess, true, n_boot=0)
    inside = dict.fromkeys(MEASURES, 0)
    values = []
    for seed in range(30):
        found = calibration(guess, patch, 200, n_boot=100, seed=seed)
        assert found.checked == asked[-1].count == 200
        values.append([found[name] for name in MEASURES])
        for name in MEASURES:
            row = found.measures.loc[name]
            inside[name] += row["low"] - 1e-9 <= whole[name] <= row["high"] + 1e-9
    mean = dict(zip(MEASURES, np.mean(values, 0), strict=True))
    for name in MEASURES:
        assert mean[name] == pytest.approx(whole[name], abs=0.03), name
        assert inside[name] >= (0.75 if name == "top" else 0.85) * 30, name  # the top is few units


def test_without_weights_the_sample_would_flatter():
    guess, true = system(noise=1.0, units=20_000)
    patch, _ = exactly(true)
    found = calibration(guess, patch, 300, n_boot=0)
    plain = compare(found.checks["estimate"].to_numpy(), found.checks["exact"].to_numpy())
    whole = calibration(guess, true, n_boot=0)
    assert abs(plain["spearman"] - whole["spearman"]) > 2 * abs(found["spearman"] - whole["spearman"])
    assert found.checks["weight"].sum() == pytest.approx(20_000)
    assert found.strata["units"].sum() == 20_000
    assert (found.strata["low"].to_numpy()[:-1] >= found.strata["high"].to_numpy()[1:]).all()


def test_the_line_it_prints():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(1, 46_350))
    guess = 0.6 * true + 0.28 * rng.normal(size=true.shape)
    found = calibration(scores(guess), exactly(scores(true))[0], 300, n_boot=200)
    assert str(found).startswith("estimated on 46,350 units, checked on 300: Pearson .9")
    assert str(found).endswith("slope .6")
    assert (
        found.measures.loc["pearson", "low"]
        < stats.pearsonr(guess[0], true[0])[0]
        < found.measures.loc["pearson", "high"]
    )
    assert json.loads(json.dumps(found.to_json()))["checked"] == 300
    again = calibration(scores(guess), exactly(scores(true))[0], 300, n_boot=200)
    assert str(again) == str(found)


def test_an_estimate_that_misses_units_is_found_out():
    """One in fifty units has a large effect and an estimate of nearly nothing (saturation)."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(1, 5000)) * 0.1
    guess = true.copy()
    lost = rng.choice(5000, 100, replace=False)
    true[0, lost] = 1.0
    guess[0, lost] = 0.001 * rng.normal(size=100)
    found = calibration(scores(guess), exactly(scores(true))[0], 500, top=0.02)
    assert found["top"] < 0.2
    assert found["scale"] < 0.9
    assert found.strata["largest"].iloc[1:].max() == pytest.approx(1.0)


def test_some_exact_scores_at_hand_are_post_stratified():
    guess, true = system(2000)
    rng = np.random.default_rng(0)
    index = tuple(sorted(rng.choice(2000, 150, replace=False).tolist()))
    part = Scores(
        "exact",
        "noising",
        "m",
        "toy",
        {UNITS: true.values[UNITS][:, index]},
        {UNITS: "unit"},
        nodes={UNITS: index},
    )
    found = calibration(guess, part)
    assert found.checked == 150
    assert found.checks["weight"].sum() == pytest.approx(2000)
    assert (found.strata["checked"] >= np.minimum(2, found.strata["units"])).all()


def test_live_calibration_with_exact_patching():
    subject, task = planted.subject(), planted.task(6)
    guess = attribution_patching(subject, task, "mlp_act.*")
    with untouched(subject):
        found = calibration(guess, lambda units: activation_patching(subject, task, units), 20, strata=4)
    assert (found.estimated, found.checked) == (96, 20)
    assert found["pearson"] > 0.5
    assert found.exact_method == "activation_patching"


def test_answers_to_another_question_are_refused():
    guess, true = system(50)
    for exact, message in (
        (scores(np.ones((4, 50)), "denoising"), "never mixed"),
        (lambda units: scores(np.ones((4, 50)), site=Site("other", io="out")), "scored 0 of the 50"),
        (scores(np.ones((4, 50)), site=Site("other", io="out")), "at least two are needed"),
    ):
        with pytest.raises(PatchclampError, match=message):
            calibration(guess, exact)
    with pytest.raises(PatchclampError, match="at least two units"):
        calibration(guess, true, 1)


def test_strata_of_all_sizes():
    for units, n, strata in itertools.product((2, 3, 17, 400), (2, 5, 60), (1, 3, 10)):
        guess, true = system(units)
        found = calibration(guess, exactly(true)[0], n, strata=strata, n_boot=5)
        assert found.checked == min(n, units)
        assert found.checks["weight"].sum() == pytest.approx(units)
