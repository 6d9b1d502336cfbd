"""Stores that were damaged: what is lost, cut short, flipped or exchanged is found, named and never filled in."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.nouns.recording.store import Layout, check_store
from patchclamp.nouns.recording.writer import StoreWriter
from patchclamp.nouns.units import Site

N, ROWS = 300, 64
LFP, CODES = Site("lfp"), Site("resid_post", 1, "sae")
SHAPES = {LFP: (3,), CODES: (40,)}


def activity(n: int = N) -> tuple[Samples, dict[Site, torch.Tensor]]:
    gen = torch.Generator().manual_seed(0)
    codes = torch.relu(torch.randn(n, 40, generator=gen) - 1)
    samples = Samples.of(torch.arange(n) // 10, torch.arange(n) % 10, token=torch.arange(n) * 3)
    return samples, {LFP: torch.randn(n, 3, generator=gen), CODES: codes}


def writer(path: Path) -> StoreWriter:
    return StoreWriter(path, {"made": "here"}, Layout.of(N, SHAPES, "float32", ROWS, [CODES]))


def written(path: Path, rows: int = N) -> Path:
    """A store of `rows` samples; finished where those are all."""
    samples, arrays = activity()
    with writer(path) as store:
        store.append(samples[:rows], {site: values[:rows] for site, values in arrays.items()})
        if rows == N:
            store.finish()
    return path


def as_before(path: Path, rows: int | None = None) -> Path:
    """Make a store what one without checksums, digests and journal of lines was."""
    for file in path.rglob("zarr.json"):
        data = json.loads(file.read_text())
        data["attributes"].get("patchclamp", {}).pop("digest", None)
        data.pop("consolidated_metadata", None)
        if data["node_type"] == "array":
            data["codecs"] = [codec for codec in data["codecs"] if codec["name"] != "crc32c"]
            for chunk in (part for part in file.parent.rglob("*") if part.is_file() and part != file):
                chunk.write_bytes(chunk.read_bytes()[:-4])
        file.write_text(json.dumps(data))
    (path / "journal.jsonl").unlink()
    if rows is not None:
        (path / "journal.json").write_text(json.dumps({"rows": rows}))
    return path


def flip(file: Path, place: int = 5) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(bytes(data))


def test_a_whole_store_passes_and_xarray_opens_it(tmp_path: Path) -> None:
    found = check_store(written(tmp_path / "s"))
    assert found.passed and found.checksums and found.complete and found.samples == N and found.chunks > 40
    assert "checksums agree" in str(found)
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "s")["lfp"].values, activity()[1][LFP].numpy())


CHUNKS = ["lfp/c/2/0", "token/c/2", "content/c/2"]


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("how", ["lost", "short"])
def test_a_lost_chunk_is_refused_and_the_others_can_be_opened(tmp_path: Path, chunk: str, how: str) -> None:
    file = written(tmp_path / "s") / chunk
    if how == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(PatchclampError, match=rf"1 chunks are lost or cut short, first {chunk}.*64 of 300"):
        Recording.open(tmp_path / "s")
    rest = Recording.open(tmp_path / "s", lost="drop")
    kept = [*range(128), *range(192, N)]
    samples, arrays = activity()
    assert torch.equal(rest["lfp"][:], arrays[LFP][kept]) and torch.equal(rest.samples.doc, samples.doc[kept])
    assert torch.equal(rest.codes(CODES).to_dense(), arrays[CODES][kept])
    found = check_store(tmp_path / "s")
    assert not found.passed and [name for name, _ in found.faults] == [chunk]


@pytest.mark.parametrize("part", ["unit", "value", "indptr"])
def test_lost_codes_are_noticed(tmp_path: Path, part: str) -> None:
    written(tmp_path / "s")
    next((tmp_path / "s" / "resid_post.1|sae" / part / "c").iterdir()).unlink()
    with pytest.raises(PatchclampError, match="1 chunks are lost"):
        Recording.open(tmp_path / "s")


@pytest.mark.parametrize("chunk", [*CHUNKS, "resid_post.1|sae/value/c/0", "resid_post.1|sae/indptr/c/1"])
def test_a_flipped_bit_is_never_read(tmp_path: Path, chunk: str) -> None:
    store = written(tmp_path / "s")
    flip(store / chunk)

    def read() -> None:
        rec = Recording.open(store)
        _ = rec.samples, rec["lfp"][[1, 150]], rec["lfp"][:], rec.codes(CODES)

    with pytest.raises(
        PatchclampError, match=r"is damaged \(its checksum does not match\).*patchclamp check"
    ):
        read()
    assert [name for name, _ in check_store(store).faults] == [chunk]


def test_the_chunk_of_another_store_is_not_taken_for_its_own(tmp_path: Path) -> None:
    one = written(tmp_path / "s")
    shutil.copy(one / "lfp" / "c" / "1" / "0", one / "lfp" / "c" / "2" / "0")
    assert check_store(one).faults == (("lfp/c/2/0", "not the chunk that was written"),)


@pytest.mark.parametrize(
    ("chunk", "how"),
    [
        *itertools.product(["lfp/c/1/0", "token/c/2"], ["lost", "flipped at its end", "exchanged"]),
        *itertools.product(["resid_post.1|sae/value/c/0"], ["lost", "flipped at its end"]),
    ],
)
def test_resuming_goes_back_to_before_what_is_lost(tmp_path: Path, chunk: str, how: str) -> None:
    file = written(tmp_path / "s", 260) / chunk
    if how == "lost":
        file.unlink()
    elif how == "exchanged":
        shutil.copy(Path(str(file).replace("c/1", "c/0").replace("c/2", "c/0")), file)
    else:
        flip(file, -1)
    samples, arrays = activity()
    with writer(tmp_path / "s") as store:
        first = store.rows
        assert first == {"l": 64, "t": 128, "r": 0}[chunk[0]]
        store.append(samples[first:], {site: values[first:] for site, values in arrays.items()})
        store.finish()
    whole = Recording.open(tmp_path / "s")
    assert torch.equal(whole["lfp"][:], arrays[LFP]) and torch.equal(whole.samples.token, samples.token)
    assert torch.equal(whole.codes(CODES).to_dense(), arrays[CODES]) and check_store(tmp_path / "s").passed


def test_stores_without_checksums_open_and_say_so(tmp_path: Path) -> None:
    store = as_before(written(tmp_path / "s"))
    rec, (samples, arrays) = Recording.open(store), activity()
    assert torch.equal(rec["lfp"][:], arrays[LFP]) and torch.equal(rec.samples.token, samples.token)
    assert torch.equal(rec.codes(CODES).to_dense(), arrays[CODES])
    found = check_store(store)
    assert found.passed and not found.checksums and "no checksums" in str(found)
    (store / "lfp" / "c" / "1" / "0").unlink()
    with pytest.raises(PatchclampError, match="1 chunks are lost"):
        Recording.open(store)


def test_an_unfinished_store_without_checksums_is_resumed(tmp_path: Path) -> None:
    store, (samples, arrays) = as_before(written(tmp_path / "s", 260), 256), activity()
    assert Recording.open(store).n_samples == 256
    with writer(store) as again:
        assert again.rows == 256
        again.append(samples[256:], {site: values[256:] for site, values in arrays.items()})
        again.finish()
    assert torch.equal(Recording.open(store)["lfp"][:], arrays[LFP])
    assert not list(store.glob("journal*")) and not check_store(store).checksums


DAMAGE: list[tuple[str, Any, str]] = [
    ("zarr.json", b"{", "metadata are damaged"),
    ("zarr.json", b"{}", "metadata are damaged"),
    ("zarr.json", b"\xff\xfe", "metadata are damaged"),
    ("zarr.json", lambda d: d.replace(b'"n_samples": 300', b'"n_samples": 299'), "metadata are damaged"),
    ("zarr.json", lambda d: d.replace(b'"made": "here"', b'"made": "there"'), "do not agree"),
    ("zarr.json", lambda d: d.replace(b'"sites"', b'"sides"'), "metadata are damaged"),
    ("journal.jsonl", lambda d: d.replace(b'"rows":128', b'"rows":192'), "line 2 is damaged.*sample 64"),
    ("journal.jsonl", lambda d: b"what?\n" + d, "line 1 is damaged.*sample 0"),
]


@pytest.mark.parametrize(("name", "change", "words"), DAMAGE)
def test_damaged_metadata_and_journals_are_one_line(
    tmp_path: Path, name: str, change: Any, words: str
) -> None:
    file = written(tmp_path / "s", 260) / name
    old = file.read_bytes()
    file.write_bytes(change(old) if callable(change) else change)
    assert file.read_bytes() != old
    for call in (Recording.open, check_store, writer):
        with pytest.raises(PatchclampError, match=words):
            call(tmp_path / "s")


@pytest.mark.parametrize("text", ["{}", "", "[1]", '{"rows": "many"}'])
def test_a_damaged_journal_of_before_is_one_line(tmp_path: Path, text: str) -> None:
    store = as_before(written(tmp_path / "s", 260), 256)
    (store / "journal.json").write_text(text)
    with pytest.raises(PatchclampError, match=r"journal\.json: damaged"):
        Recording.open(store)


@pytest.mark.parametrize("folder", ["lfp", "token", "resid_post.1|sae"])
def test_lost_folders_are_one_line(tmp_path: Path, folder: str) -> None:
    shutil.rmtree(written(tmp_path / "s", 260) / folder)
    for call in (Recording.open, check_store, writer):
        with pytest.raises(PatchclampError, match="damaged|lost"):
            call(tmp_path / "s")


def test_of_many_that_start_one_store_one_wins_and_the_others_are_told(tmp_path: Path) -> None:
    for turn in range(2):
        start, won, told = threading.Barrier(8), [], []

        def begin(
            path: Path = tmp_path / str(turn), start: Any = start, won: Any = won, told: Any = told
        ) -> None:
            start.wait()
            try:
                won.append(writer(path))
            except PatchclampError as error:
                told.append(str(error))

        threads = [threading.Thread(target=begin) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and len(told) == 7 and all("another process is writing" in text for text in told)
        won[0].close()
        written(tmp_path / str(turn))
        assert check_store(tmp_path / str(turn)).passed
        assert {path.name for path in tmp_path.iterdir()} == {str(n) for n in range(turn + 1)}


def test_a_writer_that_waited_for_the_lock_sees_that_the_store_was_finished(tmp_path: Path) -> None:
    written(tmp_path / "s")
    again = writer(tmp_path / "s")
    assert again.complete and again.rows == N and not (tmp_path / "s" / "lock").exists()
