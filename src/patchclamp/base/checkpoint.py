"""The state of a long run in a folder: tensors and plain data, so that a run that was killed can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import read_json, read_tensors, write_tensors, write_text

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and plain data."""


class Checkpoint:
    """Keeps the state of one run; a folder that holds the state of another run is refused.

    Tensors are written under a new name before the note that points to them is replaced, and the old ones are
    deleted after that: a run killed at any moment leaves a whole state.

    Parameters
    ----------
    folder
        Where; None keeps nothing.
    made_by
        What the state depends on, by name: settings, data, model. JSON values.
    name
        Of the files: ``name.json`` and ``name-3.safetensors``.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> Checkpoint(folder, {"seed": 0}).save({"sum": torch.ones(2)}, {"done": 3})
    >>> Checkpoint(folder, {"seed": 0}).load()
    ({'sum': tensor([1., 1.])}, {'done': 3})
    >>> Checkpoint(folder, {"seed": 1}).load()
    Traceback (most recent call last):
    ...
    patchclamp.base.errors.PatchclampError: ...holds the state of another run: seed is 0 there and 1 here; ...
    """

    def __init__(self, folder: str | Path | None, made_by: Mapping[str, Any], name: str = "state") -> None:
        self.folder = None if folder is None else Path(folder)
        self.made_by: dict[str, Any] = json.loads(json.dumps(dict(made_by), default=str))
        self.name = name

    def load(self, device: torch.device | str = "cpu") -> State | None:
        """The state that `save` kept, or None.

        Raises
        ------
        PatchclampError
            If it is the state of another run, naming what differs.
        """
        if self.folder is None or not (self.folder / f"{self.name}.json").is_file():
            return None
        note = read_json(self.folder / f"{self.name}.json")
        if not isinstance(note, dict) or not {"made_by", "tensors", "note"} <= note.keys():
            raise PatchclampError(
                f"{self.folder}: holds a state of an older format; choose another folder, or delete it"
            )
        found = differences(note["made_by"], self.made_by)
        if found:
            raise PatchclampError(
                f"{self.folder}: holds the state of another run: {'; '.join(found)}; choose another folder, or delete it"
            )
        return read_tensors(self.folder / str(note["tensors"]), device), note["note"]

    def save(self, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        """Keep tensors and plain data in place of those kept before."""
        if self.folder is None:
            return
        old = self._tensors()
        file = f"{self.name}-{1 + max(old.values(), default=0)}.safetensors"
        write_tensors(self.folder / file, tensors)
        text = json.dumps({"made_by": self.made_by, "tensors": file, "note": dict(note)})
        write_text(self.folder / f"{self.name}.json", text)
        for path in old:
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Delete the state: the run is over."""
        if self.folder is not None:
            for path in (self.folder / f"{self.name}.json", *self._tensors()):
                if path.exists():  # of a finished store nothing is there, and its disk may be read-only
                    path.unlink(missing_ok=True)

    def _tensors(self) -> dict[Path, int]:
        """Files of tensors with their numbers."""
        assert self.folder is not None
        found = (
            (path, path.stem.removeprefix(f"{self.name}-"))
            for path in self.folder.glob(f"{self.name}-*.safetensors")
        )
        return {path: int(number) for path, number in found if number.isdecimal()}


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """Where two nested descriptions differ, each as ``name is 1 there and 2 here``.

    Examples
    --------
    >>> differences({"model": {"layers": 2}, "seed": 0}, {"model": {"layers": 3}, "seed": 0})
    ['model.layers is 2 there and 3 here']
    """
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        return [
            line
            for key in dict.fromkeys([*theirs, *ours])
            for line in differences(theirs.get(key), ours.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if theirs == ours else [f"{name} is {theirs!r} there and {ours!r} here"]
