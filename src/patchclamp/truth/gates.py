"""Logic gates: two units, and every quantity that a method can report about them in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from patchclamp.subjects.module import TensorTask, TorchModule
from patchclamp.truth.base import QUANTITIES, Circuit, enter

DELTA = 0.01
ITEMS = 8  # the fewest of which there is an interval
# With an even number of midpoints none lies on the kink at half way.
STEPS = 4
SITE = "units.out"

Pair = tuple[float, float]


class Gate(nn.Module):
    """y = skip . u + out . relu(W u + b) + constant, of the two units u that `units` hands on.

    Parameters
    ----------
    skip
        Two weights that bypass the hidden layer.
    hidden
        Rows of (weight of a, weight of b, bias, weight on the output).
    constant
        Added to the output.
    """

    def __init__(
        self, skip: Pair, hidden: tuple[tuple[float, float, float, float], ...], constant: float
    ) -> None:
        super().__init__()
        rows = torch.tensor(hidden, dtype=torch.float64).reshape(-1, 4)
        self.units = nn.Identity()
        self.skip = nn.Linear(2, 1, dtype=torch.float64)
        self.hidden = nn.Linear(2, max(len(rows), 1), dtype=torch.float64)
        self.relu = nn.ReLU()
        self.out = nn.Linear(max(len(rows), 1), 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.skip.weight.copy_(torch.tensor([skip], dtype=torch.float64))
            self.skip.bias.fill_(constant)
            for parameter, value in (
                (self.hidden.weight, rows[:, :2]),
                (self.hidden.bias, rows[:, 2]),
                (self.out.weight, rows[:, 3][None]),
            ):
                parameter.zero_()
                if len(rows):
                    parameter.copy_(value)

    def forward(self, inputs: Tensor) -> Tensor:
        """(item, 2) -> (item, 1)."""
        units = self.units(inputs)
        out: Tensor = self.skip(units) + self.out(self.relu(self.hidden(units)))
        return out


@dataclass(frozen=True)
class _GateSpec:
    """`effects` of both units, in the order of `QUANTITIES`."""

    about: str
    make: Callable[[], Gate]
    effects: tuple[Pair, ...]


_HALF, _ONE, _NONE, _SIGNS = (0.5, 0.5), (1.0, 1.0), (0.0, 0.0), (1.0, -1.0)

GATES: dict[str, _GateSpec] = {
    "or": _GateSpec(
        "1 - relu(1 - a - b): either unit is enough, neither is needed",
        lambda: Gate((0, 0), ((-1, -1, 1, -1),), 1),
        (_NONE, _ONE, _HALF, _NONE, _ONE, _HALF, _NONE, _ONE),
    ),
    "and": _GateSpec(
        "relu(a + b - 1): both units are needed, neither is enough",
        lambda: Gate((0, 0), ((1, 1, -1, 1),), 0),
        (_ONE, _NONE, _HALF, _ONE, _NONE, _HALF, _ONE, _NONE),
    ),
    "sum": _GateSpec(
        "(a + b) / 2: linear, so that every method agrees",
        lambda: Gate((0.5, 0.5), (), 0),
        (_HALF,) * 8,
    ),
    "backup": _GateSpec(
        f"a + relu(b - a - {DELTA}): b steps in when a is lost; gradients see a alone",
        lambda: Gate((1, 0), ((-1, 1, -DELTA, 1),), 0),
        (
            (DELTA, 0.0), (1.0, 1 - DELTA), ((1 + DELTA) / 2, (1 - DELTA) / 2),
            (1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0),
        ),
    ),
    "cancel": _GateSpec(
        "a - b + 1: b works against the output; a signed ranking drops it and beats the model",
        lambda: Gate((1, -1), (), 1),
        (_SIGNS,) * 8,
    ),
}  # fmt: skip


def gate(name: str, seed: int = 0) -> Circuit:
    """Build a gate on clean input (1, 1) and corrupted input (0, 0).

    The system has no random part. `effects` holds, for both units, what each method must report: exact
    ``"noising"`` m(1, 1) - m(u = 0) and ``"denoising"`` m(u = 1) - m(0, 0), ``"shapley"``, gradient times difference at
    either end, ``"integrated_gradients"`` along the diagonal, and ``"partial_noising"``, ``"partial_denoising"``: what
    `partial_gradients` converges to, half the path each for units of equal weight.

    Parameters
    ----------
    name
        ``"or"``, ``"and"``, ``"sum"``, ``"backup"`` or ``"cancel"``.
    seed
        Changes nothing.

    Returns
    -------
    Circuit
        `data["steps"]` is a number of steps along the path at which midpoints miss the kinks; with an odd number one
        lies on the kink of OR and AND.

    Notes
    -----
    At delta = 0 BACKUP would lie on a kink, where gradients are a matter of convention; hence 0.01.

    Examples
    --------
    >>> gate("or").effects["denoising"]
    {'units.out[0]': 1.0, 'units.out[1]': 1.0}
    """
    spec = GATES[name]
    subject = TorchModule(spec.make().eval(), torch.zeros(1, 2, dtype=torch.float64), f"truth:{name}")
    task = TensorTask(
        name,
        torch.ones(ITEMS, 2, dtype=torch.float64),
        torch.zeros(ITEMS, 2, dtype=torch.float64),
        lambda out: out[:, 0],
    )
    addresses = (f"{SITE}[0]", f"{SITE}[1]")
    return Circuit(
        subject,
        task,
        (SITE,),
        nodes=dict.fromkeys(addresses, True),
        effects={
            what: dict(zip(addresses, pair, strict=True))
            for what, pair in zip(QUANTITIES, spec.effects, strict=True)
        },
        data={"steps": STEPS, "delta": DELTA},
    )


_SOURCE = "closed forms; OR and AND after the toy models of ACDC (Conmy et al. 2023)"
for _name, _spec in GATES.items():
    enter(_name, "circuit", partial(gate, _name), f"gate {_name.upper()}: {_spec.about}", _SOURCE)
