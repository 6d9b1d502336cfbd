"""Interaction bases, degeneracy and modules of networks whose structure is known."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from language_toys import TokenModel, items
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.structure.flow import batches_of, counted
from patchclamp.decompose.structure.interaction import InteractionBasis, degeneracy, modules
from patchclamp.decompose.structure.leiden import leiden, modularity
from patchclamp.decompose.structure.lib import (
    LinearBasis,
    LocalInteractionBasis,
    effects,
    interaction_edges,
)
from patchclamp.subjects import TensorTask, TorchModule
from tiny import tiny_model

draw = lambda seed: torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=draw(seed), dtype=torch.float64)


def rotation(n, seed=0):
    return torch.linalg.qr(normal(n, n, seed=seed))[0]


def task_of(inputs):
    return TensorTask("inputs", inputs, None, lambda out: out[:, 0])


def linear(weight, bias=None):
    """y = x @ weight (+ bias)."""
    layer = nn.Linear(*weight.shape, bias=bias is not None).double()
    layer.weight.data = weight.T.clone()
    if bias is not None:
        layer.bias.data = bias
    return layer


# ---- local interaction basis
def rank_five(n=4000):
    """10 inputs of rank 5, and a map that kills two of the five directions."""
    plane = rotation(10, seed=1)[:5]
    inputs = normal(n, 5, seed=2) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.25]) @ plane + normal(10, seed=3)
    weight = plane.T @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0]).double()) @ normal(5, 6, seed=4)
    return inputs, nn.Sequential(nn.Identity(), linear(weight, normal(6, seed=5))).eval()


def test_lib_keeps_what_varies_and_matters_and_nothing_else():
    inputs, net = rank_five()
    subject = TorchModule(net, inputs)
    bases = LocalInteractionBasis().fit(subject, task_of(inputs), ["0.out", "1.out"], batch_size=1000)
    basis = bases["0.out"]
    assert basis.rank == 3  # principal components keep 5
    codes = basis.encode(inputs)
    assert (codes.mean(0)).abs().max() < 1e-9
    torch.testing.assert_close(
        codes.T @ codes / len(codes), torch.diag(basis.importance), atol=1e-8, rtol=1e-8
    )
    jacobian = basis.directions @ net[1].weight.data.T  # (direction, output): the map is linear
    torch.testing.assert_close(jacobian @ jacobian.T, torch.eye(3).double(), atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(net[1](basis.decode(codes)), net(inputs), atol=1e-10, rtol=1e-10)
    assert torch.equal(basis.to_basis, LocalInteractionBasis().fit(
        subject, task_of(inputs), ["0.out", "1.out"], batch_size=1000)["0.out"].to_basis)  # fmt: skip


def test_lib_does_not_depend_on_how_a_layer_is_written_down():
    inputs, net = rank_five()
    mix = normal(10, 10, seed=9)
    other = nn.Sequential(
        nn.Identity(), linear(torch.linalg.inv(mix) @ net[1].weight.data.T, net[1].bias.data)
    )
    pair = [
        LocalInteractionBasis().fit(TorchModule(m.eval(), x), task_of(x), ["0.out", "1.out"], batch_size=2000)
        for m, x in ((net, inputs), (other, inputs @ mix))
    ]
    a, b = (bases["0.out"] for bases in pair)
    torch.testing.assert_close(a.importance, b.importance, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(a.encode(inputs).abs(), b.encode(inputs @ mix).abs(), atol=1e-6, rtol=1e-6)


def two_blocks():
    """Two independent ReLU blocks behind a random rotation, on a full product grid of inputs."""
    points = normal(12, 2, seed=7)
    inputs = torch.stack([torch.cat([a, b]) for a, b in itertools.product(points, points)])
    weight = torch.block_diag(normal(2, 4, seed=8), normal(2, 4, seed=9))
    turn = rotation(8, seed=10)
    hidden = nn.Sequential(linear(weight), nn.ReLU(), linear(turn))
    out = torch.block_diag(normal(4, 2, seed=11), normal(4, 2, seed=12))
    net = nn.Sequential(hidden, linear(turn.T @ out)).eval()
    return inputs, net, turn


def test_lib_separates_blocks_that_do_not_interact():
    inputs, net, turn = two_blocks()
    subject = TorchModule(net, inputs)
    bases = LocalInteractionBasis().fit(subject, task_of(inputs), ["0.out", "1.out"], batch_size=200)
    basis = bases["0.out"]
    shares = (basis.directions @ turn.T).pow(2)  # rows are directions in the hidden blocks' own coordinates
    purity = shares[:, :4].sum(1) / shares.sum(1)
    assert bool(((purity < 1e-6) | (purity > 1 - 1e-6)).all())
    edges = interaction_edges(subject, task_of(inputs), bases)[bases.sites[0], bases.sites[1]]
    assert edges.shape == (4, basis.rank)
    first = (purity > 0.5).numpy()
    cross = edges[:2][:, ~first].sum() + edges[2:][:, first].sum()
    assert cross < 1e-20
    assert edges[:2][:, first].sum() > 1e-3
    integrated = interaction_edges(
        subject, task_of(inputs), bases, integration="gauss-legendre", steps=3, batch_size=50
    )
    assert integrated[bases.sites[0], bases.sites[1]] == pytest.approx(
        edges, abs=1e-10
    )  # the layer is linear


def test_lib_through_a_nonlinear_layer_with_probes():
    inputs, net, _ = two_blocks()
    subject = TorchModule(nn.Sequential(net[0], nn.Sequential(net[1], nn.Tanh())), inputs)
    exact = LocalInteractionBasis().fit(subject, task_of(inputs), ["0.out", "1.out"], batch_size=200)["0.out"]
    codes = exact.encode(
        subject.run(subject.batch(inputs), read=subject.resolve("0.out")).activity[exact.site][:, 0]
    )
    torch.testing.assert_close(
        codes.T @ codes / len(codes), torch.diag(exact.importance), atol=1e-8, rtol=1e-8
    )
    rough = LocalInteractionBasis(n_probes=50).fit(
        subject, task_of(inputs), ["0.out", "1.out"], batch_size=200
    )
    ratio = rough["0.out"].importance.sum() / exact.importance.sum()
    assert 0.8 < float(ratio) < 1.25


def test_lib_of_a_language_model_has_a_unit_jacobian_in_its_own_coordinates():
    subject = TokenModel(tiny_model("llama"), name="llama")
    batches = batches_of(subject, items(4), 4)
    sites = ["resid_post.0", "resid_post.1"]
    exact = LocalInteractionBasis(effect_tolerance=1e-6).fit(subject, batches, sites)
    with exact.attached(subject) as (here, there):
        jacobian = effects(subject, batches, here, there, None, 0)
        codes = subject.run(batches[0], read=[here]).activity[here]
        codes = codes[counted(subject, batches[0], codes)]
    n = exact[sites[0]].rank
    assert n > 10
    # The float32 norms of the model leave an error of about 1e-4.
    torch.testing.assert_close(jacobian, torch.eye(n).double(), atol=2e-3, rtol=0)
    torch.testing.assert_close(
        codes.T @ codes / len(codes), torch.diag(exact[sites[0]].importance), atol=1e-6, rtol=1e-5
    )


def test_lib_refuses_what_has_no_basis():
    inputs, net = rank_five(50)
    subject = TorchModule(net, inputs)
    with pytest.raises(PatchclampError, match="at least two layers"):
        LocalInteractionBasis().fit(subject, task_of(inputs), ["0.out"])
    with pytest.raises(PatchclampError, match="zero on all of the data"):
        LocalInteractionBasis().fit(subject, task_of(torch.ones(20, 10).double()), ["0.out", "1.out"])
    with pytest.raises(PatchclampError, match="named twice"):
        LocalInteractionBasis().fit(subject, task_of(inputs), ["0.out", "0.out"])


def test_a_basis_is_a_dictionary_of_units(tmp_path):
    inputs, net = rank_five(300)
    subject = TorchModule(net, inputs)
    bases = LocalInteractionBasis(last="pca").fit(subject, task_of(inputs), ["0.out", "1.out"])
    assert bases["1.out"].rank == 3
    with bases.attached(subject) as sites:
        assert [str(s) for s in sites] == ["0.out/basis", "1.out/basis"]
        codes = subject.run(subject.batch(inputs), read=sites).activity[sites[0]]
    torch.testing.assert_close(codes[:, 0], bases["0.out"].encode(inputs))
    one = bases["0.out"]
    again = LinearBasis.from_state(one.site, one.target, one.meta, one.state(), one.settings())
    assert torch.equal(again.encode(inputs), one.encode(inputs))


# ---- interaction basis, degeneracy, modules
def test_the_interaction_basis_follows_the_output_and_not_the_next_layer():
    inputs = normal(500, 3, seed=1)
    # Layer 1 passes all three coordinates on; the output reads the first alone.
    net = nn.Sequential(
        nn.Identity(), linear(torch.eye(3).double()), linear(torch.tensor([[2.0], [0], [0]]).double())
    )
    subject, sites = TorchModule(net.eval(), inputs), ["0.out", "1.out", "2.out"]
    local = LocalInteractionBasis().fit(subject, task_of(inputs), sites[:2], batch_size=500)
    whole = InteractionBasis().fit(subject, task_of(inputs), sites, batch_size=500)
    assert local["0.out"].rank == 3
    assert whole["0.out"].rank == 1
    codes = whole["0.out"].encode(inputs)
    variance = codes.T @ codes / len(codes)
    torch.testing.assert_close(variance, torch.diag(whole["0.out"].importance), atol=1e-8, rtol=1e-8)
    # One coordinate: the output itself, up to its sign.
    torch.testing.assert_close(codes.abs(), (net(inputs) - net(inputs).mean(0)).abs(), atol=1e-8, rtol=1e-8)
    assert whole["0.out"].meta["method"] == "interaction_basis"


def relu_net(seed=0):
    hidden, out = normal(4, 6, seed=seed), normal(6, 6, seed=seed + 1)
    return nn.Sequential(linear(hidden, 0.5 * normal(6, seed=seed + 2)), nn.ReLU(), linear(out)).eval()


def test_degeneracy_counts_copies_and_dead_ends():
    inputs = normal(400, 4, seed=5)
    counts = lambda net: degeneracy(
        TorchModule(net, inputs), task_of(inputs), "1.out", "2.out", batch_size=100
    )[TorchModule(net, inputs).resolve("1.out")[0]]
    plain = counts(relu_net())
    assert (plain.width, plain.silent, plain.idle, plain.synchronised) == (6, 0, 0, ())
    copied = relu_net()
    copied[0].weight.data[5], copied[0].bias.data[5] = (
        2 * copied[0].weight.data[1],
        2 * copied[0].bias.data[1],
    )
    found = counts(copied)
    assert (found.silent, found.idle, found.synchronised) == (1, 0, ((1, 5),))
    cut = relu_net()
    cut[2].weight.data[:, 3] = 0
    assert (counts(cut).silent, counts(cut).idle) == (0, 1)
    dead = relu_net()
    dead[0].bias.data[[0, 2]] = -100
    found = counts(dead)
    assert (found.constant, found.silent, found.synchronised) == ((0, 2), 2, ())


def test_modules_of_two_blocks():
    inputs, net, _ = two_blocks()
    subject = TorchModule(net, inputs)
    bases = LocalInteractionBasis().fit(subject, task_of(inputs), ["0.out", "1.out"], batch_size=200)
    found = modules(interaction_edges(subject, task_of(inputs), bases))
    sizes = [len(group) for group in found.members]
    assert len(sizes) == 2
    assert found.span == (2, 2)
    outputs = [sorted(u.index for u in group if u.site.point == "1") for group in found.members]
    assert sorted(outputs) == [[0, 1], [2, 3]]
    assert 0.4 < found.modularity <= 0.5
    assert found == modules(interaction_edges(subject, task_of(inputs), bases), seed=3)


def test_leiden_on_graphs_with_known_communities():
    blocks = np.kron(np.eye(4), np.ones((5, 5)) - np.eye(5))
    blocks[0, 5] = blocks[5, 0] = 1.0
    order = np.random.default_rng(0).permutation(20)
    labels = leiden(blocks[np.ix_(order, order)])
    truth = np.repeat(np.arange(4), 5)[order]
    assert len(np.unique(labels)) == 4
    assert all(len(np.unique(labels[truth == c])) == 1 for c in range(4))
    even = np.kron(np.eye(2), np.ones((6, 6)) - np.eye(6))
    assert modularity(even, leiden(even)) == pytest.approx(0.5)
    assert modularity(even, np.zeros(12, dtype=np.int64)) == pytest.approx(0)
    assert len(np.unique(leiden(even, resolution=20.0))) > 2
    karate = nx.to_numpy_array(nx.karate_club_graph(), weight=None)
    assert modularity(karate, leiden(karate)) == pytest.approx(0.4198, abs=2e-3)  # the known maximum
