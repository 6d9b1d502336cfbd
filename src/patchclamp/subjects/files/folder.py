"""A checkpoint's folder, looked over before anything is built from it: what its files say in their first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from patchclamp.base.errors import PatchclampError
from patchclamp.base.fields import Fields
from patchclamp.base.files import read_json

_INDEX = "model.safetensors.index.json"
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx")
_FEW = 100  # layers that nobody asks about


def check_folder(folder: Path) -> None:
    """Refuse a folder with a config that cannot be, or weights that are not whole.

    Only heads of files are read. transformers builds what a config says, whatever it says: ten million layers keep it
    busy for hours, and of most odd values the error names nothing.

    Raises
    ------
    PatchclampError
        Naming the file, and the value where it is one.
    """
    config = Fields(read_json(folder / "config.json"), folder / "config.json")
    config.text("model_type")
    _check_architectures(config)
    parts = [config, *(config.part(key) for key, value in config.data.items() if isinstance(value, dict))]
    tensors = _tensors(folder)
    for part in parts:
        for key in ("dtype", "torch_dtype"):
            kind = part.text(key)
            if kind not in (None, "auto") and not _is_dtype(str(kind)):
                raise part.refuse(key, "a type of torch, such as float32")
        for key in _LENGTHS:
            part.whole(key, low=1)
        for key in _LAYERS:
            # Every layer has tensors of its own.
            layers = part.whole(key, 0, low=0) or 0
            if layers > max(_FEW, len(tensors)):
                held = f"; the checkpoint has {len(tensors)} tensors" if tensors else ""
                raise PatchclampError(f"{part.source}: {part.name(key)} is {layers:,}{held}")


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name.removeprefix("torch."), None), torch.dtype)


def _check_architectures(config: Fields) -> None:
    found = config.data.get("architectures")
    if found is None:
        return
    if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found):
        raise config.refuse("architectures", "a list of names, such as ['LlamaForCausalLM']")


def _tensors(folder: Path) -> set[str]:
    """Names of the tensors in the folder's safetensors files, each of which must be whole."""
    wanted: dict[str, Any] = {}
    if (folder / _INDEX).is_file():
        wanted = Fields(read_json(folder / _INDEX), folder / _INDEX).part("weight_map").data
        for name, file in wanted.items():
            if not isinstance(file, str) or not (folder / file).is_file():
                raise PatchclampError(
                    f"{folder / _INDEX}: {name} is in {file!r}, which is not in the folder; fetch the checkpoint again"
                )
    found: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                found |= set(tensors.keys())
        except (SafetensorError, OSError, ValueError) as error:
            raise PatchclampError(
                f"{file}: not a whole safetensors file ({error}); was the download interrupted? fetch it again"
            ) from error
    return found
