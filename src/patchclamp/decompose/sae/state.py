"""The state of a run: parameters, Adam's moments, what has fired; saved as safetensors and JSON, never pickled."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.sae.core import Tensors

_FILE = "run.json"


@dataclass
class RunState:
    """All that a run needs to go on, bit for bit.

    Parameters
    ----------
    params
        By name.
    idle
        (feature,) rows since each feature was active.
    step
        Steps done.
    history
        Rows of figures along the way.
    """

    params: Tensors
    idle: Int[Tensor, " feature"]
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    first: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.first:
            self.first = {name: torch.zeros_like(p) for name, p in self.params.items()}
            self.second = {name: torch.zeros_like(p) for name, p in self.params.items()}

    def optimiser(self, betas: tuple[float, float]) -> torch.optim.Adam:
        """Adam over the parameters, whose moments are this state's tensors."""
        names = list(self.params)
        # One fused pass over each parameter: 3 to 6 times the speed of the loop over tensors.
        adam = torch.optim.Adam([self.params[name] for name in names], betas=betas, fused=True)
        for name in names:
            adam.state[self.params[name]] = {
                "step": torch.tensor(float(self.step), device=self.params[name].device),
                "exp_avg": self.first[name],
                "exp_avg_sq": self.second[name],
            }
        return adam

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Write under a new name, then point to it: a run killed while saving keeps its last state."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"idle": self.idle}
        for prefix, part in (("p.", self.params), ("m.", self.first), ("v.", self.second)):
            tensors.update({prefix + name: t.contiguous() for name, t in part.items()})
        name = f"run-{self.step}.safetensors"
        save_file(tensors, folder / name)
        note = {"file": name, "step": self.step, "about": about, "history": self.history}
        draft = folder / (_FILE + ".new")
        draft.write_text(json.dumps(note, indent=1))
        os.replace(draft, folder / _FILE)
        for old in folder.glob("run-*.safetensors"):
            if old.name != name:
                old.unlink()


def load_run(folder: Path, about: dict[str, Any], device: torch.device | str) -> RunState | None:
    """The state saved in a folder, or None; a run with other settings or data is refused."""
    if not (folder / _FILE).exists():
        return None
    note = json.loads((folder / _FILE).read_text())
    now = json.loads(json.dumps(about))
    differ = sorted(k for k in {*now, *note["about"]} if now.get(k) != note["about"].get(k))
    if differ:
        key = differ[0]
        raise PatchclampError(
            f"{folder}: holds a run with {key}={note['about'].get(key)!r}, this one has {now.get(key)!r}; "
            "use another folder, or the same settings and data"
        )
    tensors = load_file(folder / note["file"], device=str(device))
    parts: dict[str, Tensors] = {"p": {}, "m": {}, "v": {}}
    for name, tensor in tensors.items():
        if name != "idle":
            parts[name[0]][name[2:]] = tensor
    idle: Tensor = tensors["idle"]
    return RunState(parts["p"], idle, note["step"], note["history"], parts["m"], parts["v"])
