"""Attention of a spike transformer: it finds the circuit, follows neither rates nor labels, and is read as it is."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.connect import attention_connectivity
from patchclamp.connect.coupling.attention_connectivity import attention_map, renamed
from patchclamp.connect.coupling.spike_transformer import (
    SpikeTokens,
    SpikeTransformer,
    rollout,
    tokens_of,
    train,
)
from patchclamp.connect.series import series
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.recording import Recording
from patchclamp.truth.populations_wired import coupled

SYSTEM = coupled(1, trials=14, busy=11)
HOW = {"width": 16, "layers": 1, "epochs": 6, "batch": 256, "rate": 1e-2}


@cache
def graph() -> Graph:
    return attention_connectivity(SYSTEM.recording, window=2, null=None, **HOW)


def tokens(rows: list[list[tuple[int, int]]], fired: list[list[int]], n: int) -> SpikeTokens:
    """Rows of (neuron, lag), the rest token first."""
    width = 1 + max(len(row) for row in rows)
    unit, lag = torch.full((len(rows), width), -1), torch.zeros(len(rows), width, dtype=torch.int64)
    unit[:, 0] = n
    for r, row in enumerate(rows):
        for c, (who, when) in enumerate(row):
            unit[r, c + 1], lag[r, c + 1] = who, when
    return SpikeTokens(unit, lag, torch.tensor(fired, dtype=torch.float32), np.arange(len(rows)))


# ---- the circuit


@pytest.mark.slow
def test_attention_finds_the_circuit_beside_the_regression() -> None:
    truth = SYSTEM.coupling.T
    found = graph()
    assert found.auroc(truth) >= 0.9 and found.direction(truth) >= 7 / 8
    assert found.baseline.method == "glm_coupling"
    assert found.baseline.auroc(truth) == 1.0 and found.baseline.direction(truth) == 1.0
    held = found.params["held_out"]
    assert held["transformer"] > held["rate"] + 0.04 and held["glm"] > held["rate"] + 0.04


@pytest.mark.slow
def test_removing_the_spikes_confirms_it_with_a_sign() -> None:
    truth, effect = SYSTEM.coupling.T > 0, graph().params["ablation"]
    assert (effect[truth] > 0.8).all()
    assert np.median(np.abs(effect[~truth & ~np.eye(12, dtype=bool)])) < 0.2


def test_a_busy_neuron_without_edges_is_not_on_top() -> None:
    found = graph()
    assert found.weights[:, 11].max() < 0.5 * np.median(found.weights[SYSTEM.coupling.T > 0])
    # The sum that is not divided by how often neurons go together ranks it among the drivers.
    raw = found.params["raw"].sum(0)
    assert raw[11] > np.median(raw[:11])


def test_renamed_neurons_carry_nothing() -> None:
    """The control of the card: labels of the past permuted in each trial."""
    units = series(SYSTEM.recording)
    past = renamed(units, np.random.default_rng(0))
    for part in units.segments:
        assert sorted(past.values[part].sum(0)) == sorted(units.values[part].sum(0))
    shuffled = tokens_of(past, 2, units)
    how = {k: v for k, v in HOW.items() if k != "epochs"}
    model = train(shuffled, 12, 2, epochs=3, **how)
    weights = np.maximum(attention_map(model, shuffled)[0], 0)
    truth = SYSTEM.coupling.T
    area = Graph(units.names, weights, True, "renamed").auroc(truth)
    assert abs(area - 0.5) < 0.25
    assert np.median(weights[truth > 0]) < 0.1 * np.median(graph().weights[truth > 0])


@pytest.mark.slow
def test_null_seed_and_what_it_is_not() -> None:
    x = coupled(0, trials=5, time=200).recording
    kinds = ("circular_shift", "label_permutation")
    for null in kinds:
        one, two = (
            attention_connectivity(
                x,
                window=2,
                width=8,
                layers=1,
                epochs=1,
                null=null,
                null_samples=1,
                glm_null_samples=19,
                seed=2,
            )
            for _ in range(2)
        )
        assert np.array_equal(one.weights, two.weights, equal_nan=True)
        assert np.array_equal(one.null["p"], two.null["p"], equal_nan=True)
        assert one.null["name"] == null and 0 < np.nanmin(one.null["p"]) <= np.nanmax(one.null["p"]) <= 1
        assert "causation" in one.limits and one.baseline.null["samples"] == 19
    with pytest.raises(PatchclampError, match="circular_shift, label_permutation"):
        attention_connectivity(x, null="shuffle")


# ---- faults of published code


def test_two_spikes_of_one_neuron_both_count() -> None:
    """Indexing with a list of neurons keeps one of its spikes; sums must not."""
    torch.manual_seed(0)
    model = SpikeTransformer(3, 2, 8, 1, 1, 0.0).eval()
    part = tokens([[(0, 1), (0, 2), (1, 1)], [(0, 1)]], [[0, 0, 1], [0, 0, 1]], 3)
    raw = attention_map(model, part)[1]
    with torch.no_grad():
        seen = model(part)[1][0].amax(1)
    assert raw[2, 0] == pytest.approx(float(seen[0, 2, 1] + seen[0, 2, 2] + seen[1, 2, 1]), abs=1e-6)
    assert raw[2, 1] == pytest.approx(float(seen[0, 2, 3]), abs=1e-6)
    assert (raw[:2] == 0).all(), "neurons that did not fire have no row"


def test_weights_are_excess_over_uniform_attention() -> None:
    model = SpikeTransformer(3, 2, 8, 1, 1, 0.0).eval()
    for layer in model.layers:
        torch.nn.init.zeros_(layer.query.weight)
        torch.nn.init.zeros_(layer.query.bias)
    part = tokens([[(0, 1), (1, 2)], [(0, 1)]], [[0, 1, 1], [1, 1, 1]], 3)
    excess = attention_map(model, part)[0]
    assert np.allclose(excess[np.isfinite(excess)], 0, atol=1e-6)
    assert np.isnan(excess[0, 1]) and np.isnan(excess[0, 2]), "neuron 0 never fired after a spike of these"


def test_attention_is_read_without_dropout() -> None:
    model = SpikeTransformer(3, 2, 8, 2, 2, 0.5)
    part = tokens([[(0, 1), (1, 2)], [(2, 1)]], [[1, 1, 1], [1, 1, 1]], 3)
    model.train()
    one, two = attention_map(model, part)[1], attention_map(model, part)[1]
    assert np.array_equal(one, two) and model.training
    for attention in model(part)[1]:
        np.testing.assert_allclose(attention.detach().sum(-1), 1, atol=1e-5)
    assert not train(tokens_of(series(np.eye(3)[np.arange(60) % 3], [0] * 60), 2), 3, 2, epochs=1).training


def test_rollout_is_the_product_of_all_layers() -> None:
    rng = np.random.default_rng(0)
    layers = [rng.dirichlet(np.ones(4), 2) for _ in range(3)]
    product = np.eye(6)
    for a in layers:
        step = np.zeros((6, 6))
        step[:2, :2], step[:2, 2:], step[2:, 2:] = np.eye(2) / 2, a / 2, np.eye(4)
        product = step @ product
    block = product[:2, 2:]
    found = rollout([torch.from_numpy(a) for a in layers]).numpy()
    np.testing.assert_allclose(found, block / block.sum(1, keepdims=True), atol=1e-12)
    without = rollout([torch.from_numpy(a) for a in layers[1:]]).numpy()
    assert np.abs(found - without).max() > 0.01, "the first layer counts"
    with pytest.raises(PatchclampError, match="one shape"):
        rollout([torch.ones(2, 4), torch.ones(2, 3)])


def test_the_past_ends_before_the_present_and_in_its_group() -> None:
    rng = np.random.default_rng(0)
    x = rng.poisson(0.5, (3, 12, 4)).astype(np.float32)
    units = series(Recording.from_arrays({"n": x}))
    cut = tokens_of(units, 3)
    assert cut.rows.tolist() == [t for trial in range(3) for t in range(12 * trial + 3, 12 * trial + 12)]
    flat = x.reshape(-1, 4)
    for r, t in enumerate(cut.rows):
        real = cut.unit[r] >= 0
        who, when = cut.unit[r][real].tolist(), cut.lag[r][real].tolist()
        assert (who[0], when[0]) == (4, 0)
        listed = sorted(zip(who[1:], when[1:], strict=True))
        expected = [(j, k) for k in (1, 2, 3) for j in range(4) for _ in range(int(flat[t - k, j]))]
        assert listed == sorted(expected)
        assert cut.fired[r].tolist() == (flat[t] > 0).astype(float).tolist()


def test_hidden_tokens_change_nothing_when_there_are_none() -> None:
    model = SpikeTransformer(3, 2, 8, 2, 2, 0.0).eval()
    part = tokens([[(0, 1), (1, 2)], [(0, 2)]], [[0, 0, 0], [0, 0, 0]], 3)
    with torch.no_grad():
        np.testing.assert_array_equal(model(part)[0], model(part, hide=2)[0])
        alone = model(tokens([[(1, 2)], []], [[0, 0, 0], [0, 0, 0]], 3))[0]
        np.testing.assert_allclose(model(part, hide=0)[0], alone, atol=1e-6)


def test_training_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(tokens_of(series(np.eye(3)[np.arange(60) % 3], [0] * 60), 2), 3, 2, epochs=1, seed=3)
    assert torch.equal(before, torch.get_rng_state())
