"""Circuits of the networks of `modular`: which waves of the input carry the sum."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.subjects.module import TensorTask, TorchModule
from patchclamp.truth.base import Circuit, enter
from patchclamp.truth.modular import (
    RECIPES,
    ModularNet,
    fourier_basis,
    fourier_facts,
    initial,
    one_hot,
    pairs_and_sums,
)
from patchclamp.truth.weight_files import load_weights, rounded, stored_seed

SITE = "waves.out"
ITEMS = 48


class WaveNet(ModularNet):
    """`ModularNet` with the embedding in two steps: one-hot -> waves -> stream. The function is the same.

    Units of ``waves``: 0 the constant, 2k - 1 and 2k the cosine and sine of frequency k, p the token "=".
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.double()
        vocabulary = len(weights["embed"])
        basis = torch.eye(vocabulary, dtype=torch.float64)
        basis[:-1, :-1] = torch.from_numpy(fourier_basis(vocabulary - 1))
        self.waves = nn.Linear(vocabulary, vocabulary, bias=False, dtype=torch.float64)
        self.waves.weight.data = basis
        self.embed.weight.data = self.embed.weight.data @ basis.T
        self.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(item, 3, p + 1) -> (item, p)."""
        return super().forward(self.waves(tokens))


def _log_odds_of_zero(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1:].logsumexp(1)


def _circuit(
    name: str, seed: int, weights: Mapping[str, Tensor], facts: Mapping[str, Any], found: bool
) -> Circuit:
    p = int(facts["p"])
    pairs, sums = pairs_and_sums(p)
    draw = torch_rng(check_seed(seed) + 80_000)
    clean = pairs[sums == 0][torch.randperm(p, generator=draw)[:ITEMS]]
    shift = torch.randint(1, p, (len(clean), 2), generator=draw)
    shift[:, 1] = torch.where(shift.sum(1) % p == 0, shift[:, 1] % (p - 1) + 1, shift[:, 1])
    inputs, other = (one_hot(one, p).double() for one in (clean, (clean + shift) % p))
    keys = facts["key_frequencies"] if found else _keys_of_the_trained(seed)
    original = {f"{SITE}[{unit}]": 0 < unit < p and (unit + 1) // 2 in keys for unit in range(p + 1)}
    net = WaveNet(weights).eval()
    return Circuit(
        TorchModule(net, inputs[:1], name=f"truth:{name}"),
        TensorTask(name, inputs, other, _log_odds_of_zero),
        (SITE,),
        original if found else dict.fromkeys(original, False),
        data={**facts, "original": {"nodes": original, "edges": {}}},
    )


def _keys_of_the_trained(seed: int) -> list[int]:
    """Key frequencies of the network of which a control is the twin."""
    name = "modular-addition"
    return [int(k) for k in load_weights(name, stored_seed(name, seed))[1]["key_frequencies"]]


def modular_addition(name: str = "modular-addition", seed: int = 0) -> Circuit:
    """Addition modulo p: the cosines and sines of the key frequencies carry it.

    Candidates are the waves of the input, an exact change of basis of the one-hot tokens, at all positions together.
    Key frequencies are those of the logits as a function of a + b - c, found without any patching. The task: log-odds of
    0 on pairs whose sum is 0; corrupted pairs have other summands and another sum.

    Returns
    -------
    Circuit
        `data`: see `modular.fourier_facts`. Neurons can be put under the instrument too, at ``mlp_act.out``:
        ``neuron_frequency`` is the frequency of each. ``original``: nodes of the trained network, to which scores of a
        control may not point.

    Examples
    --------
    >>> system = modular_addition()
    >>> sum(system.nodes.values()) == 2 * len(system.data["key_frequencies"])
    True
    """
    weights, facts = load_weights(name, stored_seed(name, seed))
    return _circuit(name, seed, weights, facts, found=not RECIPES[name][0].shuffled)


def reinitialised(seed: int = 0) -> Circuit:
    """The same network with fresh random weights, another draw for each seed."""
    recipe = RECIPES["modular-addition"][0]
    weights = rounded(initial(recipe.p, seed + 50_000))
    facts = fourier_facts(weights, recipe, seed)
    return _circuit("modular-addition-reinitialised", seed, weights, facts, found=False)


_SOURCE = "progress measures for grokking (Nanda et al. 2023), smaller"
for _name, _about in (
    ("modular-addition", "addition modulo 53 by a few frequencies"),
    ("modular-addition-31", "addition modulo 31 by a few frequencies"),
    ("modular-addition-shuffled", "random sums learnt by heart: no frequencies"),
):
    _build = partial(modular_addition, _name)
    enter(_name, "circuit", _build, _about, _SOURCE, control=RECIPES[_name][0].shuffled)
enter(
    "modular-addition-reinitialised", "circuit", reinitialised, "fresh random weights", _SOURCE, control=True
)
