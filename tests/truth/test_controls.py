"""Negative controls: what must be exactly zero, what must mislead, and what must hold no mechanism."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.evaluate.subspaces.row_space import row_space
from patchclamp.subjects import TorchModule, open_subject
from patchclamp.truth import TRUTHS, Circuit, Population, load_truth, twin
from patchclamp.truth.controls_grid import difull
from patchclamp.truth.controls_inversion import gradient_size, null_block

ESTIMATES = ("attribution_patching", "integrated_gradients", "partial_gradients", "relevance_patching")
FITTING = ("activation_patching", *ESTIMATES)


def circuit(name: str, seed: int = 0) -> Circuit:
    found = load_truth(name, seed)
    assert isinstance(found, Circuit)
    return found


def scores_of(system: Circuit, method: str, **options: Any) -> np.ndarray:
    """Per-item scores of all candidates of a system with one site, (item, unit)."""
    call: Any = METHODS[method]
    scores = call(system.subject, system.task, system.sites, direction="noising", **options)
    return scores.values[scores.sites[0]]


# ---- disconnected grid


@pytest.mark.parametrize("method", FITTING)
@pytest.mark.parametrize("cell", [0, 3])
def test_other_cells_score_exactly_zero(method: str, cell: int) -> None:
    system = difull(1, cell)
    task = system.task
    if method == "activation_patching":  # 256 passes an item
        task = type(task)("few", task.clean[:2], task.corrupted[:2], task.metric, targets=task.targets[:2])
    found = scores_of(Circuit(system.subject, task, system.sites, system.nodes), method)
    inside = np.array(list(system.nodes.values()))
    assert (found[:, ~inside] == 0).all()
    assert np.mean(found[:, inside] != 0) > 0.9
    positive = found.clip(min=0)
    within = np.where(inside, positive, 0).sum(1)  # summed in the same order, so that equal is exactly equal
    assert (within / positive.sum(1) == 1).all()


def test_a_uniform_map_scores_one_in_four() -> None:
    inside = np.array(list(circuit("difull").nodes.values()))
    assert inside.mean() == 0.25
    assert inside.reshape(16, 16)[:8, :8].all()


def test_the_grid_s_arithmetic_is_exact() -> None:
    system = difull(2)
    model, clean = system.subject.model, system.task.clean
    with torch.no_grad():
        together = model(clean)
        assert all(torch.equal(model(clean[i : i + 1])[0], together[i]) for i in range(len(clean)))
    assert (system.task.clean != system.task.corrupted).all()


# ---- feature inversion


@pytest.mark.slow
def test_gradients_are_inverted_and_gradient_times_difference_is_right() -> None:
    tops, bottoms = [], []
    for seed in (0, 1):
        system = circuit("feature-inversion", seed)
        assert system.data["accuracy"] == 1.0
        tops.append(system.data["gradient_top"])
        bottoms.append(system.data["gradient_bottom"])
        signal = system.data["signal"]
        size = gradient_size(system.subject.model, system.task.clean)
        assert (size.argmax(1) != signal).all()
        for method in FITTING:
            found = scores_of(system, method)
            assert (np.abs(found).argmax(1) == signal).all(), method
            assert (np.delete(found, signal, axis=1) == 0).all(), method
        exact = scores_of(system, "activation_patching").mean(0)
        assert np.abs(exact - list(system.effects["noising"].values())).max() < system.tolerance
    assert max(tops) <= 0.05
    assert min(bottoms) >= 0.3  # chance is 0.1


@pytest.mark.slow
def test_training_is_the_same_for_the_same_seed() -> None:
    from patchclamp.truth.controls_inversion import inversion_network

    first, facts = inversion_network(0)
    inversion_network.cache_clear()
    second, again = inversion_network(0)
    assert facts == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_gradients_leak_into_the_block_that_says_nothing() -> None:
    system = circuit("block-digits")
    assert system.data["accuracy"] > 0.98
    assert 0.4 < system.data["gradient_in_signal"] < 0.65
    assert not any(list(system.nodes.values())[64:])
    assert np.array_equal(system.task.clean[:, 64:], system.task.corrupted[:, 64:])
    assert torch.allclose(system.task.clean[0, 64:].double(), null_block().flatten())
    for method in FITTING:
        found = scores_of(system, method, **({"batch_size": 256} if method == "activation_patching" else {}))
        false = ~np.array(list(system.nodes.values()))
        assert (found[:, false] == 0).all(), method
        assert np.abs(found[:, ~false]).max() > 0, method


# ---- subspace illusion


@pytest.mark.parametrize("name", ["illusory", "faithful"])
def test_the_illusion_s_parts(name: str) -> None:
    system = circuit("illusion", 3)
    found = row_space(
        system.subject, system.task, "hidden.out", system.data[name],
        readout=torch.tensor(system.data["readout"]), n_random=20, n_boot=50,
    )  # fmt: skip
    for part, expected in system.data["transferred"][name].items():
        if part in set(found.table["part"]):
            assert abs(found[part]["transferred"] - expected) < 1e-6, part
        else:
            assert part == "null"  # a direction without a part in the null space
            assert name == "faithful"


@pytest.mark.parametrize("method", FITTING)
def test_units_of_the_illusion_have_closed_forms(method: str) -> None:
    system = circuit("illusion")
    assert np.abs(scores_of(system, method).mean(0) - list(system.effects["noising"].values())).max() < 1e-6


# ---- twins


def test_twins_keep_the_shape_and_lose_the_mechanism() -> None:
    system, other = circuit("induction-20"), twin("induction-20", 0)
    for a, b in zip(system.subject.model.parameters(), other.subject.model.parameters(), strict=True):
        assert a.shape == b.shape
        assert not torch.equal(a, b)
        assert 0.5 < float(a.detach().pow(2).mean() / b.detach().pow(2).mean()) < 2
    assert list(other.edges) == list(system.edges)
    assert not any(other.edges.values())
    assert other.data["original"]["edges"] == dict(system.edges)
    again = twin(TRUTHS["induction-20"], 0)
    pairs = zip(other.subject.model.parameters(), again.subject.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    # The original keeps its weights.
    assert circuit("induction-20").data["accuracy"] == 1.0


def test_scores_of_twins_do_not_follow_the_original() -> None:
    areas = []
    for seed in range(8):
        other = twin("induction-20", seed)
        call: Any = METHODS["attribution_patching"]
        scores = call(other.subject, other.task, list(other.edges), direction="noising", level="site")
        truth = other.data["original"]["edges"]
        rank = rankdata([abs(scores.mean(other.subject.resolve(edge)[0])[0]) for edge in truth])
        true = np.array(list(truth.values()))
        areas.append((rank[true].sum() - 28) / (7 * 35))
    assert abs(np.mean(areas) - 0.5) < 0.2
    assert np.mean(np.array(areas) > 0.9) < 0.25


def test_every_live_system_has_a_twin() -> None:
    for name in ("or", "rasp-histogram", "difull", "illusion"):
        found = load_truth(f"{name}-reinitialised", 1)
        assert isinstance(found, Circuit)
        assert not any(found.nodes.values())
        assert found.subject.name == f"truth:{name}-reinitialised"
    assert TRUTHS["induction-20-reinitialised"].control
    with pytest.raises(PatchclampError, match="no weights to draw anew; give a live system"):
        twin("noise-recording")


# ---- noise


@pytest.mark.parametrize("method", FITTING)
def test_effects_of_noise_vary_and_claims_about_them_keep_their_rate(method: str) -> None:
    outside = []
    for seed in range(6):
        system = circuit("noise", seed)
        found = scores_of(system, method)
        assert (found.std(0) > 0).all()
        low, high = bootstrap_interval(found, (), n_boot=200, seed=seed)
        outside.append((low > 0) | (high < 0))
    rate = np.mean(outside)  # of 192 intervals of 95 %
    assert 0.01 < rate < 0.11


def test_the_noise_recording_has_nothing_in_it() -> None:
    found = load_truth("noise-recording", 3)
    assert isinstance(found, Population)
    assert found.coupling is not None
    assert not found.coupling.any()
    assert TRUTHS["noise-recording"].control
    again = load_truth("noise-recording", 3)
    assert isinstance(again, Population)
    (values,), (same,) = (r.recording.to_torch().values() for r in (found, again))
    assert torch.equal(values, same)
    assert abs(float(values.mean())) < 0.02


# ---- opening


def test_systems_open_as_subjects() -> None:
    subject = open_subject("truth:induction-20")
    assert isinstance(subject, TorchModule)
    assert "edges.pos.a0h0_q.out" in map(str, subject.known_sites())
    assert open_subject("truth:or-reinitialised").name == "truth:or-reinitialised"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("truth:noise-recording", {}, r"not a network.*load_truth\('noise-recording'\)"),
        ("truth:inductoin-20", {}, "did you mean induction-20"),
        ("truht:or", {}, "no installed package offers the scheme 'truht'; did you mean truth"),
        ("truth:or", {"device": "cuda"}, "run on the CPU"),
        ("truth:or", {"dtype": "float16"}, "precision in which its truth is exact"),
    ],
)
def test_what_cannot_be_opened_is_said(source: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(PatchclampError, match=message):
        open_subject(source, **options)


def test_the_command_line_opens_them(capsys: pytest.CaptureFixture[str]) -> None:
    from patchclamp.app.cli import run

    assert run(["sites", "truth:and", "--json"]) == 0
    assert '"site": "units.out"' in capsys.readouterr().out
    assert run(["sites", "truth:noise-recording"]) == 2
    assert "load_truth" in capsys.readouterr().err
