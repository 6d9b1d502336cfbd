"""Patterns of units, overlaps of sparse sets and tuning spectra: closed forms and planted answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from patchclamp.base.errors import PatchclampError
from patchclamp.measure import ActivationPatterns
from patchclamp.measure.activity import (
    PatternCheck,
    SparseOverlap,
    TuningSpectrum,
    best_threshold,
    inverse_participation,
    miss_chance,
    overlap_chance,
    union_density,
    union_false_match,
)
from patchclamp.nouns.recording.recording import Samples


def rows(n: int, label: torch.Tensor | None = None) -> Samples:
    return Samples.of(torch.arange(n), torch.zeros(n), label=label)


# ---- neural activation patterns


def units_on(*share: int) -> torch.Tensor:
    """100 samples; unit i is on in share[i] of them."""
    return (torch.arange(100)[:, None] < torch.tensor(share)).float()


@pytest.mark.parametrize(
    ("delta", "pattern", "recall"),
    [
        (1.0, [1, -1, -1, 0], 1.0),
        (0.99, [1, -1, -1, 0], 1.0),
        (0.95, [1, 1, -1, 0], 0.95),
        (0.501, [1, 1, -1, 0], 0.95),
    ],
)
def test_patterns_of_planted_rates(delta: float, pattern: list[int], recall: float) -> None:
    x, samples = units_on(100, 95, 50, 0), rows(100, torch.zeros(100))
    mined = ActivationPatterns(delta=delta)
    mined.update(x, samples)
    found = mined.result()
    assert found["pattern"].values.tolist() == [pattern]
    assert int(found["length"][0]) == sum(p >= 0 for p in pattern)
    check = mined.check()
    check.update(x, samples)
    assert float(check.result()["recall"][0]) == recall


def test_recall_does_not_grow_as_delta_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(300, 30, generator=generator) < torch.rand(30, generator=generator)).float()
    label = torch.arange(300) % 2
    recalls = []
    for delta in (1.0, 0.95, 0.9, 0.8, 0.7, 0.6):
        mined = ActivationPatterns(delta=delta)
        mined.update(x, rows(300, label))
        check = mined.check()
        check.update(x, rows(300, label))
        recalls.append(check.result()["recall"].values)
    assert (np.diff(np.array(recalls), axis=0) <= 0).all() and recalls[0].tolist() == [1, 1]


@pytest.mark.parametrize("delta", [0.5, 0.3, 0.0, 1.1])
def test_a_delta_under_which_a_unit_could_be_both_is_refused(delta: float) -> None:
    with pytest.raises(PatchclampError, match="both on and off"):
        ActivationPatterns(delta=delta)


def test_check_counts_acceptance_and_ambiguity() -> None:
    """Two patterns: unit 0 on; unit 1 on. Held-out samples by hand."""
    check = PatternCheck(patterns=torch.tensor([[1, -1], [-1, 1]]), labels=torch.tensor([3, 8]))
    x = torch.tensor([[1.0, 0], [1, 1], [0, 0], [0, 1], [1, 1], [1, 0], [5, 5]])
    check.update(x, rows(7, torch.tensor([3, 3, 3, 8, 8, -1, 4])))
    found = check.result()
    assert found["label"].values.tolist() == [3, 8]
    assert found["accepted"].values.tolist() == [[2, 1], [1, 2]]
    assert found["recall"].values.tolist() == [2 / 3, 1]
    assert found["false_acceptance"].values.tolist() == [1 / 2, 1 / 3]
    assert found["ambiguous"].values.tolist() == [1 / 3, 1 / 2]
    assert found["unclaimed"].values.tolist() == [1 / 3, 0]


def test_mining_and_checking_on_the_same_samples_flatters() -> None:
    """Units at random, 10 samples a label: patterns that all mined samples obey, and few others."""
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(40, 200, generator=generator) < 0.5).float()
    label = torch.arange(40) % 2
    mined = ActivationPatterns(delta=0.9)
    mined.update(x[:20], rows(20, label[:20]))
    own, held = mined.check(), mined.check()
    own.update(x[:20], rows(20, label[:20]))
    held.update(x[20:], rows(20, label[20:]))
    assert own.result()["recall"].values.mean() > held.result()["recall"].values.mean() + 0.2


def test_samples_without_label_do_not_count() -> None:
    mined = ActivationPatterns(delta=1.0)
    mined.update(torch.ones(4, 2), rows(4))
    with pytest.raises(PatchclampError, match="no sample has a label"):
        mined.result()
    mined.update(torch.zeros(3, 2), rows(3, torch.tensor([2, 2, -1])))
    assert mined.result()["pattern"].values.tolist() == [[0, 0]] and mined.result()["count"].values == [2]
    with pytest.raises(PatchclampError, match="cannot be checked"):
        check = mined.check()
        check.update(torch.ones(4, 2), rows(4))
        check.result()
    with pytest.raises(PatchclampError, match="3 units, but the patterns have 2"):
        mined.check().update(torch.ones(4, 3), rows(4))


# ---- sparse distributed representations


@pytest.mark.parametrize(
    ("n", "a", "s", "threshold", "wanted"),
    [
        (200, 20, 10, 5, 1.105e-3),
        (1024, 20, 20, 10, 9.33e-14),
        (2048, 40, 20, 10, 3.91e-13),
        (10000, 300, 24, 12, 8.38e-13),
    ],
)
def test_chance_of_a_false_match(n: int, a: int, s: int, threshold: int, wanted: float) -> None:
    found = overlap_chance(n, a, s, threshold)
    assert found == pytest.approx(wanted, rel=2e-3)
    assert found == pytest.approx(stats.hypergeom.sf(threshold - 1, n, s, a), rel=1e-6)
    assert overlap_chance(n, s, a, threshold) == pytest.approx(
        found, rel=1e-14
    )  # which set is drawn is all one


def test_overlap_chance_at_its_ends() -> None:
    assert overlap_chance(10, 3, 4, 0) == 1 and overlap_chance(10, 3, 4, 4) == 0
    assert overlap_chance(10, 8, 7, 5) == 1  # they cannot share fewer
    assert overlap_chance(5000, 50, 50, 50) == pytest.approx(
        1.7e-121, rel=0.5
    )  # floats would lose it in 1 - cdf
    for bad in ((10, 11, 3, 1), (10, 3, 11, 1), (10, 3, 3, -1), (0, 0, 0, 0)):
        with pytest.raises(PatchclampError, match="overlap"):
            overlap_chance(*bad)


def test_union_against_simulation_and_the_usual_approximations() -> None:
    assert union_density(2048, 40, 20) == pytest.approx(0.326, abs=5e-4)
    density = union_density(2048, 40, 20)
    assert density**40 == pytest.approx(
        3.4e-20, rel=0.02
    )  # hits taken as independent: twice the exact chance
    assert union_false_match(2048, 40, 20) == pytest.approx(1.735e-20, rel=1e-3)
    fixed = stats.hypergeom.sf(29, 2048, round(density * 2048), 40)  # a union of exactly its expected size
    assert fixed == pytest.approx(3.6e-8, rel=0.02)
    assert fixed < union_false_match(2048, 40, 20, 30) < 1.06 * fixed
    rng = np.random.default_rng(0)
    draws, hits, covered = 20_000, 0, 0
    orders = np.argsort(rng.random((draws, 5, 60)), axis=2)[:, :, :6]
    for order in orders:
        union = np.zeros(60, dtype=bool)
        union[order] = True
        hits += union[:6].sum() >= 4
        covered += union.sum()
    wanted = union_false_match(60, 6, 5, 4)
    assert abs(hits / draws - wanted) < 4 * (wanted / draws) ** 0.5
    assert covered / draws / 60 == pytest.approx(union_density(60, 6, 5), abs=0.002)
    assert union_density(10, 10, 1) == 1 and union_density(10, 3, 0) == 0
    assert union_false_match(60, 6, 1) == pytest.approx(overlap_chance(60, 6, 6, 6))


def test_misses_under_noise_and_the_best_threshold() -> None:
    assert miss_chance(40, 20, 0, 20) == 0 and miss_chance(40, 40, 1, 40) == 1
    assert miss_chance(40, 20, 25, 21) == 1  # more than all synapses
    rng = np.random.default_rng(0)
    survive = 20 - rng.hypergeometric(20, 20, 16, 40_000)  # 16 of 40 move; 20 of the 40 are stored
    assert miss_chance(40, 20, 16, 12) == pytest.approx((survive < 12).mean(), abs=0.01)
    threshold, false_match, miss = best_threshold(200, 20, 10, moved=6)
    errors = {t: max(overlap_chance(200, 20, 10, t), miss_chance(20, 10, 6, t)) for t in range(1, 11)}
    assert max(false_match, miss) == min(errors.values()) == errors[threshold]


def test_overlap_of_samples_is_that_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(60, 50, generator=generator) < 0.2).float()
    measure = SparseOverlap()
    measure.update(x, rows(60))
    found = measure.result()
    pairs = (x @ x.T).double()
    wanted = float((pairs.sum() - pairs.diagonal().sum()) / (60 * 59))
    assert float(found["overlap"]) == pytest.approx(wanted)
    size = x.sum(1)
    assert float(found["active"]) == pytest.approx(float(size.mean()))
    assert float(found["active_std"]) == pytest.approx(float(size.std(correction=0)), rel=1e-5)
    assert (int(found["active_min"]), int(found["active_max"])) == (int(size.min()), int(size.max()))
    k = round(float(size.mean()))
    assert float(found["false_match"]) == overlap_chance(50, k, k, -(-k // 2))


def test_shared_units_that_are_only_frequent_units() -> None:
    """Rates from 0 to 1, units independent: far more overlap than active^2 / n, and just that of the rates."""
    generator = torch.Generator().manual_seed(0)
    rate = torch.linspace(0, 1, 100) ** 4
    x = (torch.rand(4000, 100, generator=generator) < rate).float()
    measure = SparseOverlap()
    measure.update(x, rows(4000))
    found = measure.result()
    assert float(found["overlap"]) > 2 * float(found["overlap_uniform"])
    assert float(found["overlap"]) == pytest.approx(float(found["overlap_rates"]), rel=0.01)


# ---- inverse participation ratio


def test_participation_closed_forms() -> None:
    phase = np.arange(97) * 2 * np.pi / 97
    one = np.cos(5 * phase + 1)
    assert inverse_participation(one) == pytest.approx(1)
    assert inverse_participation(np.cos(5 * phase) + np.sin(9 * phase)) == pytest.approx(0.5)
    assert inverse_participation(np.cos(5 * phase) + np.sin(9 * phase), r=3) == pytest.approx(0.25)
    noise = np.random.default_rng(0).standard_normal((4000, 97))
    assert inverse_participation(noise).mean() == pytest.approx(2 / 49, abs=0.001)
    assert np.isnan(inverse_participation(np.full(97, 0.1)))


def test_an_offset_is_no_tuning() -> None:
    """With frequency 0 in it, an offset would lower the ratio of a pure cosine and raise that of noise."""
    phase = np.arange(97) * 2 * np.pi / 97
    assert inverse_participation(np.cos(5 * phase) + 100) == pytest.approx(1)
    noise = np.random.default_rng(0).standard_normal((10, 97))
    assert inverse_participation(noise + 3) == pytest.approx(inverse_participation(noise))
    with_mean = np.abs(np.fft.rfft(noise + 3)) ** 2
    assert ((with_mean / with_mean.sum(1, keepdims=True)) ** 2).sum(1).min() > 0.5


def test_weights_of_a_network_are_averaged_over_matrices() -> None:
    phase = np.arange(31) * 2 * np.pi / 31
    u = np.stack([np.cos(3 * phase), np.cos(phase)])
    v = np.stack([np.sin(3 * phase), np.cos(phase) + np.cos(4 * phase)])
    assert inverse_participation([u, v]) == pytest.approx([1, 0.75])
    with pytest.raises(PatchclampError, match="different numbers of neurons"):
        inverse_participation([u, v[:1]])
    with pytest.raises(PatchclampError, match="4 positions"):
        inverse_participation([1.0, 2.0])
    with pytest.raises(PatchclampError, match="NaN"):
        inverse_participation([1.0, 2.0, 0.0, np.nan])


def test_tuning_of_planted_units() -> None:
    """Unit 0 is tuned to 2 cycles, unit 1 to nothing, unit 2 is constant; some samples have no label."""
    rng = np.random.default_rng(0)
    label = rng.integers(-1, 24, 4000)
    angle = label * 2 * np.pi / 24
    x = np.stack([3 + np.cos(2 * angle), np.zeros(4000), np.ones(4000)], 1)
    x[:, :2] += 0.5 * rng.standard_normal((4000, 2))
    x[label < 0] = 50
    measure = TuningSpectrum(bins=24)
    measure.update(torch.from_numpy(x), rows(4000, torch.from_numpy(label)))
    found = measure.result()
    assert found["ipr"].values[0] > 0.97 and int(found["frequency"][0]) == 2 and found["p"].values[0] == 1e-3
    assert (
        found["p"].values[1] > 0.05 and np.isnan(found["ipr"].values[2]) and int(found["frequency"][2]) == -1
    )
    assert float(found["null_mean"]) < float(found["null_high"]) < 0.4


def test_noise_is_called_tuned_at_the_stated_rate() -> None:
    """Unequal numbers of samples a bin: the null has them too."""
    rng = np.random.default_rng(2)
    label = np.repeat(np.arange(16), np.arange(2, 34, 2))
    x = torch.from_numpy(rng.standard_normal((len(label), 1500)))
    measure = TuningSpectrum(n_surrogates=4999)
    measure.update(x, rows(len(label), torch.from_numpy(label)))
    p = measure.result()["p"].values
    assert 0.03 < (p <= 0.05).mean() < 0.07


def test_positions_that_never_occur_are_refused() -> None:
    measure = TuningSpectrum(bins=6)
    measure.update(torch.ones(8, 1), rows(8, torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])))
    with pytest.raises(PatchclampError, match=r"missing: \[4, 5\]"):
        measure.result()
    with pytest.raises(PatchclampError, match="label 9, but bins=6"):
        measure.update(torch.ones(1, 1), rows(1, torch.tensor([9])))
