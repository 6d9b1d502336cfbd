"""Interventions: plain data, and edits that do what they say, nowhere else, bit for bit."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.intervention import KINDS, Intervention
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Site, Units
from patchclamp.subjects import TensorTask, TorchModule
from patchclamp.subjects.clamp.batch import Batch, Pair
from patchclamp.subjects.clamp.edits import compile_interventions
from patchclamp.subjects.clamp.reference import Reference

SPECIAL = {
    "clamp": {"value": 2.0},
    "scale": {"value": 0.5},
    "add": {"vector": [1.0, 2.0], "value": 3.0},
    "project_out": {"vector": [[1.0, 0.0], [0.0, 1.0]]},
}


# ---- data


@pytest.mark.parametrize("kind", KINDS)
def test_json_round_trip(kind):
    units = "attn_out.1" if kind in ("add", "project_out") else "head.1[2], mlp_act.0[3,5]"
    units = "resid_post.1/my-sae" if kind == "splice" else units
    change = Intervention(units, kind, positions=["end", -2], seed=3, **SPECIAL.get(kind, {}))
    back = Intervention.from_json(json.loads(json.dumps(change.to_json())))
    assert back == change
    assert hash(back) == hash(change)
    assert str(units).split(",")[0] in str(change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "zeros"}, "did you mean zero"),
        ({"kind": "mean", "by": "templates"}, "did you mean template"),
        ({"kind": "patch", "source": "dirty"}, "source='dirty'"),
        ({"kind": "clamp"}, "needs value"),
        ({"kind": "add", "units": "mlp_out.0"}, "needs vector"),
        ({"kind": "add", "vector": [1.0]}, "leave out the indices"),
        ({"kind": "zero", "vector": [1.0]}, "takes no vector"),
        ({"kind": "zero", "positions": []}, "select nothing"),
        ({"kind": "splice", "units": "mlp_out.0"}, "is no site of features"),
        ({"kind": "splice", "units": "mlp_out.0/sae[3]"}, "leave out the indices"),
        ({"kind": "add", "units": "head.0[1]", "value": 1.0}, "a head's value is a vector"),
        ({"kind": "zero", "units": "nonsense.0"}, "no such point"),
    ],
)
def test_bad_descriptions_are_refused(arguments, message):
    with pytest.raises(PatchclampError, match=message):
        Intervention(**{"units": "mlp_act.0[1]", **arguments})


def test_the_source_of_values_has_a_default_for_each_kind():
    assert Intervention("head.0[1]", "patch").source == "corrupted"
    assert Intervention("head.0[1]", "mean").source == "clean"
    change = Intervention("head.0[1]", "mean", source="corrupted")
    assert change.to_json()["source"] == "corrupted"
    assert "over corrupted reference items" in str(change)
    assert "source" not in Intervention("head.0[1]", "patch").to_json()


def test_unknown_keys_in_json_are_refused():
    with pytest.raises(PatchclampError, match="did you mean kind"):
        Intervention.from_json({"units": ["head.0[1]"], "kinds": "zero"})
    with pytest.raises(PatchclampError, match="'units' is missing"):
        Intervention.from_json({"kind": "zero"})


# ---- edits on a language model with ragged texts


@pytest.fixture(scope="module")
def lm():
    return planted.subject()


def ragged(lengths=(4, 6, 5, 6, 4, 6)) -> Task:
    """Texts of several lengths; the template is the length."""
    items = []
    for number, length in enumerate(lengths):
        words = [planted.WORDS[(7 * number + 3 * i) % 50] for i in range(length)]
        corrupted = [words[0], planted.WORDS[50 + number], *words[2:]]
        text = " ".join(words)
        spans = {} if number == 0 else {"source": (len(words[0]) + 1, len(" ".join(words[:2])))}
        items.append(
            Item(text, (f" {words[1]}",), (" w59",), " ".join(corrupted), template=str(length), spans=spans)
        )
    return Task("ragged", items)


def one_pair(lm, task, size=16) -> Pair:
    return next(iter(lm.pairs(task, size)))


def activity(lm, pair, change, site, reference=None) -> tuple[Tensor, Tensor]:
    """Activity at a site without and with the change."""
    edits = compile_interventions([change], lm, pair, reference)
    before = lm.run(pair.clean, read=[site]).activity[site]
    return before, lm.run(pair.clean, read=[site], write=edits).activity[site]


@pytest.mark.parametrize("address", ["head.1[2]", "mlp_act.0[3,7]", "resid_mid.1", "z.1[5]", "attn_out.2"])
def test_a_value_replaced_by_itself_keeps_every_bit(lm, address):
    pair = one_pair(lm, ragged())
    edits = compile_interventions([Intervention(address, "patch", source="clean")], lm, pair)
    before = lm.run(pair.clean, logits="all").logits
    assert torch.equal(lm.run(pair.clean, write=edits, logits="all").logits, before)
    edits = compile_interventions([Intervention(address, "scale", value=1.0)], lm, pair)
    assert torch.equal(lm.run(pair.clean, write=edits, logits="all").logits, before)


def test_only_the_units_and_positions_asked_for_change(lm):
    pair = one_pair(lm, ragged())
    site = Site("mlp_act", 1)
    change = Intervention("mlp_act.1[2,4]", "clamp", value=9.0, positions=["end", 0])
    before, after = activity(lm, pair, change, site)
    there = torch.zeros_like(before, dtype=torch.bool)
    rows = torch.arange(len(pair.clean))
    for unit in (2, 4):
        there[rows, pair.clean.last, unit] = True
        there[:, 0, unit] = True
    assert (after[there] == 9.0).all()
    assert torch.equal(after[~there], before[~there])


@pytest.mark.parametrize("places", ["all", -1, [-2, "source"]])
def test_padding_is_never_touched(lm, places):
    pair = one_pair(lm, ragged())
    assert not pair.clean.unpadded
    change = Intervention("mlp_act.1", "clamp", value=9.0, positions=places)
    before, after = activity(lm, pair, change, Site("mlp_act", 1))
    assert torch.equal(after[~pair.clean.mask], before[~pair.clean.mask])
    touched = (after == 9.0).all(-1)
    lengths = pair.clean.lengths
    for row in range(len(pair.clean)):
        n = int(lengths[row])
        role = int(pair.roles["source"][row])
        wanted = {"all": set(range(n)), -1: {n - 1}}.get(places if isinstance(places, (str, int)) else None)
        wanted = wanted if wanted is not None else {n - 2} | ({role} if role >= 0 else set())
        assert set(touched[row].nonzero()[:, 0].tolist()) == wanted


def test_zero_scale_and_patch_on_heads(lm):
    pair = one_pair(lm, ragged())
    site = Site("head", 1)
    before, after = activity(lm, pair, Intervention("head.1[2]", "zero"), site)
    assert (after[pair.clean.mask][:, 2] == 0).all()
    assert torch.equal(after[:, :, [0, 1, 3]], before[:, :, [0, 1, 3]])
    before, after = activity(lm, pair, Intervention("head.1[2]", "scale", value=-2.0), site)
    assert torch.equal(after[pair.clean.mask][:, 2], -2 * before[pair.clean.mask][:, 2])
    other = lm.run(pair.corrupted, read=[site]).activity[site]
    before, after = activity(lm, pair, Intervention("head.1[2]", "patch"), site)
    assert torch.equal(after[pair.clean.mask][:, 2], other[pair.clean.mask][:, 2])
    with pytest.raises(PatchclampError, match=r"z\.1"):
        activity(lm, pair, Intervention("head.1[2]", "clamp", value=1.0), site)


def by_hand(lm, task, site, source="clean"):
    """Activity of each item alone, in the task's order."""
    found = {}
    for pair in lm.pairs(task, 1):
        batch = getattr(pair, source)
        found[int(pair.rows[0])] = lm.run(batch, read=[site]).activity[site][0].double()
    return [found[i] for i in range(len(task))]


