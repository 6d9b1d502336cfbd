"""Measures that brains brought: closed forms, planted answers, and the faults of published code."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.measure import AdaptiveInformation, Discrimination, LempelZiv
from patchclamp.measure.activity import ActivationCodes, adaptive_edges, code_accuracy, kde_bounds, lempel_ziv
from patchclamp.measure.activity.distances import squared
from patchclamp.measure.activity.information import code_entropy, code_information, joint_codes
from patchclamp.measure.brain import (
    DiffusionEntropy,
    diffusion_entropy,
    diffusion_information,
    diffusion_spectrum,
)
from patchclamp.measure.labels import discrimination
from patchclamp.nouns.recording.recording import Samples


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(n: int, label: torch.Tensor | None = None, group: torch.Tensor | None = None) -> Samples:
    """n samples, each its own document."""
    return Samples.of(torch.arange(n), torch.zeros(n), label=label, group=group)


def clusters(count: int = 8, each: int = 50, spread: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """Tight clusters that are far apart."""
    label = torch.arange(count).repeat_interleave(each)
    return 100 * normal(count, 20)[label] + spread * normal(count * each, 20, seed=1), label


# ---- Lempel-Ziv


def by_definition(train: str) -> int:
    """LZ76 as defined, without any of the shortcuts."""
    words, start = 0, 0
    while start < len(train):
        end = start + 1
        while end <= len(train) and train[start:end] in train[: end - 1]:
            end += 1
        words, start = words + 1, end
    return words


def test_lempel_ziv_of_known_sequences() -> None:
    assert lempel_ziv([0] * 100) == lempel_ziv([1] * 100) == 2
    assert lempel_ziv([0, 1] * 50) == 3
    assert lempel_ziv([int(b) for b in "0001101001000101"]) == 6
    assert lempel_ziv([1]) == 1 and lempel_ziv([0, 1]) == 2


def test_lempel_ziv_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    for length in range(1, 60):
        for rate in (0.1, 0.5):
            train = (rng.random(length) < rate).astype(int)
            assert lempel_ziv(train) == by_definition("".join(map(str, train)))


def test_lempel_ziv_is_not_the_dictionary_coder() -> None:
    """1,000 random bits: about 107 words by LZ76 (n / log2 n = 100); LZ78, which some packages compute, has 170."""
    trains = np.random.default_rng(0).integers(0, 2, (20, 1000))
    ours = np.mean([lempel_ziv(train) for train in trains])
    seen_words = []
    for train in trains:
        words, word = set(), ""
        for bit in train:
            word += str(bit)
            if word not in words:
                words.add(word)
                word = ""
        seen_words.append(len(words))
    assert 105 < ours < 109 and np.mean(seen_words) > 160


def spikes(*trains: np.ndarray, threshold: float = 0.0, **options: object) -> object:
    """The measure over one document with a unit for each train."""
    x = torch.from_numpy(np.stack(trains, 1).astype(np.float32))
    measure = LempelZiv(threshold=threshold, **options)  # type: ignore[arg-type]
    measure.update(x, Samples.of(torch.zeros(len(x)), torch.arange(len(x))))
    return measure.result()


def test_complexity_follows_the_rate_and_relative_does_not() -> None:
    """The pitfall: unshuffled, a low rate looks like order. Against shuffles only the regular train does."""
    rng = np.random.default_rng(1)
    low, high = rng.random(1500) < 0.05, rng.random(1500) < 0.5
    regular = np.arange(1500) % 20 == 0
    found = spikes(low, high, regular)
    normalised, relative, p = (found[name].values for name in ("normalised", "relative", "p"))
    assert normalised[0] < 0.5 * normalised[1]
    assert np.abs(relative[:2] - 1).max() < 0.12 and relative[2] < 0.2
    assert p[2] == 1 / 20 and p[:2].min() > 1 / 20
    assert found["rate"].values == pytest.approx([low.mean(), high.mean(), 0.05])
    assert found["complexity"].values.tolist() == [lempel_ziv(t) for t in (low, high, regular)]


def test_trains_end_where_positions_do_and_sums_are_over_trains() -> None:
    x = torch.from_numpy((np.random.default_rng(0).random((300, 2)) < 0.3).astype(np.float32))
    position = torch.cat([torch.arange(100), torch.arange(150, 250), torch.arange(100)])
    doc = torch.cat([torch.zeros(200), torch.ones(100)])
    measure = LempelZiv()
    measure.update(x, Samples.of(doc, position))
    found = measure.result()
    assert found.attrs["n_trains"] == 3 and found.attrs["n_bins"] == 300
    parts = [lempel_ziv(x[i : i + 100, 0].numpy()) for i in (0, 100, 200)]
    assert int(found["complexity"][0]) == sum(parts)
    assert float(found["normalised"][0]) == pytest.approx(sum(parts) / (3 * 100 / math.log2(100)))


def test_trains_that_cannot_be_read_are_refused() -> None:
    measure = LempelZiv()
    measure.update(torch.ones(40, 1), Samples.of(torch.zeros(40), torch.zeros(40)))
    with pytest.raises(PatchclampError, match="position 0 more than once"):
        measure.result()
    with pytest.raises(PatchclampError, match="longest train has 1 consecutive"):
        short = LempelZiv()
        short.update(torch.ones(40, 1), rows(40))
        short.result()
    with pytest.raises(PatchclampError, match="raise memory_limit"):
        LempelZiv(memory_limit=100).update(torch.ones(40, 1), rows(40))
    for bad in ([], [[0, 1]], [0.0, math.nan]):
        with pytest.raises(PatchclampError, match="lempel_ziv"):
            lempel_ziv(bad)


# ---- diffusion spectral entropy


def test_diffusion_entropy_counts_clusters() -> None:
    x, label = clusters()
    assert diffusion_entropy(x, sigma=5.0) == pytest.approx(3, abs=0.005)
    assert diffusion_entropy(x[:1].expand(40, -1), sigma=1.0) == 0
    assert diffusion_entropy(1000 * normal(128, 30), sigma=1.0) == pytest.approx(7, abs=1e-9)
    assert diffusion_information(x, label, sigma=1.0) == pytest.approx(3, abs=0.05)
    mixed = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(3))]
    assert abs(diffusion_information(x, mixed, sigma=1.0)) < 0.01


def test_sigma_decides_and_the_default_scale_sees_clusters() -> None:
    x, _ = clusters()
    found = [diffusion_entropy(x, sigma) for sigma in (1e-3, 0.1, 1, 10, 1e3)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(math.log2(400), abs=1e-3) and found[3] == pytest.approx(3, abs=0.01)
    assert found[-1] < 1.5
    measure = DiffusionEntropy(quantile=0.11)
    measure.update(x, rows(400))
    result = measure.result()
    assert 0.01 < float(result["sigma"]) < 0.2 and float(result["ceiling"]) == pytest.approx(math.log2(400))


def test_spectrum_published_code_against_published_text() -> None:
    """The code's D^-1/2 G D^-1/2 is D^-1 G; the text's operator divides the density out first: alpha = 1."""
    x = torch.cat([normal(40, 2), normal(10, 2, seed=1) + 4])
    kernel = torch.exp(-squared(x) / 2)
    walk = kernel / kernel.sum(1, keepdim=True)
    density = kernel.sum(1)
    anisotropic = kernel / torch.outer(density, density)
    anisotropic = anisotropic / anisotropic.sum(1, keepdim=True)
    for alpha, matrix in ((0.0, walk), (1.0, anisotropic)):
        theirs = torch.linalg.eigvals(matrix).real.sort(descending=True).values
        ours = diffusion_spectrum(x, 1.0, alpha=alpha)
        assert torch.allclose(ours, theirs, atol=1e-9) and float(ours[0]) == pytest.approx(1)
    assert abs(diffusion_entropy(x, 1.0, alpha=1.0) - diffusion_entropy(x, 1.0)) > 0.01


def test_equal_rows_far_from_the_origin_are_at_distance_zero() -> None:
    """|x|^2 + |y|^2 - 2 x y would leave about 1e-4 here, far above a small sigma."""
    x = (1e6 * normal(1, 50)).expand(30, -1)
    assert diffusion_entropy(x, sigma=1e-6) == 0


def test_second_variables_scalar_and_vector() -> None:
    x, label = clusters(count=5)
    scalar = label.double() * 2 + 0.5 * torch.rand(250, generator=torch.Generator().manual_seed(0))
    assert diffusion_information(x, scalar, sigma=1.0, bins=10) == pytest.approx(math.log2(5), abs=0.1)
    vector = torch.nn.functional.one_hot(label).double() + 0.01 * normal(250, 5)
    assert diffusion_information(x, vector, sigma=1.0, bins=5) == pytest.approx(math.log2(5), abs=0.1)
    with pytest.raises(PatchclampError, match="250 samples but 3 labels"):
        diffusion_information(x, [0, 1, 2])


def test_diffusion_measure_has_a_null() -> None:
    x, label = clusters(count=4, each=30)
    for y, found in ((label, True), (label[torch.randperm(120, generator=torch.manual_seed(0))], False)):
        measure = DiffusionEntropy(sigma=1.0)
        measure.update(x, rows(120, y))
        result = measure.result()
        assert (float(result["information_p"]) <= 0.01) == found
        assert (float(result["information"]) > 1.9) == found
        assert abs(float(result["information_null"])) < 0.02
    assert result["label_entropy"].shape == (4,)
    bare = DiffusionEntropy()
    bare.update(x, rows(120))
    assert "information" not in bare.result()


# ---- adaptive information


def test_adaptive_bins_of_one_unit() -> None:
    """Log-normal: 16 adaptive bins hold 4 bits, equal widths nearly none; with half zeros 2.83."""
    x = torch.exp(3 * normal(8000, 1))
    assert code_entropy(joint_codes(x, adaptive_edges(x, 16))) == pytest.approx(4, abs=1e-3)
    equal = torch.linspace(float(x.min()), float(x.max()), 17, dtype=torch.float64)[1:-1]
    assert code_entropy(joint_codes(x, equal)) < 0.1
    zeros = torch.cat([torch.zeros(8000, 1, dtype=torch.float64), x])
    p = np.array([0.5 + 0.5 / 16, *[0.5 / 16] * 15])
    wanted = float(-(p * np.log2(p)).sum())
    assert code_entropy(joint_codes(zeros, adaptive_edges(zeros, 16))) == pytest.approx(wanted, abs=0.01)
    assert wanted == pytest.approx(2.83, abs=0.005)
    assert adaptive_edges(torch.tensor([[0.0, 1.0], [1.0, 5.0]]), 30).tolist() == [1.0, 5.0]


def test_information_of_planted_codes() -> None:
    label = torch.arange(400) % 4
    x = torch.stack([(label // 2).double(), (label % 2).double()], 1)
    codes = joint_codes(x, adaptive_edges(x, 30))
    assert code_entropy(codes) == code_information(codes, label) == pytest.approx(2)
    assert code_information(codes, label % 2) == pytest.approx(1)
    measure = AdaptiveInformation()
    measure.update(x, rows(400, label))
    result = measure.result()
    assert float(result["information"]) == pytest.approx(2) and int(result["distinct"]) == 4
    assert result["unit_information"].values == pytest.approx([1, 1])
    assert float(result["information_p"]) == 0.01


def test_wide_layers_sit_at_the_ceiling_whatever_the_labels() -> None:
    """The pitfall: random activity 'knows' random labels. Ceiling, distinct codes and null say so."""
    label = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(1))
    measure = AdaptiveInformation()
    measure.update(normal(200, 50), rows(200, label))
    result = measure.result()
    assert float(result["entropy"]) == pytest.approx(float(result["ceiling"]))
    assert float(result["information"]) == pytest.approx(float(result["label_entropy"]))
    assert int(result["distinct"]) == 200 and float(result["information_p"]) == 1
    assert float(result["information_null"]) == pytest.approx(float(result["information"]))


def test_kde_bounds() -> None:
    far, near = squared(1000 * normal(64, 5)), torch.zeros(64, 64, dtype=torch.float64)
    assert kde_bounds(far, 1.0) == (pytest.approx(6), pytest.approx(6)) and kde_bounds(near, 1.0) == (0, 0)
    # Samples of a Gaussian with noise: I = log2(1 + s^2 / v) / 2, between the bounds.
    square = squared(2 * normal(2000, 1))
    low, high = kde_bounds(square, 1.0)
    assert low < math.log2(1 + 4) / 2 < high and high - low < 1
    with pytest.raises(PatchclampError, match="infinite"):
        kde_bounds(far, 0.0)


def test_noise_adapts_to_the_range_of_the_layer() -> None:
    """In millivolts or volts: the same. The published form, variance in proportion, depends on the unit."""

    def bounds(scale: float, proportional: str) -> list[float]:
        measure = AdaptiveInformation(proportional=proportional, n_permutations=0)
        measure.update(scale * normal(200, 2), rows(200))
        return [float(measure.result()[name]) for name in ("kde_lower", "kde_upper", "entropy")]

    assert bounds(1, "std") == pytest.approx(bounds(1000, "std"))
    assert abs(bounds(1, "variance")[0] - bounds(1000, "variance")[0]) > 1
    assert bounds(1, "variance")[2] == bounds(1000, "variance")[2]
    assert bounds(0, "std") == [0, 0, 0]


# ---- generalised discrimination value


def test_discrimination_closed_forms() -> None:
    two = torch.tensor([[0.0, 4.0, 1.0], [9.0, 4.5, -8.0]])
    assert discrimination(two, torch.tensor([0, 1])) == pytest.approx(-1)
    label = torch.arange(2).repeat_interleave(500)
    x = normal(1000, 10)
    assert abs(discrimination(x, label)) < 0.005
    all_apart = x + 6 * label[:, None]
    one_apart = torch.cat([all_apart[:, :1], x[:, 1:]], 1)
    assert discrimination(all_apart, label) == pytest.approx(-0.752, abs=0.01)
    assert discrimination(one_apart, label) == pytest.approx(-0.068, abs=0.005)
    assert discrimination(all_apart * 7 - 3, label) == pytest.approx(discrimination(all_apart, label))


def test_discrimination_by_the_sum_over_pairs() -> None:
    x, label = normal(30, 4), torch.tensor([0] * 14 + [1] * 15 + [5])
    z = (x - x.mean(0)) / x.std(0, correction=0) / 2
    within = []
    for k in (0, 1, 5):
        pairs = list(combinations((label == k).nonzero()[:, 0].tolist(), 2))
        within.append(np.mean([float((z[i] - z[j]).norm()) for i, j in pairs]) if pairs else 0.0)
    between = [
        np.mean([float((z[i] - z[j]).norm()) for i in range(30) for j in range(30)
                 if label[i] == a and label[j] == b])
        for a, b in combinations((0, 1, 5), 2)
    ]  # fmt: skip
    assert discrimination(x, label) == pytest.approx((np.mean(within) - np.mean(between)) / 2)


def test_constant_units_change_nothing_and_units_alone_are_not_diluted() -> None:
    label = torch.arange(2).repeat_interleave(100)
    x = torch.cat([normal(200, 1) + 6 * label[:, None], normal(200, 9, seed=1)], 1)
    dead = torch.cat([x, torch.zeros(200, 40, dtype=torch.float64)], 1)
    assert discrimination(dead, label) == pytest.approx(discrimination(x, label))
    measure = Discrimination()
    measure.update(dead, rows(200, label))
    found = measure.result()
    assert float(found["gdv"]) == pytest.approx(discrimination(x, label)) and float(found["gdv_p"]) == 1 / 200
    alone = found["unit_gdv"].values
    assert alone[0] < -0.7 and np.abs(alone[1:10]).max() < 0.05 and np.isnan(alone[10:]).all()
    assert alone[0] == pytest.approx(discrimination(x[:, :1], label))
    with pytest.raises(PatchclampError, match="every unit is constant"):
        discrimination(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(PatchclampError, match="needs two"):
        discrimination(x, torch.zeros(200))


def test_discrimination_null_respects_groups() -> None:
    """Trials of one session share an offset: shuffled one by one they would seem to know the label."""
    sessions = torch.arange(12).repeat_interleave(10)
    label = sessions % 2
    false = {"groups": 0, "rows": 0}
    for seed in range(20):
        x = normal(12, 5, seed=seed)[sessions] + 0.3 * normal(120, 5, seed=100 + seed)
        for name, group in (("groups", sessions), ("rows", torch.arange(120))):
            measure = Discrimination(n_permutations=39)
            measure.update(x, rows(120, label, group))
            false[name] += float(measure.result()["gdv_p"]) <= 0.05
    assert false["groups"] <= 4 and false["rows"] >= 12
    few = Discrimination()
    few.update(normal(20, 2), rows(20, torch.arange(20) // 10, torch.arange(20) // 10))
    with pytest.raises(PatchclampError, match="Discrimination: 2 groups leave too few"):
        few.result()


# ---- activation codes


def test_codes_of_lines_in_a_square() -> None:
    """30 lines cut the plane into at most 466 regions; dead and always-on units change nothing."""
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(-1, 1, (2000, 2)))
    angle, offset = rng.uniform(0, 2 * np.pi, 30), rng.uniform(-1, 1, 30)
    x = points @ torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)])) + torch.from_numpy(offset)
    found = measure_codes(x)
    distinct = int(found["distinct"])
    assert distinct == len(np.unique((x > 0).numpy(), axis=0)) <= 1 + 30 + 30 * 29 // 2
    assert float(found["redundancy"]) == (2000 - distinct) / 2000
    padded = torch.cat([x, torch.zeros(2000, 9), torch.ones(2000, 9)], 1)
    again = measure_codes(padded)
    for name in ("distinct", "redundancy", "entropy", "largest"):
        assert float(again[name]) == pytest.approx(float(found[name]), rel=1e-12)
    assert again["constant"].values[30:].all()
    twice = measure_codes(torch.cat([x, x[:1]]))
    assert float(twice["redundancy"]) == (2001 - distinct) / 2001


def measure_codes(x: torch.Tensor) -> object:
    measure = ActivationCodes()
    measure.update(x, rows(len(x)))
    return measure.result()


def test_codes_entropy_and_limit() -> None:
    found = measure_codes(torch.eye(8).repeat(4, 1))
    assert float(found["entropy"]) == 3 and int(found["largest"]) == 4 and float(found["redundancy"]) == 0.75
    with pytest.raises(PatchclampError, match="distinct codes need more"):
        ActivationCodes(memory_limit=24).update(torch.eye(8), rows(8))


def test_labels_are_read_on_held_out_codes_only() -> None:
    """Planted labels are read; labels at random are at chance on the test, though training codes are unique."""
    x = normal(600, 40)
    x[:, 7] = 3.0  # constant: dropped
    label = (x[:, :5].sum(1) > 0).long()
    found = code_accuracy(x[:300], label[:300], x[300:], label[300:])
    assert found["logistic"] > 0.75 and found["neighbours"] > 0.6
    chance = torch.randint(0, 2, (600,), generator=torch.Generator().manual_seed(5))
    at_random = code_accuracy(x[:300], chance[:300], x[300:], chance[300:])
    bound = 4 * 0.5 / 300**0.5
    assert all(abs(value - 0.5) < bound for value in at_random.values())
    blocks = torch.arange(200) % 2
    two = torch.cat([blocks[:, None].double() * 2 - 1] * 6, 1) + 0.1 * normal(200, 6)
    assert set(code_accuracy(two[:100], blocks[:100], two[100:], blocks[100:]).values()) == {1.0, 0.5}
    with pytest.raises(PatchclampError, match="one label"):
        code_accuracy(x[:300], torch.zeros(300), x[300:], label[300:])
    with pytest.raises(PatchclampError, match="training activity of shape"):
        code_accuracy(x[:300], label[:300], x[300:, :3], label[300:])
