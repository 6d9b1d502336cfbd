"""Features of attached dictionaries as units: read, changed and scored as neurons are; nothing else moves."""

from __future__ import annotations

import pytest
import torch
import xarray as xr
import zarr
from test_attribute_language import TokenModel, items
from test_engine import no_hooks
from torch import Tensor, nn

import planted
from patchclamp.attribute import METHODS, attribution_patching, direct_logit_attribution
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.dictionaries import SparseDictionary
from patchclamp.intervene import Reference, effect
from patchclamp.measure import Exemplars, FiringRate
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.recording.recording import Layout, Recording, Samples, StoreWriter
from patchclamp.nouns.units import Site
from patchclamp.record import record
from patchclamp.subjects import Edit, TensorTask, TorchModule, VisionModel
from patchclamp.subjects.clamp.edits import compile_interventions
from patchclamp.subjects.clamp.features import fingerprint
from record_subject import texts, tiny_subject
from tiny import tiny_model


class Plain(Dictionary):
    """z = relu(x E + b) or x E; x^ = z D + c."""

    method = "plain"

    def __init__(
        self, site, encoder: Tensor, directions: Tensor, bias=None, offset=None, relu=True, target=None
    ):
        super().__init__(site, target)
        self.encoder, self.rows, self.relu = encoder, directions, relu
        self.bias = torch.zeros(len(directions)) if bias is None else bias
        self.shift = torch.zeros(directions.shape[1]) if offset is None else offset

    @property
    def directions(self):
        return self.rows

    @property
    def offset(self):
        return self.shift

    @property
    def input_width(self):
        return len(self.encoder)

    def encode(self, activity):
        codes = activity @ self.encoder + self.bias
        return torch.relu(codes) if self.relu else codes


class Curved(Plain):
    """A decoder that is no matrix."""

    def decode(self, codes):
        return torch.tanh(codes) @ self.rows


def identity(site, width):
    return Plain(site, torch.eye(width), torch.eye(width), relu=False)


def lossy(site, width, features=11, seed=0, target=None, out=None, kind=Plain):
    draw = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=draw)
    encoder, rows = make(width, features) / width**0.5, make(features, out or width)
    return kind(site, encoder, rows, 0.1 * make(features), 0.1 * make(out or width), target=target)


def rotation(site, width, seed=0):
    q = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double())[0]
    return Plain(site, q.T.float(), q.float(), relu=False)


@pytest.fixture
def llama():
    return TokenModel(tiny_model("llama"), name="llama")


@pytest.fixture
def lm():
    return planted.subject()


def one_pair(subject, task, size=8):
    return next(iter(subject.pairs(task, size)))


SITES = ("embeddings", "resid_pre.1", "z.1", "attn_out.1", "resid_mid.1", "mlp_pre.1", "mlp_act.1", "mlp_out.1",
         "resid_post.1", "final_norm", "model.layers.1.mlp.down_proj.in")  # fmt: skip


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


# ---- interventions


