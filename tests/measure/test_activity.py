"""Moments, quantiles, firing, sparsity, dead units, importance, co-activation: closed forms and NumPy, SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchclamp.base.errors import PatchclampError
from patchclamp.measure import (
    Coactivation,
    DeadUnits,
    FiringRate,
    Importance,
    Measure,
    Moments,
    Quantiles,
    Sparsity,
)
from patchclamp.measure.activity.histogram import Buckets
from patchclamp.nouns.recording.recording import Samples


def fed(measure: Measure, x: torch.Tensor, batch: int = 50) -> Measure:
    samples = Samples.of(torch.zeros(len(x)), torch.arange(len(x)))
    for start in range(0, len(x), batch):
        measure.update(x[start : start + batch], samples[start : start + batch])
    return measure


def normal(n: int, units: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, units, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", [0.0, 1000.0, -3e4])
def test_moments_agree_with_scipy(shift: float) -> None:
    x = normal(700, 6) ** 3 * 2 + shift
    r = fed(Moments(), x).result()
    exact = x.double().numpy()
    spread = exact.std(0)
    np.testing.assert_allclose(r["mean"], exact.mean(0), atol=1e-6 * spread.min())
    np.testing.assert_allclose(r["variance"], exact.var(0), rtol=2e-6)
    fourth = scipy.stats.kurtosis(exact, axis=0) + 3
    assert (np.abs(r["kurtosis"] + 3 - fourth) <= 2e-6 * fourth).all()
    assert (np.abs(r["skewness"] - scipy.stats.skew(exact, axis=0)) <= 2e-6 * fourth).all()
    np.testing.assert_array_equal(r["min"], exact.min(0))
    np.testing.assert_array_equal(r["max"], exact.max(0))
    assert int(r["count"]) == 700


def test_moments_of_a_constant_unit_and_of_huge_values() -> None:
    x = torch.full((130, 2), 0.1)
    x[:, 1] = torch.tensor([1e20, -1e20]).repeat(65)  # fourth powers overflow float32
    r = fed(Moments(), x).result()
    assert (
        float(r["variance"][0]) == 0 and np.isnan(r["kurtosis"][0]) and float(r["mean"][0]) == np.float32(0.1)
    )
    assert float(r["kurtosis"][1]) == pytest.approx(-2, abs=1e-6)  # two equal masses
    assert "kurtosis" not in fed(Moments(order=2), x).result()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), bits=st.integers(2, 8), scale=st.sampled_from([1e-2, 1.0, 300.0]))
def test_quantiles_stay_within_the_stated_error(seed: int, bits: int, scale: float) -> None:
    x = normal(333, 4, seed) ** 3 * scale
    q = (0.0, 0.01, 0.2, 0.5, 0.9, 1.0)
    measure = Quantiles(q=q, bits=bits, smallest=2.0**-10, largest=2.0**16)
    r = fed(measure, x).result()
    exact = np.quantile(x.double().numpy(), q, axis=0, method="lower").T
    error = np.abs(r["quantile_value"].values - exact)
    bound = np.maximum(r.attrs["relative_error"] * np.abs(exact) * (1 + 1e-9), r.attrs["resolution_at_zero"])
    assert (error <= bound).all()
    np.testing.assert_array_equal(r["min"], x.min(0).values)


def test_every_value_lies_within_the_error_of_its_bucket() -> None:
    buckets = Buckets(bits=3, smallest=0.25, largest=64.0)
    x = torch.linspace(-63.9, 63.9, 20001)
    index = buckets.index(x)
    assert bool((index.diff() >= 0).all()) and int(index.min()) >= 0 and int(index.max()) < buckets.count
    given_values = buckets.values()[index.long()]
    big = x.abs() >= 0.25
    relative = ((given_values - x).abs() / x.abs())[big]
    assert float(relative.max()) <= buckets.relative_error + 1e-6
    assert bool((given_values[~big] == 0).all())
    ends = buckets.index(torch.tensor([64.0, 1e30, -64.0, 0.0, -0.0])).tolist()
    assert ends == [buckets.count - 1, buckets.count - 1, 0, buckets.per_sign, buckets.per_sign]


def test_quantiles_beyond_the_range_are_not_made_up() -> None:
    r = fed(Quantiles(q=(0.1, 0.9), largest=2.0**4), torch.arange(100.0)[:, None]).result()
    assert float(r["quantile_value"][0, 0]) == pytest.approx(9, rel=0.016)
    assert np.isnan(r["quantile_value"][0, 1]) and int(r["beyond"][0]) == 84
    with pytest.raises(PatchclampError, match="power of two"):
        Quantiles(smallest=0.3)
    with pytest.raises(PatchclampError, match="between 0 and 1"):
        Quantiles(q=(50,))


def test_firing_rate_by_unit() -> None:
    x = torch.tensor([[0.0, 1.0], [2.0, 1.0], [3.0, -1.0]])
    assert fed(FiringRate(), x).result()["active"].values.tolist() == [2, 2]
    assert fed(FiringRate(threshold=torch.tensor([2.0, -2.0])), x).result()["active"].values.tolist() == [
        1,
        3,
    ]
    with pytest.raises(PatchclampError, match=r"shape \(3,\) for 2 units"):
        fed(FiringRate(threshold=torch.zeros(3)), x)


def test_relu_of_a_normal_fires_at_its_rate() -> None:
    # P(N(b, 1) > 0), card A30b
    x = normal(20_000, 4, 3) + torch.tensor([0.0, -0.5, -1.0, -1.5])
    rate = fed(FiringRate(), x.relu(), 4000).result()["rate"].values
    np.testing.assert_allclose(rate, scipy.stats.norm.cdf([0, -0.5, -1, -1.5]), atol=0.01)


def test_dead_and_constant_units() -> None:
    x = normal(90, 5)
    x[:, 1] = 0
    x[:, 2] = 3
    x[:, 3] = 0
    x[77, 3] = -1e-3
    r = fed(DeadUnits(), x).result()
    assert r["dead"].values.tolist() == [False, True, False, False, False]
    assert r["constant"].values.tolist() == [False, True, True, False, False]
    assert float(r["fraction_dead"]) == 0.2 and int(r["active"][3]) == 1
    assert fed(DeadUnits(threshold=0.01), x).result()["dead"].values.tolist() == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_hoyer_of_one_hot_is_one_and_of_constant_is_zero() -> None:
    x = torch.zeros(64, 3)
    x[5, 0] = -7
    x[:, 1] = torch.tensor([2.0, -2.0]).repeat(32)
    r = fed(Sparsity(), x).result()
    assert r["hoyer"].values[:2] == pytest.approx([1, 0], abs=1e-6) and np.isnan(r["hoyer"][2])
    assert r["l0"].values.tolist() == [1, 64, 0]
    population = fed(Sparsity(), torch.tensor([[0.0, 3, 0, 0], [1, 1, 1, -1], [0, 0, 0, 0]])).result()
    hoyer = population.sel(figure="hoyer")
    assert int(hoyer["population_n"]) == 2 and float(hoyer["population_mean"]) == pytest.approx(0.5)
    assert float(population.sel(figure="l0")["population_mean"]) == pytest.approx((1 + 4 + 0) / 3)


def test_sparsity_does_not_depend_on_scale_and_agrees_with_scipy() -> None:
    x = normal(100, 30, 2) ** 3
    a, b = fed(Sparsity(), x).result(), fed(Sparsity(), x * 2.0**90).result()
    np.testing.assert_allclose(a["hoyer"], b["hoyer"], rtol=1e-6)
    np.testing.assert_allclose(a["population_mean"], b["population_mean"], rtol=1e-6)
    rows = scipy.stats.kurtosis(x.double().numpy(), axis=1)
    assert float(a.sel(figure="kurtosis")["population_mean"]) == pytest.approx(rows.mean(), rel=1e-5)
    assert float(a.sel(figure="kurtosis")["population_std"]) == pytest.approx(rows.std(), rel=1e-5)


def test_importance_is_blind_to_a_rescaling_of_unit_and_output() -> None:
    x, norms = normal(80, 4), torch.tensor([1.0, 2.0, 0.5, 1.0])
    scale = torch.tensor([10.0, 0.1, 3.0, 1.0])
    a = fed(Importance(output_norms=norms), x).result()
    b = fed(Importance(output_norms=norms * scale), x / scale).result()
    np.testing.assert_allclose(a["importance"], b["importance"], rtol=1e-6)
    assert int(a["rank"].values.argmin()) == 1
    with pytest.raises(PatchclampError, match="3 output norms for 4 units"):
        fed(Importance(output_norms=norms[:3]), x)


def test_coactivation_agrees_with_numpy() -> None:
    x = normal(500, 6, 4)
    x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
    x[:, 5] = 2.0
    r = fed(Coactivation(), x + 100, 77).result()
    corr = np.corrcoef(x[:, :5].double().numpy().T)
    np.testing.assert_allclose(
        r["correlation"].values[:5, :5], corr, atol=2e-5
    )  # the input is float32 near 100
    assert np.isnan(r["correlation"].values[5]).all()
    r = fed(Coactivation(), x, 77).result()
    active = (x[:, :5] > 0).numpy()
    np.testing.assert_allclose(r["phi"].values[:5, :5], np.corrcoef(active.T.astype(float)), atol=1e-12)
    both = (active[:, :, None] & active[:, None, :]).sum(0)
    either = (active[:, :, None] | active[:, None, :]).sum(0)
    np.testing.assert_array_equal(r["both"].values[:5, :5], both)
    np.testing.assert_allclose(r["jaccard"].values[:5, :5], both / either)
    some = fed(Coactivation(units=(4, 0)), x).result()
    assert float(some["phi"].sel(unit=4, other=0)) == pytest.approx(float(r["phi"].sel(unit=4, other=0)))


def test_coactivation_refuses_what_does_not_fit() -> None:
    with pytest.raises(
        PatchclampError, match=r"10000 units need 7629 MiB, the limit is 1024 MiB.*at most 3663"
    ):
        Coactivation(units=range(10_000))
    with pytest.raises(PatchclampError, match=r"unit 9; this site has units 0\.\.3"):
        fed(Coactivation(units=(9,)), normal(5, 4))
