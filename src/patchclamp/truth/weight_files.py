"""Weights of trained systems: small safetensors files, each with its checksum and what was measured on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from patchclamp.base.errors import PatchclampError, did_you_mean

FOLDER = Path(__file__).parent / "weights"
INDEX = "index.json"


def read_index(folder: Path = FOLDER) -> dict[str, Any]:
    """``NAME-SEED`` -> {sha256, facts}, as written by `patchclamp.truth.training`."""
    path = folder / INDEX
    return json.loads(path.read_text()) if path.is_file() else {}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored_seeds(name: str, folder: Path = FOLDER) -> list[int]:
    """Seeds for which weights of a system are stored."""
    found = (key.rpartition("-") for key in read_index(folder))
    return sorted(int(seed) for known, _, seed in found if known == name)


def stored_seed(name: str, seed: int, folder: Path = FOLDER) -> int:
    """The stored seed that stands for `seed`: there are two or three trainings a system, taken in turn."""
    seeds = stored_seeds(name, folder)
    if not seeds:
        known = {key.rpartition("-")[0] for key in read_index(folder)}
        raise PatchclampError(
            f"truth {name!r}: no weights are stored in {folder}{did_you_mean(name, known)}; "
            f"train it with python -m patchclamp.truth.training {name}"
        )
    return seeds[seed % len(seeds)]


def save_weights(
    name: str, seed: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], folder: Path = FOLDER
) -> Path:
    """Write weights in float16, and their checksum and facts into the index."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{seed}.safetensors"
    save_file({key: value.detach().half().contiguous() for key, value in tensors.items()}, path)
    path.chmod(0o644)
    index = read_index(folder)
    index[path.stem] = {"sha256": digest(path), "facts": dict(facts)}
    lines = [f"{json.dumps(key)}: {json.dumps(_short(entry))}" for key, entry in sorted(index.items())]
    (folder / INDEX).write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return path


def _short(value: Any) -> Any:
    """Numbers to six digits, which is more than they mean."""
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_short(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def load_weights(name: str, seed: int, folder: Path = FOLDER) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights as float32, and the facts measured on them.

    Raises
    ------
    PatchclampError
        When they are not there, or are not the bytes that were measured.
    """
    path = folder / f"{name}-{seed}.safetensors"
    entry = read_index(folder).get(path.stem)
    way_out = f"train it again with python -m patchclamp.truth.training {name} --seed {seed}"
    if entry is None or not path.is_file():
        raise PatchclampError(f"{path}: these weights are not there; {way_out}")
    found = digest(path)
    if found != entry["sha256"]:
        raise PatchclampError(
            f"{path}: SHA-256 is {found[:12]}... and {entry['sha256'][:12]}... was measured; {way_out}"
        )
    return {key: value.float() for key, value in load_file(path).items()}, entry["facts"]


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they will be read back: facts are measured on these."""
    return {key: value.detach().half().float() for key, value in tensors.items()}


def seeded_normal(shape: tuple[int, ...], scale: float, generator: torch.Generator) -> Tensor:
    """A parameter with normal entries, drawn on the CPU."""
    return (scale * torch.randn(shape, generator=generator)).requires_grad_(True)
