"""Sparse autoencoders, step by step: gradients against autograd, supports, restarts, matching pursuit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose import JumpReLU, MatchingPursuit
from patchclamp.decompose.sae import ARCHITECTURES, MatchingPursuitDictionary, support
from patchclamp.decompose.sae.auxiliary import auxiliary_loss, restart
from patchclamp.decompose.sae.core import Geometry, Moment, Pass
from patchclamp.decompose.sae.training import centre
from sae_toys import SITE, VARIANTS, kept


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


def test_the_geometric_median_ignores_an_outlier() -> None:
    x = torch.cat(
        [torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1e4, 1e4]])]
    )
    assert float((centre(x, "geometric_median") - 1).norm()) < 0.5
    # Equilateral triangle: the median is the centre (Weiszfeld's fixed point).
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    assert torch.allclose(centre(triangle, "geometric_median"), triangle.mean(0), atol=1e-6)
