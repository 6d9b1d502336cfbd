"""Hostile files of activity, tasks and texts: each command on each ends in success, or in one line and status 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import hostile_arrays
import hostile_binary
import hostile_mat5
import hostile_stores
import hostile_texts
from hostile import Case, Child, changed, child
from patchclamp import PatchclampError
from patchclamp.record import open_recording

pytest.importorskip("pynwb")
pytest.importorskip("nibabel")
MODULES = ("pynwb", "nibabel", "mne", "scipy.io", "pyarrow.parquet", "xarray")


@pytest.fixture(scope="module")
def warm() -> Child:
    return child(*MODULES)


def cases(found: Iterator[tuple[str, tuple[str, ...]]]) -> Iterator[Case]:
    for name, command in found:
        files = [
            part for part in command[1:] if part.startswith("/") and "\0" not in part and Path(part).is_file()
        ]
        yield Case(
            f"{command[0]} {name}", command, files=files, ends=(0, 1, 2) if command[0] == "check" else (0, 2)
        )


FEW = settings(
    max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
MAKERS = [
    maker
    for corpus in (hostile_arrays, hostile_binary, hostile_mat5, hostile_stores, hostile_texts)
    for maker in corpus.MAKERS
]


@pytest.mark.slow
@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_the_corpus(tmp_path: Path, warm: Child, maker: Callable[[Path], Any]) -> None:
    assert warm.broken(cases(maker(tmp_path))) == []


@pytest.mark.slow
def test_a_tree_of_references_is_counted_by_its_arrays(tmp_path: Path, warm: Child) -> None:
    """13 arrays that lead to 10^12 cells: each is looked at once, where 100,000 were before, until the alarm."""
    tree = next(path for path in hostile_binary.mat73(tmp_path) if path.stem == "tree of cells")
    found = warm.run(Case("tree", ["open", str(tree)], files=[str(tree)], ends=(2,)))
    assert not found.broken and "more than 100,000 cells" in found.err


NPZ = hostile_arrays.npz()
WRONG = [
    ("owners half.npz", "spike_units must be whole numbers"),
    ("trial huge.npz", "trial must be whole numbers"),
    ("run of nan.npz", "sample 0 has no run"),
    ("behaviour named doc.npz", "has the name of a column that every recording has"),
    ("unit index.npz", "index is .*each once"),
    ("unit present of text.npz", "present is .*wanted true or false"),
]


@pytest.mark.parametrize(("name", "words"), WRONG)
def test_what_was_read_wrongly_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(NPZ[name])
    with pytest.raises(PatchclampError, match=words):
        open_recording(tmp_path / name)


def test_dates_are_no_seconds(tmp_path: Path) -> None:
    """A column of dates was taken for seconds: 1.6e15 of them."""
    (tmp_path / "dates.parquet").write_bytes(hostile_arrays.parquets(tmp_path)["dates.parquet"])
    with pytest.raises(PatchclampError, match="time is of type datetime64"):
        open_recording(tmp_path / "dates.parquet")


def test_voxels_do_not_begin_inside_the_head(tmp_path: Path) -> None:
    """The head's bytes were read as voxels."""
    wrong = next(path for path in hostile_binary.niftis(tmp_path) if path.name == "offset 0.nii")
    with pytest.raises(PatchclampError, match="voxels begin at byte 0, inside the head"):
        open_recording(wrong)


def test_an_index_of_spikes_counts_up(tmp_path: Path) -> None:
    for path in hostile_binary.nwbs(tmp_path):
        if path.name in ("index floats.nwb", "index backwards.nwb", "index negative.nwb"):
            with pytest.raises(PatchclampError, match="index of spike times must count up"):
                open_recording(path, "units", sort=True)


def test_links_and_cells_in_circles_are_named(tmp_path: Path) -> None:
    words = {
        "hard up": "link back",
        "fans": "one of more than",
        "cells of each other": "cell of itself",
        "tree of cells": "cells",
    }
    for path in hostile_binary.mat73(tmp_path):
        if path.stem in words:
            with pytest.raises(PatchclampError, match=words[path.stem]):
                open_recording(path)


@pytest.mark.parametrize("dtype", [">f8", "<f8", ">f4", "longdouble"])
def test_byte_orders_and_widths_are_read_as_they_are(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", hostile_arrays.ACTIVITY.astype(dtype))
    found = open_recording(tmp_path / "a.npy")["activity"].numpy()
    assert np.array_equal(found, hostile_arrays.ACTIVITY.astype("f4" if dtype == ">f4" else "f8"))


def valid(folder: Path) -> list[Path]:
    """A whole file of each format."""
    (folder / "a.npy").write_bytes(hostile_arrays.saved(hostile_arrays.ACTIVITY))
    (folder / "a.npz").write_bytes(
        hostile_arrays.zipped({"activity.npy": hostile_arrays.saved(hostile_arrays.ACTIVITY)})
    )
    (folder / "a.csv").write_bytes(b"a,b\n1,2\n3,4\n5,6\n")
    (folder / "a.parquet").write_bytes(hostile_arrays.parquets(folder)["plain.parquet"])
    return [
        *(folder / f"a.{ending}" for ending in ("npy", "npz", "csv", "parquet")),
        next(hostile_binary.mat73(folder)),
        next(hostile_binary.niftis(folder)),
        hostile_binary.nwb_session(folder),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(7))
def test_changed_bytes(tmp_path: Path, warm: Child, number: int) -> None:
    whole = valid(tmp_path)[number]
    data, path = whole.read_bytes(), tmp_path / f"changed{whole.suffix}"

    @FEW
    @given(changed(data))
    def each(spoilt: bytes) -> None:
        path.write_bytes(spoilt)
        assert not warm.run(Case(f"measure {path.name}", ["measure", str(path)], files=[str(path)])).broken

    each()


@pytest.mark.slow
def test_changed_tasks(tmp_path: Path, warm: Child) -> None:
    own, path = hostile_texts.model(tmp_path), tmp_path / "task.jsonl"

    @FEW
    @given(changed(hostile_texts.task_files()["plain.jsonl"]))
    def each(spoilt: bytes) -> None:
        path.write_bytes(spoilt)
        files = [str(path), own]
        assert not warm.run(Case("tasks", ["tasks", str(path), "--model", own], files=files)).broken

    each()
