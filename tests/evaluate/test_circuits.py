"""Areas, completeness, minimality and redundancy on networks whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from evaluate_toys import DELTA, UNITS, gate, linear, scores, toy, untouched
from patchclamp.base.errors import PatchclampError
from patchclamp.evaluate import Bench, areas, completeness, minimality, redundancy
from patchclamp.evaluate.circuits.faithfulness import faithfulness
from patchclamp.nouns.tasks.held_out import check_held_out
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task
from patchclamp.subjects import TensorTask
from patchclamp.subjects.clamp.bench import halves
from patchclamp.truth import load_truth

ALL = "units.out"


def unit(*index):
    return f"units.out[{','.join(map(str, index))}]"


# ---- areas


def test_areas_of_a_linear_network_in_closed_form():
    subject, task, ranking = linear([4.0, -2.0, 3.0, 1.0, 0.0])
    _, other, _ = linear([0.0] * 5, seed=1)
    found = areas(Bench(subject, task, "zero"), ranking, other, [1, 2, 3, 4, 5], rank_by="signed", n_random=3)
    mean = np.sort(ranking.mean(UNITS))[::-1]
    f, x = np.cumsum(mean) / mean.sum(), np.arange(1, 6) / 5
    for axis, at in (("linear", x), ("log", np.log(x))):
        for measure, curve in (("cpr", lambda f: f), ("cmd", lambda f: np.abs(1 - f))):
            for clipped in (False, True):
                y = curve(np.clip(f, 0, 1)) if clipped else curve(f)
                want = np.trapezoid(y, at) / (at[-1] - at[0])
                assert found.value(measure, axis, clipped).value == pytest.approx(want, abs=1e-5)
    assert found.beats_model
    assert found.beats_model_clear
    assert found.value("cpr").value > found.value("cpr", clipped=True).value
    assert found.value("cpr").value == pytest.approx(found.curves.cpr)
    assert found.value("cmd", "log").value == pytest.approx(found.curves.cmd_log)
    table = found.table
    assert (table["low"] <= table["value"] + 1e-9).all()
    assert (table["value"] <= table["high"] + 1e-9).all()
    assert set(table["order"]) == {"ranked", "random"}
    assert json.loads(json.dumps(found.to_json()))["beats_model"] is True


def test_items_that_chose_do_not_verify():
    subject, task, ranking = linear([2.0, 1.0])
    with pytest.raises(PatchclampError, match="chosen_on="):
        areas(Bench(subject, task), ranking, None)
    with pytest.raises(PatchclampError, match="12 items of 12"):
        areas(Bench(subject, task), ranking, task)
    one = TensorTask("one", torch.zeros(2, 1), None, lambda out: out, ("a", "b"))
    two = TensorTask("two", torch.ones(2, 1), None, lambda out: out, ("b", "c"))
    with pytest.raises(PatchclampError, match="group b is both"):
        check_held_out(one, two)
    texts = [
        Task("t", [Item(f"{i} is", " x", " y", group=str(i)) for i in part])
        for part in (range(4), range(3, 8))
    ]
    with pytest.raises(PatchclampError, match="item 3 is is both"):
        check_held_out(*texts)
    whole = Task("t", [Item(f"{i} is", " x", " y", group=str(i)) for i in range(8)])
    check_held_out(whole.split("test"), whole.split("train"))


def test_the_band_of_items_is_on_the_scale_of_the_curve():
    x = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.25, 0.75]])
    subject, task = toy(lambda h: h.sum(1), x)
    found = faithfulness(Bench(subject, task, "zero"), scores(np.tile([2.0, 1.0], (4, 1))), [1], n_random=0)
    band = found.item_band(at=(0.0, 0.5, 1.0))
    assert band.iloc[0].tolist() == pytest.approx([1, 0.0, 0.375, 1.0])
    with pytest.raises(PatchclampError, match="no lost curve"):
        found.item_band("lost")


# ---- completeness


def test_half_of_an_or_is_faithful_and_incomplete():
    """OR: the circuit {a} does all that the model does; without a, the model still has b and the circuit nothing."""
    subject, task = gate("OR")
    with untouched(subject):
        found = completeness(Bench(subject, task, "patch"), unit(0), ALL, n_random=4)
    first = found.table[found.table["search"] == "empty"].iloc[0]
    assert first["gap"] == pytest.approx(0.0, abs=1e-6)
    assert found.worst == pytest.approx(1.0)
    assert found.worst_share == pytest.approx(1.0)
    assert found.worst_units == unit(0)
    assert found.held_out
    assert found.difference.n == 8
    assert "incompleteness 1 (100% of the span)" in str(found)


@pytest.mark.parametrize("name", ["OR", "AND", "BACKUP"])
def test_a_whole_gate_is_complete(name):
    subject, task = gate(name, idle=2)
    found = completeness(Bench(subject, task, "patch"), unit(0, 1), ALL, n_random=8)
    assert found.worst == pytest.approx(0.0, abs=1e-6)
    assert (found.table["size"] <= 2).all()


def test_the_back_up_left_out_is_found():
    subject, task = gate("BACKUP")
    found = completeness(Bench(subject, task, "patch"), unit(0), ALL)
    assert found.worst == pytest.approx(1 - DELTA, abs=1e-5)


def test_incompleteness_is_measured_on_items_that_did_not_choose():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.ones((40, 1)), rng.normal(size=(40, 8))], axis=1)
    subject, task = toy(lambda h: h[:, 0] + h[:, 1:].sum(1), x)
    whole = completeness(Bench(subject, task, "zero"), ALL, ALL, n_random=10, n_greedy=0)
    assert whole.worst == pytest.approx(0.0, abs=1e-5)  # the circuit is the model
    found = completeness(Bench(subject, task, "zero", seed=1), unit(*range(5)), ALL, n_random=0, n_greedy=0)
    search, verify = halves(40, (), 1)
    assert not (search & verify).any()
    left_out = x[:, 5:].sum(1)
    assert found.table["difference"].iloc[0] == pytest.approx(-left_out[verify].mean(), abs=1e-5)
    assert abs(left_out[verify].mean() - left_out[search].mean()) > 0.1
    again = completeness(
        Bench(subject, task, "zero", seed=1, batch_size=7), unit(*range(5)), ALL, n_random=0, n_greedy=0
    )
    np.testing.assert_allclose(found.table["low"], again.table["low"], atol=1e-5)


def test_halves_do_not_cut_groups():
    groups = ["a", "a", "b", "b", "c", "c", ""]
    search, verify = halves(7, groups, 0)
    assert (search ^ verify).all()
    assert (
        len(
            {g for g, s in zip(groups, search, strict=True) if s}
            & {g for g, v in zip(groups, verify, strict=True) if v}
        )
        == 0
    )
    assert halves(3, ["a"] * 3, 0)[0].all()


def test_circuits_outside_the_candidates_are_refused():
    subject, task = gate("OR", idle=1)
    for call, message in (
        (
            lambda: completeness(Bench(subject, task, "patch"), unit(2), unit(0, 1)),
            r"\[2\]: is in the circuit",
        ),
        (lambda: completeness(Bench(subject, task), unit(9), ALL), "units 0..2"),
        (lambda: completeness(Bench(subject, task, "means"), unit(0), ALL), "did you mean mean"),
        (lambda: completeness(Bench(subject, task, "patch"), unit(0), ALL, n_greedy=-1), "from 0 on"),
        (lambda: minimality(Bench(subject, task, "patch"), unit(0), ALL, threshold=2), "0..1"),
        (
            lambda: completeness(Bench(*toy(lambda h: h[:, 0] * 0, np.ones((3, 2))), "zero"), unit(0), ALL),
            "only",
        ),
    ):
        with pytest.raises(PatchclampError, match=message):
            call()


# ---- minimality


@pytest.mark.parametrize("name", ["OR", "AND", "SUM"])
def test_an_idle_unit_is_not_needed_and_both_of_a_gate_are(name):
    subject, task = gate(name, idle=22)
    found = minimality(Bench(subject, task, "patch"), unit(0, 1, 2), ALL, n_control=20)
    needed = dict(zip(found.table["unit"], found.table["needed"], strict=True))
    assert needed == {unit(0): True, unit(1): True, unit(2): False}
    assert found.idle == (unit(2),)
    assert not found.minimal
    assert set(found.null.draws) == {0.0}
    p = dict(zip(found.table["unit"], found.table["p"], strict=True))
    assert (p[unit(0)], p[unit(2)]) == (pytest.approx(1 / 21), 1.0)
    share = dict(zip(found.table["unit"], found.table["share"], strict=True))
    assert share[unit(0)] == pytest.approx(0.5 if name == "SUM" else 1.0)


def test_without_units_outside_there_is_no_control():
    found = minimality(Bench(*gate("AND"), "patch"), unit(0, 1), ALL)
    assert found.minimal
    assert found.table["p"].isna().all()
    assert found.null is None


# ---- redundancy


@pytest.mark.parametrize(
    ("name", "verdict", "single", "joint"),
    [
        ("OR", "redundant", (0, 0), 1),
        ("AND", "series", (1, 1), 1),
        ("SUM", "additive", (0.5, 0.5), 1),
        ("BACKUP", "redundant", (DELTA, 0), 1),
        ("CANCEL", "opposed", (1, -1), 0),
    ],
)
def test_gates_are_named(name, verdict, single, joint):
    subject, task = gate(name)
    with untouched(subject):
        found = redundancy(Bench(subject, task, "patch"), unit(0, 1))
    assert found.verdict == verdict
    assert found.support == 1.0
    assert found.table["effect"].tolist() == pytest.approx([joint, *single], abs=1e-6)
    assert found.interaction.value == pytest.approx(joint - sum(single), abs=1e-6)
    assert str(found).startswith(verdict)


@pytest.mark.parametrize("name", ["or", "and", "sum", "backup", "cancel"])
def test_the_gates_of_the_suite_have_their_noising_and_denoising_effects(name):
    truth = load_truth(name)
    addresses = list(truth.nodes)
    found = (
        redundancy(Bench(truth.subject, truth.task, truth.ablation), addresses)
        .table.iloc[1:]
        .set_index("set")
    )
    for column, quantity in (("effect", "noising"), ("alone", "denoising")):
        for address in addresses:
            assert found.loc[address, column] == pytest.approx(truth.effects[quantity][address], abs=1e-6)
    whole = (
        completeness(Bench(truth.subject, truth.task, truth.ablation), addresses, list(truth.sites))
        if name != "cancel"
        else None
    )
    assert whole is None or whole.worst == pytest.approx(0.0, abs=1e-6)


def test_what_units_do_alone_is_the_denoising_effect():
    assert redundancy(Bench(*gate("BACKUP"), "patch"), unit(0, 1)).table["alone"].tolist()[
        1:
    ] == pytest.approx([1, 1 - DELTA])
    assert redundancy(Bench(*gate("AND"), "patch"), unit(0, 1)).table["alone"].tolist()[1:] == pytest.approx(
        [0, 0]
    )


def test_idle_units_are_named_none_and_mixtures_partly():
    assert redundancy(Bench(*gate("OR", idle=2), "patch"), unit(2, 3)).verdict == "none"
    half = toy(
        lambda h: 0.5 * h[:, 0] + 0.5 * h[:, 1] - 0.5 * h[:, 0] * h[:, 1], np.ones((4, 2)), np.zeros((4, 2))
    )
    found = redundancy(Bench(*half, "patch"), unit(0, 1))
    assert found.verdict == "redundant"  # each alone 0, together .5
    mixed = toy(lambda h: h[:, 0] + h[:, 1] - 0.4 * h[:, 0] * h[:, 1], np.ones((4, 2)), np.zeros((4, 2)))
    assert redundancy(Bench(*mixed, "patch"), unit(0, 1)).verdict == "partly redundant"
    series = toy(lambda h: 0.5 * (h[:, 0] + h[:, 1]) + h[:, 0] * h[:, 1], np.ones((4, 2)), np.zeros((4, 2)))
    assert redundancy(Bench(*series, "patch"), unit(0, 1)).verdict == "partly in series"
    with pytest.raises(PatchclampError, match="at least two"):
        redundancy(Bench(*gate("OR"), "patch"), unit(0))


def test_a_verdict_that_items_do_not_share_has_little_support():
    """On half of the items the gate is OR, on the others AND."""
    kind = np.repeat([0.0, 1.0], 10)
    x = np.stack([np.ones(20), np.ones(20), kind], axis=1)
    other = np.stack([np.zeros(20), np.zeros(20), kind], axis=1)

    def both(h):
        either = 1 - torch.relu(1 - h[:, 0] - h[:, 1])
        return torch.where(h[:, 2] > 0.5, torch.relu(h[:, 0] + h[:, 1] - 1), either)

    found = redundancy(Bench(*toy(both, x, other), "patch"), unit(0, 1))
    assert found.verdict == "additive"
    assert found.support < 0.95


def test_the_model_is_untouched_after_an_exception():
    subject, task = gate("OR")
    calls = []

    def fails(out):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("metric")
        return out[:, 0]

    broken = TensorTask("toy", task.clean, task.corrupted, fails)
    for method in (completeness, minimality):
        calls.clear()
        with untouched(subject), pytest.raises(RuntimeError, match="metric"):
            method(Bench(subject, broken, "patch"), unit(0), ALL)
