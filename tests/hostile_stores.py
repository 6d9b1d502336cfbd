"""Our own stores and journals with one odd value in their metadata, made by a script."""

from __future__ import annotations

import contextlib
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hostile_binary import ACTIVITY, of
from patchclamp.nouns.recording.recording import Samples
from patchclamp.nouns.recording.store import Layout
from patchclamp.nouns.recording.writer import StoreWriter
from patchclamp.nouns.units import Site


def store(path: Path, rows: int = 60) -> Path:

    site, codes = Site("lfp"), Site("resid_post", 1, "sae")
    samples = Samples.of(torch.arange(60) // 10, torch.arange(60) % 10)
    values = {site: torch.from_numpy(ACTIVITY).float(), codes: torch.relu(torch.from_numpy(ACTIVITY).float())}
    layout = Layout.of(60, {site: (4,), codes: (4,)}, "float32", 16, [codes])
    with StoreWriter(
        path, {"made": "here", "label_names": ["a"]}, layout, {site: {"region": ["CA1"] * 4}}
    ) as writer:
        writer.append(samples[:rows], {s: v[:rows] for s, v in values.items()})
        if rows == 60:
            writer.finish()
    return path


ODD: tuple[Any, ...] = (None, -1, 10**30, 0.5, "odd", [], {}, [[[]]], [-1, "x", None], True)


def spots(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    inner = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for key, value in inner:
        yield from spots(value, (*at, key))


def put(document: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    copy = document.copy()
    copy[at[0]] = put(document[at[0]], at[1:], value)
    return copy


def stores(folder: Path) -> Iterator[Path]:
    """Our own stores: one value of one JSON file replaced, with the digest put right or not; files exchanged, lost, cut."""
    plain = store(folder / "plain")
    half = store(folder / "half", 40)
    yield plain
    yield half
    number = 0
    for file in (
        "zarr.json",
        "lfp/zarr.json",
        "doc/zarr.json",
        "resid_post.1|sae/zarr.json",
        "resid_post.1|sae/indptr/zarr.json",
        "unit.lfp/zarr.json",
    ):
        document = json.loads((plain / file).read_text())
        document.pop("consolidated_metadata", None)
        for spot in spots(document):
            for value in (ODD[number % len(ODD)],):
                number += 1
                copy = folder / f"s{number}"
                shutil.copytree(plain, copy)
                root = json.loads((copy / "zarr.json").read_text())
                root.pop("consolidated_metadata", None)
                (copy / "zarr.json").write_text(json.dumps(root))
                changed = put(document, spot, value)
                if file == "zarr.json" and spot[:2] == ("attributes", "patchclamp") and number % 3:
                    with contextlib.suppress(AttributeError, TypeError):
                        changed["attributes"]["patchclamp"].pop("digest", None)
                (copy / file).write_text(json.dumps(changed))
                yield copy
                shutil.rmtree(copy)


def journals(folder: Path) -> Iterator[Path]:
    """Unfinished stores with an odd journal whose checksums agree."""

    half = store(folder / "j", 40)
    lines = [
        json.loads(line.partition(b" ")[2]) for line in (half / "journal.jsonl").read_bytes().splitlines()
    ]
    number = 0
    for spot in spots(lines[-1]):
        for value in (ODD[number % len(ODD)],):
            number += 1
            bodies = [json.dumps(one).encode() for one in [*lines[:-1], put(lines[-1], spot, value)]]
            text = b"".join(b"%08x %s\n" % (zlib.crc32(body), body) for body in bodies)
            copy = folder / f"j{number}"
            shutil.copytree(half, copy)
            (copy / "journal.jsonl").write_bytes(text)
            yield copy
            shutil.rmtree(copy)
    for name, text in {
        "deep": b"[" * 100000,
        "binary": bytes(range(256)),
        "brackets": b"%08x " % zlib.crc32(b"[" * 9000) + b"[" * 9000 + b"\n",
    }.items():
        copy = folder / f"j{name}"
        shutil.copytree(half, copy)
        (copy / "journal.jsonl").write_bytes(text)
        yield copy
        (copy / "journal.jsonl").unlink()
        (copy / "journal.json").write_bytes(text)
        yield copy


MAKERS = [of(journals, check=True), of(stores, check=True)]
