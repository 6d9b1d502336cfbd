"""Files, folders and states of runs appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from patchclamp.base.checkpoint import Checkpoint
from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import in_one_step, way_out, write_tensors, write_text
from patchclamp.base.progress import shown, silent


@pytest.mark.parametrize("sync", [True, False])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old", sync)
    with pytest.raises(RuntimeError), in_one_step(path, sync) as draft:
        draft.write_text("hal")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    draft.write_text("what a killed process left")
    write_text(path, "new", sync)
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with in_one_step(path) as draft:
        (draft / "inner").mkdir(parents=True)
        (draft / "inner" / "a.txt").write_text("a")
        assert not path.exists()
    assert (path / "inner" / "a.txt").read_text() == "a" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(RuntimeError), in_one_step(tmp_path / "other") as draft:
        (draft / "inner").mkdir(parents=True)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path, start, failed = tmp_path / "a.txt", threading.Barrier(8), []

    def write(letter: str) -> None:
        start.wait()
        for _ in range(20):
            try:
                write_text(path, letter * 5000, sync=False)
            except OSError as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(set(path.read_text())) == 1 and len(path.read_text()) == 5000
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_user_named_like_a_draft_stays(tmp_path: Path) -> None:
    for name in (".a.txt.partial", ".a.txt.creating", ".a.txt.mine-1-2.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    write_text(tmp_path / "a.txt", "new")
    assert len(list(tmp_path.rglob("mine.txt"))) == 3


def test_only_drafts_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    with in_one_step(tmp_path / "a.txt") as draft:
        draft.write_text("being written")
        gone = subprocess.run(
            [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
        )
        head, _, tail = draft.name.rpartition(f"-{os.getpid()}-")
        stale = draft.with_name(f"{head}-{int(gone.stdout)}-{tail}")
        elsewhere = draft.with_name(f".a.txt.00000000-{int(gone.stdout)}-{tail}")
        for path in (stale, elsewhere):
            path.write_text("left")
        write_text(tmp_path / "a.txt", "another's")
        assert draft.exists() and elsewhere.exists() and not stale.exists()
    assert (tmp_path / "a.txt").read_text() == "being written"


def test_a_long_name_has_a_draft(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 250), "text")
    assert (tmp_path / ("n" * 250)).read_text() == "text"


def test_a_way_out_is_refused_before_the_work(tmp_path: Path) -> None:
    ours, theirs, folder = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "folder"
    ours.write_text('{"schema": "patchclamp/study/2"}')
    theirs.write_text('["patchclamp/study/2"]')
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for path, kind in ((ours, "file"), (tmp_path / "new" / "er", "file"), (tmp_path / "empty", "folder")):
        assert way_out(path, kind) == path
    assert way_out(folder, "folder", "inner") == folder and not (tmp_path / "new").exists()
    for path, kind, words in (
        (theirs, "file", "patchclamp did not write it"),
        (theirs, "folder", "is a file"),
        (theirs / "x", "folder", "is a file, so nothing can be made in it"),
        (folder, "folder", "is not empty"),
        (folder, "file", "is a folder"),
    ):
        with pytest.raises(PatchclampError, match=words):
            way_out(path, kind)


def test_tensors_that_share_memory_are_written_whole(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    whole = torch.arange(6.0)
    write_tensors(
        tmp_path / "t.safetensors", {"whole": whole, "part": whole[2:4], "turned": whole.view(2, 3).T}
    )
    found = load_file(tmp_path / "t.safetensors")
    assert torch.equal(found["part"], whole[2:4]) and torch.equal(found["turned"], whole.view(2, 3).T)


def test_a_checkpoint_outlives_a_save_that_fails_and_refuses_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by = {"method": "x", "settings": {"k": (1, 2)}}
    kept = Checkpoint(tmp_path, made_by)
    assert kept.load() is None
    for step in (1, 2):
        kept.save({"a": torch.full((2,), float(step))}, {"step": step})
    with monkeypatch.context() as broken:
        broken.setattr("patchclamp.base.checkpoint.write_text", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kept.save({"a": torch.zeros(2)}, {"step": 3})
    found = Checkpoint(tmp_path, made_by).load()
    assert found is not None and found[0]["a"].tolist() == [2.0, 2.0] and found[1] == {"step": 2}
    with pytest.raises(PatchclampError, match=r"settings\.k is \[1, 2\] there and \[1, 3\] here"):
        Checkpoint(tmp_path, {"method": "x", "settings": {"k": (1, 3)}}).load()
    kept.save({}, {"step": 4})
    assert len(list(tmp_path.iterdir())) == 2 and kept.load() == ({}, {"step": 4})
    kept.forget()
    assert not list(tmp_path.iterdir()) and kept.load() is None
    Checkpoint(None, made_by).save({}, {})


def test_a_state_of_an_older_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"key": "ab", "tensors": "state-1.safetensors", "plain": {}}')
    with pytest.raises(PatchclampError, match="older format"):
        Checkpoint(tmp_path, {}).load()


def test_without_a_terminal_nothing_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    for progress in (True, False, None):
        with shown(progress, "plan", "tokens") as tell:
            assert tell is silent
            tell("recording", 1, 2)
    assert capfd.readouterr() == ("", "")


def test_a_link_stays_a_link_and_a_file_keeps_its_mode(tmp_path: Path) -> None:
    real = tmp_path / "real.txt"
    real.write_text("old")
    real.chmod(0o600)
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with in_one_step(pipe) as draft:
        assert draft == pipe
    assert pipe.is_fifo()


def test_a_checkpoint_leaves_files_of_others_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "0001.safetensors"
    theirs.write_bytes(b"a user's own")
    kept = Checkpoint(tmp_path, {"seed": 0}, "measures")
    kept.save({"x": torch.ones(1)}, {})
    kept.save({"x": torch.ones(1)}, {})
    kept.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["0001.safetensors"]
