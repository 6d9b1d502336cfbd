"""The built-in tasks on SmolLM2-135M: what it can do, and what is refused because it cannot."""

import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.builtin import TASKS
from patchclamp.nouns.tasks.task import METRICS, require_ability
from patchclamp.subjects import open_subject

pytestmark = pytest.mark.smollm2


@pytest.fixture(scope="module")
def subject():
    return open_subject("smollm2", device="cpu", dtype="float32")


def measure(subject, task, corrupted=False):
    """Accuracy and the task's metric, per item, and the metric of the corrupted texts."""
    encoded = task.encode(subject.tokenizer, bos=subject.bos, max_length=subject.max_length)
    right, metric, contrast = torch.zeros(3, len(task))
    with torch.inference_mode():
        for part, pair in zip(encoded.batches(32), subject.pairs(task, 32), strict=True):
            logits = subject.run(pair.clean, logits=pair.answer_position).logits
            right[pair.rows] = METRICS["accuracy"](logits, part)
            metric[pair.rows] = pair.metric(logits)
            if corrupted:
                contrast[pair.rows] = pair.metric(
                    subject.run(pair.corrupted, logits=pair.answer_position).logits
                )
    return right, metric, contrast


def test_ioi(subject):
    task = TASKS["ioi"](subject.tokenizer, n=256)
    assert len({name for item in task for name in (item.meta["IO"], item.meta["S"])}) >= 24
    right, metric, _ = measure(subject, task)
    assert right.mean() > 0.97
    assert 4.5 < metric.mean() < 5.7
    require_ability(task, float(right.mean()), float(metric.mean()))


def test_greater_than(subject):
    right, metric, corrupted = measure(
        subject, TASKS["greater_than"](subject.tokenizer, n=64), corrupted=True
    )
    assert right.mean() > 0.97 and metric.mean() > 0.9
    assert corrupted.mean() < 0, "after 01 the model does not shun early decades"


@pytest.mark.parametrize(
    ("name", "n", "accuracy"),
    [
        ("induction", 32, 0.93),
        ("capitals", 48, 0.93),
        ("agreement", 96, 0.88),
        ("pronouns", 48, 0.95),
        ("colored_objects", 48, 0.8),
        ("sentiment", 24, 0.9),
    ],
)
def test_tasks_that_the_model_can_do(subject, name, n, accuracy):
    task = TASKS[name](subject.tokenizer, n=n)
    right, metric, corrupted = measure(subject, task, corrupted=True)
    assert right.mean() >= accuracy
    require_ability(task, float(right.mean()), float(metric.mean()))
    assert metric.mean() - corrupted.mean() > 1, "the corruption removes the behaviour"


def test_multiple_choice_is_refused(subject):
    task = TASKS["mcqa"](subject.tokenizer, n=16)
    right, metric, _ = measure(subject, task)
    with pytest.raises(PatchclampError, match=r"task mcqa: the model cannot do it \(accuracy 0\.\d+"):
        require_ability(task, float(right.mean()), float(metric.mean()))


@pytest.mark.parametrize("name", TASKS)
def test_the_default_size_can_be_built(subject, name):
    task = TASKS[name](subject.tokenizer)
    encoded = task.encode(subject.tokenizer, bos=subject.bos, max_length=subject.max_length)
    assert len(encoded) == 256
    for split in task.splits:
        assert len({item.group for item in task.split(split)}) >= 6
