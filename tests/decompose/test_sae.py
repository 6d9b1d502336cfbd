"""Sparse autoencoders: planted features, gradients against autograd, same bits for same seeds, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from patchclamp import Recording
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose import METHODS, JumpReLU, MatchingPursuit, TopK, load_dictionary
from patchclamp.decompose.dictionaries import SparseDictionary
from patchclamp.decompose.sae import ARCHITECTURES, MatchingPursuitDictionary, architecture, quality, support
from patchclamp.decompose.sae.auxiliary import auxiliary_loss, restart
from patchclamp.decompose.sae.core import Geometry, Moment, Pass
from patchclamp.decompose.sae.feed import PIECE, Feed
from patchclamp.decompose.sae.training import Run, Sides, centre
from patchclamp.nouns.units import Site

SITE = "mlp_act.0"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- planted features


def planted(n: int = 40000, units: int = 32, features: int = 64) -> tuple[Tensor, Tensor]:
    """Unit features with falling rates, 3 active on average, amplitudes U(.5, 1.5)."""
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(features, units, generator=g), dim=1)
    rates = torch.arange(1, features + 1).float() ** -0.5
    active = torch.rand(n, features, generator=g) < 3 * rates / rates.sum()
    return (active * (0.5 + torch.rand(n, features, generator=g))) @ directions, directions


def matched(found: Tensor, true: Tensor) -> float:
    cosine = torch.nn.functional.normalize(found, dim=1) @ true.T
    rows, columns = linear_sum_assignment(-cosine.numpy())
    return float(cosine[rows, columns].mean())


VARIANTS: dict[str, dict[str, Any]] = {
    "topk": {"k": 3},
    "batch_topk": {"k": 3},
    "jumprelu": {"penalty": 0.05, "threshold": 0.15, "bandwidth": 0.05},
    "matryoshka": {"k": 3, "prefixes": (8, 16, 32, 64, 128)},
    "gated": {"penalty": 1.0},
    "relu_l1": {"penalty": 1.0},
    "matching_pursuit": {"k": 3},
}


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


@pytest.mark.parametrize("name", VARIANTS)
def test_planted_features_are_recovered(recovered: dict[str, Any], name: str) -> None:
    mcc, figures = recovered[name]
    assert mcc > 0.98
    assert 2.9 < figures.l0 < 4.1


def test_a_variable_number_of_features_halves_the_error(recovered: dict[str, Any]) -> None:
    top, batch = recovered["topk"][1], recovered["batch_topk"][1]
    assert abs(top.l0 - batch.l0) < 0.15
    assert batch.unexplained < 0.5 * top.unexplained


def test_only_l1_shrinks(recovered: dict[str, Any]) -> None:
    assert 1 / recovered["relu_l1"][1].shrinkage > 1.3
    for name in ("gated", "jumprelu", "topk", "batch_topk"):
        assert abs(1 / recovered[name][1].shrinkage - 1) < 0.02


# ---- the backward pass


def parameters(name: str, geometry: Geometry, n: int = 24) -> tuple[Any, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(1)
    extra: dict[str, Any] = (
        {"k": 3} if name in ("topk", "batch_topk", "matryoshka", "matching_pursuit") else {}
    )
    extra |= {"penalty": 0.3} if name in ("relu_l1", "gated", "jumprelu") else {}
    extra |= {"prefixes": (5, 11, n), "prefix_weights": (1.0, 2.0, 3.0)} if name == "matryoshka" else {}
    extra |= {"bandwidth": 0.8, "threshold": 0.3} if name == "jumprelu" else {}
    auto = ARCHITECTURES[name](n, **extra)
    params = auto.init(geometry, n, g)
    params["b_dec"] = torch.zeros(geometry.outputs)
    if not geometry.tied:
        params["b_pre"] = torch.zeros(geometry.inputs)
    if geometry.skip:
        params["W_skip"] = torch.zeros(geometry.inputs, geometry.outputs)
    out = {
        k: p.double() + 0.1 * torch.randn(p.shape, generator=g, dtype=torch.float64)
        for k, p in params.items()
    }
    if name == "matching_pursuit":
        out["W_dec"] = torch.nn.functional.normalize(out["W_dec"], dim=1)
    return auto, out


def kept(pre: Tensor, k: int) -> Tensor:
    top = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values.clamp(min=0))


class Jump(torch.autograd.Function):
    """p [p > theta] and [p > theta], with the surrogate for theta; dense, as in the paper."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, theta: Tensor, width: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(p, theta)
        ctx.width = width
        gate = (p > theta).to(p.dtype)
        return p * gate, gate

    @staticmethod
    def backward(ctx: Any, grad_f: Tensor, grad_gate: Tensor) -> tuple[Tensor, Tensor, None]:
        p, theta = ctx.saved_tensors
        box = ((p - theta).abs() < ctx.width / 2).to(p.dtype) / ctx.width
        return grad_f * (p > theta), (-(theta * grad_f + grad_gate) * box).sum(0), None