@pytest.mark.parametrize("by", ["template", "position", "data"])
@pytest.mark.parametrize(("size", "source"), [(2, "clean"), (16, "clean"), (4, "corrupted")])
def test_means_are_those_taken_by_hand(lm, by, size, source):
    site = Site("mlp_act", 0)
    train, test = ragged((4, 6, 5, 6, 4, 6)), ragged((6, 5, 4))
    values = by_hand(lm, train, site, source)
    pair = one_pair(lm, test)
    change = Intervention("mlp_act.0", "mean", by=by, source=source)
    _, after = activity(lm, pair, change, site, Reference(lm, train, size))
    for row in range(len(pair.clean)):
        n = int(pair.clean.lengths[row])
        for place in range(n):
            if by == "data":
                mean = torch.cat(values).mean(0)
            else:
                like = [v for v in values if by == "position" or len(v) == n]
                back = n - place
                mean = torch.stack([v[-back] for v in like if len(v) >= back]).mean(0)
            torch.testing.assert_close(after[row, place].double(), mean, atol=1e-6, rtol=1e-5)


def test_means_without_their_template_or_length_are_refused(lm):
    pair = one_pair(lm, ragged((4, 6)))
    short = Reference(lm, ragged((4, 4)))
    for by, message in (("template", "no reference item has template '6'"), ("position", "longer than all")):
        with pytest.raises(PatchclampError, match=message):
            activity(lm, pair, Intervention("mlp_act.0", "mean", by=by), Site("mlp_act", 0), short)
    with pytest.raises(PatchclampError, match="reference="):
        activity(lm, pair, Intervention("mlp_act.0", "mean"), Site("mlp_act", 0))


