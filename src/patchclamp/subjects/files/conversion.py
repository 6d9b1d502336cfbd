"""A GGUF file converted once into safetensors, config and tokenizer in the cache, then mapped into memory.

A folder of the cache is named by the sha256 of the file and the version of this conversion. It is made under another
name and renamed when everything is on disk, so a folder that exists is complete, whatever was killed before. Two
processes may convert at once: the first to rename wins, the other uses its result.

Cache: ``$PATCHCLAMP_CACHE``, or ``$XDG_CACHE_HOME/patchclamp``, or ``~/.cache/patchclamp``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import sync_to_disk

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from patchclamp.subjects.files.gguf import GGUFModel

VERSION = 2
LARGEST = 8 * 2**30
"""Bytes of float32 weights up to which a GGUF file is kept converted: a larger one is read anew each time."""

_RECEIPT = "patchclamp.json"
_WEIGHTS = "model.safetensors"
_FACTORS = "rope_factors.safetensors"
_STALE = 24 * 3600.0


def cache_dir() -> Path:
    """Folder for everything that patchclamp may make again."""
    if own := os.environ.get("PATCHCLAMP_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "patchclamp"


def open_gguf(path: Path, tokenizer: Any = None) -> tuple[PreTrainedModel, Any]:
    """The model and tokenizer of a GGUF file, from the cache where the same file was opened before.

    Undoing the quantisation of 270 million weights and building the tokenizer take most of a minute; finding out that it
    is the same file takes its sha256. Where the cache has no room, or for models above `LARGEST`, nothing is kept.

    Raises
    ------
    PatchclampError
        As `read_gguf` and `load_gguf_tokenizer`, the latter unless a tokenizer is given.
    """
    from transformers import AutoTokenizer

    from patchclamp.subjects.files.gguf import load_gguf, read_gguf
    from patchclamp.subjects.files.gguf_tokenizer import load_gguf_tokenizer

    if not path.is_file() or path.stat().st_size == 0:
        return load_gguf(path), tokenizer  # which refuses it by name
    digest = sha256(path)
    folder = cache_dir() / "gguf" / f"{digest[:32]}-v{VERSION}"
    if not intact(folder):
        contents = read_gguf(path)
        size = sum(tensor.numel() * tensor.element_size() for tensor in contents.state.values())
        if size > LARGEST or not _kept(path, folder, digest, contents):
            return load_gguf(path, contents), load_gguf_tokenizer(path) if tokenizer is None else tokenizer
    model = load_converted(folder, json.loads((folder / _RECEIPT).read_text())["model_class"], str(path))
    if tokenizer is None and not any(folder.glob("tokenizer*")):
        tokenizer = load_gguf_tokenizer(path)  # the file has none that is known: refused by name
    elif tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return model, tokenizer


def _kept(path: Path, folder: Path, digest: str, contents: GGUFModel) -> bool:
    """Whether there was room for it: a cache that is full or read-only does not stand in the way of the model."""
    try:
        convert(path, folder, digest, contents)
    except OSError:
        return False
    return True


def load_converted(folder: Path, model_class: str, name: str) -> PreTrainedModel:
    """The model of a converted folder: float32, evaluation mode, CPU, weights mapped from the cache."""
    from safetensors.torch import load_file
    from transformers import AutoConfig

    from patchclamp.subjects.files.gguf import build, divide_frequencies

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    model = build(model_class, config, load_file(folder / _WEIGHTS), name)
    if (folder / _FACTORS).is_file():
        divide_frequencies(model, load_file(folder / _FACTORS)["factors"])
    return model


def convert(source: Path, folder: Path, digest: str, contents: GGUFModel | None = None) -> Path:
    """Make the folder of a GGUF file, whose `contents` may have been read already; returns it."""
    from patchclamp.subjects.files.gguf import read_gguf

    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    work = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
    try:
        _write(source, contents or read_gguf(source), work, digest)
        _publish(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def intact(folder: Path) -> bool:
    """Whether a converted folder holds the weights that were written."""
    try:
        receipt = json.loads((folder / _RECEIPT).read_text())
        state = (folder / _WEIGHTS).stat()
    except (OSError, json.JSONDecodeError):
        return False
    if state.st_size != receipt["size"]:
        return False
    return bool(state.st_mtime_ns == receipt["mtime_ns"] or sha256(folder / _WEIGHTS) == receipt["sha256"])


def _write(source: Path, contents: GGUFModel, work: Path, digest: str) -> None:
    from safetensors.torch import save_file

    from patchclamp.subjects.files.gguf_tokenizer import load_gguf_tokenizer

    contents.config.save_pretrained(str(work))
    with suppress(PatchclampError):  # whoever opens the file without a tokenizer of their own is told then
        load_gguf_tokenizer(source).save_pretrained(str(work))
    weights = work / _WEIGHTS
    save_file(contents.state, weights, metadata={"format": "pt"})
    if contents.factors is not None:
        save_file({"factors": contents.factors.contiguous()}, work / _FACTORS)
    about = weights.stat()
    receipt = {
        "source_sha256": digest,
        "model_class": contents.model_class,
        "conversion": VERSION,
        "sha256": sha256(weights),
        "size": about.st_size,
        "mtime_ns": about.st_mtime_ns,
    }
    (work / _RECEIPT).write_text(json.dumps(receipt, indent=1))
    sync_to_disk(work)


def _publish(work: Path, folder: Path) -> None:
    """Give the finished folder its name; a damaged one is moved aside, an intact one was made meanwhile."""
    if folder.exists() and not intact(folder):
        folder.rename(tempfile.mkdtemp(prefix=".damaged-", dir=folder.parent))
    try:
        work.rename(folder)
    except OSError:
        if not intact(folder):
            raise
    sync_to_disk(folder.parent, within=False)


def _sweep(parent: Path) -> None:
    """Remove what killed conversions left behind, once it is a day old."""
    for path in parent.glob(".*-*"):
        if path.is_dir() and time.time() - path.stat().st_mtime > _STALE:
            shutil.rmtree(path, ignore_errors=True)


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
