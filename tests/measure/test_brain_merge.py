"""Measures that compare whole rows, trains or labels: merge = whole, order and batches do not matter, state goes round."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from measure_merges import assert_same, measured
from patchclamp.base.errors import PatchclampError
from patchclamp.measure import METHODS, Measure
from patchclamp.measure.activity import PatternCheck
from patchclamp.measure.activity.kept import hashed
from patchclamp.nouns.recording.recording import Samples

UNITS = 11  # more than a byte of bits


def data(seed: int, n: int) -> tuple[torch.Tensor, Samples]:
    """Activity with ties, a dead unit and a constant one; 3 trials; labels 0..4 and none."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, UNITS, generator=generator).round(decimals=1)
    x[:, 3], x[:, 7] = 0.0, 2.5
    doc = torch.arange(n) * 3 // n
    label = torch.arange(n) % 6 - 1
    return x, Samples.of(doc, torch.arange(n), label=label, group=torch.arange(n))


PATTERNS = torch.tensor([[1, 0] + [-1] * 9, [-1, 1] + [-1] * 9, [-1] * 11, [0] * 11])
CASES: dict[str, Callable[[], Measure]] = {
    "lempel_ziv": lambda: METHODS["lempel_ziv"](n_surrogates=3, min_length=5),
    "diffusion": lambda: METHODS["diffusion"](n_permutations=3),
    "diffusion kept": lambda: METHODS["diffusion"](n_permutations=3, max_samples=20, alpha=1.0),
    "information": lambda: METHODS["information"](bins=4, n_permutations=3),
    "information kept": lambda: METHODS["information"](bins=4, n_permutations=3, max_samples=20, seed=2),
    "patterns": lambda: METHODS["patterns"](delta=0.6),
    "pattern check": lambda: PatternCheck(patterns=PATTERNS, labels=torch.tensor([0, 1, 2, 4])),
    "codes": lambda: METHODS["codes"](threshold=0.5),
    "gdv": lambda: METHODS["gdv"](n_permutations=3),
    "gdv kept": lambda: METHODS["gdv"](n_permutations=3, max_samples=3),
    "sdr": lambda: METHODS["sdr"](threshold=0.3),
    "ipr": lambda: METHODS["ipr"](n_surrogates=20),
    "ipr bins": lambda: METHODS["ipr"](bins=5, n_surrogates=20),
}
INEXACT = ("ipr", "ipr bins")  # sums of activity


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(30, 90),
    cuts=st.lists(st.integers(1, 11), max_size=4),
    shuffled=st.booleans(),
)
def test_merge_batches_and_order(case: str, seed: int, n: int, cuts: list[int], shuffled: bool) -> None:
    x, samples = data(seed, n)
    whole = measured(CASES[case], x, samples, []).result()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)) if shuffled else torch.arange(n)
    y, s = x[order], samples[order]
    cuts = sorted(c * n // 12 for c in cuts)
    assert_same(whole, measured(CASES[case], y, s, cuts).result(), case not in INEXACT)
    parts = [measured(CASES[case], y[a:b], s[a:b], []) for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    merged = parts[-1]
    for part in parts[:-1]:
        merged = merged.merge(part)
    assert_same(whole, merged.result(), case not in INEXACT)


@pytest.mark.parametrize("case", CASES)
def test_state_goes_round_to_the_bit(case: str) -> None:
    x, samples = data(1, 60)
    straight = measured(CASES[case], x, samples, [30])
    half = measured(CASES[case], x[:30], samples[:30], [])
    half.site = "spikes"
    state = half.state()
    assert all(isinstance(value, (torch.Tensor, int, float, str, bool, tuple)) for value in state.values())
    resumed = type(half).from_state(state)
    half.update(x[30:], samples[30:])
    resumed.update(x[30:], samples[30:])
    resumed.site = ""
    assert_same(straight.result(), resumed.result(), exact=True)
    assert resumed.fresh().n_samples == 0


@pytest.mark.parametrize("case", CASES)
def test_nan_is_named_and_not_added(case: str) -> None:
    x, samples = data(1, 60)
    measure = measured(CASES[case], x, samples, [])
    before = measure.result()
    measure.site = "spikes"
    broken = x.clone()
    broken[17, 2] = torch.nan
    with pytest.raises(PatchclampError, match=r"spikes\[2\].*NaN.*doc 0, position 17"):
        measure.update(broken, samples)
    measure.site = ""
    assert_same(before, measure.result(), exact=True)


@pytest.mark.parametrize("case", CASES)
def test_nothing_measured_is_an_error(case: str) -> None:
    with pytest.raises(PatchclampError, match="no sample was measured"):
        CASES[case]().result()


def test_merging_with_an_empty_measure_either_way() -> None:
    x, samples = data(1, 60)
    for make in CASES.values():
        whole = measured(make, x, samples, []).result()
        assert_same(whole, make().merge(measured(make, x, samples, [])).result(), exact=True)
        assert_same(whole, measured(make, x, samples, []).merge(make()).result(), exact=True)


def test_rows_kept_are_a_uniform_sample() -> None:
    """Over seeds each row is kept equally often, and keys of neighbouring positions are unrelated."""
    n, keep, seeds = 200, 20, 400
    doc, position = torch.arange(n) // 50, torch.arange(n) % 50
    times = torch.zeros(n)
    for seed in range(seeds):
        times[hashed(doc, position, seed).argsort()[:keep]] += 1
    share = keep / n
    z = (times - seeds * share) / (seeds * share * (1 - share)) ** 0.5
    assert z.abs().max() < 4.5 and 0.8 < float(z.std()) < 1.2
    key = hashed(torch.zeros(5000, dtype=torch.int64), torch.arange(5000), 0).double()
    assert abs(float(np.corrcoef(key[:-1], key[1:])[0, 1])) < 0.06
    assert len(hashed(torch.arange(5000), torch.zeros(5000, dtype=torch.int64), 0).unique()) == 5000


def test_memory_stays_at_the_rows_kept() -> None:
    measure = METHODS["diffusion"](max_samples=30)
    labels = METHODS["gdv"](max_samples=7)
    for start in range(0, 3000, 100):
        position = torch.arange(start, start + 100)
        samples = Samples.of(torch.zeros(100), position, label=position % 3)
        for one in (measure, labels):
            one.update(torch.randn(100, 4), samples)
    assert measure.rows.shape == (30, 4) and labels.rows.shape == (21, 4)
    assert labels.label.bincount().tolist() == [7, 7, 7]
