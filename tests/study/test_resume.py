"""A study that was killed goes on behind its last finished stage, and ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import read_json
from patchclamp.study import run_study
from stopped import NAMES, SMALL, Stop, stopping


@pytest.fixture(scope="module")
def subject():
    return planted.subject()


@pytest.fixture(scope="module")
def whole(subject, tmp_path_factory):
    return run_study(subject, planted.task(), tmp_path_factory.mktemp("whole") / "out", options=SMALL)


def timeless(data: Any) -> Any:
    """Without times."""
    if isinstance(data, dict):
        times = ("created", "colophon", "seconds", "exact_seconds")
        return {key: timeless(value) for key, value in data.items() if key not in times}
    return [timeless(value) for value in data] if isinstance(data, list) else data


def same(one: Path, other: Path) -> None:
    """Everything but times."""
    for name in ("study.json", "claims.json"):
        assert timeless(read_json(one / name)) == timeless(read_json(other / name))
    names = [sorted(path.name for path in folder.iterdir()) for folder in (one, other)]
    assert names[0] == names[1] and ".stages" not in names[0]
    for name in names[0]:
        if name.endswith(".parquet"):
            frames = [
                pd.read_parquet(f / name).drop(columns="seconds", errors="ignore") for f in (one, other)
            ]
            pd.testing.assert_frame_equal(*frames)


@pytest.mark.slow
@pytest.mark.parametrize("at", [NAMES[3], NAMES[5], NAMES[-1]])
def test_a_study_goes_on_behind_its_last_finished_stage(subject, whole, tmp_path, at) -> None:
    ran: list[str] = []
    with pytest.raises(Stop):
        run_study(subject, planted.task(), tmp_path / "out", options=SMALL, progress=stopping(at, ran))
    assert ran == NAMES[: NAMES.index(at) + 1]
    ran.clear()
    run_study(subject, planted.task(), tmp_path / "out", options=SMALL, progress=stopping("", ran))
    assert ran == NAMES[NAMES.index(at) :]
    same(tmp_path / "out", whole.folder)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import planted
from study.test_resume import SMALL
from patchclamp.study import run_study

def tell(text, done, total):
    if text == {at!r}:
        os.kill(os.getpid(), signal.SIGKILL)

run_study(planted.subject(), planted.task(), {out!r}, options=SMALL, progress=tell)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_a_study_is_resumed(subject, whole, tmp_path) -> None:
    out, tests = tmp_path / "out", str(Path(__file__).parents[1])
    for at in (NAMES[2], NAMES[5]):
        script = KILLED.format(tests=tests, at=at, out=str(out))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        assert (out / ".stages").is_dir() and not (out / "study.json").exists()
    ran: list[str] = []
    threads = torch.get_num_threads()
    kept = json.loads((out / ".stages" / "stage-0.json").read_text())["made_by"]["runs"]["threads"]
    torch.set_num_threads(kept)
    try:
        run_study(subject, planted.task(), out, options=SMALL, progress=stopping("", ran))
    finally:
        torch.set_num_threads(threads)
    assert ran == NAMES[5:]
    same(out, whole.folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda task, options: (task, options.change(seed=1)), r"options\.seed is 0 there and 1 here"),
        (lambda task, options: (planted.task(seed=1), options), r"fingerprint is .* there and .* here"),
    ],
)
def test_stages_that_something_else_decided_are_not_taken(subject, tmp_path, change, words) -> None:
    with pytest.raises(Stop):
        run_study(subject, planted.task(), tmp_path, options=SMALL, progress=stopping(NAMES[2], []))
    task, options = change(planted.task(), SMALL)
    with pytest.raises(PatchclampError, match=f"holds the state of another run.*{words}"):
        run_study(subject, task, tmp_path, options=options)
    with pytest.raises(PatchclampError, match="weights|fingerprint is"):
        run_study(planted.subject(seed=1), planted.task(), tmp_path, options=SMALL)


def test_a_finished_study_and_a_users_folder_are_not_touched(subject, whole, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in whole.folder.iterdir()}
    ran: list[str] = []
    for folder in (whole.folder, tmp_path):
        with pytest.raises(PatchclampError, match="is not empty"):
            run_study(subject, planted.task(), folder, options=SMALL, progress=stopping("", ran))
        with pytest.raises(PatchclampError, match="is not empty"):
            whole.write(folder)
    with pytest.raises(PatchclampError, match="notes.txt: is a file"):
        run_study(subject, planted.task(), tmp_path / "notes.txt", options=SMALL, progress=stopping("", ran))
    with pytest.raises(PatchclampError, match="is a file, so nothing can be made in it"):
        run_study(subject, planted.task(), tmp_path / "notes.txt" / "x", options=SMALL)
    assert not ran and {path: path.read_bytes() for path in whole.folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
