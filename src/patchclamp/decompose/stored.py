"""Dictionaries as open files: what a dictionary holds is tensors and plain settings, in one folder."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from patchclamp.dictionary import Dictionary
from patchclamp.errors import PatchclampError
from patchclamp.units import Site

KINDS: dict[str, type[StoredDictionary]] = {}


def settled(tensor: Tensor) -> Tensor:
    """Detached, contiguous and at an aligned address: the bits of a matrix product can depend on both.

    A file is read into memory at any address, so that without this a dictionary would encode other bits after it.
    """
    tensor = tensor.detach().contiguous()
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()


class StoredDictionary(Dictionary):
    """A dictionary that can be written to a folder and read back bit for bit.

    A subclass names itself with `kind` (what the file says) and gives `state`, `settings` and `from_state`.
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.kind:
            KINDS[cls.kind] = cls

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The tensors, by name."""

    def settings(self) -> dict[str, Any]:
        """What is no tensor, as plain data."""
        return {}

    @classmethod
    @abstractmethod
    def from_state(
        cls,
        site: Site,
        target: Site,
        meta: dict[str, Any],
        state: dict[str, Tensor],
        settings: dict[str, Any],
    ) -> Self:
        """Build the dictionary from what `state` and `settings` gave."""

    def save(self, folder: str | Path) -> Path:
        """Write ``cfg.json`` and ``sae_weights.safetensors`` into `folder`, which must not hold a dictionary yet.

        Sparse autoencoders are written so that SAELens reads them; what SAELens has no architecture for keeps the
        same two files under an architecture that it refuses. Nothing is pickled.

        Raises
        ------
        PatchclampError
            If the folder holds a dictionary already.
        """
        from patchclamp.decompose.formats import save_dictionary

        return save_dictionary(self, folder)


def kind(name: str) -> type[StoredDictionary]:
    """The class that wrote a file of this kind."""
    if name not in KINDS:
        raise PatchclampError(f"{name}: this patchclamp knows the kinds {', '.join(sorted(KINDS))}")
    return KINDS[name]
