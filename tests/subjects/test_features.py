"""Features of attached dictionaries as units: addresses, and edits that move the activity by what they decode to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feature_toys import SITES, Curved, lossy, one_pair
from hooks import no_hooks
from language_toys import TokenModel, items
from patchclamp.attribute import attribution_patching
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.dictionaries import SparseDictionary
from patchclamp.nouns.units import Site
from patchclamp.subjects import Edit
from tiny import tiny_model


@pytest.fixture
def llama():
    return TokenModel(tiny_model("llama"), name="llama")


# ---- addresses
def test_an_attached_dictionary_is_a_site(llama):
    with llama.attach("sae", lossy("resid_post.1", 32)) as site:
        assert str(site) == "resid_post.1/sae"
        assert llama.resolve("resid_post.1/sae") == [site]
        assert llama.resolve("resid_post.*/sae") == [site]
        assert (llama.width(site), llama.unit_dim(site)) == (11, 1)
        assert llama.units("resid_post.1/sae[3,10]").count == 2
        with pytest.raises(PatchclampError, match=r"resid_post.1/sae\[11\]: .* has units 0..10"):
            llama.units("resid_post.1/sae[11]")
        table = [row for row in llama.sites() if row.site.point == "resid_post"]
        assert [str(row.site) for row in table] == [
            "resid_post.0", "resid_post.1", "resid_post.1/sae", "resid_post.2",
        ]  # fmt: skip
        assert table[2].width == 11
        assert "11 features" in table[2].description
        assert site not in llama.known_sites()
    with pytest.raises(PatchclampError, match="no dictionary named sae is attached"):
        llama.resolve("resid_post.1/sae")


def test_one_name_at_several_sites_and_detaching(llama):
    for layer in (2, 0):
        llama.attach("sae", lossy(f"mlp_out.{layer}", 32))
    assert [str(s) for s in llama.resolve("mlp_out.*/sae")] == ["mlp_out.0/sae", "mlp_out.2/sae"]
    llama.detach("mlp_out.0/sae")
    assert [str(s) for s in llama.resolve("mlp_out.*/sae")] == ["mlp_out.2/sae"]
    with pytest.raises(PatchclampError, match="did you mean.*sae"):
        llama.resolve("mlp_out.2/saes")
    llama.detach("sae")
    with pytest.raises(PatchclampError, match="no dictionary named sae"):
        llama.detach("sae")


def test_what_cannot_be_attached_is_refused(llama):
    good = lossy("resid_post.1", 32)
    for name in ("", "a/b", "a b", "a[0]", "*"):
        with pytest.raises(PatchclampError, match="part of an address"):
            llama.attach(name, good)
    with pytest.raises(PatchclampError, match="is no Dictionary"):
        llama.attach("sae", nn.Linear(2, 2))
    with pytest.raises(PatchclampError, match="encodes 31 units, and resid_post.1 has 32"):
        llama.attach("sae", lossy("resid_post.1", 31))
    with pytest.raises(PatchclampError, match="decodes to 5 units"):
        llama.attach("sae", lossy("resid_mid.1", 32, target="mlp_out.1", out=5))
    with pytest.raises(PatchclampError, match=r"give z\.1"):
        llama.attach("sae", lossy("head.1", 4))
    with pytest.raises(PatchclampError, match=r"layers 0\.\.2"):
        llama.attach("sae", lossy("resid_post.7", 32))
    llama.attach("sae", good)
    llama.attach("sae", good)
    with pytest.raises(PatchclampError, match="another dictionary of this name"):
        llama.attach("sae", lossy("resid_post.1", 32))


def test_everything_is_restored_after_an_exception(llama):
    batch = one_pair(llama, items()).clean
    plain = llama.run(batch, logits="last").logits

    def fails(codes, batch):
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), llama.attach("sae", lossy("resid_mid.1", 32)) as site:
        llama.run(batch, read=[site], write=[Edit(site, fails)], logits="last")
    assert no_hooks(llama.model)
    assert torch.equal(llama.run(batch, logits="last").logits, plain)
    with pytest.raises(PatchclampError, match="no dictionary named sae"):
        llama.resolve("resid_mid.1/sae")


# ---- writing
@pytest.mark.parametrize("address", [s for s in SITES if s != "final_norm"])
def test_a_change_moves_the_activity_by_what_it_decodes_to(llama, address):
    batch = one_pair(llama, items()).clean
    base = llama.resolve(address)[0]
    with llama.attach("sae", lossy(base, llama.width(base))) as site:
        change = lambda codes, batch: torch.where(torch.arange(11) == 3, codes + 2.0, codes)
        before = llama.run(batch, read=[base, site], logits="all")
        after = llama.run(batch, read=[base, site], write=[Edit(site, change)], logits="all")
        rows = llama.dictionary(site).directions
        moved = after.activity[base] - before.activity[base]
        torch.testing.assert_close(moved, (2 * rows[3]).expand_as(moved), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(after.activity[site], change(before.activity[site], None))
        direct = [Edit(base, lambda x, b: x + 2 * rows[3])]
        same = llama.run(batch, write=direct, logits="all").logits
        torch.testing.assert_close(after.logits, same, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(after.logits, before.logits, atol=1e-3)


def test_edits_of_one_dictionary_follow_each_other_and_see_changed_activity(llama):
    batch = one_pair(llama, items()).clean
    base = llama.resolve("resid_post.1")[0]
    with llama.attach("sae", lossy(base, 32)) as site:
        edits = [
            Edit(site, lambda z, b: z + 1),
            Edit(base, lambda x, b: 2 * x),
            Edit(site, lambda z, b: 3 * z),
        ]
        dictionary = llama.dictionary(site)
        x = llama.run(batch, read=[base]).activity[base]
        run = llama.run(batch, read=[base, site], write=edits)
        z = dictionary.encode(2 * x)
        torch.testing.assert_close(run.activity[site], 3 * (z + 1))
        wanted = 2 * x + (3 * (z + 1) - z) @ dictionary.directions
        torch.testing.assert_close(run.activity[base], wanted, atol=1e-4, rtol=1e-4)


def test_decoders_that_are_no_matrix(llama):
    batch = one_pair(llama, items()).clean
    base = llama.resolve("resid_post.1")[0]
    with llama.attach("sae", lossy(base, 32, kind=Curved)) as site:
        x = llama.run(batch, read=[base, site]).activity
        run = llama.run(batch, read=[base], write=[Edit(site, lambda z, b: 0 * z)]).activity
        torch.testing.assert_close(
            run[base], x[base] - torch.tanh(x[site]) @ llama.dictionary(site).rows, atol=1e-5, rtol=1e-4
        )


def test_transcoders_read_one_site_and_write_another(llama):
    batch = one_pair(llama, items()).clean
    source, target = Site("resid_mid", 1), Site("mlp_out", 1)
    dictionary = lossy(source, 32, target=target, seed=3)
    with llama.attach("tc", dictionary) as site:
        assert str(site) == "resid_mid.1/tc"
        plain = llama.run(batch, read=[source, target, site], logits="all")
        unchanged = [Edit(site, lambda z, b: z.clone())]
        assert torch.equal(llama.run(batch, write=unchanged, logits="all").logits, plain.logits)
        run = llama.run(
            batch, read=[source, target, site], write=[Edit(site, lambda z, b: z + 1)], logits="all"
        )
        assert torch.equal(run.activity[source], plain.activity[source])
        moved = run.activity[target] - plain.activity[target]
        wanted = dictionary.directions.sum(0).expand_as(moved)
        torch.testing.assert_close(moved, wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(run.activity[site], plain.activity[site] + 1)
        scores = attribution_patching(llama, items(), site)
        z = [llama.run(b, read=[site]).activity[site] for b in (batch, one_pair(llama, items()).corrupted)]
        assert scores.values[site].shape == (5, 11)
        assert float((z[0] - z[1]).abs().max()) > 0
    with llama.attach("back", lossy(target, 32, target="resid_pre.1")) as site:
        llama.run(batch, read=[site])
        with pytest.raises(PatchclampError, match=r"reaches resid_pre\.1 before mlp_out\.1"):
            llama.run(batch, write=[Edit(site, lambda z, b: z + 1)])


@pytest.mark.parametrize("normalize", ["none", "constant_norm_rescale", "layer_norm"])
def test_dictionaries_that_normalise_and_skip(llama, normalize):
    batch = one_pair(llama, items()).clean
    source, target = Site("resid_mid", 1), Site("mlp_out", 1)
    weights = [torch.randn(*shape, generator=torch.Generator().manual_seed(i)) / 6 for i, shape in
               enumerate([(32, 11), (11,), (11, 32), (32,), (32, 32)])]  # fmt: skip
    dictionary = SparseDictionary(
        source,
        *weights[:4],
        W_skip=weights[4],
        target=target,
        apply_b_dec_to_input=False,
        normalize=normalize,
    )
    with llama.attach("skip", dictionary) as site:
        plain = llama.run(batch, read=[source, target, site]).activity
        run = llama.run(batch, read=[target], write=[Edit(site, lambda z, b: z + 1)]).activity
        x = plain[source]
        wanted = dictionary.decode_at(plain[site] + 1, x) - dictionary.reconstruct(x)
        torch.testing.assert_close(run[target] - plain[target], wanted, atol=1e-5, rtol=1e-4)
        bare = Edit(
            site, lambda z, b: z, without_error=lambda z, b: torch.ones(z.shape[:2], dtype=torch.bool)
        )
        spliced = llama.run(batch, read=[target], write=[bare]).activity[target]
        torch.testing.assert_close(spliced, dictionary.reconstruct(x))
