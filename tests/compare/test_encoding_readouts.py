"""Readouts with planted places to look at, and decoders whose controls know nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from patchclamp.base.errors import PatchclampError
from patchclamp.compare.encoding import (
    AttentionReadout,
    BandedRidge,
    Blocked,
    Decoder,
    FactorisedReadout,
    Ridge,
    retrieval,
)


def planted_maps(seed: int, units: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps (800, 6, 12, 12), responses of which half the variance is noise, Gaussian masks with SD 1.5."""
    g = np.random.default_rng(seed)
    maps = gaussian_filter(g.normal(size=(800, 6, 12, 12)), (0, 0, 0.7, 0.7))
    y, x = np.mgrid[:12, :12]
    centre = g.uniform(3, 9, size=(units, 2))
    away = (y - centre[:, 0, None, None]) ** 2 + (x - centre[:, 1, None, None]) ** 2
    mask = np.exp(-away / 2 / 1.5**2)
    mask /= np.linalg.norm(mask.reshape(units, -1), axis=1)[:, None, None]
    signal = np.einsum("nchw,uhw,uc->nu", maps, mask, g.normal(size=(units, 6)), optimize=True)
    return maps, signal / signal.std(0) + g.normal(size=signal.shape), mask


def mean_r(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(a[:, u], b[:, u])[0, 1] for u in range(a.shape[1])]))


@pytest.mark.slow
def test_factorised_readout_finds_the_masks_and_beats_the_flattened_one() -> None:
    maps, y, mask = planted_maps(0)
    model = FactorisedReadout().fit(maps[:500], y[:500])
    flat = Ridge(np.logspace(0, 4, 9), cv=3).fit(maps[:500].reshape(500, -1), y[:500])
    value = mean_r(model.predict(maps[500:]), y[500:])
    # The noise leaves room for .707.
    assert 0.6 < value < 0.75
    assert value - mean_r(flat.predict(maps[500:].reshape(300, -1)), y[500:]) > 0.04
    assert np.median((model.mask_ * mask).sum((1, 2))) > 0.88
    assert (model.mask_ >= 0).all()
    assert np.linalg.norm(model.mask_.reshape(8, -1), axis=1) == pytest.approx(np.ones(8))
    again = FactorisedReadout().fit(maps[:500], y[:500])
    assert np.array_equal(again.mask_, model.mask_)


