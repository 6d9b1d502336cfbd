"""Where the means of an intervention come from: other items than those that it acts on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import planted

from patchclamp import Intervention, PatchclampError, Task, TensorTask, TorchModule, effect
from patchclamp.nouns.tasks.texts import TextTask
from patchclamp.subjects.clamp.bench import Bench

HEAD = f"head.{planted.LAYER}[{planted.HEAD}]"
VALUES = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))


def first_unit(values=VALUES, corrupted=None, groups=()):
    """A network whose metric is the activity of its first unit, and items of these values."""
    subject = TorchModule(torch.nn.Sequential(torch.nn.Identity()).eval(), torch.zeros(1, values.shape[1]))
    return subject, TensorTask("first", values, corrupted, lambda out: out[:, 0], groups)


def change(by="template", source="clean"):
    return Intervention("0.out[0]", "mean", by=by, source=source)


@pytest.mark.parametrize("by", ["template", "position", "data"])
def test_without_others_each_item_is_left_out_of_its_own_mean(by):
    subject, task = first_unit()
    x = VALUES[:, 0].double().numpy()
    found = effect(subject, task, change(by), control=None, batch_size=5)
    want = x - np.array([np.delete(x, i).mean() for i in range(len(x))])
    np.testing.assert_allclose(found.per_item, want, atol=1e-6)


def test_the_default_reference_is_the_rest_of_the_task():
    subject, task = first_unit(groups=tuple("aabbccddeeff"))
    test = task.split("test")
    own = set(test.groups)
    rest = np.array([g not in own for g in task.groups])
    found = effect(subject, test, change(), control=None)
    want = test.clean[:, 0].numpy() - VALUES[:, 0].numpy()[rest].mean()
    np.testing.assert_allclose(found.per_item, want, atol=1e-6)
    explicit = effect(subject, test, change(), control=None, reference=task.split("train", "validation"))
    np.testing.assert_allclose(found.per_item, explicit.per_item, atol=1e-6)


def test_a_reference_of_other_items_is_averaged_whole():
    subject, task = first_unit()
    found = effect(
        subject, task.select(range(4)), change(), control=None, reference=task.select(range(4, 12))
    )
    np.testing.assert_allclose(found.per_item, (VALUES[:4, 0] - VALUES[4:, 0].mean()).numpy(), atol=1e-6)


def test_every_copy_of_an_item_is_left_out_of_its_mean():
    """Three copies of a text in ten would put 30 % of the units' own values back."""
    values = torch.cat([VALUES[:1], VALUES[:1], VALUES[:8]])
    subject, task = first_unit(values)
    found = effect(subject, task, change(), control=None)
    want = VALUES[0, 0] - VALUES[1:8, 0].mean()
    np.testing.assert_allclose(found.per_item[:3], [float(want)] * 3, atol=1e-6)


def test_an_own_text_among_the_corrupted_ones_is_left_out():
    """Where items are each other's contrast, the corrupted reference holds the very text that is measured."""
    values = torch.tensor([[1.0, 0], [5.0, 0], [2.0, 0], [8.0, 0]])
    subject, task = first_unit(values, values[[1, 0, 3, 2]])
    found = effect(subject, task, change(source="corrupted"), control=None)
    want = [1 - (5 + 2 + 8) / 3, 5 - (1 + 2 + 8) / 3, 2 - (1 + 5 + 8) / 3, 8 - (1 + 5 + 2) / 3]
    np.testing.assert_allclose(found.per_item, want, atol=1e-5)


@pytest.mark.parametrize("by", ["template", "position", "data"])
def test_a_mean_that_is_the_value_itself_is_refused(by):
    for values in (VALUES[:1], VALUES[:1].repeat(4, 1)):
        subject, task = first_unit(values)
        with pytest.raises(PatchclampError, match=r"item 0 itself.*reference="):
            effect(subject, task, change(by), control=None)


def each_its_own_template(n):
    task = planted.task(n)
    return replace(task, items=[replace(item, template=f"t{i}") for i, item in enumerate(task.items)])


def test_one_item_a_template_is_refused_and_the_ways_out_work():
    lm, task = planted.subject(), each_its_own_template(24)
    test = task.split("test")
    for reference in (test, task):
        with pytest.raises(PatchclampError, match=r"of template 't\d+' differs .*by='position'"):
            effect(lm, test, Intervention(HEAD, "mean"), control=None, reference=reference)
    with pytest.raises(PatchclampError, match="no reference item has template"):
        effect(lm, test, Intervention(HEAD, "mean"), control=None)
    with pytest.raises(PatchclampError, match="change nothing"):
        Bench(lm, task).trial([Bench(lm, task).change([(Intervention(HEAD).units.sites[0], 2)])])
    found = effect(lm, test, Intervention(HEAD, "mean", by="position"), control=None)
    assert found.share > 0.9


def test_items_that_share_a_text_are_left_out_of_each_others_mean_by_position():
    """Items of two lengths: at the far positions there are the longer ones alone."""
    lm, task = planted.subject(), planted.task(12)
    short = [
        replace(item, clean=item.clean[: item.clean.rindex(" ")], corrupted=None, corrupted_spans={})
        for item in task.items[1:]
    ]
    long = replace(task.items[0], corrupted=None, corrupted_spans={})
    ragged = Task("ragged", [long, *short])
    with pytest.raises(PatchclampError, match="reaches as far back differs from item 0"):
        effect(lm, ragged, Intervention("mlp_act.1[0]", "mean", by="position"), control=None)
    near = Intervention("mlp_act.1[0]", "mean", by="position", positions="end")
    assert effect(lm, ragged, near, control=None).estimate.n == 12


def test_selections_know_the_others_of_their_task():
    task = planted.task(16)
    named = Task("named", [replace(item, group=f"g{i // 2}") for i, item in enumerate(task.items)])
    test = named.split("test")
    assert not {i.clean for i in test.others()} & {i.clean for i in test}
    assert len(test.others()) == len(named) - len(test)
    first = named.select([0])
    assert len(first.others()) == 14  # the item of the same group is none of the others
    assert named.others() is None
    assert test.take(1).others() is not None
    assert replace(test, items=task.items[:3], splits={}).others() is None
    assert test == Task("named", test.items, splits=test.splits)
    texts = TextTask("texts", ("One text.", "Two texts.", "Three texts."))
    assert texts.select([1]).others().texts == ("One text.", "Three texts.")
    tensors = TensorTask("t", VALUES, None, lambda out: out[:, 0])
    assert torch.equal(tensors.select([3]).select([0]).others().clean[:3], VALUES[:3])


def test_an_effect_prints_groups_beside_items():
    subject, task = first_unit(groups=tuple("aabbccddeeff"))
    found = effect(subject, task, change(), control=None)
    assert "n = 12 items, 6 groups" in str(found)
    assert found.to_json()["groups"] == 6
    assert "n = 12 items" in str(effect(*first_unit(), change(), control=None))