KINDS = {
    "zero": {},
    "mean": {},
    "resample": {"seed": 3},
    "clamp": {"value": 2.0},
    "scale": {"value": 0.5},
    "patch": {},
    "add": {"value": 1.5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_the_identity_are_neurons_under_every_intervention(lm, kind):
    task = planted.task(6)
    pair, reference = one_pair(lm, task), Reference(lm, planted.task(12, seed=1))
    base = Site("mlp_act", 1)
    with lm.attach("id", identity(base, 32)) as site:
        runs = []
        for units in ("mlp_act.1[3,7]", "mlp_act.1/id[3,7]"):
            change = Intervention(units, kind, positions="end", **KINDS[kind])
            edits = compile_interventions([change], lm, pair, reference)
            runs.append(lm.run(pair.clean, read=[base, site], write=edits, logits="last"))
        for one in (base, site):
            torch.testing.assert_close(runs[0].activity[one], runs[1].activity[one], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(runs[0].logits, runs[1].logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, "project_out"])
def test_interventions_on_features_touch_the_named_codes_alone(lm, kind):
    task = planted.task(6)
    pair, reference = one_pair(lm, task), Reference(lm, planted.task(12, seed=1))
    with lm.attach("sae", lossy("resid_post.1", 128)) as site:
        vector = {"vector": torch.eye(11)[[4]], "positions": "source"} if kind == "project_out" else {}
        units = site if vector else site[4]
        change = Intervention(units, kind, **{"positions": "source", **KINDS.get(kind, {}), **vector})
        edits = compile_interventions([change], lm, pair, reference)
        before = lm.run(pair.clean, read=[site]).activity[site]
        after = lm.run(pair.clean, read=[site], write=edits).activity[site]
        moved = (before != after).nonzero()
        assert set(moved[:, 2].tolist()) == {4}
        assert set(moved[:, 1].tolist()) == {1}
        if kind in ("zero", "project_out"):
            assert after[:, 1, 4].abs().max() < 1e-6


def test_steering_along_a_feature_is_adding_its_direction(lm):
    pair = one_pair(lm, planted.task(6))
    dictionary = lossy("resid_post.1", 128)
    with lm.attach("sae", dictionary) as site:
        one_hot = torch.eye(11)[5]
        ways = [
            Intervention(site[5], "add", value=3.0),
            Intervention(site, "add", value=3.0, vector=one_hot),
            Intervention("resid_post.1", "add", value=3.0, vector=dictionary.directions[5]),
        ]
        logits = [
            lm.run(pair.clean, write=compile_interventions([w], lm, pair), logits="last").logits for w in ways
        ]
        for other in logits[1:]:
            torch.testing.assert_close(logits[0], other, atol=1e-5, rtol=1e-5)
        assert "3 is added, at all positions" in str(ways[0])


def test_splicing_leaves_the_error_out_where_it_is_asked(lm):
    pair = one_pair(lm, planted.task(6))
    base = Site("resid_post", 1)
    dictionary = lossy(base, 128)
    with lm.attach("sae", dictionary) as site:
        plain = lm.run(pair.clean, read=[base, site]).activity
        splice = Intervention(site, "splice", positions="source")
        run = lm.run(pair.clean, read=[base, site], write=compile_interventions([splice], lm, pair)).activity
        torch.testing.assert_close(
            run[base][:, 1], dictionary.decode(plain[site][:, 1]), atol=1e-5, rtol=1e-5
        )
        others = [0, 2, 3, 4, 5]
        assert torch.equal(run[base][:, others], plain[base][:, others])
        both = [splice, Intervention(site[4], "clamp", value=9.0)]
        run = lm.run(pair.clean, read=[base, site], write=compile_interventions(both, lm, pair)).activity
        codes = plain[site].clone()
        codes[..., 4] = 9.0
        torch.testing.assert_close(run[base][:, 1], dictionary.decode(codes[:, 1]), atol=1e-5, rtol=1e-5)
        kept = plain[base] + (codes - plain[site]) @ dictionary.directions
        torch.testing.assert_close(run[base][:, others], kept[:, others], atol=1e-5, rtol=1e-5)
        found = effect(lm, planted.task(16), Intervention(site, "splice"), control=None)
        assert found.estimate.value != 0
        assert Intervention.from_json(found.intervention[0]) == Intervention(site, "splice")


@pytest.mark.parametrize(
    ("address", "writes"),
    [("resid_post.1", "resid_post.1"), ("mlp_act.1", "mlp_out.1"), ("z.1", "attn_out.1")],
)
def test_what_features_write_into_the_stream(llama, address, writes):
    base, end = llama.resolve(address)[0], llama.resolve(writes)[0]
    batch = one_pair(llama, items()).clean
    with llama.attach("sae", lossy(base, llama.width(base))) as site:
        more = Edit(site, lambda z, b: z + (torch.arange(11) == 2))
        before, after = (llama.run(batch, read=[end], write=w).activity[end] for w in ([], [more]))
        rows = llama.output_matrix(site)
        torch.testing.assert_close(after - before, rows[2].expand_as(before), atol=1e-4, rtol=1e-3)
        assert torch.equal(llama.output_norms(site), rows.norm(dim=1))


def test_effects_of_features_have_matched_controls(lm):
    task, reference = planted.task(24), Reference(lm, planted.task(12, seed=1))
    rows = torch.eye(128)[32:64]  # the directions that the unembedding reads
    dictionary = Plain("resid_post.1", rows.T.clone(), rows, relu=False)
    with lm.attach("sae", dictionary) as site:
        units = [f"{site}[{i}]" for i in range(8)]
        found = effect(lm, task, Intervention(units, "zero"), reference=reference)
        direct = effect(lm, task, Intervention("resid_post.1", "project_out", vector=rows[:8]), control=None)
    assert found.estimate.value == pytest.approx(direct.estimate.value, abs=1e-4)
    assert found.estimate.null is not None
    assert all(abs(x) < 10 for x in found.estimate.null.draws)
    assert str(found.units) == "resid_post.1/sae[0,1,2,3,4,5,6,7]"


def test_the_identity_has_the_effects_and_controls_of_neurons(lm):
    task, reference = planted.task(12), planted.task(12, seed=1)
    with lm.attach("id", identity("mlp_act.1", 32)):
        pair = [
            effect(lm, task, Intervention(units, "mean"), reference=reference)
            for units in ("mlp_act.1[3]", "mlp_act.1/id[3]")
        ]
    assert pair[0].estimate.value == pytest.approx(pair[1].estimate.value, abs=1e-6)
    assert sorted(pair[0].estimate.null.draws) == pytest.approx(sorted(pair[1].estimate.null.draws), abs=1e-6)


# ---- attribution


def net_and_task(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 1)).eval()
    task = TensorTask("net", torch.randn(7, 6), torch.randn(7, 6), lambda out: out[:, 0])
    return TorchModule(net, torch.zeros(1, 6)), task


LIVE = [name for name in METHODS if name != "direct_logit_attribution"]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", LIVE)
def test_features_of_the_identity_have_the_scores_of_neurons(name, direction):
    subject, task = net_and_task()
    base = subject.resolve("1.out")[0]
    with subject.attach("id", identity(base, 8)) as site:
        want = METHODS[name](subject, task, base, direction=direction, batch_size=3).values[base]
        got = METHODS[name](subject, task, site, direction=direction, batch_size=3).values[site]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(want), atol=1e-6, rtol=1e-5)
    assert abs(want).max() > 1e-3


