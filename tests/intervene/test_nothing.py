"""Changes that change nothing are refused; units with nothing to take away are told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import planted
from patchclamp import Intervention, PatchclampError, TensorTask, TorchModule, effect, effects
from patchclamp.intervene import Reference
from patchclamp.subjects.clamp.trial import run_trial

HEAD = f"head.{planted.LAYER}[{planted.HEAD}]"


@pytest.fixture(scope="module")
def lm():
    return planted.subject()


@pytest.fixture(scope="module")
def task():
    """Items that all begin with the same two words, and two templates."""
    spans = {"second": (3, 5)}
    items = [
        replace(
            item,
            template="ab"[i % 2],
            clean=f"w0 w1 {item.clean}",
            corrupted=f"w0 w1 {item.corrupted}",
            spans=spans,
            corrupted_spans=spans,
        )
        for i, item in enumerate(planted.task(24).items)
    ]
    return replace(planted.task(2), items=items, splits={})


@pytest.mark.parametrize("kind", ["mean", "resample", "patch"])
@pytest.mark.parametrize("positions", [0, "second", (0, 1)])
def test_a_change_where_all_items_have_the_same_tokens_is_refused(lm, task, kind, positions):
    change = Intervention(HEAD, kind, positions=positions)
    words = (
        r"head\.1\[2\] replaced .* changes nothing on any of the 24 items of copying \(templates 'a', 'b'\)"
    )
    with pytest.raises(PatchclampError, match=words + ".*Give other positions"):
        effect(lm, task, change, control=None)
    for way_out in (replace(change, positions=-1), replace(change, kind="zero")):
        assert effect(lm, task, way_out, control=None).baseline


def test_means_by_position_and_data_are_judged_as_they_are_measured(lm, task):
    change = Intervention(HEAD, "mean", positions=0, by="position")
    with pytest.raises(PatchclampError, match="by position, at 0: changes nothing"):
        effect(lm, task, change, control=None)
    assert any(effect(lm, task, replace(change, by="data"), control=None).per_item)


@pytest.mark.parametrize(
    "change",
    [
        Intervention("head.1[2]", "patch", source="clean"),
        Intervention("mlp_act.2[3]", "scale", value=1.0),
        Intervention("resid_post.0", "add", value=0.0),
    ],
    ids=str,
)
def test_a_value_put_back_is_refused(lm, task, change):
    with pytest.raises(PatchclampError, match="changes nothing"):
        effect(lm, task, change, control=None)


def test_some_items_that_change_are_enough(lm, task):
    """Of two templates one shares its second word, the other does not: what is measured is a change."""
    other = [
        replace(item, template="c", spans={}, corrupted_spans={}) for item in planted.task(24, seed=3).items
    ]
    mixed = replace(
        task, items=[(a, b)[i % 2] for i, (a, b) in enumerate(zip(other, task.items, strict=True))]
    )
    change = Intervention("resid_post.0", "mean", positions=1)
    trial = run_trial(lm, mixed, [[change]], Reference(lm, mixed))
    assert trial.moved[0].tolist() == [i % 2 == 0 for i in range(24)]
    assert effect(lm, mixed, change, control=None).estimate.n == 24


def relu(values):
    net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(4, 1))
    return TorchModule(net.eval(), torch.zeros(1, 4)), TensorTask("t", values, None, lambda out: out[:, 0])


def test_an_idle_unit_is_told_apart():
    values = torch.rand(16, 4, generator=torch.Generator().manual_seed(0))
    values[:, 1:3] -= 2.0
    values[:, 3] = 0.5
    subject, task = relu(values)
    for kind in ("zero", "mean", "resample"):
        found = effect(subject, task, Intervention("0.out[1]", kind), control=None)
        assert found.idle
        assert found.estimate.value == 0
        assert "0.out[1] was 0 on all items" in str(found)
        assert found.to_json()["idle"] is True
    both = effect(subject, task, Intervention("0.out[1,2]", "zero"), control=None)
    assert "0.out[1,2] were 0 on all items" in str(both)
    woken = effect(subject, task, Intervention("0.out[1]", "clamp", value=1.0), control=None)
    assert not woken.idle
    assert "on all items" not in str(woken)
    constant = Intervention("0.out[3]", "mean")
    with pytest.raises(
        PatchclampError, match=r"0\.out\[3\] replaced by the mean .* changes nothing .* kind 'zero'"
    ):
        effects(subject, task, [Intervention("0.out[0]", "mean"), constant], control=None)
    assert not effect(subject, task, constant.on(Intervention("0.out[0]").units), control=None).idle


def test_small_units_beside_large_ones_are_still_changed():
    """What a unit does to the metric counts, however small it is beside the others of its site."""
    subject, task = relu(
        torch.rand(16, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-9, 1, 1, 1])
    )
    with torch.no_grad():
        subject.model[1].weight[:] = torch.tensor([[1e9, 0, 0, 0]])
    found = effect(subject, task, Intervention("0.out[0]", "zero"), control=None)
    assert found.estimate.value > 0.1
    assert not found.idle