def objective(name: str, auto: Any, geo: Geometry, p: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The losses as the papers write them, for autograd."""
    n = len(x)
    centred = x - p[geo.pre_bias]
    skip = centred @ p["W_skip"] if geo.skip else x.new_zeros(())
    if name == "matching_pursuit":
        r = centred
        for _ in range(auto.k):
            s = r @ p["W_dec"].T
            j = s.argmax(1, keepdim=True)
            r = r - s.gather(1, j).clamp(min=0) * p["W_dec"][j[:, 0]]
        return r.square().sum() / n
    shared = centred @ p["W_enc"].T

    def error(codes: Tensor, decoder: Tensor, offset: Tensor) -> Tensor:
        return (y - codes @ decoder - offset - skip).square().sum() / n

    if name == "gated":
        gate = torch.relu(shared + p["b_gate"])
        codes = (gate > 0) * torch.relu(shared * p["r_mag"].exp() + p["b_mag"])
        shadow = gate @ p["W_dec"].detach() + p["b_dec"].detach() + skip.detach()
        aux = (y - shadow).square().sum() / n
        return error(codes, p["W_dec"], p["b_dec"]) + auto.penalty * gate.sum() / n + aux
    pre = shared + p["b_enc"]
    if name == "jumprelu":
        codes, gate = Jump.apply(pre, p["log_threshold"].exp(), auto.bandwidth)  # type: ignore[no-untyped-call]
        return error(codes, p["W_dec"], p["b_dec"]) + auto.penalty * gate.sum() / n
    if name == "relu_l1":
        codes = torch.relu(pre)
        norms = 1.0
        if not auto.unit_norm(geo):
            norms = sum(part.norm(dim=1) for part in p["W_dec"].split(list(geo.sides or (geo.outputs,)), 1))
        return error(codes, p["W_dec"], p["b_dec"]) + auto.penalty * (codes * norms).sum() / n
    if name == "topk":
        return error(kept(pre, auto.k), p["W_dec"], p["b_dec"])
    codes = kept(pre.reshape(1, -1), auto.k * n).view_as(pre)
    if name == "batch_topk":
        return error(codes, p["W_dec"], p["b_dec"])
    parts = zip(auto.prefixes, auto.prefix_weights, strict=True)
    return sum(w / 6 * error(codes[:, :m], p["W_dec"][:m], p["b_dec"]) for m, w in parts)


GEOMETRIES = {
    "autoencoder": Geometry(7, 7),
    "transcoder": Geometry(7, 5, tied=False),
    "skip": Geometry(7, 5, tied=False, skip=True),
    "crosscoder": Geometry(7, 7, sides=(3, 4)),
}


@pytest.mark.parametrize("products", ["sparse", "dense"])
@pytest.mark.parametrize("shape", GEOMETRIES)
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_by_hand_are_autograds(name: str, shape: str, products: str) -> None:
    geometry = GEOMETRIES[shape]
    if name == "matching_pursuit" and not geometry.tied:
        with pytest.raises(PatchclampError, match="cannot read one site and write another"):
            parameters(name, geometry)
        return
    auto, params = parameters(name, geometry)
    g = torch.Generator().manual_seed(2)
    x = torch.randn(40, geometry.inputs, generator=g, dtype=torch.float64)
    y = x if geometry.tied else torch.randn(40, geometry.outputs, generator=g, dtype=torch.float64)
    with torch.no_grad():
        done = auto.step(Pass(params, geometry, x, y, products), Moment())
    leaves = {k: p.clone().requires_grad_() for k, p in params.items()}
    loss = objective(name, auto, geometry, leaves, x, y)
    loss.backward()
    assert float(done.loss) == pytest.approx(float(loss.detach()), rel=1e-10)
    assert set(done.grads) == set(params)
    for key, leaf in leaves.items():
        assert leaf.grad is not None
        assert torch.allclose(done.grads[key], leaf.grad, atol=1e-9), key


@pytest.mark.parametrize("products", ["sparse", "dense"])
def test_the_auxiliary_loss_is_autograds_and_holds_no_bias(products: str) -> None:
    geometry = GEOMETRIES["autoencoder"]
    auto, params = parameters("topk", geometry)
    params["b_dec"] += 5.0
    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 5
    dead = torch.arange(24) % 3 == 0
    moment = Moment(dead=dead)
    with torch.no_grad():
        done = auto.step(Pass(params, geometry, x, x, products), moment)
    leaves = {k: p.clone().requires_grad_() for k, p in params.items()}
    pre = (x - leaves["b_dec"]) @ leaves["W_enc"].T + leaves["b_enc"]
    main = objective("topk", auto, geometry, leaves, x, x)
    error = (x - kept(pre, 3) @ leaves["W_dec"] - leaves["b_dec"]).detach()
    part = kept(pre[:, dead], 3) @ leaves["W_dec"][dead]  # aux_k = 7 // 2
    aux = (error - part).square().sum() / (error - error.mean(0)).square().sum()
    (main + aux * 7 / 32).backward()
    assert float(done.loss) == pytest.approx(float((main + aux * 7 / 32).detach()), rel=1e-10)
    for key, leaf in leaves.items():
        assert leaf.grad is not None
        assert torch.allclose(done.grads[key], leaf.grad, atol=1e-9), key


def test_the_surrogate_gradient_of_l0_is_right() -> None:
    """p ~ N(0, 1), theta .5, bandwidth .1: -(1 / bandwidth) P(in the box) = -.352, twice what the upper half gives."""
    n = 1_000_000
    p = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    auto = JumpReLU(1, penalty=1.0, bandwidth=0.1)
    one = torch.ones(1, 1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    params = {"W_enc": one, "b_enc": zero, "W_dec": one * 0, "b_dec": zero}
    params["log_threshold"] = torch.tensor([0.5], dtype=torch.float64).log()
    done = auto.step(Pass(params, Geometry(1, 1), p, p), Moment())
    density = math.exp(-0.125) / math.sqrt(2 * math.pi)
    # The decoder is zero, so L0 is all that moves; d/d log theta = theta d/d theta.
    assert float(done.grads["log_threshold"]) / 0.5 == pytest.approx(-density, abs=4e-3)


def test_jumprelu_reaches_the_l0_asked_for() -> None:
    x, _ = planted(8000)
    made = JumpReLU(128, l0=5.0, penalty=10.0, bandwidth=0.2, steps=600, batch_size=512, lr=4e-3).fit(x, SITE)
    assert quality(made, x).l0 == pytest.approx(5.0, abs=0.8)


# ---- supports


def test_sparse_and_dense_products_agree() -> None:
    g = torch.Generator().manual_seed(0)
    values, weight = torch.randn(20, 30, generator=g), torch.randn(30, 6, generator=g)
    rows = torch.randn(20, 6, generator=g)
    mask = values > 1
    mask[:, 4] = False  # a feature without entries
    mask[7] = False  # a row without entries
    a, b = (support.of_mask(mask, torch.float32, how) for how in ("sparse", "dense"))
    va, vb = a.take(values), b.take(values)
    assert torch.equal(a.dense(va), b.dense(vb))
    assert torch.allclose(a.decode(va, weight), b.decode(vb, weight), atol=1e-5)
    assert torch.allclose(a.dense(a.dots(rows, weight)), b.dots(rows, weight), atol=1e-5)
    assert torch.allclose(a.gradient(va, rows), b.gradient(vb, rows), atol=1e-5)
    assert torch.allclose(a.totals(va), b.totals(vb), atol=1e-5)
    (pa, ia), (pb, ib) = a.part(3, 11), b.part(3, 11)
    assert torch.equal(pa.dense(va[ia]), pb.dense(vb[ib]))


@pytest.mark.parametrize("products", ["sparse", "dense"])
def test_the_largest_entries_are_found_with_ties_and_negatives(products: str) -> None:
    g = torch.Generator().manual_seed(0)
    values = torch.randn(50, 64, generator=g)
    values[0] = 1.0  # all tied
    values[1] = -1.0  # none positive
    found = support.of_topk(values, 8, torch.float32, products)
    counts = (found.dense(found.take(torch.ones_like(values)))).sum(1)
    assert counts[0] == 8 and counts[1] == 0 and int(counts.max()) == 8
    want = kept(values, 8)
    assert torch.equal(found.dense(found.take(values))[2:], want[2:])
    whole = support.of_largest(values[2:], 100, torch.float32, products)
    assert torch.equal(whole.dense(whole.take(values[2:])), kept(values[2:].reshape(1, -1), 100).view(48, 64))


def test_few_positive_entries_are_all_taken() -> None:
    values = -torch.ones(10, 20)
    values[3, 4] = 2.0
    found = support.of_largest(values, 30, torch.float32, "sparse")
    assert found.dense(found.take(values)).nonzero().tolist() == [[3, 4]]


# ---- rows


def recording(x: Tensor) -> Recording:
    return Recording.from_arrays({SITE: x})


def test_an_epoch_is_every_row_once_and_needs_the_buffer_only() -> None:
    n = 3 * PIECE + 100
    x = torch.arange(n, dtype=torch.float32)[:, None].repeat(1, 2)
    feeds = [Feed([source], ["x"], 1000, 2 * PIECE, 0) for source in (x, recording(x)[SITE])]
    for feed in feeds:
        seen = torch.cat([feed(i)[0][:, 0] for i in range(13)])
        assert torch.equal(seen[:n].sort().values, x[:, 0])
        assert max(len(buffer) for buffer in feed._buffers) <= (n if feed is feeds[0] else 2 * PIECE)
    # Wherever the rows lie, and whichever batch is asked for first.
    assert torch.equal(feeds[0](9)[0], feeds[1](9)[0])
    fresh = Feed([x], ["x"], 1000, 2 * PIECE, 0)
    assert torch.equal(fresh(9)[0], feeds[0](9)[0])
    assert not torch.equal(Feed([x], ["x"], 1000, 2 * PIECE, 1)(0)[0], feeds[0](0)[0])


def test_only_content_is_learnt_from() -> None:
    from patchclamp.nouns.recording.samples import Samples

    x, _ = planted(600)
    loud = x.clone()
    loud[::6] = 1e6
    samples = Samples.of(
        torch.arange(600), torch.zeros(600, dtype=torch.int64), content=torch.arange(600) % 6 != 0
    )
    rec = Recording.from_arrays({SITE: loud}, samples)
    auto = TopK(16, k=2, steps=20, batch_size=100)
    a, b = auto.fit(rec), auto.fit(x[torch.arange(600) % 6 != 0], SITE)
    assert torch.equal(a.directions, b.directions)


# ---- same seed, same bits


def bits(dictionary: Any) -> dict[str, Tensor]:
    return dict(dictionary.state())


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(t, bits(b)[key]) for key, t in bits(a).items())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_seed_gives_the_same_dictionary_and_a_killed_run_goes_on(name: str, tmp_path: Path) -> None:
    x, _ = planted(3000)
    settings = {**VARIANTS[name], **({"prefixes": (16, 32)} if name == "matryoshka" else {})}
    auto = METHODS[name](32, steps=60, batch_size=128, save_every=25, dead_after=500, **settings)
    one, two = auto.fit(x, SITE), auto.fit(recording(x))
    assert same(one, two)

    class Killed(Exception):
        pass

    def die(done: int, total: int) -> None:
        if done == 40:
            raise Killed

    with pytest.raises(Killed):
        auto.fit(x, SITE, progress=die, resume=tmp_path)
    steps: list[int] = []
    three = auto.fit(x, SITE, progress=lambda done, total: steps.append(done), resume=tmp_path)
    assert steps[0] == 26
    assert same(one, three) and one.meta["history"] == three.meta["history"]
    assert same(one, auto.fit(x, SITE, resume=tmp_path))  # finished: nothing left to do
    other = METHODS[name](32, seed=1, steps=60, batch_size=128, **settings)
    assert not same(one, other.fit(x, SITE))
    with pytest.raises(PatchclampError, match=r"holds a run with settings"):
        other.fit(x, SITE, resume=tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_folded_back_to_the_units_of_the_data(name: str) -> None:
    """Activity in other units, and shifted, gives the same features; codes carry the unit."""
    x, _ = planted(3000)
    settings = {**VARIANTS[name], **({"prefixes": (16, 32)} if name == "matryoshka" else {})}
    auto = METHODS[name](32, steps=50, batch_size=128, **settings)
    small, large = auto.fit(x, SITE), auto.fit(64 * x + 32, SITE)
    codes = small.encode(x)
    assert float((large.encode(64 * x + 32) - 64 * codes).abs().max()) < 1e-2 * float(64 * codes.max())
    a, b = quality(small, x), quality(large, 64 * x + 32)
    assert a.unexplained == pytest.approx(b.unexplained, rel=1e-2)
    assert a.l0 == pytest.approx(b.l0, rel=1e-2)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_dictionary_read_back_encodes_the_same_bits(name: str, tmp_path: Path) -> None:
    x, _ = planted(500)
    settings = {**VARIANTS[name], **({"prefixes": (16, 32)} if name == "matryoshka" else {})}
    made = METHODS[name](32, steps=20, batch_size=128, **settings).fit(x, SITE)
    again = load_dictionary(made.save(tmp_path / "mine"))
    assert torch.equal(again.encode(x), made.encode(x)) and torch.equal(
        again.reconstruct(x), made.reconstruct(x)
    )
    assert again.meta == made.meta and again.site == made.site


def test_what_was_trained_is_what_comes_out() -> None:
    """Codes of the last weights in training, scaled back, are the dictionary's."""
    x, _ = planted(2000)
    auto = TopK(32, k=3, steps=40, batch_size=128)
    sides = Sides([x], [Site("mlp_act", 0)])
    feed = sides.feed(auto)
    run = Run(auto, sides, feed, sides.geometry(feed.widths), 32)
    state = run.start()
    adam = state.optimiser(auto.betas)
    with torch.no_grad():
        for _ in range(40):
            run.advance(state, adam)
        factor = run.factors[0]
        one = Pass(state.params, run.geometry, x * factor, x * factor)
        found, codes = auto.codes(one)
        made = one.decode(found, codes) / factor
    dictionary = auto.fit(x, SITE)
    assert isinstance(dictionary, SparseDictionary)
    assert torch.allclose(dictionary.encode(x), found.dense(codes) / factor, atol=1e-5)
    assert torch.allclose(dictionary.reconstruct(x), made, atol=1e-5)
    assert torch.allclose(dictionary.directions.norm(dim=1), torch.ones(32), atol=1e-6)


# ---- dead features


def test_dead_features_come_back() -> None:
    x, _ = planted(8000)
    living = {}
    for revive in (False, True):
        auto = TopK(64, k=3, steps=400, batch_size=256, lr=2e-3, dead_after=2000, revive=revive)
        sides = Sides([x], [Site("mlp_act", 0)])
        feed = sides.feed(auto)
        run = Run(auto, sides, feed, sides.geometry(feed.widths), 64)
        state = run.start()
        state.params["b_enc"][:32] = -6.0  # half of them hardly ever come near firing
        adam = state.optimiser(auto.betas)
        with torch.no_grad():
            for _ in range(400):
                run.advance(state, adam)
        living[revive] = int((state.idle <= 2000).sum())
    assert living[False] < 36 and living[True] > 50, living


def test_a_restart_points_at_the_error_and_resets_the_moments() -> None:
    g = torch.Generator().manual_seed(0)
    params = {
        "W_enc": torch.randn(4, 3, generator=g),
        "b_enc": torch.ones(4),
        "W_dec": torch.eye(4, 3),
        "b_dec": torch.ones(3),
    }
    moments = [{key: torch.ones_like(p) for key, p in params.items()} for _ in range(2)]
    before = {key: p.clone() for key, p in params.items()}
    dead = torch.tensor([False, True, False, False])
    residual = torch.zeros(5, 3)
    residual[2] = torch.tensor([0.0, -2.0, 0.0])  # y^ - y: what is missing is +e_1
    centred = torch.tensor([0.0, 0.0, 3.0]).expand(5, 3).contiguous()
    restart(params, moments, dead, centred, residual, g)
    length = before["W_dec"][~dead].norm(dim=1).mean()
    assert torch.allclose(params["W_dec"][1], torch.tensor([0.0, 1.0, 0.0]) * length)
    assert torch.allclose(
        params["W_enc"][1], torch.tensor([0.0, 0.0, 0.2]) * before["W_enc"][~dead].norm(dim=1).mean()
    )
    assert float(params["b_enc"][1]) == 0
    assert all(torch.equal(params[k][~dead], before[k][~dead]) for k in ("W_enc", "W_dec", "b_enc"))
    for moment in moments:
        assert float(moment["W_enc"][1].abs().sum()) == 0 and float(moment["b_dec"].sum()) == 3
        assert float(moment["W_enc"].sum()) == 9


def test_without_dead_features_there_is_no_auxiliary_loss() -> None:
    _, params = parameters("topk", GEOMETRIES["autoencoder"])
    x = torch.randn(10, 7, dtype=torch.float64)
    one = Pass(params, GEOMETRIES["autoencoder"], x, x)
    assert float(auxiliary_loss(one, one.pre(), x, torch.zeros(24, dtype=torch.bool), 3, 1.0)) == 0


# ---- matching pursuit


def test_matching_pursuit_tells_near_features_apart() -> None:
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.9, math.sqrt(0.19), 0.0], [0.0, 0.0, 1.0]])
    x = weight[0] + 0.5 * weight[2]
    assert kept((weight @ x)[None], 2).nonzero()[:, 1].tolist() == [
        0,
        1,
    ]  # a linear encoder takes the wrong pair
    found = MatchingPursuitDictionary(SITE, weight, k=2)
    assert found.encode(x).tolist() == pytest.approx([1.0, 0.0, 0.5])
    assert float((found.reconstruct(x) - x).abs().max()) < 1e-7