def test_resample_takes_another_item_of_the_same_template_whatever_the_batch(lm):
    site = Site("mlp_act", 0)
    task = ragged((4, 6, 5, 6, 4, 6, 5, 6))
    values = by_hand(lm, task, site)
    reference = Reference(lm, task)
    chosen = {}
    for size in (1, 3, 16):
        for pair in lm.pairs(task, size):
            change = Intervention("mlp_act.0", "resample", seed=5)
            _, after = activity(lm, pair, change, site, reference)
            for row, item in enumerate(pair.rows.tolist()):
                n = int(pair.clean.lengths[row])
                same = [
                    i
                    for i, v in enumerate(values)
                    if len(v) == n and torch.allclose(v.float(), after[row, :n], atol=1e-6)
                ]
                assert len(same) == 1
                assert same != [item]
                assert chosen.setdefault(item, same[0]) == same[0]
    seeds = {tuple(reference.donors(one_pair(lm, task), seed).tokens.flatten().tolist()) for seed in range(8)}
    assert len(seeds) > 1
    lonely = ragged((4, 6, 6))
    with pytest.raises(PatchclampError, match="no other reference item"):
        Reference(lm, lonely).donors(one_pair(lm, lonely), 0)


def test_directions_are_added_at_sites_and_at_heads(lm):
    pair = one_pair(lm, ragged())
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    site = Site("attn_out", 1)
    for units in ("attn_out.1", "head.1[2]", "head.1"):
        change = Intervention(units, "add", value=2.0, vector=vector, positions="end")
        before, after = activity(lm, pair, change, site)
        rows, last = torch.arange(len(pair.clean)), pair.clean.last
        torch.testing.assert_close(after[rows, last], before[rows, last] + 2 * vector)
        assert torch.equal(after[:, 0], before[:, 0])
    with pytest.raises(PatchclampError, match="3 numbers where 128"):
        activity(lm, pair, Intervention("attn_out.1", "add", vector=[1.0, 2.0, 3.0]), site)


def test_a_projected_out_subspace_is_gone_and_the_rest_stays(lm):
    pair = one_pair(lm, ragged())
    site = Site("resid_post", 0)
    rows = torch.randn(3, lm.d_model, generator=torch.Generator().manual_seed(1))
    rows[2] = rows[0] + 2 * rows[1]  # spans two dimensions
    before, after = activity(lm, pair, Intervention("resid_post.0", "project_out", vector=rows), site)
    mask = pair.clean.mask
    assert (after[mask] @ rows[:2].T).abs().max() < 1e-4
    other = torch.randn(lm.d_model)
    other -= torch.linalg.lstsq(rows[:2].T, other).solution @ rows[:2]
    torch.testing.assert_close(after[mask] @ other, before[mask] @ other, atol=1e-4, rtol=1e-4)
    with pytest.raises(PatchclampError, match="spans nothing"):
        activity(lm, pair, Intervention("resid_post.0", "project_out", vector=[0.0] * lm.d_model), site)
    with pytest.raises(PatchclampError, match=r"z\.1"):
        activity(lm, pair, Intervention("head.1", "project_out", vector=[1.0] * 32), Site("head", 1))


