"""Populations are what they say: who is coupled to whom, when, what follows what, and that controls are empty."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.truth.base import TRUTHS, Population, load_truth
from patchclamp.truth.populations_coded import motifs
from patchclamp.truth.populations_wired import (
    EDGES,
    KERNEL,
    FireSettings,
    coupled,
    integrate_and_fire,
    roll_trials,
)

NAMES = [truth.name for truth in TRUTHS.values() if truth.kind == "population"]


def values(system: Population, site: str = "neurons") -> np.ndarray:
    """(trial, time, unit); a trial is a document."""
    trials = len(system.recording.samples.doc.unique())
    return system.recording[site][:].double().numpy().reshape(trials, -1, system.recording[site].shape[1])


def correlation(x: np.ndarray, lag: int = 0) -> np.ndarray:
    """(earlier, later) over trials."""
    z = (x - x.mean((0, 1))) / x.std((0, 1))
    time = x.shape[1] - lag
    return np.einsum("rti,rtj->ij", z[:, :time], z[:, lag:]) / (len(x) * time)


def auroc(score: np.ndarray, real: np.ndarray) -> float:
    above, below = score[real], score[~real]
    return float((above[:, None] > below).mean() + 0.5 * (above[:, None] == below).mean())


def reachable(coupling: np.ndarray) -> np.ndarray:
    """Whether there is a path from row to column."""
    step = (coupling != 0).astype(float) + np.eye(len(coupling))
    return np.linalg.matrix_power(step, len(coupling)) > 0


OFF = ~np.eye(12, dtype=bool)


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("integrate")])
def test_the_same_seed_gives_the_same_bits(name):
    one, two, other = (load_truth(name, seed) for seed in (0, 0, 1))
    assert isinstance(one, Population) and TRUTHS[name].kind == "population"
    for site in one.recording.sites:
        assert torch.equal(one.recording[site][:], two.recording[site][:])
        assert not torch.equal(one.recording[site][:], other.recording[site][:])
    assert (one.stimulate is None) == (not name.startswith("coupled") or name.endswith("shuffled"))


def test_rolling_keeps_each_unit_and_breaks_what_they_share():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(20, 100, 1))
    x = np.repeat(common, 3, axis=2)
    rolled = roll_trials(x, rng)
    for unit in range(3):
        assert np.array_equal(np.sort(rolled[..., unit].ravel()), np.sort(x[..., unit].ravel()))
    assert abs(correlation(rolled)[~np.eye(3, dtype=bool)]).max() < 0.1


def test_coupling_is_seen_one_bin_later_with_its_direction():
    system = load_truth("coupled", 0)
    x, real = values(system), system.coupling > 0
    lagged, flat = correlation(x, 1), correlation(x)
    assert auroc(lagged[OFF], real[OFF]) == 1.0
    assert all(lagged[i, j] > lagged[j, i] + 0.05 for i, j in EDGES)
    assert auroc(flat[OFF], real[OFF]) < 0.8, "correlation without a lag cannot know the direction"
    lonely = x[..., [0, 1, 2, 11]].mean()
    assert lonely == pytest.approx(system.data["rate"], rel=0.05)


def test_the_rolled_twin_has_the_rates_and_no_coupling():
    system, twin = load_truth("coupled", 0), load_truth("coupled-shuffled", 0)
    assert np.allclose(values(system).mean((0, 1)), values(twin).mean((0, 1)))
    assert not twin.coupling.any() and twin.stimulate is None
    null = 1 / np.sqrt(20_000)
    assert np.abs(correlation(values(twin), 1)[OFF]).max() < 4.5 * null < 0.05
    assert np.abs(correlation(values(system), 1)[OFF]).max() > 0.1


def test_the_busy_neuron_is_busy_and_alone():
    system = load_truth("coupled-busy", 0)
    rates = values(system).mean((0, 1))
    assert rates[11] == pytest.approx(5 * system.data["rate"], rel=0.05) and rates.argmax() == 11
    assert not system.coupling[11].any() and not system.coupling[:, 11].any()
    with pytest.raises(PatchclampError, match="busy=0: this neuron is connected"):
        coupled(0, busy=0)


def test_stimulating_a_neuron_changes_what_it_reaches_and_nothing_else():
    system = load_truth("coupled", 0)
    reach = reachable(system.coupling)
    for unit in range(12):
        change = system.stimulate(unit)
        assert change[unit] > 0.1
        assert np.array_equal(change != 0, reach[unit]) and (change[system.coupling[unit] > 0] > 0.02).all()
    assert np.array_equal(system.stimulate(3), system.stimulate(3))
    with pytest.raises(PatchclampError, match="stimulate 12: there are neurons 0..11"):
        system.stimulate(12)


def decoded(system: Population) -> tuple[np.ndarray, float]:
    """States by forward-backward with the true parameters, and log-likelihood a bin."""
    counts, facts = values(system), system.data
    trials, time, units = counts.shape
    padded = np.concatenate([np.zeros((trials, 5, units)), counts], 1)
    history = sum(KERNEL[k] * padded[:, 4 - k : 4 - k + time] for k in range(5))
    rates = 1 / (1 + np.exp(-(facts["bias"] + np.einsum("rtu,suv->rtsv", history, facts["weights"]))))
    fit = (counts[:, :, None] * np.log(rates) - rates).sum(3)
    step, n = facts["transition"], facts["weights"].shape[0]
    scale = fit.max(2, keepdims=True)
    likely = np.exp(fit - scale)
    ahead, behind, total = np.zeros_like(fit), np.ones_like(fit), scale.sum()
    for t in range(time):
        prior = ahead[:, t - 1] @ step if t else np.full((trials, n), 1 / n)
        now = prior * likely[:, t]
        total += np.log(now.sum(1)).sum()
        ahead[:, t] = now / now.sum(1, keepdims=True)
    for t in range(time - 2, -1, -1):
        back = (behind[:, t + 1] * likely[:, t + 1]) @ step.T
        behind[:, t] = back / back.sum(1, keepdims=True)
    factorial = np.array([np.log(np.arange(1, c + 1)).sum() for c in range(int(counts.max()) + 1)])
    total -= factorial[counts.astype(int)].sum()
    return (ahead * behind).argmax(2), float(total / (trials * time))


def test_true_parameters_find_the_states_that_switch():
    for seed in (0, 1):
        system = load_truth("switching", seed)
        found, likelihood = decoded(system)
        assert (found == system.data["states"]).mean() > 0.85
        assert likelihood < system.data["log_likelihood"] < likelihood + 0.3, (
            "knowing the states is worth something"
        )
        changes = (np.diff(system.data["states"], axis=1) != 0).mean()
        assert changes == pytest.approx(0.02, abs=0.006)
        assert np.array_equal(np.sign(system.coupling), system.data["sign"])
        assert not np.diagonal(system.coupling).any()


def test_one_state_never_switches_and_the_rolled_twin_has_no_coupling():
    still, twin = load_truth("switching-still", 0), load_truth("switching-shuffled", 0)
    assert not still.data["states"].any() and still.data["weights"].shape == (1, 8, 8)
    assert not twin.coupling.any() and "log_likelihood" not in twin.data
    off = ~np.eye(8, dtype=bool)
    lagged = [np.abs(correlation(values(s), 1)[off]).max() for s in (load_truth("switching", 0), twin)]
    assert lagged[0] > 0.08 and lagged[1] < 0.07


SMALL = FireSettings(trials=10, time=1000)


@pytest.fixture(scope="module")
def firing() -> tuple[Population, np.ndarray]:
    system = integrate_and_fire(1, SMALL)
    return system, np.stack([system.stimulate(unit) for unit in range(20)])


def test_integrate_and_fire_effects_follow_the_wiring(firing):
    system, effect = firing
    assert torch.equal(integrate_and_fire(1, SMALL).recording["neurons"][:], system.recording["neurons"][:])
    wired, off = system.coupling != 0, ~np.eye(20, dtype=bool)
    assert (np.sign(effect[wired]) == np.sign(system.coupling[wired])).all()
    assert auroc(np.abs(effect)[off], wired[off]) > 0.98
    unreachable = ~reachable(system.coupling)
    assert unreachable.any() and not effect[unreachable].any(), "what cannot be reached keeps every spike"
    assert (np.diagonal(effect) > 10).all()
    rates = system.data["rates"]
    assert rates.min() > 3 and rates.max() < 100


def test_a_common_input_correlates_and_has_no_effect(firing):
    system, effect = firing
    first, second = system.data["common_input"]
    flat, wired = correlation(values(system)), system.coupling != 0
    assert flat[first, second] > np.median(flat[wired & (system.coupling > 0)])
    assert not wired[first, second] and not wired[second, first]
    weakest = np.abs(effect[wired]).min()
    assert max(abs(effect[first, second]), abs(effect[second, first])) < weakest
    twin = integrate_and_fire(1, SMALL, shuffled=True)
    assert abs(correlation(values(twin))[first, second]) < 0.05 and twin.stimulate is None
    assert twin.recording.units("neurons")["excitatory"].tolist() == [True] * 16 + [False] * 4


def test_motifs_are_shared_when_and_where_they_are_planted():
    system = load_truth("motifs", 0)
    groups, chunks = system.data["groups"], []
    for animal in range(6):
        x = system.recording[f"animal{animal}"][:].double().numpy()
        for group in range(3):
            for start, stop in ((50, 150), (200, 300), (300, 400)):
                table = np.corrcoef(x[start:stop, groups == group].T)
                mean = table[~np.eye(10, dtype=bool)].mean()
                planted = any(
                    g == group and s == start and animal in w for g, s, _, w in system.data["motifs"]
                )
                chunks.append((planted, mean))
    inside, outside = ([m for p, m in chunks if p is want] for want in (True, False))
    assert len(inside) == 12 and min(inside) > 0.9 and max(outside) < 0.2
    twin = load_truth("motifs-shuffled", 0)
    x = twin.recording["animal0"][:].double().numpy()[50:150, groups == 0]
    assert abs(np.corrcoef(x.T)[~np.eye(10, dtype=bool)].mean()) < 0.2 and twin.data["motifs"] == []


def test_missing_neurons_are_masked_and_keep_their_identity():
    system = motifs(0, missing=5)
    for animal in range(6):
        site = f"animal{animal}"
        present = system.recording.present(site).numpy()
        assert present.sum() == 25 and np.array_equal(present, system.data["present"][animal])
        gone = system.recording[site][:].isnan().all(0).numpy()
        assert np.array_equal(gone, ~present)
        assert system.recording.units(site)["identity"].tolist() == list(range(30))
    assert len({tuple(row) for row in system.data["present"]}) > 1


def ridge(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    gram = train_x.T @ train_x + 10 * np.eye(train_x.shape[1])
    return test_x @ np.linalg.solve(gram, train_x.T @ train_y)


def held_out(system: Population, folds: np.ndarray, gap: int = 0) -> float:
    """Mean correlation over targets and folds; samples nearer than `gap` to a fold are left out of training."""
    x, y = (system.recording[s][:].double().numpy() for s in ("features", "responses"))
    found = []
    for fold in np.unique(folds):
        test = folds == fold
        near = np.convolve(test, np.ones(2 * gap + 1), "same") > 0
        guess = ridge(x[~near], y[~near], x[test])
        found += [np.corrcoef(guess[:, j], y[test, j])[0, 1] for j in range(y.shape[1])]
    return float(np.mean(found))


def test_shuffled_folds_lie_about_smooth_signals_and_whole_runs_do_not():
    lie, truth = [], []
    for seed in range(3):
        system = load_truth("autocorrelated", seed)
        groups = system.recording.samples.group.numpy()
        assert len(np.unique(groups)) == 10 and not system.data["ceiling"].any()
        lie.append(held_out(system, np.random.default_rng(seed).permutation(600) % 5))
        truth.append(held_out(system, groups % 5))
    assert min(lie) > 0.95 and abs(np.mean(truth)) < 0.03


def test_in_one_run_only_a_gap_is_honest():
    blocks = np.arange(600) // 120
    systems = [load_truth("autocorrelated-one-run", seed) for seed in range(6)]
    assert np.mean([held_out(s, blocks) for s in systems]) > 0.1
    assert abs(np.mean([held_out(s, blocks, gap=40) for s in systems])) < 0.04


def test_the_ceiling_of_smooth_responses_is_reached_by_their_own_weights():
    found = []
    for seed in range(4):
        system = load_truth("autocorrelated-signal", seed)
        x, y = (system.recording[s][:].double().numpy() for s in ("features", "responses"))
        found.append(1 - ((y - x @ system.data["weights"]) ** 2).sum(0) / (y**2).sum(0))
        groups = system.recording.samples.group.numpy()
        r = held_out(system, groups % 5)
        assert 0.45 < r < np.sqrt(system.data["ceiling"]).mean() + 0.05
    assert np.abs(np.mean(found, 0) - system.data["ceiling"]).mean() < 0.06


def test_place_cells_have_their_ceiling_and_information():
    system = load_truth("place-cells", 0)
    counts, facts = values(system), system.data
    r2 = (
        np.array(
            [np.corrcoef(counts[..., j].ravel(), facts["rates"][..., j].ravel())[0, 1] for j in range(40)]
        )
        ** 2
    )
    assert np.abs(r2 - facts["ceiling"][:40]).max() < 0.08 and abs((r2 - facts["ceiling"][:40]).mean()) < 0.01
    assert facts["tuned"].sum() == 40 and not facts["ceiling"][40:].any()
    assert facts["information"][:40].min() > 0.3 and not facts["information"][40:].any()
    angle = np.arctan2(*values(system, "place").transpose(2, 0, 1)[::-1]) / (2 * np.pi) % 1
    assert np.allclose(angle, facts["position"], atol=1e-6)
    peaks = [
        np.histogram(angle, 20, (0, 1), weights=counts[..., j])[0].argmax() / 20 + 0.025 for j in range(40)
    ]
    away = np.abs((np.array(peaks) - facts["centre"] + 0.5) % 1 - 0.5)
    assert np.median(away) < 0.03 and away.max() < 0.12


def test_the_rolled_twin_of_place_cells_knows_no_place():
    system, twin = load_truth("place-cells", 0), load_truth("place-cells-shuffled", 0)
    assert np.allclose(values(system).mean((0, 1)), values(twin).mean((0, 1)))
    r2 = [
        np.corrcoef(values(twin)[..., j].ravel(), system.data["rates"][..., j].ravel())[0, 1] ** 2
        for j in range(40)
    ]
    assert np.max(r2) < 0.02 and not twin.data["tuned"].any() and not twin.data["information"].any()


def test_voxels_have_the_ceiling_that_repeats_show():
    found, oracle = [], []
    for seed in range(4):
        system = load_truth("voxels", seed)
        y = system.recording["voxels"][:].double().numpy().reshape(120, 3, 50)
        signal, facts = system.data["signal"], system.data
        assert np.allclose(signal.var(0), 1) and np.allclose(signal.mean(0), 0)
        oracle.append([np.corrcoef(signal[:, j], y.mean(1)[:, j])[0, 1] ** 2 for j in range(50)])
        within = y.var(1, ddof=1).mean(0)
        between = np.maximum(y.mean(1).var(0, ddof=1) - within / 3, 0)
        found.append(between / (between + within / 3))
        x = system.recording["features"][:].double().numpy().reshape(120, 3, 10)[:, 0]
        assert np.allclose((x - x.mean(0)) @ facts["weights"], signal, atol=1e-5)
    assert np.abs(np.mean(oracle, 0) - facts["ceiling"]).mean() < 0.03
    assert np.abs(np.mean(found, 0) - facts["ceiling"]).mean() < 0.04
    assert pytest.approx(0.4286, abs=1e-4) == 1 / (1 + 4 / 3)


def test_permuted_stimuli_stay_reliable_and_cannot_be_predicted():
    system, twin = load_truth("voxels", 0), load_truth("voxels-shuffled", 0)
    y = [s.recording["voxels"][:].double().numpy().reshape(120, 3, 50) for s in (system, twin)]
    assert np.array_equal(np.sort(y[0].mean(1), 0), np.sort(y[1].mean(1), 0))
    x = system.recording["features"][:].double().numpy().reshape(120, 3, 10)[:, 0]
    half = np.arange(120) < 60
    r = []
    for one in y:
        guess = ridge(x[half], one.mean(1)[half], x[~half])
        r.append(np.mean([np.corrcoef(guess[:, j], one.mean(1)[~half, j])[0, 1] for j in range(50)]))
    assert r[0] > 0.6 and abs(r[1]) < 0.15
    assert TRUTHS["voxels-shuffled"].control and system.recording.samples.label.tolist()[:4] == [0, 0, 0, 1]
