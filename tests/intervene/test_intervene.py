"""Effects of interventions on systems whose answer is known, and their controls."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import holm
from patchclamp.intervene import Reference, control_changes, effect, effects, joint_effect, matched_sets
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.units import Site, Units
from patchclamp.subjects import TensorTask, TorchModule
from patchclamp.subjects.clamp.matching import matched_order, members
from patchclamp.subjects.clamp.trial import run_trial

HEAD = f"head.{planted.LAYER}[{planted.HEAD}]"


class Gate(nn.Module):
    """Units that are the inputs, and a read-out of them."""

    def __init__(self, readout, width=2):
        super().__init__()
        self.units = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.units.weight)
        self.readout = readout

    def forward(self, x):
        return self.readout(self.units(x))[:, None]


GATES = {
    "or": lambda h: 1 - torch.relu(1 - h[:, 0] - h[:, 1]),
    "and": lambda h: torch.relu(h[:, 0] + h[:, 1] - 1),
    "sum": lambda h: (h[:, 0] + h[:, 1]) / 2,
    "backup": lambda h: h[:, 0] + torch.relu(h[:, 1] - h[:, 0] - 0.01),
    "cancel": lambda h: h[:, 0] - h[:, 1] + 1,
}
# clean (1, 1), corrupted (0, 0): the effect of patching a, b, and both (clean minus patched)
NOISING = {
    "or": (0, 0, 1),
    "and": (1, 1, 1),
    "sum": (0.5, 0.5, 1),
    "backup": (0.01, 0, 1),
    "cancel": (1, -1, 0),
}


def gate(name, n=4):
    task = TensorTask(name, torch.ones(n, 2), torch.zeros(n, 2), lambda out: out[:, 0])
    return TorchModule(Gate(GATES[name]).eval(), torch.zeros(1, 2)), task


@pytest.mark.parametrize("name", GATES)
def test_effects_on_gates_are_exact(name):
    subject, task = gate(name)
    sets = [[Intervention(units, "patch")] for units in ("units.out[0]", "units.out[1]", "units.out")]
    found = effects(subject, task, sets, control=None)
    assert [e.estimate.value for e in found] == pytest.approx(NOISING[name], abs=1e-6)
    assert all(e.estimate.null is None for e in found)
    assert found[0].metric
    assert found[2].estimate.n == 4


def test_joint_effects_tell_redundancy_from_series():
    for name, interaction, redundant in (("or", 1, True), ("and", -1, False), ("sum", 0, False)):
        subject, task = gate(name, 8)
        found = joint_effect(subject, task, Intervention("units.out[0,1]", "patch"), control=None)
        assert found.interaction.value == pytest.approx(interaction, abs=1e-6)
        assert found.redundant is redundant
        assert len(found.single) == 2
        assert "together" in str(found)
        assert found.to_json()["redundant"] is redundant
    with pytest.raises(PatchclampError, match="at least two"):
        joint_effect(subject, task, Intervention("units.out[0]", "patch"))


@pytest.fixture(scope="module")
def lm():
    return planted.subject()


@pytest.fixture(scope="module")
def task():
    return planted.task(24)


@pytest.fixture(scope="module")
def reference(lm):
    return Reference(lm, planted.task(32, seed=1))


@pytest.mark.parametrize("kind", ["zero", "mean", "resample", "patch"])
def test_the_planted_head_is_found_and_random_heads_are_not(lm, task, reference, kind):
    found = effect(lm, task, Intervention(HEAD, kind), reference=reference)
    assert found.share > 0.9
    assert found.estimate.low <= found.estimate.value <= found.estimate.high
    assert found.estimate.null.n == 20
    assert found.estimate.null.high < 0.1 * found.estimate.value
    assert found.estimate.null.p == found.estimate.null.p_adjusted == pytest.approx(1 / 21)
    assert found.estimate.value == pytest.approx(np.mean(found.per_item))
    assert found.baseline - found.changed == pytest.approx(found.estimate.value)
    assert "activity" in found.estimate.null.kind


def test_without_the_head_there_is_no_effect(lm, task):
    bare = planted.subject(planted=False)
    there, gone = (effect(m, task, Intervention(HEAD, "zero"), control=None) for m in (lm, bare))
    assert abs(gone.estimate.value) < 1e-2 * there.estimate.value


def test_a_value_replaced_by_itself_has_no_effect_at_all(lm, task):
    """The baseline and a pass that is entered midway are the same pass, bit for bit."""
    for address in ("head.1[2]", "mlp_act.2[3]", "resid_post.1", "attn_out.2"):
        trial = run_trial(lm, task, [[Intervention(address, "patch", source="clean")]])
        assert (trial.changed[0] == trial.baseline).all()


def test_results_follow_from_the_seed_whatever_the_batch_size(lm, task):
    found = []
    for size in (5, 64):
        source = Reference(lm, planted.task(32, seed=1), size)
        change = Intervention("head.1[1,2]", "resample", seed=4)
        found.append(effect(lm, task, change, reference=source, batch_size=size, seed=3))
    small, large = found
    np.testing.assert_allclose(small.per_item, large.per_item, atol=1e-5)
    np.testing.assert_allclose(small.estimate.null.draws, large.estimate.null.draws, atol=1e-5)
    assert (small.estimate.low, small.estimate.high) == pytest.approx(
        (large.estimate.low, large.estimate.high), abs=1e-5
    )
    assert small.estimate.null.p == large.estimate.null.p
    other = effect(lm, task, change, reference=source, seed=8)
    assert other.estimate.null.draws != large.estimate.null.draws


def test_several_sets_are_corrected_together(lm, task, reference):
    sets = [[Intervention(u, "mean")] for u in (HEAD, "head.0[1]", "head.2[0]")]
    found = effects(lm, task, sets, reference=reference)
    np.testing.assert_allclose(
        [e.estimate.null.p_adjusted for e in found], holm([e.estimate.null.p for e in found])
    )
    # As many random sets as let a corrected p pass: 3 / 60.
    assert found[0].estimate.null.n == 59 and found[0].estimate.null.p_adjusted == pytest.approx(3 / 60)
    assert found[0].estimate.beats_null and not found[1].estimate.beats_null
    few = effects(lm, task, sets, n_control=20, reference=reference)
    assert few[0].estimate.null.p_adjusted == pytest.approx(3 / 21) and not few[0].estimate.beats_null
    assert "none can have a corrected p below 0.14" in few[0].estimate.null.kind
    alone = effect(lm, task, sets[0], reference=reference)
    assert alone.per_item == few[0].per_item
    assert alone.estimate.null.draws == few[0].estimate.null.draws
    assert alone.estimate.beats_null


def test_a_shared_null_imitates_every_set_and_holds_no_unit_under_test(lm, task, reference):
    counted = []
    alone = [
        [Intervention(HEAD, "zero")],
        [Intervention(f"head.{planted.LAYER}[{planted.HEAD - 1}]", "zero")],
    ]
    found = effects(
        lm,
        task,
        alone,
        "shared",
        reference=reference,
        progress=lambda text, done, total: counted.append(done),
    )
    first, second = (replace(one.estimate.null, p=None, p_adjusted=None) for one in found)
    assert first == second
    assert found[0].estimate.null.n == 99
    assert "in turn" in found[0].estimate.null.kind
    assert counted[-1] <= (2 + 99) * -(-len(task) // 64)
    assert found[0].estimate.null.p < found[1].estimate.null.p
    with pytest.raises(PatchclampError, match="sets have 1 to 2 units"):
        effects(lm, task, [alone[0], alone[0] + alone[1]], "shared", reference=reference)


def test_matched_sets_resemble_the_set_under_test(lm, reference):
    units = Units.parse("mlp_act.1[3,5], head.1[2]")
    sets = matched_sets(units, lm, reference, 20, seed=0)
    assert len(set(sets)) == 20
    neurons, heads = Site("mlp_act", 1), Site("head", 1)
    activity = reference.activity([neurons])[neurons].numpy()
    for one in sets:
        assert one.count == 3
        assert len(one[neurons]) == 2
        assert not {3, 5} & set(one[neurons])
        assert one.get(heads) != (2,)
        assert sum(len(i) for s, i in one.items() if s.point == "head") == 1
    near = np.argsort(np.abs(activity - activity[3]), kind="stable")[1:21]
    for one in matched_sets(Units.parse("mlp_act.1[3]"), lm, reference, 20, seed=0):
        assert set(one[neurons]) <= set(near.tolist())


def test_whole_sites_are_matched_with_other_layers(lm, reference):
    sets = matched_sets(Units.parse("mlp_out.1"), lm, reference, 20)
    assert {str(s) for one in sets for s in one} == {"mlp_out.0", "mlp_out.2"}


def test_control_makes_the_same_changes(lm, reference):
    change = (
        Intervention("head.1[2]", "zero"),
        Intervention("head.1[2], mlp_act.0[4]", "scale", value=3.0, positions="end"),
        Intervention("attn_out.1", "add", vector=[3.0, *[0.0] * 126, 4.0], value=2.0),
    )
    drawn, words = control_changes(change, lm, reference, 20, 0)
    assert "directions" in words
    for one in drawn:
        assert [i.kind for i in one] == ["zero", "scale", "add"]
        assert one[1].positions == "end"
        heads = [[m for m in members(i.units) if m[0].point == "head"] for i in one[:2]]
        assert heads[0] == heads[1] != [(Site("head", 1), 2)]
        assert one[2].units == change[2].units
        assert np.linalg.norm(one[2].vector) == pytest.approx(5.0)


def test_directions_are_compared_with_random_ones(lm, task):
    """The direction that the unembedding reads moves the metric more than random ones of its norm."""
    weight = lm.model.lm_head.weight.detach()
    pair = next(iter(lm.pairs(task, 1)))
    answer, foil = (
        lm.tokenizer.convert_tokens_to_ids(w.strip())
        for w in (task.items[0].answers[0], task.items[0].foils[0])
    )
    assert len(pair.rows) == 1
    one = task.select([0])
    vector = (weight[foil] - weight[answer]).tolist()
    found = effect(lm, one, Intervention("resid_post.2", "add", vector=vector, value=5.0))
    assert found.estimate.value > 0
    assert found.estimate.null.p == pytest.approx(1 / 21)
    assert "norm" in found.estimate.null.kind


def test_a_matched_order_keeps_where_and_how_active(lm, reference):
    ranking = [(Site("mlp_act", layer), i) for i in range(32) for layer in range(3)]
    order = matched_order(ranking, lm, reference, np.random.default_rng(0))
    assert sorted(order) == sorted(ranking)
    assert order != ranking
    assert [site for site, _ in order] == [site for site, _ in ranking]


def test_p_values_under_the_null_are_not_small():
    """A unit no different from the others beats them no more often than it should."""
    torch.manual_seed(0)
    net = TorchModule(Gate(lambda h: h.sum(1), width=60).eval(), torch.zeros(1, 60))
    p = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        task = TensorTask("null", torch.randn(12, 60, generator=generator), None, lambda out: out[:, 0])
        p.append(
            effect(
                net, task, Intervention(f"units.out[{seed}]", "zero"), seed=seed, n_boot=50
            ).estimate.null.p
        )
    assert np.mean(np.array(p) <= 0.1) <= 0.25
    assert 0.3 < np.mean(p) < 0.75


def test_groups_widen_the_interval():
    net = TorchModule(Gate(GATES["sum"]).eval(), torch.zeros(1, 2))
    values = (
        torch.randn(12, 1, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 0).repeat(1, 2)
    )
    widths = []
    for groups in ((), tuple(str(i // 4) for i in range(48))):
        task = TensorTask("t", values, None, lambda out: out[:, 0], groups)
        found = effect(net, task, Intervention("units.out", "zero"), control=None)
        widths.append(found.estimate.high - found.estimate.low)
    assert widths[1] > 1.8 * widths[0]


def test_below_eight_groups_there_is_no_interval_and_the_print_says_why():
    net = TorchModule(Gate(GATES["sum"]).eval(), torch.zeros(1, 2))
    values = torch.rand(21, 2, generator=torch.Generator().manual_seed(0))
    task = TensorTask("t", values, None, lambda out: out[:, 0], tuple(str(i % 7) for i in range(21)))
    found = effect(net, task, Intervention("units.out", "zero"), control=None)
    assert found.estimate.low is None and found.estimate.high is None and found.estimate.groups == 7
    assert "no interval: 7 independent groups, at least 8 are needed" in str(found)
    assert found.to_json()["low"] is None
    one = effect(net, task.select([0]), Intervention("units.out", "zero"), control=None)
    assert "no interval: 1 independent groups" in str(one)


def test_a_share_of_a_baseline_that_is_not_different_from_zero_is_refused():
    """The items' metric scatters about 0, so the mean is an accident, and any share of it too."""
    net = TorchModule(Gate(GATES["sum"]).eval(), torch.zeros(1, 2))
    values = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    task = TensorTask("t", values - values.mean() + 0.01, None, lambda out: out[:, 0])
    found = effect(net, task, Intervention("units.out[0]", "zero"), control=None)
    assert abs(found.estimate.value / found.baseline) > 1
    with pytest.raises(PatchclampError, match=r"not different from 0: 0\.0\d+ \[-.*more items"):
        found.share  # noqa: B018
    assert found.to_json()["share"] is None and "the baseline is not different from 0" in str(found)
    there = effect(
        net, TensorTask("t", values + 9, None, lambda out: out[:, 0]), Intervention("units.out", "zero"), None
    )
    assert there.share == pytest.approx(1)


