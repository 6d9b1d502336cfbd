"""The state of a run: parameters, Adam's moments, what has fired; saved as safetensors and JSON, never pickled."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from patchclamp.base.checkpoint import Checkpoint
from patchclamp.decompose.sae.core import Tensors


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

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep the state in place of the one before."""
        tensors = {"idle": self.idle}
        for prefix, part in (("p.", self.params), ("m.", self.first), ("v.", self.second)):
            tensors.update({prefix + name: t for name, t in part.items()})
        checkpoint.save(tensors, {"step": self.step, "history": self.history})


def load_run(checkpoint: Checkpoint, device: torch.device | str) -> RunState | None:
    """The state that was kept, or None; a run with other settings or data is refused."""
    kept = checkpoint.load(device)
    if kept is None:
        return None
    tensors, note = kept
    parts: dict[str, Tensors] = {"p": {}, "m": {}, "v": {}}
    for name, tensor in tensors.items():
        if name != "idle":
            parts[name[0]][name[2:]] = tensor
    return RunState(parts["p"], tensors["idle"], note["step"], note["history"], parts["m"], parts["v"])
