"""Circuits of the networks of `strict`: the strict one, the leaky one, and controls."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.subjects.module import TensorTask, TorchModule
from patchclamp.truth.base import Circuit, enter
from patchclamp.truth.strict import (
    ALIGNED,
    LAYERS,
    NAMES,
    UNITS,
    UnitNet,
    all_inputs,
    answer,
    initial,
    run,
    variable,
)
from patchclamp.truth.strict_facts import interchange_facts, log_odds
from patchclamp.truth.weight_files import load_weights, rounded, stored_seed

SITES = tuple(f"{name}.out" for name in NAMES)
EDGES = (
    f"embedding->{ALIGNED[0]}",
    f"embedding->{ALIGNED[1]}",
    f"{ALIGNED[0]}->{ALIGNED[1]}",
    f"{ALIGNED[1]}->unembed",
)
LEAK = 0.01  # a unit that changes fewer answers than this is no part of a leaky network's mechanism
ITEMS = 64


def _log_odds_of_zero(logits: Tensor) -> Tensor:
    return log_odds(logits, torch.zeros(len(logits), dtype=torch.int64))


def _accuracy(logits: Tensor) -> Tensor:
    return (logits.argmax(1) == 0).to(logits.dtype)


def pairs_of_inputs(seed: int, items: int = ITEMS) -> tuple[Tensor, Tensor]:
    """Clean inputs whose answer is 0, and corrupted ones with another v and another answer; both (item, 15)."""
    inputs, digits = all_inputs()
    v, y = variable(digits), answer(digits)
    draw = torch_rng(check_seed(seed) + 40_000)
    clean = torch.randint(len(inputs), (40 * items,), generator=draw)
    source = torch.randint(len(inputs), (40 * items,), generator=draw)
    fits = (y[clean] == 0) & (y[source] != 0) & (v[clean] != v[source])
    clean, source = clean[fits][:items], source[fits][:items]
    return inputs[clean].double(), inputs[source].double()


def _circuit(
    name: str, seed: int, weights: Mapping[str, Tensor], facts: Mapping[str, Any], nodes: Mapping[str, bool]
) -> Circuit:
    exact = {key: value.double() for key, value in weights.items()}
    net = UnitNet(weights).double().eval()
    clean, source = pairs_of_inputs(seed)
    known = EDGES if name == "strict-iit" else [e for e, effect in facts["edges"].items() if effect > LEAK]
    return Circuit(
        TorchModule(net, clean[:1], name=f"truth:{name}"),
        TensorTask(name, clean, source, _log_odds_of_zero),
        sites=SITES,
        nodes=nodes,
        level="site",
        effects=_effects(exact, clean, source),
        edges={edge: edge in known for edge in facts["edges"]} if any(nodes.values()) else {},
        data={
            **facts,
            "original": {
                "nodes": {f"{unit}.out": unit in ALIGNED for unit in NAMES},
                "edges": {edge: edge in EDGES for edge in facts["edges"]},
            },
            "aligned": {"v": f"{ALIGNED[0]}.out", "y": f"{ALIGNED[1]}.out"},
            "accuracy_task": TensorTask(f"{name}-accuracy", clean, source, _accuracy),
        },
    )


@torch.no_grad()
def _effects(weights: Mapping[str, Tensor], clean: Tensor, source: Tensor) -> dict[str, dict[str, float]]:
    """Exact effects of whole units on the task's log-odds, by the stacked weights and no hook."""
    (plain, at_clean), (other, at_source) = run(weights, clean), run(weights, source)
    noising, denoising = {}, {}
    for k, site in enumerate(SITES):
        taken = torch.zeros(LAYERS, UNITS, 1, dtype=torch.bool)
        taken[k // UNITS, k % UNITS] = True
        taken = taken.expand(-1, -1, len(clean))
        broken, mended = run(weights, clean, taken, at_source)[0], run(weights, source, taken, at_clean)[0]
        noising[site] = float((_log_odds_of_zero(plain) - _log_odds_of_zero(broken)).mean())
        denoising[site] = float((_log_odds_of_zero(mended) - _log_odds_of_zero(other)).mean())
    return {"noising": noising, "denoising": denoising}


def strict_iit(seed: int = 0) -> Circuit:
    """The network whose mechanism is known: v on unit (0, 1), the answer on unit (1, 2), nothing elsewhere.

    The truth holds for the answer (the class) under patching from another input. It does *not* hold for logits to the
    last digit: other units move the log-odds a little (``leak``), and the direct paths from the embedding and from unit
    (0, 1) to the read-out may.

    Returns
    -------
    Circuit
        Candidates are whole sites (`level`), the contributions of the eight units. The task: log-odds of 0 on inputs
        whose answer is 0; corrupted inputs have another v and another answer. `edges`: all 33, with the four of the
        algorithm. `data`: see `strict_facts.interchange_facts`; ``aligned``; ``original``, nodes and edges of
        the algorithm, to which scores of a control may not point; ``accuracy_task``, the same items with
        accuracy as the metric, on which noising either unit costs 1 and any other 0.

    Examples
    --------
    >>> [site for site, belongs in strict_iit(0).nodes.items() if belongs]
    ['layers.0.1.out', 'layers.1.2.out']
    """
    weights, facts = load_weights("strict-iit", stored_seed("strict-iit", seed))
    nodes = {f"{name}.out": name in ALIGNED for name in NAMES}
    return _circuit("strict-iit", seed, weights, facts, nodes)


def leaky(name: str, seed: int = 0) -> Circuit:
    """A network that was not kept from using other units: nodes and edges are those that change more than 1 % of answers.

    ``iit-leaky`` has perfect interchange accuracy for both variables, and yet other units carry them too: interchange
    accuracy alone proves too little. ``behaviour-only`` spreads the algorithm over all units.
    """
    weights, facts = load_weights(name, stored_seed(name, seed))
    nodes = {f"{unit}.out": facts["effect"][unit] > LEAK for unit in NAMES}
    return _circuit(name, seed, weights, facts, nodes)


def shuffled(seed: int = 0) -> Circuit:
    """The same network trained on permuted answers: it has learnt them by heart, and no unit carries v."""
    name = "strict-iit-shuffled"
    weights, facts = load_weights(name, stored_seed(name, seed))
    return _circuit(name, seed, weights, facts, dict.fromkeys(SITES, False))


def reinitialised(seed: int = 0) -> Circuit:
    """The same network with fresh random weights, another draw for each seed."""
    weights = rounded(initial(seed + 50_000))
    facts = interchange_facts(weights, answer(all_inputs()[1]))
    return _circuit("strict-iit-reinitialised", seed, weights, facts, dict.fromkeys(SITES, False))


_SOURCE = "strict interchange-intervention training (Gupta et al. 2024)"
enter("strict-iit", "circuit", strict_iit, "(a + b) mod 5 + c mod 5: two of eight units", _SOURCE)
for _name, _about in (
    ("iit-leaky", "interchange accuracy 1.00, and other units carry the variable too"),
    ("behaviour-only", "the same task learnt without a known mechanism: all units take part"),
):
    enter(_name, "circuit", partial(leaky, _name), _about, _SOURCE)
enter("strict-iit-shuffled", "circuit", shuffled, "trained on permuted answers", _SOURCE, control=True)
enter("strict-iit-reinitialised", "circuit", reinitialised, "fresh random weights", _SOURCE, control=True)
