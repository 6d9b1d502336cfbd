"""Features of attached dictionaries are read and kept: nothing else moves, stores hold compressed rows."""

from __future__ import annotations

import pytest
import torch
import xarray as xr
import zarr

from feature_toys import SITES, Plain, lossy, one_pair
from hooks import no_hooks
from language_toys import TokenModel, items
from patchclamp.base.errors import PatchclampError
from patchclamp.measure import Exemplars, FiringRate
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.nouns.recording.store import Layout
from patchclamp.nouns.recording.writer import StoreWriter
from patchclamp.nouns.units import Site
from patchclamp.record import record
from patchclamp.subjects import Edit, VisionModel
from patchclamp.subjects.clamp.features import fingerprint
from record_subject import texts, tiny_subject
from tiny import tiny_model


@pytest.fixture
def llama():
    return TokenModel(tiny_model("llama"), name="llama")


# ---- reading
@pytest.mark.parametrize("address", SITES)
def test_reading_and_writing_nothing_leave_every_bit(llama, address):
    batch = one_pair(llama, items()).clean
    base = llama.resolve(address)[0]
    width = llama.width(base)
    plain = llama.run(batch, read=[base], logits="all")
    with llama.attach("sae", lossy(base, width)) as site:
        run = llama.run(batch, read=[site, base], logits="all")
        assert torch.equal(run.activity[base], plain.activity[base])
        assert torch.equal(run.logits, plain.logits)
        wanted = llama.dictionary(site).encode(plain.activity[base])
        assert torch.equal(run.activity[site], wanted)
        edits = [Edit(site, lambda codes, batch: codes.clone())]
        assert torch.equal(llama.run(batch, write=edits, logits="all").logits, plain.logits)
        grad = llama.run(batch, read=[site], logits="all", grad=True)
        assert torch.equal(grad.logits, plain.logits)
        assert torch.equal(
            llama.run(batch, read=[site], write=edits, logits="all", grad=True).logits, plain.logits
        )
    assert no_hooks(llama.model)


@pytest.mark.parametrize(
    "family", ["gpt2", "gemma2", "phi3", "falcon", "opt-post-norm", "olmoe", "bert", "vit"]
)
def test_features_in_other_families(family):
    model = tiny_model(family)
    if family == "vit":
        subject = VisionModel(model)
        pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        batch = subject.batch(pixels)
    else:
        subject = TokenModel(model, name=family)
        batch = one_pair(subject, items()).clean
    logits = "last" if family == "vit" else "all"
    plain, tried = subject.run(batch, logits=logits).logits, 0
    for base in subject.known_sites():
        if base.layer != min(1, subject.n_layers - 1) or base.point in ("head", "attn_probs", "router"):
            continue
        with subject.attach("sae", lossy(base, subject.width(base))) as site:
            same = [Edit(site, lambda z, b: z.clone())]
            for options in ({}, {"write": same}, {"grad": True}):
                run = subject.run(batch, read=[site, base], logits=logits, **options)
                assert torch.equal(run.logits, plain), (site, options)
            more = subject.run(
                batch, read=[base, site], write=[Edit(site, lambda z, b: z + 1)], logits=logits
            )
            moved = more.activity[base] - subject.run(batch, read=[base]).activity[base]
            wanted = subject.dictionary(site).directions.sum(0).expand_as(moved)
            torch.testing.assert_close(moved, wanted, atol=2e-5, rtol=1e-4)
            tried += 1
    assert tried >= 4


def test_reading_stops_after_the_site(llama):
    batch = one_pair(llama, items()).clean
    seen = []
    with llama.attach("sae", lossy("mlp_out.0", 32)) as site:
        handle = llama.layers[2].register_forward_hook(lambda *args: seen.append(1))
        llama.run(batch, read=[site])
    handle.remove()
    assert not seen


def test_half_precision_models_take_float_dictionaries():
    subject = TokenModel(tiny_model("llama", dtype=torch.bfloat16), name="half")
    batch = one_pair(subject, items()).clean
    plain = subject.run(batch, logits="all").logits
    with subject.attach("sae", lossy("resid_post.1", 32)) as site:
        run = subject.run(batch, read=[site], write=[Edit(site, lambda z, b: z.clone())], logits="all")
        assert run.activity[site].dtype == torch.float32
        assert torch.equal(run.logits, plain)
        moved = subject.run(batch, write=[Edit(site, lambda z, b: z + 1)], logits="all").logits
        assert moved.dtype == plain.dtype
        assert not torch.equal(moved, plain)


def test_recordings_hold_features_and_say_whose(tmp_path):
    subject, source = tiny_subject(), texts(40)
    base = record(subject, source, "resid_post.1", progress=False)["resid_post.1"][:]
    dictionary = lossy("resid_post.1", 16)
    subject.attach("sae", dictionary)
    found = record(subject, source, "resid_post.1, resid_post.1/sae", store=tmp_path / "a", progress=False)
    site = Site("resid_post", 1, "sae")
    torch.testing.assert_close(found[site][:], dictionary.encode(base), atol=1e-5, rtol=1e-5)
    assert torch.equal(found["resid_post.1"][:], base)
    assert found.manifest["dictionaries"] == {"resid_post.1/sae": fingerprint(dictionary)}
    again = Recording.open(tmp_path / "a")
    assert torch.equal(again[site][:], found[site][:])
    assert again.units(site)["unit"][3] == "resid_post.1/sae[3]"
    measured = record(
        subject,
        source,
        "resid_post.1/sae",
        measures={"firing": FiringRate, "exemplars": Exemplars},
        progress=False,
    )
    assert set(measured[site]) == {"firing", "exemplars"}
    assert "dictionaries" not in record(subject, source, "resid_post.1", progress=False).manifest
    subject.detach("sae")
    subject.attach("sae", lossy("resid_post.1", 16, seed=1))
    with pytest.raises(PatchclampError, match="dictionaries"):
        record(subject, source, "resid_post.1, resid_post.1/sae", store=tmp_path / "a", progress=False)