def test_the_control_says_how_near_its_units_are(lm, task, reference):
    """A model of four heads a layer has few to choose from: most controls lie in another layer; neurons do not."""
    heads = effect(lm, task, Intervention(HEAD, "zero"), reference=reference).estimate.null.kind
    assert "nearest in layer" in heads and "matched" not in heads
    assert 0 < int(re.search(r"(\d+)% in the same layer", heads)[1]) < 60
    low, high = map(float, re.search(r"activity ([\d.]+) to ([\d.]+) times", heads).groups())
    assert low < 0.7 or high > 1.4
    assert "nothing alike exists" in heads  # the planted head is far more active than any other
    site = effect(lm, task, Intervention("mlp_out.1", "zero"), reference=reference).estimate.null.kind
    assert "0% in the same layer; whole sites, which have no equal" in site


def test_bad_calls_are_refused(lm, task):
    change = Intervention(HEAD, "zero")
    for call, message in (
        (lambda: effect(lm, task, change, n_control=5), "at least 20"),
        (lambda: effect(lm, task, change, control="random"), "matched"),
        (lambda: effect(lm, task, []), "no intervention"),
        (lambda: effect(lm, task, [change, [change]]), "mixed"),
        (lambda: effects(lm, task, []), "no intervention"),
        (lambda: effect(lm, task, Intervention("resid_post.7", "zero")), "layers 0..2"),
        (lambda: effect(lm, task, Intervention(HEAD, "zero", positions=40), control=None), "select nothing"),
        (
            lambda: effect(lm, task, Intervention(HEAD, "zero", positions="ends"), control=None),
            "did you mean end",
        ),
        (
            lambda: effect(lm, task, Intervention("mlp_act.0", "clamp", value=float("nan")), control=None),
            "not a finite",
        ),
        (lambda: effect(lm, task, Intervention("final_norm", "zero")), "too few other"),
    ):
        with pytest.raises(PatchclampError, match=message):
            call()


