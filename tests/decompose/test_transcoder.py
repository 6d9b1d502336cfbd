"""Transcoders, crosscoders and attention autoencoders: planted maps, and identities of their parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from patchclamp import Recording
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose import AttentionSAE, Crosscoder, Transcoder, load_dictionary
from patchclamp.decompose.dictionaries import SparseDictionary
from patchclamp.decompose.sae import quality
from patchclamp.decompose.sae.attention_sae import by_head, by_source, head_shares
from patchclamp.decompose.sae.crosscoder import CrosscoderDictionary
from patchclamp.decompose.sae.transcoder import parts_along
from patchclamp.nouns.units import Site
from record_subject import tiny_subject


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def match(found: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """For each true row, the row found (Hungarian), and their cosine."""
    cosine = torch.nn.functional.normalize(true, dim=1) @ torch.nn.functional.normalize(found, dim=1).T
    _, columns = linear_sum_assignment(-cosine.numpy())
    return torch.as_tensor(columns), cosine[torch.arange(len(true)), torch.as_tensor(columns)]


def wide_mlp(n: int = 20000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u, y = relu((u - 3) E' - 1.3) D: a wide ReLU network whose units fire on a tenth of Gaussian inputs each."""
    g = torch.Generator().manual_seed(0)
    encoder = torch.nn.functional.normalize(torch.randn(24, 16, generator=g), dim=1)
    decoder = torch.nn.functional.normalize(torch.randn(24, 12, generator=g), dim=1)
    u = torch.randn(n, 16, generator=g) + 3.0
    z = torch.relu((u - 3.0) @ encoder.T - 1.3)
    return u, 5 * z @ decoder, encoder, decoder


@pytest.mark.slow
def test_a_transcoder_finds_the_hidden_units_of_a_wide_network() -> None:
    u, y, encoder, decoder = wide_mlp()
    made = Transcoder(48, "relu_l1", penalty=0.5, steps=1500, batch_size=512, lr=4e-3).fit(
        (u, y), "mlp_in", "mlp_out.0"
    )
    assert isinstance(made, SparseDictionary)
    found, cosine = match(made.directions, decoder)
    assert float(cosine.mean()) > 0.98
    reads = torch.nn.functional.cosine_similarity(made.W_enc.T[found], encoder)
    assert float(reads.mean()) > 0.98
    assert quality(made, u, target=y).unexplained < 0.1
    assert str(made.site) == "mlp_in" and str(made.target) == "mlp_out.0"


@pytest.mark.parametrize("name", ["topk", "relu_l1", "gated", "jumprelu"])
def test_what_a_transcoder_learnt_is_in_the_units_of_both_sites(name: str) -> None:
    u, y, _, _ = wide_mlp(3000)
    auto = Transcoder(32, name, skip=True, steps=60, batch_size=256)
    small, large = auto.fit((u, y), "a", "b"), auto.fit((8 * u - 4, 64 * y + 32), "a", "b")
    made = small.reconstruct(u)
    assert torch.allclose(large.reconstruct(8 * u - 4), 64 * made + 32, atol=0.02 * 64 * float(y.std()))
    assert torch.allclose(large.encode(8 * u - 4), 64 * small.encode(u), atol=0.02 * 64 * float(y.std()))


def test_a_skip_path_takes_the_linear_part() -> None:
    g = torch.Generator().manual_seed(0)
    u = torch.randn(6000, 8, generator=g)
    linear = torch.randn(8, 6, generator=g)
    y = u @ linear + 1.0
    figures = [
        quality(
            Transcoder(8, k=1, skip=skip, steps=600, batch_size=256, lr=5e-3).fit((u, y), "a", "b"),
            u,
            target=y,
        )
        for skip in (False, True)
    ]
    assert figures[1].unexplained < 0.02
    assert figures[0].unexplained > 0.3


def test_the_parts_of_a_transcoder_add_up() -> None:
    u, y, _, _ = wide_mlp(500)
    made = Transcoder(32, skip=True, k=3, steps=40, batch_size=100).fit((u, y), "a", "b")
    assert isinstance(made, SparseDictionary)
    e = torch.randn(12, generator=torch.Generator().manual_seed(1))
    parts = parts_along(made, u, y, e)
    total = parts["features"].sum(1) + parts["bias"] + parts["skip"] + parts["error"]
    assert float((total - y @ e).abs().max()) < 1e-5 * float((y @ e).abs().max())


def test_two_stacked_transcoders_add_up_to_the_pre_activation() -> None:
    """sum_i z_i <W_dec,i, e> + x.e + b_dec.e + b_enc is the second's pre-activation; without biases it is not."""
    g = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    first, second = (
        SparseDictionary(
            a, random(6, 20), random(20), random(20, 6), random(6), target=b, apply_b_dec_to_input=False
        )
        for a, b in (("in", "mid"), ("mid2", "out"))
    )
    x = random(9, 6)
    stream = x + first.reconstruct(x)
    e = second.W_enc[:, 4]
    parts = parts_along(first, x, first.reconstruct(x), e)
    total = parts["features"].sum(1) + parts["bias"] + x @ e + second.b_enc[4]
    assert float((total - second.pre_activations(stream)[:, 4]).abs().max()) < 1e-12
    assert float(parts["error"].abs().max()) < 1e-12


