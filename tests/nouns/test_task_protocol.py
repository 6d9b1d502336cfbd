"""Every kind of task is a `TaskLike`: one name, metric, groups, splits and selection."""

from __future__ import annotations

import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.tasks.texts import TextTask
from patchclamp.subjects import TensorTask

GROUPS = tuple(str(i // 2) for i in range(12))
TASKS = {
    "items": Task("t", [Item(f"{i} is", " x", " y", group=g) for i, g in enumerate(GROUPS)]),
    "texts": TextTask("t", tuple(f"text {i}" for i in range(12)), GROUPS, tuple("ab" * 6)),
    "tensors": TensorTask(
        "t", torch.eye(12), torch.zeros(12, 12), lambda out, y: out[:, 0], GROUPS, torch.arange(12)
    ),
}


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_is_one(kind):
    task = TASKS[kind]
    assert isinstance(task, TaskLike)
    assert task.name == "t"
    assert task.metric_name
    assert task.groups == GROUPS


@pytest.mark.parametrize("kind", TASKS)
def test_splits_do_not_cut_groups_and_hold_every_item_once(kind):
    parts = [TASKS[kind].split(name) for name in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 12
    assert all(isinstance(part, type(TASKS[kind])) for part in parts)
    seen = [set(part.groups) for part in parts]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    assert len(TASKS[kind].split("train", "test")) == len(parts[0]) + len(parts[2])
    with pytest.raises(PatchclampError, match="did you mean train"):
        TASKS[kind].split("trian")
    with pytest.raises(PatchclampError, match="never cut"):
        TASKS[kind].select([0, 1]).split("validation")


def test_what_belongs_to_an_item_goes_with_it():
    texts, tensors = (TASKS[kind].select([5, 2]) for kind in ("texts", "tensors"))
    assert (texts.texts, texts.labels, texts.groups) == (("text 5", "text 2"), ("b", "a"), ("2", "1"))
    assert tensors.targets.tolist() == [5, 2]
    assert tensors.clean.argmax(1).tolist() == [5, 2]
    assert TASKS["tensors"].metric_name == "<lambda>"


def test_a_task_that_is_none_is_told_apart():
    assert not isinstance("ioi", TaskLike)