@pytest.mark.parametrize("name", list(METHODS))
def test_on_a_transformer_too(llama, name):
    base = Site("mlp_act", 1)
    options = {} if name == "direct_logit_attribution" else {"direction": "noising"}
    if name == "activation_patching":
        options["nodes"] = {base: [0, 5], Site("mlp_act", 1, "id"): [0, 5]}
    with llama.attach("id", identity(base, llama.width(base))) as site:
        found = METHODS[name](llama, items(), [base, site], positions="roles", batch_size=2, **options)
    want, got = (torch.tensor(found.values[s]).nan_to_num() for s in (base, site))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    assert want.abs().max() > 1e-4


@pytest.mark.parametrize("name", ["attribution_patching", "integrated_gradients", "relevance_patching"])
def test_scores_of_a_complete_orthonormal_dictionary_add_up(llama, name):
    base = Site("resid_post", 1)
    with llama.attach("turned", rotation(base, 32)) as site:
        found = METHODS[name](llama, items(), [base, site])
    sums = torch.tensor(found.values[site]).sum(1)
    torch.testing.assert_close(sums, torch.tensor(found.values[base])[:, 0], atol=1e-5, rtol=1e-4)
    assert found.level[site] == "unit"
    assert found.values[site].shape[1] == 32


@pytest.mark.parametrize("address", ["resid_post.1", "mlp_act.1", "z.1", "mlp_out.1"])
def test_direct_attribution_of_features_adds_up(llama, address):
    base = Site(*[address.split(".")[0], 1])
    with llama.attach("turned", rotation(base, llama.width(base))) as site:
        found = direct_logit_attribution(llama, items(), [base, site])
    want = torch.tensor(found.values[base]).sum(1)
    torch.testing.assert_close(torch.tensor(found.values[site]).sum(1), want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [Plain, Curved])
@pytest.mark.parametrize("address", ["resid_mid.1", "z.1", "resid_post.0"])
def test_gradients_of_codes_are_those_of_small_changes(address, kind):
    llama = TokenModel(tiny_model("llama", dtype=torch.float64), name="llama")
    pair = one_pair(llama, items(2))
    base = llama.resolve(address)[0]
    dictionary = lossy(base, llama.width(base), kind=kind)
    for name in ("encoder", "rows", "bias", "shift"):
        setattr(dictionary, name, getattr(dictionary, name).double())
    with llama.attach("sae", dictionary) as site:
        run = llama.run(pair.clean, read=[site], logits="last", grad=True)
        (gradient,) = torch.autograd.grad(pair.metric(run.logits).sum(), run.activity[site])
        for unit in (0, 4):
            step = 1e-3 * (torch.arange(11) == unit).double()
            ends = [
                llama.run(
                    pair.clean, write=[Edit(site, lambda z, b, s=s, e=step: z + s * e)], logits="last"
                ).logits
                for s in (1, -1)
            ]
            slope = (pair.metric(ends[0]) - pair.metric(ends[1])) / 2e-3
            torch.testing.assert_close(gradient[..., unit].sum(1), slope, atol=1e-4, rtol=1e-3)


def test_reading_features_does_not_change_the_gradients_before_them(llama):
    pair = one_pair(llama, items())
    early, late = Site("mlp_act", 0), Site("resid_post", 1)
    plain = attribution_patching(llama, items(), early).values[early]
    with llama.attach("sae", lossy(late, 32)) as site:
        beside = attribution_patching(llama, items(), [early, site]).values[early]
        torch.testing.assert_close(torch.tensor(beside), torch.tensor(plain), atol=1e-6, rtol=1e-5)
        with llama.attach("early", lossy(early, llama.width(early), seed=2)) as first:
            run = llama.run(pair.clean, read=[first, site], logits="last", grad=True)
            code = run.activity[site][0, -1].sum()
            (gradient,) = torch.autograd.grad(code, run.activity[first])
        assert gradient[0].abs().max() > 0  # a later feature depends on an earlier one
        assert gradient[1:].abs().max() == 0


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
