"""The default null on one long run: steps apart, what stands in where they do not fit, its errors of both kinds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.signal import lfilter

from patchclamp import Graph
from patchclamp.base.errors import PatchclampError
from patchclamp.connect import (
    compositional_partial_correlation,
    correlation,
    glm_coupling,
    lagged_correlation,
    partial_correlation,
    transfer_entropy,
)
from patchclamp.connect.series import series
from patchclamp.connect.surrogates import Surrogates, autocorrelation_widths, circular_shift, lattice

WIDTH = 5.0


def slow(n: int, units: int, seed: int, width: float = WIDTH) -> np.ndarray:
    """Independent units of autocorrelation exp(-lag / width)."""
    keep = np.exp(-1 / width)
    noise = np.random.default_rng([seed, units]).normal(size=(n + 200, units))
    return np.asarray(lfilter([1], [1, -keep], noise, axis=0)[200:])


def coupled_pairs(x: np.ndarray, share: float, lag: int = 0) -> np.ndarray:
    """Units 0 -> 1, 2 -> 3, ... 8 -> 9 share some of their signal; the others nothing."""
    out = x.copy()
    for source in range(0, 10, 2):
        mixed = share * x[: -lag or None, source]
        out[lag:, source + 1] = mixed + np.sqrt(1 - share**2) * x[lag:, source + 1]
    return out


def spikes(x: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(np.exp(1.5 * x / x.std(0) - 2)).clip(0, 1).astype(float)


def shares(x: np.ndarray) -> np.ndarray:
    e = np.exp(0.5 * x / x.std(0))
    return np.asarray(e / e.sum(1, keepdims=True))


METHODS: dict[str, tuple[Callable[[np.ndarray, int], Graph], int]] = {
    "correlation": (lambda x, s: correlation(x, null_samples=49, seed=s), 0),
    "spearman": (lambda x, s: correlation(x, kind="spearman", null_samples=49, seed=s), 0),
    "partial_correlation": (lambda x, s: partial_correlation(x, null_samples=49, seed=s), 0),
    "compositional": (lambda x, s: compositional_partial_correlation(shares(x), null_samples=49, seed=s), 0),
    "lagged_correlation": (lambda x, s: lagged_correlation(x, null_samples=49, seed=s), 1),
    "transfer_entropy": (lambda x, s: transfer_entropy(x, null_samples=49, seed=s), 1),
}


# ---- steps


def test_steps_lie_apart_and_every_order_comes():
    rng = np.random.default_rng(0)
    widths = np.array([2.0, 2.0, 10.0, 4.0])
    orders = set()
    for _ in range(100):
        steps = lattice(widths, 100, 3, rng)
        for i, j in np.argwhere(np.tri(4, k=-1)).tolist():
            apart = abs(int(steps[i] - steps[j])) % 100
            assert min(apart, 100 - apart) >= 2.5 * (widths[i] + widths[j]) / 2 + 3 - 1, (steps, i, j)
        turned = np.argsort(steps)
        orders.add(tuple(np.roll(turned, -int(turned.argmin())).tolist()))
    assert len(orders) == 6
    assert len(np.unique(lattice(widths, 2000, 0, rng))) == 4


def test_width_is_that_of_the_signal_and_of_a_rhythm_that_comes_back():
    x = slow(20_000, 3, 0)
    x[:, 2] = np.random.default_rng(0).normal(size=20_000)
    assert autocorrelation_widths(series(x)) == pytest.approx([WIDTH, WIDTH, 0.63], abs=0.6)
    rhythm = np.sin(np.arange(4000)[:, None] * 2 * np.pi / 20 + [0, 1]) * (1 + slow(4000, 2, 1, 100) / 30)
    assert autocorrelation_widths(series(rhythm)).min() > 100


# ---- power on one long run


@pytest.mark.slow
def test_strong_pairs_among_many_units_on_one_run_are_found():
    """94 units, 1,200 samples, as people at rest: with independent steps some of 4,371 pairs are always aligned."""
    x = coupled_pairs(slow(1200, 94, 0, 3.0), 0.7)
    for method in (correlation, partial_correlation):
        graph = method(x)
        found = {tuple(pair) for pair in np.argwhere(graph.significant() & graph.pairs).tolist()}
        assert graph.null["name"] == "circular_shift"
        assert found == {(k + 1, k) for k in range(0, 10, 2)}, (graph.method, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_planted_coupling_and_nothing_in_independent_noise(name):
    """False alarms in 40 data sets: more than 6 have p < .02 at a rate of .05."""
    call, lag = METHODS[name]
    alarms = sum(call(slow(1200, 12, seed), seed).significant().any() for seed in range(40))
    assert alarms <= 6
    hits = 0
    for seed in range(4):
        graph = call(coupled_pairs(slow(1200, 12, 100 + seed), 0.7, lag), seed)
        hits += sum(bool(graph.significant()[k + 1, k]) for k in range(0, 10, 2))
    assert hits >= 18, hits


@pytest.mark.slow
def test_spikes_too():
    alarms = sum(
        len(glm_coupling(spikes(slow(3000, 5, s), s), window=3, null_samples=19).edges(significant=0.05)) > 0
        for s in range(12)
    )
    assert alarms <= 3
    x = spikes(slow(3000, 5, 99, 1.0), 0)
    x[1:, 1] = np.maximum(x[1:, 1], x[:-1, 0] * (np.random.default_rng(1).random(2999) < 0.5))
    assert glm_coupling(x, window=3, null_samples=19).significant()[1, 0]


# ---- where steps do not fit


def test_the_null_that_stands_in_is_named():
    few = correlation(slow(400, 80, 0, 3.0), null_samples=19)
    assert few.null["name"] == "phase_randomised"
    x = slow(2150, 400, 0, 4.0)
    wide = Surrogates.of(series(np.exp(x / x.std(0))))
    assert wide.name == "block_permuted"
    alone = [[k] for k in range(60)]
    assert Surrogates.of(series(slow(60, 30, 0), [k[0] for k in alone])).name == "permutation"


@pytest.mark.slow
@pytest.mark.parametrize(("tails", "name"), [(False, "phase_randomised"), (True, "block_permuted")])
def test_what_stands_in_is_calibrated_and_has_power(tails, name):
    n, units, width = (2150, 400, 4.0) if tails else (500, 30, 7.0)

    def data(seed: int, share: float = 0.0) -> np.ndarray:
        x = coupled_pairs(slow(n, units, seed, width), share)
        return np.exp(x / x.std(0)) if tails else x

    alarms = 0
    for seed in range(8 if tails else 30):
        graph = correlation(data(seed), null_samples=39, seed=seed)
        assert graph.null["name"] == name
        alarms += bool(graph.significant().any())
    assert alarms <= (2 if tails else 5)
    planted = correlation(data(77, 0.9), null_samples=99).significant()
    assert sum(bool(planted[k + 1, k]) for k in range(0, 10, 2)) >= 4


def test_many_short_trials_need_no_lattice_and_few_do():
    x = slow(4000, 12, 0, 3.0)
    trials = np.repeat(np.arange(40), 100)
    assert correlation(x, trials, null_samples=19).null["name"] == "circular_shift"
    tight = Surrogates.of(series(slow(300, 40, 0, 3.0), np.repeat([0, 1], 150)))
    assert tight.name == "phase_randomised"


def test_a_recording_too_short_for_any_null_is_refused_with_the_length_that_would_do():
    with pytest.raises(
        PatchclampError,
        match=r"100 samples of 6 units.*\(unit\[\d\]\).*random phases: [\d,]+ samples.*null=None",
    ):
        correlation(slow(100, 6, 0, 20.0))
    with pytest.raises(
        PatchclampError, match="null='circular_shift'.*steps without near coincidence: [\\d,]+ samples.*auto"
    ):
        correlation(slow(400, 80, 0, 3.0), null="circular_shift")
    with pytest.raises(PatchclampError, match="no random phases of units that are discrete"):
        correlation((slow(100, 6, 0, 20.0) > 0).astype(float))


def test_blocks_keep_the_distribution_and_time_inside_blocks():
    units = series(np.exp(slow(4000, 4, 0)))
    made = Surrogates(units, "block_permuted", autocorrelation_widths(units))
    drawn = made.draw(np.random.default_rng(0)).values
    assert np.array_equal(np.sort(drawn, 0), np.sort(units.values, 0))
    kept = [np.corrcoef(x[1:, 0], x[:-1, 0])[0, 1] for x in (drawn, units.values)]
    assert kept[0] == pytest.approx(kept[1], abs=0.02)
    assert abs(np.corrcoef(drawn[:, 0], units.values[:, 0])[0, 1]) < 0.2


def test_shifts_of_two_units_are_never_nearly_the_same():
    x = np.repeat(slow(1200, 1, 0, 3.0), 30, axis=1) + 0.01 * slow(1200, 30, 1, 3.0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        drawn = correlation(circular_shift(series(x), rng).values, null=None)
        assert np.abs(drawn.weights).max() < 0.5