def keyed(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (n, 36, 3) of which one at random has a flag; the response is the value there."""
    g = np.random.default_rng(seed)
    tokens = g.normal(size=(n, 36, 3))
    place = g.integers(36, size=n)
    tokens[:, :, 1] = 0
    tokens[np.arange(n), place, 1] = 1
    return tokens, tokens[np.arange(n), place, :1], place


def test_attention_readout_follows_the_flag_and_no_linear_one_can() -> None:
    tokens, y, place = keyed(1200, 0)
    state = torch.random.get_rng_state()
    model = AttentionReadout(heads=2, epochs=30).fit(tokens[:900], y[:900])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.score(tokens[900:], y[900:])[0] > 0.95
    attention = model.attention(tokens[900:])[:, 0]
    assert attention.sum(1) == pytest.approx(np.ones(300), abs=1e-5)
    assert np.mean(attention.argmax(1) == place[900:]) > 0.95
    linear = Ridge(cv=3).fit(tokens[:900].reshape(900, -1), y[:900])
    assert linear.score(tokens[900:].reshape(300, -1), y[900:])[0] < 0.1


def test_attention_has_a_query_a_region() -> None:
    tokens, y, _ = keyed(400, 1)
    fixed = tokens[:, 7, :1]
    model = AttentionReadout(epochs=25).fit(tokens, np.hstack([y, fixed]), regions=["keyed", "fixed"])
    attention = model.attention(tokens)
    assert model.regions_.tolist() == ["fixed", "keyed"]
    fixed_at_7, keyed_at_7 = (attention.argmax(2) == 7).mean(0)
    assert fixed_at_7 > 0.95 and keyed_at_7 < 0.5
    again = AttentionReadout(epochs=2).fit(tokens, y), AttentionReadout(epochs=2).fit(tokens, y)
    assert np.array_equal(again[0].predict(tokens), again[1].predict(tokens))


def test_retrieval_at_chance_with_ties_and_in_candidate_sets() -> None:
    g = np.random.default_rng(0)
    y = g.normal(size=(200, 20))
    perfect = retrieval(y, y, n_boot=10)
    assert (perfect["value"] == 1).all() and perfect.loc["top-5", "chance"] == 5 / 200
    flat = retrieval(np.ones((200, 20)), y, n_boot=10)
    assert flat["value"].to_numpy() == pytest.approx(flat["chance"].to_numpy())
    null = [
        retrieval(g.normal(size=y.shape), y, candidates=10, n_boot=10)["value"].to_numpy() for _ in range(20)
    ]
    assert np.mean(null, 0) == pytest.approx([0.5, 0.1, 0.5], abs=0.02)
    noisy = y + 2.5 * g.normal(size=y.shape)
    exact = retrieval(noisy, y, candidates=10, k=(1,), n_boot=10).loc["top-1", "value"]
    similarity = np.corrcoef(noisy, y)[:200, 200:]
    drawn = []
    for _ in range(60):
        for i in range(200):
            others = g.choice(np.delete(np.arange(200), i), 9, replace=False)
            drawn.append(similarity[i, i] > similarity[i, others].max())
    assert exact == pytest.approx(np.mean(drawn), abs=0.02)


def test_features_that_all_items_share_hide_the_rest_until_the_training_mean_is_taken_off() -> None:
    g = np.random.default_rng(1)
    y = g.normal(size=(300, 30)) + 10 * g.normal(size=30)
    predicted = y.mean(0) + 0.3 * (y - y.mean(0)) + 0.3 * g.normal(size=y.shape)
    raw = retrieval(predicted, y, n_boot=10).loc["top-1", "value"]
    centred = retrieval(predicted, y, centre=y.mean(0), n_boot=10).loc["top-1", "value"]
    assert centred > raw + 0.1


def test_a_decoder_beats_its_controls() -> None:
    g = np.random.default_rng(2)
    code = g.normal(size=(400, 12)) + 4 * g.normal(size=12)
    voxels = code @ g.normal(size=(12, 60)) + 3 * g.normal(size=(400, 60))
    decoder = Decoder().fit(voxels[:250], code[:250])
    table = decoder.evaluate(voxels[250:], code[250:], candidates=50, n_boot=100)
    seen = table.loc["responses"]
    assert (seen["low"] > 3 * seen["chance"]).loc[["top-1", "top-5"]].all() and seen.loc[
        "two-way", "low"
    ] > 0.9
    for control in ("noise", "shuffled"):
        rows = table.loc[control]
        assert rows["value"].to_numpy() == pytest.approx(rows["chance"].to_numpy(), abs=0.06)
    assert seen["candidates"].tolist() == [2, 50, 50]
    assert decoder.score(voxels[250:], code[250:]) == pytest.approx(seen.loc["two-way", "value"])


def test_himalaya_searches_the_same_draws() -> None:
    pytest.importorskip("himalaya")
    g = np.random.default_rng(3)
    spaces = {"a": g.normal(size=(120, 10)), "b": g.normal(size=(120, 60))}
    y = spaces["a"] @ g.normal(size=(10, 3)) / 3 + g.normal(size=(120, 3))
    own, theirs = (
        BandedRidge(n_draws=10, cv=Blocked(3), solver=s).fit(spaces, y) for s in ("own", "himalaya")
    )
    assert theirs.gamma_.sum(0) == pytest.approx(np.ones(3))
    # It standardises over all samples and not in each fold, so that the choice may fall on a neighbour.
    assert mean_r(theirs.predict(spaces), own.predict(spaces)) > 0.97
    assert (theirs.gamma_[0] > 0.7).all() and (own.gamma_[0] > 0.7).all()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: FactorisedReadout().fit(np.ones((20, 3)), np.ones((20, 1))), "channels x locations"),
        (lambda: FactorisedReadout().fit(np.ones((20, 3, 4)), np.ones((19, 1))), "20 samples of maps"),
        (lambda: AttentionReadout().fit(np.ones((20, 3)), np.ones((20, 1))), "locations x features"),
        (lambda: AttentionReadout().predict(np.ones((20, 3, 2))), "not fitted"),
        (
            lambda: AttentionReadout().fit(np.ones((9, 3, 2)), np.ones((9, 2)), regions=["x"]),
            "1 region labels",
        ),
        (lambda: Decoder().predict(np.ones((3, 3))), "not fitted"),
        (lambda: retrieval(np.eye(4), np.eye(4), candidates=9), "candidates=9"),
        (lambda: retrieval(np.eye(4), np.eye(4)), "k=5"),
        (lambda: BandedRidge(solver="x").fit({"a": np.eye(20)}, np.eye(20)), "solver='x'"),
    ],
)
def test_refusals(call, words: str) -> None:
    with pytest.raises(PatchclampError, match=words):
        call()
