"""Gates: every attribution method gives its closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from patchclamp.attribute import METHODS
from patchclamp.attribute.activation_patching import activation_patching
from patchclamp.base.errors import PatchclampError
from patchclamp.intervene import joint_effect
from patchclamp.nouns.intervention import Intervention
from patchclamp.truth import TRUTHS, Circuit, Truth, load_truth, register
from patchclamp.truth.gates import GATES

# What each method estimates in its two directions, and its options.
QUANTITIES: Mapping[str, tuple[str, str]] = {
    "activation_patching": ("noising", "denoising"),
    "attribution_patching": ("gradient_clean", "gradient_corrupted"),
    "relevance_patching": ("gradient_clean", "gradient_corrupted"),
    "integrated_gradients": ("integrated_gradients", "integrated_gradients"),
    "partial_gradients": ("partial_noising", "partial_denoising"),
}
NEEDS_A_LANGUAGE_MODEL = {"direct_logit_attribution"}


def circuit(name: str) -> Circuit:
    found = load_truth(name)
    assert isinstance(found, Circuit)
    return found


def expected(system: Circuit, quantity: str) -> np.ndarray:
    return np.array([system.effects[quantity][address] for address in system.nodes])


def test_every_method_has_a_closed_form_or_a_reason() -> None:
    assert set(METHODS) == set(QUANTITIES) | NEEDS_A_LANGUAGE_MODEL


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("method", list(QUANTITIES))
@pytest.mark.parametrize("name", list(GATES))
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_methods_give_closed_forms(name: str, method: str, direction: str, batch_size: int) -> None:
    system = circuit(name)
    path = method in ("integrated_gradients", "partial_gradients")
    options: dict[str, Any] = {"steps": system.data["steps"]} if path else {}
    call: Any = METHODS[method]
    scores = call(
        system.subject, system.task, system.sites, direction=direction, batch_size=batch_size, **options
    )
    quantity = QUANTITIES[method][direction == "denoising"]
    assert np.abs(scores.values[scores.sites[0]] - expected(system, quantity)).max() < system.tolerance


def metric_at(system: Circuit, units: tuple[int, int]) -> float:
    out = system.subject.model(torch.tensor([units], dtype=torch.float64))
    return float(system.task.metric(out)[0].detach())


@pytest.mark.parametrize("name", list(GATES))
def test_shapley_values_from_joint_interventions(name: str) -> None:
    system = circuit(name)
    found = joint_effect(
        system.subject, system.task, Intervention(system.sites[0] + "[0,1]", "patch"), None, n_boot=20
    )
    # v(S) = m(the units outside S corrupted) - m(both corrupted), from noising alone.
    whole, alone = found.joint.estimate.value, [one.estimate.value for one in found.single]
    shapley = [(alone[u] + whole - alone[1 - u]) / 2 for u in (0, 1)]
    assert np.abs(np.array(shapley) - expected(system, "shapley")).max() < system.tolerance
    assert abs(sum(shapley) - (metric_at(system, (1, 1)) - metric_at(system, (0, 0)))) < system.tolerance


def test_the_or_gate_is_redundant_and_the_and_gate_is_not() -> None:
    for name, redundant in (("or", True), ("backup", True), ("and", False), ("sum", False)):
        system = circuit(name)
        change = Intervention(system.sites[0] + "[0,1]", "patch")
        assert joint_effect(system.subject, system.task, change, None, n_boot=20).redundant is redundant, name


def test_formulas_are_the_ones_named() -> None:
    formulas: dict[str, Any] = {
        "or": lambda a, b: 1 - max(0, 1 - a - b),
        "and": lambda a, b: max(0, a + b - 1),
        "sum": lambda a, b: (a + b) / 2,
        "backup": lambda a, b: a + max(0, b - a - 0.01),
        "cancel": lambda a, b: a - b + 1,
    }
    for name, formula in formulas.items():
        for units in ((0, 0), (0, 1), (1, 0), (1, 1)):
            assert abs(metric_at(circuit(name), units) - formula(*units)) < 1e-12, (name, units)


def test_swapped_directions_would_be_caught() -> None:
    system = circuit("or")
    scores = activation_patching(system.subject, system.task, system.sites, direction="noising")
    assert np.abs(scores.mean(scores.sites[0]) - expected(system, "denoising")).max() > 0.9


def test_names() -> None:
    assert set(GATES) <= set(TRUTHS)
    with pytest.raises(PatchclampError, match="did you mean backup"):
        load_truth("bakup")
    with pytest.raises(PatchclampError, match="there is one of this name"):
        register(Truth("or", "circuit", lambda seed: circuit("or"), "another"))