def test_passes_are_counted_and_groups_kept(lm, task):
    seen: list[int] = []
    trial = run_trial(
        lm,
        task,
        [[Intervention(HEAD, "zero")], []],
        batch_size=10,
        progress=lambda text, done, total: seen.append(done),
    )
    assert seen == list(range(1, 7))
    np.testing.assert_array_equal(trial.changed[1], trial.baseline)


def test_positions_of_an_image_are_those_of_the_site():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1)).eval()
    subject = TorchModule(net, torch.zeros(1, 1, 4, 4))
    task = TensorTask("image", torch.randn(3, 1, 4, 4), None, lambda out: out[:, 0])
    with torch.no_grad():
        image = net[0](task.clean)
        image[:, :, 1, 1] = 0
        want = net[2](image.flatten(1))[:, 0]
    trial = run_trial(subject, task, [[Intervention("0.out", "zero", 3)]])
    assert trial.changed[0] == pytest.approx(want.numpy(), abs=1e-6)
    with pytest.raises(PatchclampError, match="positions 4 select nothing"):
        run_trial(subject, task, [[Intervention("0.out", "zero", 4)]])


def test_logits_are_changed_at_the_position_named(lm, task):
    few = task.take(6)
    trial = run_trial(lm, few, [[Intervention("logits", "zero", "end")], [Intervention("logits", "zero")]])
    assert np.all(trial.changed == 0)
    assert np.any(trial.baseline != 0)


@pytest.mark.parametrize("seed", range(5))
def test_no_matched_set_is_drawn_twice_while_others_are_left(seed):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 1)).eval()
    subject = TorchModule(net, torch.zeros(1, 3))
    reference = Reference(subject, TensorTask("sum", torch.rand(4, 3), None, lambda out: out[:, 0]))
    drawn = matched_sets(Units.parse("1.out[7]"), subject, reference, 20, seed)
    assert len(set(drawn)) == 20
