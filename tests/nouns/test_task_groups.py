"""Items that name no group are grouped by what repeats: texts, and answers with their foils."""

import json

import pytest

from patchclamp.base.estimate import Estimate
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.protocol import size_of
from patchclamp.nouns.tasks.task import Task

FACTS = [("France", " Paris"), ("Italy", " Rome"), ("Japan", " Tokyo"), ("Egypt", " Cairo"), ("Peru", " Lima"),
         ("Cuba", " Havana"), ("Norway", " Oslo"), ("Kenya", " Nairobi"), ("Greece", " Athens"), ("Spain", " Madrid")]  # fmt: skip


def of(splits, which):
    return {i.clean for i in splits.split(which)}


def write(path, items):
    path.write_text("\n".join(json.dumps(item) for item in items))
    return path


def test_a_text_that_repeats_is_on_one_side_alone(tmp_path):
    """Each text with three foils: dealt item by item, most test texts were train texts too."""
    lines = [
        {"clean": f"The capital of {c} is", "answers": a, "foils": f" {foil}"}
        for foil in ("red", "blue", "green")
        for c, a in FACTS
    ]
    task = Task.from_jsonl(write(tmp_path / "mine.jsonl", lines))
    texts = {name: of(task, name) for name in task.splits}
    assert not texts["test"] & texts["train"] and not texts["test"] & texts["validation"]
    assert sum(len(places) for places in task.splits.values()) == 30
    assert len(set(task.groups)) == 10 and task.grouping == "text"
    assert size_of(task) == "30 items, 10 groups"
    task.to_jsonl(tmp_path / "again.jsonl")
    again = Task.from_jsonl(tmp_path / "again.jsonl")
    assert again == task and again.grouping == task.grouping


def test_one_fact_in_several_wordings_is_one_group():
    wordings = ("The capital of {} is", "Its capital city, I mean that of {}, is", "{}. Capital:")
    items = [Item(w.format(c), a, " London") for w in wordings for c, a in FACTS]
    task = Task("facts", items)
    assert len(set(task.groups)) == 10
    answers = {name: {i.answers for i in task.split(name)} for name in task.splits}
    assert not answers["test"] & (answers["train"] | answers["validation"])
    assert task.split("test").groups == tuple(task.groups[i] for i in task.splits["test"])


def test_classes_are_no_facts():
    """Two answers over 40 texts are labels: grouped by them, nothing could be split."""
    items = [Item(f"Review {i}: so", *((" good", " bad") if i % 2 else (" bad", " good"))) for i in range(40)]
    task = Task("classes", items)
    assert task.groups == () and task.grouping == ""
    assert size_of(task) == "40 items"
    assert {i.answers for i in task.split("test")} == {(" good",), (" bad",)}


def test_named_groups_and_given_splits_are_left_as_they_are():
    items = [
        Item("the same", " x", " y", group="a"),
        Item("the same", " x", " y", group="b"),
        Item("c", " x", " y"),
    ]
    task = Task("named", items)
    assert task.groups == ("a", "b", "") and task.grouping == ""
    bare = [Item("the same", " x", " y"), Item("the same", " x", " y"), Item("c", " x", " y")]
    given = Task("given", bare, splits={"train": [0, 2], "test": [1]})
    assert given.splits == {"train": (0, 2), "test": (1,)}
    assert given.groups[0] == given.groups[1] != given.groups[2]
    assert given.split("test").others().items == given.items[2:]  # not the copy of its own text


@pytest.mark.parametrize(("groups", "text"), [(11, "n = 40 items, 11 groups"), (0, "n = 40 items")])
def test_estimates_say_how_many_groups_they_stand_on(groups, text):
    assert Estimate(0.5, 0.4, 0.6, 40, groups=groups).size == text


def test_a_byte_order_mark_is_no_part_of_a_task(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"clean": "x is", "answers": " a", "foils": " b"}), encoding="utf-8-sig")
    assert Task.from_jsonl(path).items[0].clean == "x is"
