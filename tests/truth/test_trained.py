"""Trained systems: stored weights are the measured ones, facts hold on them, training is reproducible, controls fail."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from patchclamp.attribute import activation_patching
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.intervention import Intervention
from patchclamp.subjects.clamp.edits import compile_interventions
from patchclamp.truth import modular, strict, strict_entries, strict_facts, training, weight_files
from patchclamp.truth.base import TRUTHS, Circuit, Planted, load_truth
from patchclamp.truth.weight_files import FOLDER, load_weights, read_index, rounded, save_weights

STORED = sorted(read_index())


def split(key: str) -> tuple[str, int]:
    name, _, seed = key.rpartition("-")
    return name, int(seed)


# ---- weights on disk


def test_every_training_has_its_weights_and_they_are_small():
    wanted = {f"{name}-{seed}" for name, one in training.TRAININGS.items() for seed in one.seeds}
    assert set(STORED) == wanted == {path.stem for path in FOLDER.glob("*.safetensors")}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000


@pytest.mark.parametrize("key", STORED)
def test_stored_facts_are_those_of_the_stored_weights(key):
    name, seed = split(key)
    weights, facts = load_weights(name, seed)
    again = json.loads(json.dumps(training.measure(name, weights, seed)))
    assert flat(again).keys() == flat(facts).keys()
    for place, value in flat(facts).items():
        assert flat(again)[place] == pytest.approx(value, rel=2e-3, abs=2e-3), place


def flat(value, prefix: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {k: v for name, one in value.items() for k, v in flat(one, f"{prefix}.{name}").items()}
    if isinstance(value, list):
        return {k: v for i, one in enumerate(value) for k, v in flat(one, f"{prefix}[{i}]").items()}
    return {prefix: float(value)}


@pytest.mark.parametrize("name", training.TRAININGS)
def test_training_is_the_same_bit_for_bit_by_seed(name):
    one, two, other = (training.train(name, seed, steps=2) for seed in (0, 0, 1))
    longer = training.train(name, 0, steps=3)
    assert all(torch.equal(one[key], two[key]) for key in one)
    largest = max(one, key=lambda key: one[key].numel())
    assert not torch.equal(one[largest], other[largest]) and not torch.equal(one[largest], longer[largest])


def test_the_command_writes_weights_that_load(tmp_path, capsys, monkeypatch):
    short = training.TRAININGS["superposition-5"]
    quick = training.Training(lambda seed, steps: short.train(seed, 20), short.facts, short.seeds)
    monkeypatch.setitem(training.TRAININGS, "superposition-5", quick)
    training.main(["superposition-5", "--seed", "3", "--folder", str(tmp_path)])
    said = json.loads(capsys.readouterr().out)
    weights, facts = load_weights("superposition-5", 3, tmp_path)
    assert said["name"] == "superposition-5" and len(facts["norms"]) == 5
    wanted = rounded(short.train(3, 20))
    assert torch.equal(weights["weight"], wanted["weight"])


def test_other_bytes_than_those_measured_are_refused(tmp_path):
    path = save_weights("toy", 0, {"w": torch.ones(4)}, {"n": 4}, tmp_path)
    assert load_weights("toy", 0, tmp_path)[1] == {"n": 4}
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(PatchclampError, match="SHA-256 .* was measured; train it again"):
        load_weights("toy", 0, tmp_path)
    with pytest.raises(PatchclampError, match="not there"):
        load_weights("toy", 1, tmp_path)
    with pytest.raises(PatchclampError, match="no weights are stored"):
        weight_files.stored_seed("toyy", 0, tmp_path)
    with pytest.raises(PatchclampError, match="did you mean strict-iit"):
        training.train("strict-iitt")


# ---- strict interchange-intervention training


def effects_by_hooks(system: Circuit, direction: str) -> dict[str, float]:
    """Whole-site patches through the subject: exact patching."""
    found = {}
    task = system.data["accuracy_task"] if direction == "accuracy" else system.task
    (pair,) = system.subject.pairs(task, batch_size=100)
    if direction == "denoising":
        pair = type(pair)(pair.corrupted, pair.clean, pair.metric, *list(vars(pair).values())[3:])
    plain = pair.metric(system.subject.run(pair.clean, logits="last").logits)
    for site in system.sites:
        edits = compile_interventions([Intervention(site, "patch")], system.subject, pair)
        patched = pair.metric(system.subject.run(pair.clean, write=edits, logits="last").logits)
        change = float((plain - patched).mean())
        found[site] = -change if direction == "denoising" else change
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_the_strict_truth_is_recovered_by_exact_patching(seed):
    system = load_truth("strict-iit", seed)
    assert isinstance(system, Circuit) and system.level == "site" and len(system.nodes) == 8
    aligned = [site for site, belongs in system.nodes.items() if belongs]
    assert aligned == ["layers.0.1.out", "layers.1.2.out"]
    accuracy = effects_by_hooks(system, "accuracy")
    assert accuracy == {site: float(site in aligned) for site in system.sites}, "to the last item"
    for direction in ("noising", "denoising"):
        found = effects_by_hooks(system, direction)
        assert found == pytest.approx(system.effects[direction], abs=1e-9)
        size = {site: abs(value) for site, value in found.items()}
        others = max(value for site, value in size.items() if site not in aligned)
        assert min(size[site] for site in aligned) > 3 * others, direction


@pytest.mark.parametrize("seed", [0, 1])
def test_over_all_pairs_two_units_and_four_edges_decide_the_answer(seed):
    _, facts = load_weights("strict-iit", seed)
    assert facts["accuracy"] == facts["iia_v"] == facts["iia_y"] == 1.0 and facts["joint"] == 0.0
    for name, effect in facts["effect"].items():
        assert effect == pytest.approx(0.8 if name in strict.ALIGNED else 0.0, abs=1e-6)
    found = {edge for edge, effect in facts["edges"].items() if effect > 0}
    assert found == set(strict_entries.EDGES) and len(facts["edges"]) == 33
    others = [leak for name, leak in facts["leak"].items() if name not in strict.ALIGNED]
    assert 0.5 < max(others) < 4, "logits do move: the truth is one of answers"
    assert load_truth("strict-iit", seed).edges == {edge: edge in found for edge in facts["edges"]}


def test_perfect_interchange_accuracy_hides_a_leak_that_patching_finds():
    for seed in (0, 1):
        system = load_truth("iit-leaky", seed)
        assert system.data["iia_v"] == system.data["iia_y"] == 1.0
        found = effects_by_hooks(system, "accuracy")
        leaks = [
            site
            for site in system.sites
            if site not in system.data["aligned"].values() and found[site] > 0.02
        ]
        assert len(leaks) >= 2 and all(system.nodes[site] for site in leaks)
        assert max(found[site] for site in leaks) > 0.05 and system.data["joint"] > 0.7
        assert sum(system.nodes.values()) == 5


def test_behaviour_alone_gives_no_known_mechanism():
    system = load_truth("behaviour-only", 0)
    assert system.data["accuracy"] == 1.0 and all(system.nodes.values())
    assert system.data["iia_v"] < 0.3 and system.data["iia_y"] < 0.35
    assert min(effects_by_hooks(system, "accuracy").values()) > 0.05


@pytest.mark.parametrize("name", ["strict-iit-shuffled", "strict-iit-reinitialised"])
def test_controls_of_the_strict_network_hold_no_variable(name):
    system = load_truth(name, 0)
    assert TRUTHS[name].control and not any(system.nodes.values())
    assert system.data["iia_v"] < 0.35
    assert system.data["original"]["nodes"] == load_truth("strict-iit", 0).nodes
    assert system.data["accuracy"] == 1.0 if name.endswith("shuffled") else system.data["accuracy"] < 0.5


def test_two_ways_of_running_the_network_agree():
    weights = rounded(strict.initial(7))
    inputs, _ = strict.all_inputs()
    assert torch.allclose(strict.UnitNet(weights)(inputs), strict.run(weights, inputs)[0], atol=1e-5)
    _, seen = strict.run(weights, inputs)
    for units in (["layers.0.1"], ["layers.1.2"], ["layers.0.3", "layers.1.0", "layers.1.1"]):
        patched, plain = strict_facts.interchange(weights, units)
        taken = torch.tensor([name in units for name in strict.NAMES]).reshape(2, 4, 1).expand(-1, -1, 125)
        by_hand, _ = strict.run(weights, inputs[17].expand(125, -1), taken, seen)
        assert torch.allclose(patched[17], by_hand, atol=1e-4)
        assert torch.allclose(patched[17, 17], plain[17], atol=1e-4)
    clean, source = strict_entries.pairs_of_inputs(3)
    digits = [one.reshape(-1, 3, 5).argmax(2) for one in (clean, source)]
    assert not strict.answer(digits[0]).any() and bool((strict.answer(digits[1]) != 0).all())
    assert bool((strict.variable(digits[0]) != strict.variable(digits[1])).all()) and len(clean) == 64
    assert np.unique(clean.numpy(), axis=0).shape[0] > 15


# ---- modular addition


@pytest.mark.parametrize(("name", "seed"), [("modular-addition", 0), ("modular-addition", 1)])
def test_modular_addition_has_its_four_properties(name, seed):
    _, facts = load_weights(name, seed)
    assert facts["accuracy_train"] == facts["accuracy_test"] == 1.0
    assert facts["embedding_share"] > 0.85 > 6 / 26, "(i) few frequencies in the embedding"
    assert 2 <= len(facts["key_frequencies"]) <= 6
    assert facts["logits_explained"] > 0.9, "(ii) cosines of a + b - c are the logits"
    assert facts["restricted"] > 0.99 and facts["excluded"] < 0.1, "(iii) they are enough, and needed"
    assert facts["excluded_loss"] > facts["loss"] + 3
    assert facts["neuron_share"] > 0.85 and facts["neurons_pure"] > 0.6, (
        "(iv) a neuron is mostly one frequency"
    )
    used = np.bincount(facts["neuron_frequency"], minlength=27)
    assert used[facts["key_frequencies"]].sum() > 0.75 * 256


def test_a_smaller_modulus_has_them_less_cleanly():
    """Two of 385 held-out pairs or fewer are wrong, and fewer neurons are of one frequency."""
    system = load_truth("modular-addition-31", 0)
    facts = system.data
    assert facts["accuracy_train"] == 1.0 and facts["accuracy_test"] > 0.99
    assert facts["embedding_share"] > 0.85 and facts["logits_explained"] > 0.9
    assert facts["restricted"] > 0.99 and facts["excluded"] < 0.1
    assert facts["neuron_share"] > 0.85 and facts["neurons_pure"] > 0.5
    assert sum(system.nodes.values()) == 2 * len(facts["key_frequencies"]) and len(system.nodes) == 32


@pytest.mark.parametrize("name", ["modular-addition-shuffled", "modular-addition-reinitialised"])
def test_controls_of_modular_addition_have_none_of_them(name):
    system = load_truth(name, 0)
    facts = system.data
    assert TRUTHS[name].control and not any(system.nodes.values())
    assert facts["original"]["nodes"] == load_truth("modular-addition", 0).nodes
    assert facts["embedding_share"] < 0.5 and facts["logits_explained"] < 0.1 and facts["neuron_share"] < 0.4
    assert facts["accuracy_test"] < 0.05 and facts["restricted"] < 0.1
    assert facts["accuracy_train"] == (1.0 if name.endswith("shuffled") else pytest.approx(0, abs=0.05))


@pytest.mark.parametrize("seed", [0, 1])
def test_patching_waves_of_the_input_finds_the_key_frequencies(seed):
    system = load_truth("modular-addition", seed)
    site = system.subject.resolve("waves.out")[0]
    scores = activation_patching(system.subject, system.task, "waves.out", direction="noising").mean(site)
    size, real = np.abs(np.asarray(scores)), np.array(list(system.nodes.values()))
    assert size[real].min() > 1.5 * size[~real].max() and size[0] == size[53] == 0.0
    weights, _ = load_weights("modular-addition", seed)
    plain = modular.ModularNet(weights).double()(system.task.clean)
    assert torch.allclose(plain, system.subject.model(system.task.clean), atol=1e-9)
    pairs = system.task.clean[:, :2].argmax(2)
    assert not (pairs.sum(1) % 53).any()
    other = system.task.corrupted[:, :2].argmax(2)
    assert bool((other != pairs).all()) and bool((other.sum(1) % 53 != 0).all())


def test_fourier_measures_on_waves_made_by_hand():
    p = 11
    basis = modular.fourier_basis(p)
    assert np.allclose(basis @ basis.T, np.eye(p))
    assert modular.frequency_power(basis[[3, 4, 9]].T) == pytest.approx([0, 2 / 3, 0, 0, 1 / 3])
    a, b = np.meshgrid(np.arange(p), np.arange(p), indexing="ij")
    pure = np.cos(2 * np.pi * 3 * (a + b) / p) + np.sin(2 * np.pi * 3 * a / p) + 5
    mixed = np.cos(2 * np.pi * 2 * a / p) + 2 * np.cos(2 * np.pi * 5 * b / p)
    found, share = modular.neuron_frequencies(np.stack([pure, mixed], 2))
    assert found.tolist() == [3, 5] and share == pytest.approx([1.0, 0.8])
    waves = modular.sum_waves(p, [1, 4])
    assert np.allclose(waves @ waves.T, np.eye(4))


def test_two_ways_of_running_the_transformer_agree():
    weights = rounded(modular.initial(13, 0))
    pairs, _ = modular.pairs_and_sums(13)
    net = modular.ModularNet(weights)
    assert torch.allclose(net(modular.one_hot(pairs, 13)), modular.forward(weights, pairs), atol=1e-5)


# ---- toy superposition

TOYS = {
    "superposition-5-dense": (2, 1.0),
    "superposition-5": (5, 0.4),
    "superposition-20-dense": (5, 1.0),
    "superposition-20": (15, 1 / 3),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", TOYS)
def test_toy_models_represent_what_the_paper_says(name, seed):
    system = load_truth(name, seed)
    assert isinstance(system, Planted)
    count, dimension = TOYS[name]
    represented, found = system.data["represented"], np.array(system.data["dimensionality"])
    assert abs(sum(represented) - count) <= (1 if name == "superposition-20" else 0)
    assert found[represented].mean() == pytest.approx(dimension, abs=0.04)
    assert found[~np.array(represented)].sum() < 0.05
    if name.endswith("dense"):
        assert system.data["features"] == list(range(count)), "the most important ones"


@pytest.mark.parametrize("name", TOYS)
def test_hidden_activity_is_codes_times_columns_of_the_weights(name):
    system = load_truth(name, 1)
    hidden = system.recording["planted"][:]
    rest = hidden - system.codes @ system.directions
    assert float(rest.norm() / hidden.norm()) < 0.06
    assert torch.allclose(system.directions.norm(dim=1), torch.ones(len(system.directions)))
    assert system.codes.min() >= 0 and system.codes.shape == (4096, sum(system.data["represented"]))


@pytest.mark.parametrize(
    "name", ["superposition-5-dense-net", "superposition-20-dense-net", "superposition-20-net"]
)
def test_features_without_a_direction_do_not_matter(name):
    system = load_truth(name, 0)
    site = system.subject.resolve("features.out")[0]
    scores = activation_patching(system.subject, system.task, "features.out", direction="noising").mean(site)
    size, real = np.abs(np.asarray(scores)), np.array(list(system.nodes.values()))
    assert size[real].min() > 3 * size[~real].max()


def test_the_shuffled_toy_has_the_marginals_and_no_directions():
    system, twin = load_truth("superposition-20", 0), load_truth("superposition-20-shuffled", 0)
    hidden = [one.recording["planted"][:] for one in (system, twin)]
    assert torch.equal(hidden[0].sort(dim=0).values, hidden[1].sort(dim=0).values)
    assert not twin.codes.any() and TRUTHS["superposition-20-shuffled"].control
    # A sparse code lies along its directions; without them activity points anywhere.
    along = [
        float((h / h.norm(dim=1, keepdim=True).clamp(min=1e-9) @ system.directions.T).amax(1).median())
        for h in hidden
    ]
    assert along[0] > along[1] + 0.02
