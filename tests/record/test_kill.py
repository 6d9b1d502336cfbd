"""Killed with SIGKILL at ten random moments, a recording resumes to the same bits."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Recording
from patchclamp.record import record
from record_subject import same_tree, texts, tiny_subject

HERE = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_killed_at_ten_random_moments_the_store_is_bit_identical(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "record_subject.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    whole = Recording.open(tmp_path / "whole")
    assert whole.complete and whole.manifest["schedule"]["window_tokens"] < whole.n_samples / 3
    assert sum(0 < rows < whole.n_samples for rows in facts["rows"]) >= 3, facts
    for number in range(10):
        assert same_tree(tmp_path / "whole", tmp_path / f"killed-{number}"), (number, facts)


FULL = """
import resource, signal, sys, torch
sys.path.insert(0, {tests!r})
from record_subject import same_tree, texts, tiny_subject
from patchclamp.record import record
torch.set_num_threads(1)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
record(tiny_subject(), texts(300), "mlp_act.*", store={store!r}, batch_tokens=16, chunk_rows=1500, progress=False)
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_named_and_the_run_resumed(tmp_path: Path) -> None:
    """The system itself refuses the write: here by its limit on the size of a file, as a full disk would."""
    assert resource.RLIMIT_FSIZE is not None
    script = FULL.format(tests=str(HERE), limit=100_000, store=str(tmp_path / "s"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "the disk is full" in last and "make the same call again" in last, (
        done.stderr
    )
    with pytest.raises(PatchclampError, match="chunk_rows is 1500 there and 128 here"):
        record(
            tiny_subject(),
            texts(300),
            "mlp_act.*",
            store=tmp_path / "s",
            batch_tokens=16,
            chunk_rows=128,
            progress=False,
        )
    for name in "st":
        record(
            tiny_subject(),
            texts(300),
            "mlp_act.*",
            store=tmp_path / name,
            batch_tokens=16,
            chunk_rows=1500,
            progress=False,
        )
    assert same_tree(tmp_path / "s", tmp_path / "t")
