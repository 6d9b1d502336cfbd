"""Planted dictionaries are what they say: directions, frequencies, co-occurrence, exact effects, empty controls."""

import numpy as np
import pytest
import torch

from patchclamp.attribute import activation_patching, attribution_patching, integrated_gradients
from patchclamp.base.errors import PatchclampError
from patchclamp.truth import planted as planted_module
from patchclamp.truth.base import TRUTHS, Circuit, Planted, load_truth
from patchclamp.truth.planted import RECIPES, PlantSettings, plant, planted_circuit

SITE = planted_module.SITE


def activity(system: Planted) -> torch.Tensor:
    return system.recording[SITE][:]


@pytest.mark.parametrize("name", RECIPES)
def test_activity_is_the_sum_of_its_parts(name):
    system = load_truth(name, seed=3)
    assert isinstance(system, Planted)
    rest = activity(system) - system.codes @ system.directions - system.data["offset"]
    live = [i for i in range(rest.shape[1]) if i not in system.data["dead_units"]]
    assert float(rest[:, live].std()) == pytest.approx(system.data["noise"], rel=0.05)
    assert float(rest[:, live].mean().abs()) < 0.001
    assert torch.allclose(system.directions.norm(dim=1), torch.ones(len(system.directions)), atol=1e-6)
    assert float(system.codes.min()) == 0.0 and len(system.codes) == system.recording.n_samples
    assert len(system.recording.samples.group.unique()) == system.recording.n_samples // 16


@pytest.mark.parametrize("name", [*RECIPES, "planted-noise", "planted-shuffled"])
def test_the_same_seed_gives_the_same_bits(name):
    one, two, other = (load_truth(name, seed) for seed in (0, 0, 1))
    assert torch.equal(activity(one), activity(two)) and torch.equal(one.codes, two.codes)
    assert not torch.equal(activity(one), activity(other))


def test_the_readout_of_activity_sees_each_code_times_its_weight():
    system = plant(PlantSettings(noise=0.0, spread=1.0), seed=2)
    r = system.data["readout_units"].double()
    seen = (activity(system).double() - system.data["offset"]) @ r
    assert torch.allclose(seen, system.codes.double() @ system.readout.double(), atol=2e-5)
    idle = system.data["idle"]
    assert len(idle) == 16 and not system.readout[idle].any()
    others = [i for i in range(48) if i not in idle]
    assert bool((system.readout[others] != 0).all())


@pytest.mark.parametrize("coherence", [0.0, 0.3, 0.9])
def test_directions_of_a_family_have_the_cosine_asked_for(coherence):
    system = plant(PlantSettings(coherence=coherence), seed=5)
    cosines = system.directions @ system.directions.T
    for first in range(0, 48, 4):
        family = cosines[first : first + 4, first : first + 4]
        off = family[~torch.eye(4, dtype=torch.bool)]
        assert torch.allclose(off, torch.full_like(off, coherence), atol=1e-6)
    between = cosines[:4, 4:].abs().max()
    assert between < 0.95 and between > 0.1


def test_a_child_is_active_only_with_its_parent_and_then_half_of_the_time():
    system = load_truth("planted-hierarchy", 1)
    active = system.codes > 0
    assert len(system.data["hierarchy"]) == 12
    together = []
    for parent, child in system.data["hierarchy"]:
        assert not bool((active[:, child] & ~active[:, parent]).any())
        together.append(float(active[:, child].sum() / active[:, parent].sum()))
    assert np.mean(together) == pytest.approx(0.5, abs=0.03)


def test_pairs_occur_together_as_often_as_asked_and_no_others_do():
    system = load_truth("planted-correlated", 1)
    table = np.corrcoef((system.codes > 0).double().numpy().T)
    found = [table[i, j] for i, j in system.data["pairs"]]
    assert np.mean(found) == pytest.approx(0.6, abs=0.03)
    others = [table[i, j] for i in range(24) for j in range(i)]
    assert np.max(np.abs(others)) < 0.1


def test_dials_of_frequency_density_death_and_tail():
    even, uneven = (np.array(load_truth(n, 0).data["frequency"]) for n in ("planted", "planted-frequencies"))
    assert even.mean() == pytest.approx(0.05, abs=0.002) and even.max() < 0.07
    assert np.std(np.log(uneven)) == pytest.approx(1.0, abs=0.25) and uneven.max() / uneven.min() > 20
    assert load_truth("planted-dense", 0).data["frequency"][0] == pytest.approx(0.95, abs=0.01)
    dead = load_truth("planted-dead", 0)
    assert torch.equal(activity(dead).std(0) == 0, torch.arange(40) >= 32)
    table = dead.recording.units(SITE)
    assert table["dead"].tolist() == [False] * 32 + [True] * 8
    sizes = {name: activity(load_truth(name, 0)).norm(dim=1) for name in ("planted", "planted-heavy")}
    ratio = {name: float(size.quantile(0.999) / size.median()) for name, size in sizes.items()}
    assert ratio["planted-heavy"] > 3 * ratio["planted"]


def test_controls_hold_no_directions():
    """White noise has no preferred direction; shuffled units keep their marginals and lose their covariance."""
    real, noise, shuffled = (load_truth(f"planted{n}", 0) for n in ("", "-noise", "-shuffled"))
    spectra = {}
    for name, system in (("real", real), ("noise", noise), ("shuffled", shuffled)):
        values = activity(system).double()
        spectra[name] = torch.linalg.eigvalsh(torch.cov(values.T))
        if name != "real":
            assert not system.codes.any() and not system.readout.any()
    assert spectra["noise"].sum() == pytest.approx(float(spectra["real"].sum()), rel=0.03)
    assert spectra["noise"].max() / spectra["noise"].min() < 1.6
    assert spectra["real"].max() / spectra["real"].min() > 5
    assert torch.equal(activity(real).sort(dim=0).values, activity(shuffled).sort(dim=0).values)
    covariance = torch.corrcoef(activity(shuffled).double().T) - torch.eye(32)
    assert float(covariance.abs().max()) < 0.1
    assert TRUTHS["planted-noise"].control and TRUTHS["planted-shuffled"].control


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_every_estimate_of_the_linear_readout_is_exact(direction):
    system = load_truth("planted-readout", 4)
    assert isinstance(system, Circuit)
    small = planted_circuit(PlantSettings(), 4, items=24)
    assert small.nodes.keys() == system.nodes.keys() and sum(system.nodes.values()) == 32
    site = small.subject.resolve("features.out")[0]
    for method in (activation_patching, attribution_patching, integrated_gradients):
        scores = method(small.subject, small.task, "features.out", direction=direction).mean(site)
        wanted = [small.effects[direction][f"features.out[{i}]"] for i in range(48)]
        assert np.abs(np.asarray(scores) - wanted).max() < small.tolerance


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"coherence": 1.0}, "coherence 1.0"),
        ({"idle": 32}, "32 idle features"),
        ({"parents": 20, "pairs": 10}, "need 60 features"),
        ({"dead_units": 30}, "2 live units"),
        ({"magnitude": "normall"}, "'normall'"),
        ({"density": 0.0}, "density 0.0"),
        ({"pair_correlation": 1.5}, "pair_correlation 1.5"),
    ],
)
def test_what_cannot_be_planted_is_refused(settings, said):
    with pytest.raises(PatchclampError, match=said):
        PlantSettings(**settings)
