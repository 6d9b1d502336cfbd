"""CETT and PPL-p % sparsity: the closed form, its invariances, and a ReLU network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from patchclamp.base.errors import PatchclampError
from patchclamp.measure import CETT
from patchclamp.measure.language import cett, cett_threshold, ppl_sparsity, threshold_runner
from patchclamp.nouns.recording.recording import Samples
from patchclamp.subjects import LanguageModel


def heavy(n: int = 500, units: int = 64) -> torch.Tensor:
    return torch.randn(n, units, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3


def orthonormal(units: int = 64) -> torch.Tensor:
    random = torch.randn(units, units, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.linalg.qr(random)[0]


def fed(measure: CETT, x: torch.Tensor, batch: int = 64) -> CETT:
    samples = Samples.of(torch.zeros(len(x)), torch.arange(len(x)))
    for start in range(0, len(x), batch):
        measure.update(x[start : start + batch], samples[start : start + batch])
    return measure


def closed_form(a: torch.Tensor, level: float) -> float:
    """mean over samples of sqrt(sum of small a^2 / sum of a^2), for orthonormal outputs."""
    small = a.square().masked_fill(a.abs() > level, 0).sum(1)
    return float((small / a.square().sum(1)).sqrt().mean())


def test_orthonormal_outputs_have_the_closed_form() -> None:
    a, w = heavy(), orthonormal()
    levels = [0.2, 0.5, 1.0, 7.0]
    expected = [closed_form(a, level) for level in levels]
    np.testing.assert_allclose(cett(a, w, levels), expected, rtol=1e-9)
    measured = fed(CETT(output_weight=w, steps=4), a)
    grid, lost, active = measured.curve()
    assert grid[0] == 0 and lost[0] == 0 and active[0] == 1
    np.testing.assert_allclose(
        lost, [closed_form(a, level) for level in grid.tolist()], rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(active, [(a.abs() > level).double().mean() for level in grid.tolist()])
    assert bool((lost.diff() >= -1e-12).all()) and lost[-1] == 1 and active[-1] == 0


def test_thresholds_meet_their_target() -> None:
    a, w = heavy(), orthonormal()
    measured = fed(CETT(output_weight=w, targets=(0.0, 0.05, 0.2, 1.0)), a)
    r = measured.result()
    for target in (0.05, 0.2):
        exact = cett_threshold(a, w, target)
        assert float(cett(a, w, [exact])[0]) <= target < float(cett(a, w, [exact * 1.01])[0])
        below = float(r["threshold_at"].sel(target=target))
        assert below <= exact <= below * 2**0.25 * 1.0001  # the next grid point
        assert measured.threshold(target, interpolate=True) == pytest.approx(exact, rel=0.02)
    assert float(r["threshold_at"].sel(target=1.0)) == float(measured.grid[-1])
    assert float(r["active_at"].sel(target=1.0)) == 0


def test_scaling_units_against_their_outputs_changes_nothing() -> None:
    a, w = heavy(100), torch.randn(64, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scale = torch.logspace(-1, 1, 64, dtype=torch.float64)
    one = fed(CETT(output_weight=w), a).result()
    two = fed(CETT(output_weight=w * scale[:, None]), a / scale).result()
    np.testing.assert_allclose(one["cett"], two["cett"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one["active"], two["active"], atol=1e-4)  # a value at a threshold may cross it
    fixed = (a.abs() > 0.1).double().mean() - ((a / scale).abs() > 0.1).double().mean()
    assert abs(float(fixed)) > 0.01  # a threshold on |a| alone does change


def test_zero_neurons_count_as_inactive_and_zero_outputs_are_left_out() -> None:
    a = heavy(60).relu()
    a[7] = 0
    measured = fed(CETT(output_weight=orthonormal()), a)
    r = measured.result()
    live = torch.cat([a[:7], a[8:]])
    assert float(r["active"][0]) == pytest.approx(float((live > 0).double().mean()))
    assert float(r["cett"][0]) == 0 and int(r["skipped"]) == 1


def test_bad_settings_are_refused() -> None:
    with pytest.raises(PatchclampError, match=r"output_weight is missing.*CETT\.for_site"):
        CETT()
    with pytest.raises(PatchclampError, match="CETT of 5"):
        CETT(output_weight=orthonormal(), targets=(5,))
    with pytest.raises(PatchclampError, match="64 rows for 3 units"):
        fed(CETT(output_weight=orthonormal()), torch.randn(4, 3))


def relu_net() -> tuple[nn.Linear, nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(12, 48), nn.Linear(48, 5, bias=False), torch.randn(300, 12), torch.randint(0, 5, (300,))


def test_ppl_0_of_a_relu_network_is_its_zero_ratio_and_the_bound_holds() -> None:
    first, last, x, y = relu_net()
    with torch.no_grad():
        a = first(x).relu()
        w = last.weight.T
        measured = fed(CETT(output_weight=w), a)

        def run(thresholds: Mapping[str, float]) -> tuple[float, float]:
            kept = a.abs() * w.norm(dim=1) > thresholds.get("hidden", -1.0)
            loss = nn.functional.cross_entropy(last(a.masked_fill(~kept, 0)), y)
            return float(loss), float(kept.float().mean())

        def at(c: float) -> dict[str, float]:
            return {"hidden": measured.threshold(c, interpolate=True)}

        found = ppl_sparsity(run, at, p=0.0, tolerance=1e-9)
        zero_ratio = float((a == 0).float().mean())
        if found.cett < 1e-6:
            assert found.sparsity == pytest.approx(zero_ratio, abs=1e-3)
        assert found.rise <= 1e-3 and found.sparsity >= zero_ratio - 1e-6
        previous = found.sparsity
        for p in (1.0, 5.0):
            found = ppl_sparsity(run, at, p=p)
            assert found.rise <= p + 1e-9 and found.sparsity >= previous - 1e-9
            assert found.loss == pytest.approx(run(found.thresholds)[0])
            previous = found.sparsity
        free = ppl_sparsity(run, at, p=1e9)
        assert not free.reached and free.cett == 1 and free.sparsity == 1


def test_ppl_of_a_language_model_through_its_subject() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    subject = LanguageModel(LlamaForCausalLM(config).eval())
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 50, (n,), generator=generator).tolist() for n in (9, 14, 5, 11)]
    sites = subject.resolve("mlp_act.*")
    run = threshold_runner(subject, texts, sites, batch_size=2)
    dense, _ = run({})
    loss, count = 0.0, 0
    with torch.no_grad():
        for ids in texts:
            logits = subject.model(torch.tensor([ids])).logits[0]
            loss += float(nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum"))
            count += len(ids) - 1
    assert dense == pytest.approx(loss / count, rel=1e-5)
    assert run(dict.fromkeys(sites, -1.0)) == pytest.approx((dense, 1.0))
    assert run(dict.fromkeys(sites, math.inf))[1] == 0
    measured = {site: CETT.for_site(subject, site, low=2.0**-30) for site in sites}
    for ids in texts:
        batch = subject.batch([ids])
        activity = subject.run(batch, read=sites).activity
        samples = Samples.of(torch.zeros(len(ids)), torch.arange(len(ids)))
        for site in sites:
            measured[site].update(activity[site][0], samples)
    found = ppl_sparsity(
        run, lambda c: {site: m.threshold(c, interpolate=True) for site, m in measured.items()}, p=0.01
    )
    assert 0 < found.sparsity <= 1 and found.rise <= 0.01 and set(found.thresholds) == set(sites)
    with pytest.raises(PatchclampError, match="no next token"):
        threshold_runner(subject, [[1, 2], [3]], sites)
