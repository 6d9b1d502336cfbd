"""Files: JSON with plain numbers and missing values as null, files replaced in one step, tensors beside their config."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write to a temporary name and rename, so that a killed run leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


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
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PatchclampError(f"{path}: not a JSON file ({error})") from error


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
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.cpu().contiguous().clone() for name, t in tensors.items()}, folder / WEIGHTS)
    (folder / CFG).write_text(json.dumps(config, indent=1, default=_listed) + "\n", encoding="utf-8")
    return folder


def _listed(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if hasattr(value, "item"):
        return value.item()
    return str(value)
