"""What the readers share: finding the site, and reading files with errors that name them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchclamp.base import files
from patchclamp.base.errors import PatchclampError
from patchclamp.base.fields import Fields
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.nouns.recording.recording import named
from patchclamp.nouns.units import Site, parse_site


@dataclass(frozen=True)
class Where:
    """Which sites the caller named, and the file that may name them otherwise."""

    path: Path
    site: Site | str | None = None
    target: Site | str | None = None

    def read_from(self, hook: str | None) -> Site:
        """The site that is read: the caller's, or that of the file."""
        return self._resolve(self.site, hook, "site")

    def written_to(self, hook: str | None) -> Site:
        """The site that a transcoder writes."""
        return self._resolve(self.target, hook, "target")

    def _resolve(self, given: Site | str | None, hook: str | None, word: str) -> Site:
        if given is not None:
            return named(given)
        if not hook:
            raise PatchclampError(f"{self.path}: the files do not say which site this is; give {word}=")
        try:
            return parse_site(hook)
        except PatchclampError as error:
            raise PatchclampError(
                f"{self.path}: the files call the {word} {hook!r}, which is no exact address here ({error}); "
                f"give {word}="
            ) from error


def read_config(path: Path) -> Fields:
    """The JSON object of a config."""
    return Fields(files.read_json(path), path)


def check_sizes(cfg: Fields, found: SparseDictionary, *names: tuple[str, str]) -> None:
    """Refuse a config whose sizes are not those of the tensors; each name is of "units" or "features"."""
    sizes = {"units": found.input_width, "features": found.n_features}
    for name, what in names:
        cfg.whole(name, low=1)
        cfg.agrees(name, sizes[what], f"the number of {what} of the tensors is")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, half precision widened to float32 (which is exact)."""
    return {name: wide(tensor) for name, tensor in files.read_tensors(path).items()}


def wide(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def need(tensors: dict[str, Tensor], path: Path, *names: str) -> list[Tensor]:
    """Tensors by name, or an error that says what the file has."""
    lost = [name for name in names if name not in tensors]
    if lost:
        raise PatchclampError(f"{path}: no tensor {lost[0]}; there are {', '.join(sorted(tensors))}")
    return [tensors[name] for name in names]


PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}


def weights(
    tensors: dict[str, Tensor], path: Path, names: dict[str, str] = PLAIN, turned: Collection[str] = ()
) -> dict[str, Any]:
    """Weights of a `SparseDictionary`: our name -> the file's; those in `turned` and a skip path are transposed."""
    found = dict(zip(names, need(tensors, path, *names.values()), strict=True))
    if "W_skip" in tensors:
        found["W_skip"] = tensors["W_skip"]
    return {name: t.T if name in (*turned, "W_skip") else t for name, t in found.items()}
