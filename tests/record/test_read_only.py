"""A finished store on a disk that is read-only opens, is measured, and is what `record` gives back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import planted
from patchclamp import PatchclampError, Recording
from patchclamp.app import cli
from patchclamp.record import record

TEXTS = [f"w{i} w{i + 1} w{i + 2} w{i + 3} w{i + 5}" for i in range(1, 20)]


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """The folder where nothing can be written: without its bits, or for root, who needs none, mounted so."""
    if os.geteuid():
        parts = [folder, *folder.rglob("*")]
        modes = [part.stat().st_mode for part in parts]
        for part, mode in zip(parts, modes, strict=True):
            part.chmod(mode & ~0o222)
        yield folder
        for part, mode in zip(parts, modes, strict=True):
            part.chmod(mode)
        return
    place = folder.with_name(f"{folder.name} mounted")
    place.mkdir(exist_ok=True)
    try:
        made = subprocess.run(["mount", "-o", "ro,bind", folder, place], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if made.returncode:
        pytest.skip(f"root cannot mount here: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished store and the model that it was recorded from."""
    folder = tmp_path_factory.mktemp("disk") / "folder"
    record(planted.subject(), TEXTS, ["mlp_act.1"], store=folder / "store", progress=False)
    return folder


def test_a_finished_store_on_a_read_only_disk(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = Recording.open(disk / "store")["mlp_act.1"].numpy()
    with read_only(disk) as place:
        with pytest.raises(OSError, match=r"Read-only|Permission"):
            (place / "file").write_text("x")
        assert (Recording.open(place / "store")["mlp_act.1"].numpy() == values).all()
        again = record(planted.subject(), TEXTS, ["mlp_act.1"], store=place / "store", progress=False)
        assert (again["mlp_act.1"].numpy() == values).all(), "it ended at a file that was to be deleted"
        for command in ("open", "check", "measure"):
            assert cli.run([command, str(place / "store")]) == 0
        capsys.readouterr()
        out = ["--out", str(place / "found.parquet")]
        assert cli.run(["measure", str(place / "store"), *out]) == 2
        assert "nothing can be written in" in capsys.readouterr().err


def test_a_new_store_on_a_read_only_disk_is_refused_before_the_model_runs(disk: Path) -> None:
    with read_only(disk) as place, pytest.raises(PatchclampError, match="nothing can be written in"):
        record(planted.subject(), TEXTS, ["mlp_act.1"], store=place / "new", progress=False)