def test_matching_pursuits_invariants() -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.nn.functional.normalize(torch.randn(40, 12, generator=g, dtype=torch.float64), dim=1)
    x = torch.randn(30, 12, generator=g, dtype=torch.float64)
    residual, taken, size = MatchingPursuit(40, k=6).pursue(x, weight)
    assert torch.allclose(x.square().sum(1), size.square().sum(1) + residual.square().sum(1))
    assert float((residual * weight[taken[:, -1]]).sum(1).abs().max()) < 1e-12
    dense = torch.zeros(30, 40, dtype=torch.float64).scatter_add_(1, taken, size)
    assert torch.allclose(MatchingPursuitDictionary(SITE, weight, k=6).encode(x), dense)
    assert float(dense.min()) == 0  # a public implementation lets codes go negative
    ortho = torch.linalg.qr(torch.randn(12, 12, generator=g, dtype=torch.float64)).Q
    found = MatchingPursuitDictionary(SITE, ortho, k=4).encode(x)
    assert torch.allclose(found, kept(x @ ortho.T, 4))
    stop = MatchingPursuitDictionary(SITE, ortho, k=12, tolerance=2.0).encode(x)
    left = (x - stop @ ortho).norm(dim=1)
    assert int((stop > 0).sum(1).min()) < int((stop > 0).sum(1).max())
    assert bool(((left <= 2.0) | (stop > 0).sum(1).eq((x @ ortho.T > 0).sum(1))).all())


def test_matching_pursuit_takes_nothing_where_nothing_fits() -> None:
    found = MatchingPursuitDictionary(SITE, torch.eye(2), k=2)
    assert found.encode(torch.tensor([-1.0, -2.0])).tolist() == [0.0, 0.0]


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
        (lambda: torch.ones(9, 4, dtype=torch.int64), r"wanted floating samples x units"),
        (lambda: np.ones((9, 4)), r"wanted a Recording or a tensor"),
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


def test_the_geometric_median_ignores_an_outlier() -> None:
    x = torch.cat(
        [torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1e4, 1e4]])]
    )
    assert float((centre(x, "geometric_median") - 1).norm()) < 0.5
    # Equilateral triangle: the median is the centre (Weiszfeld's fixed point).
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    assert torch.allclose(centre(triangle, "geometric_median"), triangle.mean(0), atol=1e-6)


def test_defaults_are_said() -> None:
    x, _ = planted(300)
    made = TopK(k=4, steps=10).fit(x, SITE)
    assert made.n_features == 128 and made.meta["settings"]["n_features"] == 128
    assert {"unexplained", "l0", "dead", "history", "data"} <= set(made.meta)