def test_fingerprints_tell_dictionaries_apart():
    one = lossy("resid_post.1", 8)
    assert fingerprint(one) == fingerprint(lossy("resid_post.1", 8))
    other = lossy("resid_post.1", 8)
    other.encoder = other.encoder.clone()
    other.encoder[0, 0] += 1e-3
    assert (
        len(
            {fingerprint(d) for d in (one, other, lossy("resid_post.2", 8), lossy("resid_post.1", 8, seed=1))}
        )
        == 4
    )


# ---- compressed rows in stores
def sparse_store(path, layout_dtype="float32", n=500, units=300, kill=None, chunk_rows=64):
    """A store of a dense and a sparse site, filled in uneven pieces; `kill` leaves off after so many samples."""
    dense = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    codes = torch.randn(n, units, generator=torch.Generator().manual_seed(1))
    codes[torch.rand(n, units, generator=torch.Generator().manual_seed(2)) < 0.95] = 0
    codes[7] = 0
    site, base = Site("resid_post", 1, "sae"), Site("resid_post", 1)
    layout = Layout.of(n, {base: (4,), site: (units,)}, layout_dtype, chunk_rows, [site])
    samples = Samples.of(torch.arange(n) // 10, torch.arange(n) % 10)
    with StoreWriter(path, {"model": "m"}, layout) as writer:
        at = writer.rows
        while at < (kill or n):
            stop = min(at + 90, n)
            part = [getattr(samples, name)[at:stop] for name, _ in samples.columns()]
            piece = Samples(**dict(zip([name for name, _ in samples.columns()], part, strict=True)))
            writer.append(piece, {base: dense[at:stop], site: codes[at:stop]})
            assert torch.equal(writer.read(site, max(0, stop - 100), stop), codes[max(0, stop - 100) : stop])
            at = stop
        if not kill:
            writer.finish()
    return dense, codes, site, base


def test_stores_keep_features_as_compressed_rows(tmp_path):
    dense, codes, site, base = sparse_store(tmp_path / "a")
    found = Recording.open(tmp_path / "a")
    assert torch.equal(found[site][:], codes)
    assert torch.equal(found[base][:], dense)
    index = [3, 499, 7, 100, 3]
    assert torch.equal(found[site][index], codes[index])
    assert torch.equal(found[site][10:20, 5], codes[10:20, 5])
    kept = found.codes(site)
    assert torch.equal(kept.to_dense(), codes)
    some = found.select(units=f"{site}[2,9]", where={"doc": [1, 3]})
    assert torch.equal(some[site][:], codes[[*range(10, 20), *range(30, 40)]][:, [2, 9]])
    assert torch.equal(torch.cat([part[site] for _, part in found.chunks(33)]), codes)
    copy = found.select(where={"doc": slice(5, 20)}).save(tmp_path / "b")
    assert torch.equal(copy[site][:], codes[50:200])
    assert torch.equal(copy.codes(site).to_dense(), codes[50:200])
    group = zarr.open_group(str(tmp_path / "a"), mode="r")["resid_post.1|sae"]
    assert group["unit"].dtype == "uint16"
    assert group["unit"].shape == group["value"].shape == ((codes != 0).sum().item(),)
    sizes = {key: sum(f.stat().st_size for f in (tmp_path / "a" / "resid_post.1|sae" / key / "c").rglob("*") if f.is_file())
             for key in ("unit", "value")}  # fmt: skip
    assert sizes["unit"] + sizes["value"] >= 6 * len(kept.unit)
    assert "resid_post.1" in xr.open_zarr(tmp_path / "a")
    assert float(found.to_xarray(site)[12, 30]) == float(codes[12, 30])


def test_a_killed_store_of_codes_goes_on_to_the_same_bits(tmp_path):
    sparse_store(tmp_path / "whole")
    for kill in (90, 300):
        sparse_store(tmp_path / f"cut{kill}", kill=kill)
        partly = Recording.open(tmp_path / f"cut{kill}")
        assert 0 < partly.n_samples < 500
        _, codes, site, _ = sparse_store(tmp_path / f"cut{kill}")
        again, whole = Recording.open(tmp_path / f"cut{kill}"), Recording.open(tmp_path / "whole")
        assert torch.equal(again[site][:], codes)
        ours, theirs = again.codes(site), whole.codes(site)
        assert (ours.indptr == theirs.indptr).all()
        assert (ours.unit == theirs.unit).all()
        assert torch.equal(ours.value, theirs.value)


def test_codes_of_a_recording_take_little_room(tmp_path):
    subject, source = tiny_subject(), texts(200)
    wide = torch.randn(16, 2000, generator=torch.Generator().manual_seed(0))
    subject.attach("sae", Plain("resid_post.1", wide, wide.T.contiguous(), bias=-14 * torch.ones(2000)))
    found = record(subject, source, "resid_post.1/sae", store=tmp_path / "a", dtype="float16", progress=False)
    memory = record(subject, source, "resid_post.1/sae", dtype="float16", progress=False)
    site = Site("resid_post", 1, "sae")
    codes = found.codes(site)
    assert 5 < len(codes.unit) / len(codes) < 200
    assert torch.equal(codes.to_dense(), memory[site][:])
    assert torch.equal(memory.codes(site).to_dense(), memory[site][:])
    folder = tmp_path / "a" / "resid_post.1|sae"
    shapes = [zarr.open_group(str(tmp_path / "a"), mode="r")[folder.name][key] for key in ("unit", "value")]
    assert sum(array.dtype.itemsize for array in shapes) == 4