def test_patching_within_a_subspace(lm):
    pair = one_pair(lm, ragged())
    site = Site("resid_post", 0)
    vector = torch.nn.functional.normalize(torch.randn(lm.d_model), dim=0)
    before, after = activity(lm, pair, Intervention("resid_post.0", "patch", vector=5 * vector), site)
    other = lm.run(pair.corrupted, read=[site]).activity[site]
    mask = pair.clean.mask
    torch.testing.assert_close(after[mask] @ vector, other[mask] @ vector, atol=1e-5, rtol=1e-4)
    rest = torch.eye(lm.d_model) - torch.outer(vector, vector)
    torch.testing.assert_close(after[mask] @ rest, before[mask] @ rest, atol=1e-5, rtol=1e-4)
    everything = Intervention("resid_post.0", "patch", vector=torch.eye(lm.d_model))
    _, after = activity(lm, pair, everything, site)
    torch.testing.assert_close(after[mask], other[mask], atol=1e-5, rtol=1e-4)


def test_interventions_at_one_site_act_in_their_order(lm):
    pair = one_pair(lm, ragged())
    site = Site("mlp_act", 0)
    changes = [
        Intervention("mlp_act.0[1]", "clamp", value=3.0),
        Intervention("mlp_act.0[1]", "scale", value=2.0),
    ]
    for order, wanted in ((changes, 6.0), (changes[::-1], 3.0)):
        edits = compile_interventions(order, lm, pair)
        seen = lm.run(pair.clean, read=[site], write=edits).activity[site]
        assert (seen[pair.clean.mask][:, 1] == wanted).all()


def test_units_and_roles_that_do_not_exist_are_refused(lm):
    pair = one_pair(lm, ragged())
    for change, message in (
        (Intervention("mlp_act.9[1]", "zero"), "layers 0..2"),
        (Intervention("mlp_act.0[99]", "zero"), "units 0..31"),
        (Intervention("mlp_act.0[1]", "zero", positions="sauce"), "did you mean source"),
    ):
        with pytest.raises(PatchclampError, match=message):
            edits = compile_interventions([change], lm, pair)
            lm.run(pair.clean, write=edits, logits="last")


# ---- any module


def test_modules_of_any_kind_take_interventions():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    subject = TorchModule(net.eval(), torch.zeros(1, 3))
    task = TensorTask("t", torch.randn(5, 3), torch.randn(5, 3), lambda out: out[:, 0])
    pair = next(iter(subject.pairs(task, 8)))
    edits = compile_interventions([Intervention("1.out", "patch")], subject, pair)
    changed = subject.run(pair.clean, write=edits, logits="all").logits
    torch.testing.assert_close(changed, net(task.corrupted))
    edits = compile_interventions([Intervention("1.out[2]", "zero")], subject, pair)
    hidden = net[1](net[0](task.clean)).clone()
    hidden[:, 2] = 0
    torch.testing.assert_close(subject.run(pair.clean, write=edits, logits="all").logits, net[2](hidden))
    no_contrast = TensorTask("t", torch.randn(2, 3), None, lambda out: out[:, 0])
    with pytest.raises(PatchclampError, match="no corrupted"):
        compile_interventions(
            [Intervention("1.out", "patch")], subject, next(iter(subject.pairs(no_contrast, 8)))
        )


def test_the_batch_handed_to_edits_is_not_changed(lm):
    pair = one_pair(lm, ragged())
    kept: Batch = Batch(pair.clean.tokens.clone(), pair.clean.mask.clone(), pair.clean.rows.clone())
    edits = compile_interventions([Intervention(Units.parse("resid_post.0"), "zero")], lm, pair)
    lm.run(pair.clean, write=edits, logits="last")
    assert torch.equal(pair.clean.tokens, kept.tokens)
    assert torch.equal(pair.clean.mask, kept.mask)
