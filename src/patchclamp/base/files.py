"""Files: each file and folder appears whole or not at all; JSON with missing values as null, tensors beside their config."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from safetensors.torch import save_file
from torch import Tensor

from patchclamp.base.errors import PatchclampError

CFG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
"""The two files of a dictionary's folder, as SAELens names them."""


def plain(value: Any) -> Any:
    """Return `value` as what JSON knows: numpy numbers and arrays unpacked, NaN and infinities as None.

    Examples
    --------
    >>> plain({"a": (1, float("nan"))})
    {'a': [1, None]}
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


PARTIAL = ".partial"
"""How the name of a file or folder ends that is still being written."""


@contextmanager
def in_one_step(path: Path, sync: bool = True) -> Iterator[Path]:
    """Give the name of a draft beside `path`, a file or a folder to write; at the end it takes the place of `path`.

    Whoever reads, and whoever comes after a killed process, finds the old one or the new one, never half of it. Each
    draft has a name of its own, so that writers do not meet: of two the last one wins. A draft that a killed process
    left is removed, as is one whose writing failed. A link stays a link, a file keeps its mode, and a pipe or a device
    is written to directly.

    Parameters
    ----------
    path
        Of a file, which may exist, or of a folder, which may not.
    sync
        Wait until the draft is on the disk before it takes the name, so that this holds for a power cut as well.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "words.txt"
    >>> with in_one_step(path) as draft:
    ...     _ = draft.write_text("whole")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('whole', 1)
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path  # a pipe or a device, such as /dev/stdout, is written to and not replaced
        return
    path = Path(os.path.realpath(path))  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    draft = path.with_name(f".{path.name[:99]}.{_here()}-{os.getpid()}-{uuid4().hex[:12]}{PARTIAL}")
    _WRITING.add(draft.name)
    try:
        yield draft
        if path.is_file():
            shutil.copymode(path, draft)
        if sync:
            sync_to_disk(draft)
        os.replace(draft, path)
    finally:
        _remove(draft)
        _WRITING.discard(draft.name)
    if sync:
        sync_to_disk(path.parent, within=False)


_DRAFT = re.compile(r"\.(?P<name>.+)\.(?P<where>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{12}\.partial")
_WRITING: set[str] = set()  # drafts of this process


def _here() -> str:
    """Where numbers of processes are unique: a machine and a namespace on it."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{zlib.crc32(f'{platform.node()} {space}'.encode()):08x}"


def is_left_over(name: str) -> bool:
    """Whether a name is that of a draft that `in_one_step` began and whose process is gone."""
    found = _DRAFT.fullmatch(name)
    if found is None or found["where"] != _here() or name in _WRITING:
        return False
    pid = int(found["pid"])
    if pid == os.getpid():
        return True
    if os.name == "nt":  # there `os.kill` ends a process whatever the signal
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _remove_stale(path: Path) -> None:
    for draft in path.parent.glob(f".{_literal(path.name[:99])}.*{PARTIAL}"):
        if is_left_over(draft.name):
            _remove(draft)


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def bytes_in(folder: Path) -> int:
    """Size of all files in a folder; those that another process removes meanwhile do not count."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def sync_to_disk(path: Path, within: bool = True) -> None:
    """Wait until a file or a folder is on the disk; of a folder all that it holds, or its list of names alone."""
    for part in path.iterdir() if within and path.is_dir() else ():
        sync_to_disk(part)
    if path.is_dir() and os.name == "nt":  # Windows opens no folder
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# ---- the way out


def free_folder(path: str | Path, unfinished: str) -> Path:
    """The folder, or `NAME-2`, `NAME-3` ...: the first that is new, empty, or holds what a run left unfinished.

    Examples
    --------
    >>> import tempfile
    >>> made = Path(tempfile.mkdtemp(prefix="study"))
    >>> _ = (made / "study.json").write_text("{}")
    >>> free_folder(made, ".stages").name == made.name + "-2"
    True
    """
    path, number = Path(path), 1
    place = path
    while place.exists() and not (place.is_dir() and _is_free(place, unfinished)):
        number += 1
        place = path.with_name(f"{path.name}-{number}")
    return place


