"""A model and a task as files, which the commands are given."""

from __future__ import annotations

import pytest

import planted


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The planted model as a folder that anybody could open."""
    return planted.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its task as JSONL."""
    path = tmp_path_factory.mktemp("task") / "copying.jsonl"
    planted.task().to_jsonl(path)
    return str(path)