def test_a_transcoder_resumes_and_refuses() -> None:
    u, y, _, _ = wide_mlp(300)
    both = Recording.from_arrays({"resid_mid.0": u, "mlp_out.0": y})
    auto = Transcoder(16, k=2, steps=5)
    made = auto.fit(both, "resid_mid.0", "mlp_out.0")
    assert torch.equal(made.directions, auto.fit((u, y), "resid_mid.0", "mlp_out.0").directions)
    assert quality(made, both).n == 300
    with pytest.raises(PatchclampError, match="would be read and written"):
        auto.fit(both, "mlp_out.0", "mlp_out.0")
    with pytest.raises(PatchclampError, match=r"mlp_out.0 has 299 samples and a 300"):
        auto.fit((u, y[:-1]), "a", "mlp_out.0")
    with pytest.raises(PatchclampError, match="one set of directions encodes and decodes"):
        Transcoder(16, "matching_pursuit", k=2, steps=5).fit((u, y), "a", "b")
    with pytest.raises(PatchclampError, match="give its activity with target="):
        quality(made, u)


# ---- crosscoders


def sides(n: int = 20000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """24 features that both sides have, 8 of the first alone, 8 of the second; directions of each side are its own."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(40, 24, generator=g), dim=1) for _ in range(2))
    a[32:], b[24:32] = 0.0, 0.0
    codes = (torch.rand(n, 40, generator=g) < 0.06) * (0.5 + torch.rand(n, 40, generator=g))
    return codes @ a, codes @ b, torch.cat([a, b], 1), codes


@pytest.fixture(scope="module")
def crossed() -> CrosscoderDictionary:
    x, y, _, _ = sides()
    auto = Crosscoder(64, penalty=0.5, steps=1500, batch_size=256, lr=3e-3)
    # One side ten times as large and shifted: the sides are scaled before they are compared.
    return auto.fit([x, 10 * y + 3], ["resid_post.1", "resid_post.1"])


def test_relative_norms_tell_shared_from_exclusive_features(crossed: CrosscoderDictionary) -> None:
    x, y, true, codes = sides()
    activity = crossed.join([x, 10 * y + 3])
    scaled = torch.cat(crossed.split(true)[:1] + [10 * crossed.split(true)[1]], 1)
    factors = torch.cat([torch.full((n,), f) for n, f in zip(crossed.widths, crossed.factors, strict=True)])
    found, _ = match(crossed.directions * factors, scaled * factors)
    norms = crossed.relative_norms()[found]
    assert float(norms[24:32, 1].max()) < 0.05
    assert float(norms[32:, 1].min()) > 0.95
    assert float((norms[:24, 1] - 0.5).abs().max()) < 0.15
    made = crossed.encode(activity)[:, found]
    correlation = torch.stack(
        [torch.corrcoef(torch.stack([made[:, i], codes[:, i]]))[0, 1] for i in range(40)]
    )
    assert float(correlation.min()) > 0.95
    assert quality(crossed, activity).unexplained < 0.1
    assert torch.allclose(crossed.relative_norms().sum(1), torch.ones(64))


def test_a_crosscoder_decodes_each_side_in_its_own_units(crossed: CrosscoderDictionary) -> None:
    x, y, _, _ = sides(2000)
    one, two = crossed.split(crossed.reconstruct(crossed.join([x, 10 * y + 3])))
    for made, side in ((one, x), (two, 10 * y + 3)):
        left = (made - side).square().sum() / (side - side.mean(0)).square().sum()
        assert float(left) < 0.12
    assert crossed.decoder(1).shape == (64, 24) and crossed.cosines().abs().max() <= 1 + 1e-6


def test_a_crosscoder_is_stored(crossed: CrosscoderDictionary, tmp_path: Path) -> None:
    again = load_dictionary(crossed.save(tmp_path / "crossed"))
    assert isinstance(again, CrosscoderDictionary)
    x, y, _, _ = sides(50)
    activity = crossed.join([x, y])
    assert torch.equal(again.encode(activity), crossed.encode(activity))
    assert (
        again.sides == ("resid_post.1", "resid_post.1") and str(again.site) == "resid_post.1 + resid_post.1"
    )


def test_crosscoders_refuse_what_does_not_pair() -> None:
    x, y, _, _ = sides(100)
    auto = Crosscoder(16, steps=3)
    with pytest.raises(PatchclampError, match="resid_post.2 has 99 samples"):
        auto.fit([x, y[:-1]], ["resid_post.1", "resid_post.2"])
    with pytest.raises(PatchclampError, match="1 recordings for 2 sites"):
        auto.fit([x], ["resid_post.1", "resid_post.2"])
    with pytest.raises(PatchclampError, match="two sides or more"):
        auto.fit([x], "resid_post.1")
    made = auto.fit([x, y[:, :5]], ["resid_post.1", "resid_post.2"])
    with pytest.raises(PatchclampError, match="have no cosine"):
        made.cosines()
    again = auto.fit(
        Recording.from_arrays({"resid_post.1": x, "resid_post.2": y[:, :5]}), ["resid_post.1", "resid_post.2"]
    )
    assert torch.equal(made.directions, again.directions)
    assert Crosscoder(16, "batch_topk", k=2, steps=3).fit([x, y], ["a", "b"]).n_features == 16


# ---- attention


def random_attention(heads: int = 4, group: int = 2) -> tuple[SparseDictionary, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    pattern = torch.randn(3, heads, 7, 7, generator=g).softmax(-1)
    values = torch.randn(3, 7, heads // group, 5, generator=g)
    z = torch.einsum("bhts,bshd->bthd", pattern, values.repeat_interleave(group, 2)).flatten(2)
    width = heads * 5
    dictionary = SparseDictionary(
        "z.0",
        torch.randn(width, 30, generator=g),
        torch.randn(30, generator=g),
        torch.randn(30, width, generator=g),
        torch.randn(width, generator=g),
        activation="topk",
        k=4,
        meta={"heads": heads},
    )
    return dictionary, pattern, values, z


def test_heads_and_sources_add_up_to_the_pre_activation() -> None:
    dictionary, pattern, values, z = random_attention()
    chosen = [3, 11, 29]
    parts, constant = by_head(dictionary, z, chosen)
    whole = dictionary.pre_activations(z)[..., chosen]
    assert float((parts.sum(-2) + constant - whole).abs().max()) < 1e-5 * float(whole.abs().max())
    sources = by_source(dictionary, pattern, values, chosen)
    assert sources.shape == (3, 7, 4, 7, 3)
    assert float((sources.sum(3) - parts).abs().max()) < 1e-5 * float(whole.abs().max())
    # Attributing with the wrong grouping (value head h % kv_heads) does not add up.
    swapped = by_source(dictionary, pattern[:, [0, 2, 1, 3]], values, chosen)
    assert float((swapped.sum(3) - parts).abs().max()) > 0.1


def test_heads_add_up_on_a_model() -> None:
    """z.L, the pattern and the value projection of a Llama with grouped queries."""
    subject = tiny_subject()
    subject.model.set_attn_implementation("eager")
    batch = subject.batch(subject.encode(["the cat sat", "on a mat"]))
    z, probs = Site("z", 1), Site("attn_probs", 1)
    value = subject.resolve("model.layers.1.self_attn.v_proj.out")[0]
    seen = subject.run(batch, [z, probs, value]).activity
    g = torch.Generator().manual_seed(0)
    width = seen[z].shape[-1]
    dictionary = SparseDictionary(
        "z.1", torch.randn(width, 9, generator=g), None, torch.randn(9, width, generator=g), None
    )
    kv = subject.model.config.num_key_value_heads
    heads = seen[probs].shape[1]
    sources = by_source(dictionary, seen[probs], seen[value].unflatten(2, (kv, -1)), [0, 5], heads)
    parts, constant = by_head(dictionary, seen[z], [0, 5], heads)
    assert float((sources.sum(3) - parts)[batch.mask].abs().max()) < 1e-5
    assert (
        float((parts.sum(-2) + constant - dictionary.pre_activations(seen[z])[..., [0, 5]]).abs().max())
        < 1e-5
    )


def test_a_feature_of_one_head_belongs_to_it() -> None:
    g = torch.Generator().manual_seed(0)
    codes = (torch.rand(4000, 12, generator=g) < 0.1) * (0.5 + torch.rand(4000, 12, generator=g))
    directions = torch.zeros(12, 4, 6)
    for i in range(12):
        directions[i, i % 4] = torch.randn(6, generator=g)
    z = torch.einsum("nf,fhd->nhd", codes, directions)
    made = AttentionSAE(24, k=2, steps=800, batch_size=256, lr=4e-3).fit(z, "head.0")
    assert isinstance(made, SparseDictionary) and made.meta["heads"] == 4 and str(made.site) == "z.0"
    found, cosine = match(made.directions, directions.flatten(1))
    assert float(cosine.mean()) > 0.95
    share = head_shares(made)[found][torch.arange(12), torch.arange(12) % 4]
    assert float(share.mean()) > 0.85
    assert torch.allclose(head_shares(made).sum(1), torch.ones(24), atol=1e-5)


def test_attention_autoencoders_need_the_number_of_heads(tmp_path: Path) -> None:
    z = torch.randn(100, 8)
    with pytest.raises(PatchclampError, match="heads=None for activity of"):
        AttentionSAE(8, k=2, steps=2).fit(z, "z.0")
    with pytest.raises(PatchclampError, match="heads=3 for activity of"):
        AttentionSAE(8, 3, k=2, steps=2).fit(z, "z.0")
    made = AttentionSAE(8, 4, k=2, steps=2).fit(z, "z.0", resume=tmp_path)
    assert isinstance(made, SparseDictionary)
    with pytest.raises(PatchclampError, match="heads=5 for 8 units"):
        head_shares(made, 5)
    with pytest.raises(PatchclampError, match="heads do not add up"):
        by_head(made.replace(normalize="layer_norm"), z, [0])