def way_out(path: str | Path, kind: Literal["file", "folder"], unfinished: str = "") -> Path:
    """Refuse a place for results before the work begins, and say so; return it as a `Path`.

    What a user has there is never written over. A file may take the place of one that patchclamp wrote, a folder must be
    new or empty, or hold what a run of the same kind left unfinished.

    Parameters
    ----------
    path
        Where the results are to go.
    kind
        What will be written.
    unfinished
        Name of what an unfinished run leaves in its folder.

    Raises
    ------
    PatchclampError
        If something else is there, or nothing can be made there.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "notes.csv"
    >>> _ = file.write_text("mine")
    >>> way_out(file, "file")
    Traceback (most recent call last):
    ...
    patchclamp.base.errors.PatchclampError: ...notes.csv: exists already, and patchclamp did not write it; ...
    """
    path = Path(path)
    if kind == "file" and path.is_dir():
        raise PatchclampError(f"{path}: is a folder; give the name of a file")
    if kind == "folder" and path.exists() and not path.is_dir():
        raise PatchclampError(f"{path}: is a file; give the name of a folder")
    if path.is_file() and path.stat().st_size and not is_ours(path):
        raise PatchclampError(
            f"{path}: exists already, and patchclamp did not write it; choose another path, or delete it"
        )
    if path.is_dir() and not _is_free(path, unfinished):
        raise PatchclampError(f"{path}: is not empty; choose another folder, or delete it")
    above = next(p for p in (path if path.is_dir() else path.parent, *path.absolute().parents) if p.exists())
    if not above.is_dir():
        raise PatchclampError(f"{path}: {above} is a file, so nothing can be made in it; choose another path")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PatchclampError(f"{path}: nothing can be written in {above}; choose another path")
    return path


def _is_free(folder: Path, unfinished: str) -> bool:
    """Whether a folder is empty, or holds what a run left unfinished."""
    return bool(unfinished and (folder / unfinished).exists()) or not any(folder.iterdir())


WRITTEN_BY = "written_by"
"""Name of the attribute of a table by which `is_ours` knows it."""


def is_ours(path: Path) -> bool:
    """Whether a file is one that patchclamp wrote: a JSON file of one of its schemas, a table, a report."""
    with path.open("rb") as file:
        head = file.read(4096)
        if head.startswith(b"PAR1"):
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            return f'"{WRITTEN_BY}": "patchclamp'.encode() in file.read()
    if head.lstrip().startswith(b"{"):
        try:
            found = read_json(path)
        except PatchclampError:
            return False
        return isinstance(found, dict) and str(found.get("schema", "")).startswith("patchclamp/")
    return b'<meta name="generator" content="patchclamp' in head


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, in one step."""
    write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write a text in one step (see `in_one_step`)."""
    with in_one_step(path, sync) as draft:
        draft.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, in one step; tensors that share memory are each written whole."""
    found: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in memory else own
        memory.add(place)
    with in_one_step(path) as draft:
        save_file(found, draft, metadata)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    PatchclampError
        For a file that is not there or is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise PatchclampError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # RecursionError: brackets without end; ValueError: a number too
        raise PatchclampError(f"{path}: not a JSON file ({str(error)[:120]})") from error


def write_folder(folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write a dictionary's config and tensors into a folder that holds none yet.

    Raises
    ------
    PatchclampError
        If the folder holds a dictionary already.
    """
    folder = Path(folder)
    if (folder / CFG).exists() or (folder / WEIGHTS).exists():
        raise PatchclampError(
            f"{folder}: holds a dictionary already; choose another folder, or delete it first"
        )
    write_tensors(folder / WEIGHTS, tensors)
    write_text(folder / CFG, json.dumps(config, indent=1, default=_listed) + "\n")
    return folder


def _listed(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if hasattr(value, "item"):
        return value.item()
    return str(value)
