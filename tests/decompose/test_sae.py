"""Sparse autoencoders recover what was planted; impossible input is refused and defined answers are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from patchclamp import Recording
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose import METHODS, JumpReLU, TopK
from patchclamp.decompose.sae import architecture, quality
from patchclamp.decompose.sae.training import Sides, TrainingRun
from patchclamp.nouns.units import Site
from patchclamp.truth import load_truth
from sae_toys import SITE, VARIANTS, planted


def matched(found: Tensor, true: Tensor) -> float:
    cosine = torch.nn.functional.normalize(found, dim=1) @ true.T
    rows, columns = linear_sum_assignment(-cosine.numpy())
    return float(cosine[rows, columns].mean())


STEPS = {"topk": 1500, "batch_topk": 1500, "relu_l1": 1000, "gated": 1000}


@pytest.fixture(scope="module")
def recovered() -> dict[str, tuple[float, Any]]:
    torch.set_num_threads(1)
    x, true = planted()
    out = {}
    for name, settings in VARIANTS.items():
        auto = METHODS[name](
            128, batch_size=512, steps=STEPS.get(name, 700), lr=4e-3, scale=False, **settings
        )
        made = auto.fit(x, SITE)
        out[name] = matched(made.directions, true), quality(made, x[:10000])
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_planted_features_are_recovered(recovered: dict[str, Any], name: str) -> None:
    mcc, figures = recovered[name]
    assert mcc > 0.98
    assert 2.9 < figures.l0 < 4.1


@pytest.mark.slow
def test_a_variable_number_of_features_halves_the_error(recovered: dict[str, Any]) -> None:
    top, batch = recovered["topk"][1], recovered["batch_topk"][1]
    assert abs(top.l0 - batch.l0) < 0.15
    assert batch.unexplained < 0.5 * top.unexplained


@pytest.mark.slow
def test_only_l1_shrinks(recovered: dict[str, Any]) -> None:
    assert 1 / recovered["relu_l1"][1].shrinkage > 1.3
    for name in ("gated", "jumprelu", "topk", "batch_topk"):
        assert abs(1 / recovered[name][1].shrinkage - 1) < 0.02


@pytest.mark.slow
def test_jumprelu_reaches_the_l0_asked_for() -> None:
    x, _ = planted(8000)
    made = JumpReLU(128, l0=5.0, penalty=10.0, bandwidth=0.2, steps=600, batch_size=512, lr=4e-3).fit(x, SITE)
    assert quality(made, x).l0 == pytest.approx(5.0, abs=0.8)


# ---- dead features
def test_dead_features_come_back() -> None:
    x, _ = planted(8000)
    living = {}
    for revive in (False, True):
        auto = TopK(64, k=3, steps=400, batch_size=256, lr=2e-3, dead_after=2000, revive=revive)
        sides = Sides([x], [Site("mlp_act", 0)])
        feed = sides.feed(auto)
        run = TrainingRun(auto, sides, feed, sides.geometry(feed.widths), 64)
        state = run.start()
        state.params["b_enc"][:32] = -6.0  # half of them hardly ever come near firing
        adam = state.optimiser(auto.betas)
        with torch.no_grad():
            for _ in range(400):
                run.advance(state, adam)
        living[revive] = int((state.idle <= 2000).sum())
    assert living[False] < 36 and living[True] > 50, living


@pytest.mark.parametrize("features", [32, 128], ids=["half", "twice"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_wrong_number_of_features_and_dead_ones_do_no_harm(name: str, features: int) -> None:
    """64 are planted; twice as many leave some idle, so that the restarts have something to do."""
    x, true = planted(4000)
    settings = {**VARIANTS[name], **({"prefixes": (features // 4, features)} if name == "matryoshka" else {})}
    auto = METHODS[name](
        features, batch_size=256, steps=300, lr=4e-3, scale=False, dead_after=1000, **settings
    )
    made = auto.fit(x, SITE)
    codes = made.encode(x)
    assert codes.shape == (4000, features)
    assert torch.isfinite(codes).all()
    assert torch.isfinite(made.directions).all()
    few, many = sorted((made.directions.detach(), true), key=len)
    chance = matched(torch.nn.functional.normalize(torch.randn_like(few), dim=1), many)
    assert matched(few, torch.nn.functional.normalize(many, dim=1)) > chance + 0.1
    left = float((x - made.decode(codes)).square().sum() / (x - x.mean(0)).square().sum())
    assert left < 0.9


def test_matching_pursuit_starts_idle_features_again() -> None:
    """Two features point where no activity is: a restart without an encoder of its own turns them to what is left."""
    recording = load_truth("planted-orthogonal").recording
    made = METHODS["matching_pursuit"](64, k=2, steps=600, batch_size=256).fit(recording)
    assert made.meta["dead"] < 0.5
    assert torch.allclose(made.directions.norm(dim=1), torch.ones(64), atol=1e-5)


# ---- refusals and defined answers
def bad(value: float) -> Tensor:
    x, _ = planted(100)
    x[17, 3] = value
    return x


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: bad(float("nan")), r"mlp_act.0\[3\]: nan at sample 17"),
        (lambda: bad(float("inf")), r"mlp_act.0\[3\]: inf at sample 17"),
        (lambda: torch.ones(50, 4), r"mlp_act.0: all 50 samples looked at are equal"),
        (lambda: torch.zeros(50, 4), r"mlp_act.0: all 50 samples looked at are equal"),
        (lambda: torch.randn(1, 4), r"mlp_act.0: 1 sample"),
        (lambda: torch.randn(0, 4), r"mlp_act.0: 0 sample"),
        (lambda: torch.ones(9, 4, dtype=torch.int64), r"wanted floating \(samples, units\)"),
        (lambda: "activity", r"wanted a recording, a tensor or an array"),
    ],
)
def test_activity_that_cannot_be_decomposed_is_refused(make: Callable[[], Any], says: str) -> None:
    for auto in (TopK(8, k=2, steps=3), TopK(8, k=2, steps=3, scale=False)):
        with pytest.raises(PatchclampError, match=says):
            auto.fit(make(), SITE)


def test_dead_units_and_low_rank_have_a_defined_answer() -> None:
    x, _ = planted(500)
    x[:, 5] = 3.0
    x[:, 6] = x[:, 7]
    made = TopK(16, k=2, steps=50, batch_size=100).fit(x, SITE)
    assert torch.isfinite(made.directions).all()
    assert made.reconstruct(x)[:, 5].mean() == pytest.approx(3.0, abs=0.2)
    two = TopK(4, k=1, steps=5).fit(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), SITE)
    assert torch.isfinite(two.reconstruct(torch.tensor([[5.0, 5.0]]))).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TopK(8, k=9), "k=9, but there are 8 features"),
        (lambda: TopK(8, k=2, center="median"), "center='median' is none of mean"),
        (lambda: TopK(8, k=2, lr=-1.0), "lr=-1.0"),
        (lambda: TopK(0, k=2), "k=2, but there are|n_features=0"),
        (lambda: METHODS["matryoshka"](8, k=2, prefixes=(4, 6)), "rise from above 0 to n_features=8"),
        (lambda: METHODS["relu_l1"](8, decoder="fixed"), "neither 'unit' nor 'free'"),
        (lambda: architecture("top_k", 8, {}), "did you mean topk"),
        (lambda: architecture("topk", 8, {"kk": 3}), "takes no setting 'kk'"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(PatchclampError, match=says):
        make().fit(planted(50)[0], SITE)


def test_a_loss_that_explodes_is_named() -> None:
    x, _ = planted(200)
    with pytest.raises(PatchclampError, match=r"the loss is (nan|inf) at step"):
        METHODS["relu_l1"](16, decoder="free", lr=1e30, steps=60).fit(x, SITE)


def test_two_sites_need_a_name() -> None:
    x, _ = planted(50)
    rec = Recording.from_arrays({"mlp_act.0": x, "mlp_act.1": x})
    with pytest.raises(PatchclampError, match=r"several sites.*mlp_act.0, mlp_act.1.*site="):
        TopK(8, k=2).fit(rec)
    assert str(TopK(8, k=2, steps=3).fit(rec, "mlp_act.1").site) == "mlp_act.1"


def test_defaults_are_said() -> None:
    x, _ = planted(300)
    made = TopK(k=4, steps=10).fit(x, SITE)
    assert made.n_features == 128 and made.meta["settings"]["n_features"] == 128
    assert {"unexplained", "l0", "dead", "history", "data"} <= set(made.meta)
