"""The report says of the test items what is true of these items, and how many groups they are."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

import planted
from patchclamp.nouns.tasks.task import Task
from patchclamp.study import StudyOptions, read_claims, run_study

SMALL = StudyOptions(
    n_train=24, n_validation=12, n_test=24, head_sizes=(1, 2), neuron_sizes=(1, 4), n_singles=2, refine_heads=2,
    curve_items=8, curve_points=3, n_random=1, exact_items=4, exact_layers=3, n_texts=3,
)  # fmt: skip


def own_file(path, splits=()):
    """Each of 40 texts three times, with another foil each: what a person's own file looks like."""
    rng, lines = random.Random(3), []
    for item in planted.task(40).items * 3:
        words = item.clean.split()
        foil = rng.choice([word for word in planted.WORDS if word not in words])
        lines.append(
            {
                "clean": item.clean,
                "corrupted": " ".join([words[0], foil, *words[2:]]),
                "answers": item.answers,
                "foils": f" {foil}",
                "template": "six",
                **({"split": splits[len(lines) % len(splits)]} if splits else {}),
            }
        )
    path.write_text("\n".join(map(json.dumps, lines)))
    return Task.from_jsonl(path)


@pytest.fixture(scope="module")
def subject():
    return planted.subject()


def shared(task):
    chosen = {item.clean for item in task.split("train", "validation")}
    return sum(item.clean in chosen for item in task.split("test"))


def note(subject, task, folder=None):
    found = run_study(subject, task, folder, options=SMALL, write=folder is not None)
    return found, found.data["note"]


@pytest.mark.slow
def test_a_file_without_groups_is_held_apart_by_its_texts(subject, tmp_path):
    task = own_file(tmp_path / "own.jsonl")
    assert shared(task) == 0
    study, text = note(subject, task, tmp_path / "out")
    test = task.split("test").take(SMALL.n_test)
    groups = len(set(test.groups))
    assert groups < len(test)
    assert f"{len(test)} items, {groups} groups" in text
    assert "share no text" in text and "share no group" not in text
    assert {c.estimate.groups for c in study.claims} == {groups}
    assert read_claims(tmp_path / "out" / "claims.json") == list(study.claims)
    assert f"{groups} groups" in (tmp_path / "out" / "report.html").read_text()


def test_splits_that_share_texts_are_called_by_their_name(subject, tmp_path):
    task = own_file(tmp_path / "cut.jsonl", ("train", "validation", "test"))
    n = shared(task.split("train", "validation", "test"))
    assert n > 0
    _, text = note(subject, task)
    assert "of them share a text or a group" in text and "share no" not in text


@pytest.mark.slow
def test_named_groups_that_are_apart_are_said_to_be(subject):
    items = planted.task().items
    named = Task("named", [replace(i, group=f"g{n // 2}", template="") for n, i in enumerate(items)])
    study, text = note(subject, named)
    assert "they share no group of items (names, facts) with the 24 + 12 items" in text
    assert "by template (of items that name none, by length)" in study.claims[0].ablation
