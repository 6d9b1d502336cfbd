"""Learned masks: a planted circuit that ranking by attribution misses, and nothing where there is nothing."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from hooks import hook_counts
from language_toys import TokenModel, items
from patchclamp.attribute import attribution_patching
from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import expected_jaccard
from patchclamp.connect.circuits import node_masks
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.mask import Mask
from patchclamp.nouns.units import Site
from patchclamp.subjects import TensorTask, TorchModule
from patchclamp.subjects.clamp.trial import run_trial

CARRIERS, DECOYS, HIDDEN, INPUTS = [3, 11, 19, 27], list(range(30, 40)), 40, 8


def planted_net(seed=0):
    """Four hidden units carry the class; ten decoys are strong and cancel in pairs; the rest write nothing."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
    with torch.no_grad():
        for place in range(1, len(DECOYS), 2):
            net[0].weight[DECOYS[place]] = net[0].weight[DECOYS[place - 1]]
            net[0].bias[DECOYS[place]] = net[0].bias[DECOYS[place - 1]]
        net[2].weight.zero_()
        net[2].weight[1, CARRIERS] = torch.tensor([1.0, -1.0, 0.8, 1.2])
        net[2].weight[1, DECOYS] = torch.tensor([4.0, -4.0] * (len(DECOYS) // 2))
    return TorchModule(net.eval(), torch.zeros(1, INPUTS), name="planted")


def task_of(subject, n=48, seed=0):
    """Answers are what the network itself says, so that items of one answer differ from those of the other."""
    draw = torch.Generator().manual_seed(seed)
    clean, corrupted = torch.randn(2, n, INPUTS, generator=draw)
    with torch.no_grad():
        out = subject.model(clean) - subject.model(corrupted)
    return TensorTask(
        "planted",
        clean,
        corrupted,
        lambda out, sign: sign * (out[:, 1] - out[:, 0]),
        targets=out[:, 1].sign(),
    )


@pytest.fixture(scope="module")
def found():
    subject = planted_net()
    task, held_out = task_of(subject), task_of(subject, seed=1)
    return node_masks(
        subject, task, size=4, sites="1.out", held_out=held_out, steps=100, batch_size=48, candidates=40
    )


def test_the_mask_is_the_planted_circuit_where_a_ranking_takes_decoys(found):
    subject = planted_net()
    best = attribution_patching(subject, task_of(subject), "1.out").ranked("abs")[:4]
    assert {index for _, index in best} <= set(DECOYS)
    assert np.flatnonzero(found.mask.hard[Site("1", io="out")]).tolist() == CARRIERS
    assert found.kept() == pytest.approx(1, abs=1e-4)
    assert found.table.loc[0, "loss"] < 1e-8


def test_the_same_fit_finds_nothing_in_shuffled_answers_and_in_other_weights(found):
    table = found.table.set_index(["fit", "split"])
    assert list(found.masks) == ["answers", "shuffled answers", "other weights"]
    for fit in ("shuffled answers", "other weights"):
        assert table.loc[(fit, "held out"), "loss"] > 0.5
        assert table.loc[(fit, "fitted"), "loss"] > 0.2
    assert set(found.history.fit) == set(found.masks)


def test_shuffled_answers_are_others_for_every_item_and_begin_where_the_fit_does():
    """Outputs with nothing kept are those of the corrupted inputs, so the metric's calls say whose answer they are held to."""
    subject = planted_net()
    task = task_of(subject, 8)
    with torch.no_grad():
        empty, met = subject.model(task.corrupted), set()

    def metric(out, item):
        near = torch.isclose(out[:, None].detach(), empty, atol=1e-6).all(2).nonzero().tolist()
        met.update((i, int(item[row])) for row, i in near)
        return out[:, 1] - out[:, 0]

    watched = TensorTask("watched", task.clean, task.corrupted, metric, targets=torch.arange(8))
    node_masks(subject, watched, size=4, sites="1.out", candidates=40, steps=2, batch_size=2)
    assert met == {(i, item) for i in range(8) for item in (i, i ^ 1)}
    # both fits have the candidates of the scores
    first = attribution_patching(subject, task, "1.out")
    fits = node_masks(
        subject, task, size=9, sites="1.out", scores=first, candidates=10, steps=2, batch_size=4
    ).masks
    wanted = set(first.ranked("abs")[:10])
    for name in ("answers", "shuffled answers"):
        values = fits[name].values[Site("1", io="out")]
        assert {(Site("1", io="out"), int(i)) for i in np.flatnonzero(values > 0)} <= wanted
    for n, batch_size in ((8, 1), (9, 4)):
        with pytest.raises(PatchclampError, match="batch of one"):
            node_masks(subject, task_of(subject, n), size=2, sites="1.out", batch_size=batch_size)
    kept = node_masks(
        subject, task_of(subject, 5), size=2, sites="1.out", batch_size=4, steps=2, controls=False
    )
    assert list(kept.masks) == ["answers"]


def test_items_that_were_fitted_do_not_verify():
    subject = planted_net()
    task = task_of(subject)
    with pytest.raises(PatchclampError, match="made the mask and among those that verify"):
        node_masks(subject, task, size=4, sites="1.out", held_out=task)


def test_weights_are_put_back_and_no_hook_is_left():
    subject = TokenModel(tiny.tiny_model("gpt2"), name="gpt2")
    before = {name: p.clone() for name, p in subject.model.named_parameters()}
    wanted = [p.requires_grad for p in subject.model.parameters()]
    node_masks(subject, items(6), size=3, sites="mlp_act.*, head.*", steps=4, candidates=30)
    assert all(torch.equal(p, before[name]) for name, p in subject.model.named_parameters())
    assert [p.requires_grad for p in subject.model.parameters()] == wanted
    assert not any(hook_counts(subject.model))


def test_a_mask_is_an_intervention_and_what_it_keeps_is_what_was_printed():
    """Neurons and heads of a language model in one run; the trial of the clamp measures the same."""
    subject = TokenModel(tiny.tiny_model("llama"), name="llama")
    task = items(8)
    found = node_masks(
        subject, task, size=12, sites="mlp_act.*, head.*", steps=6, candidates=80, controls=False
    )
    mask = found.mask
    assert {site.point for site in mask.values} == {"mlp_act", "head"} and mask.kept.count == 12
    nothing = Intervention(list(mask.values), "patch")
    trial = run_trial(subject, task, [[mask.change("patch")], [nothing]])
    kept, empty = trial.changed
    share = (kept - empty).sum() / (trial.baseline - empty).sum()
    assert share == pytest.approx(found.kept(split="fitted"), rel=1e-3)
    loss = ((kept - trial.baseline) ** 2).sum() / ((empty - trial.baseline) ** 2).sum()
    assert loss == pytest.approx(found.table.loc[0, "loss"], rel=1e-3)


def test_a_mask_is_plain_data():
    values = {Site("mlp_act", 1): np.array([0.1, 0.9, 0.0]), Site("mlp_act", 0): np.array([0.5, 0.0])}
    mask = Mask(values, 2, "by hand", "task")
    assert str(mask.kept) == "mlp_act.0[0], mlp_act.1[1]"
    assert str(mask.removed) == "mlp_act.0[1], mlp_act.1[0,2]"
    again = Mask.from_json(json.loads(json.dumps(mask.to_json())))
    assert again.kept == mask.kept and again.at(3).kept != mask.kept
    assert mask.overlap(again) == (
        1.0,
        pytest.approx(expected_jaccard(mask.candidates, mask.size, again.size)),
    )
    assert [str(s) + f"[{i}]" for s, i in mask.ranking().ranked("abs")][:2] == [
        "mlp_act.1[1]",
        "mlp_act.0[0]",
    ]
    for bad in (0, 6):
        with pytest.raises(PatchclampError, match="units to keep"):
            mask.at(bad)
    with pytest.raises(PatchclampError, match="between 0 and 1"):
        Mask({Site("mlp_act", 0): np.array([2.0])}, 1, "by hand")


def test_what_cannot_be_fitted_is_refused():
    subject = planted_net()
    task = task_of(subject)
    with pytest.raises(PatchclampError, match="fewer than the 40"):
        node_masks(subject, task, size=40, sites="1.out")
    with pytest.raises(PatchclampError, match="no corrupted"):
        node_masks(
            subject, TensorTask("bare", task.clean, None, lambda out: out[:, 0]), size=2, sites="1.out"
        )
    hard = TensorTask("hard", task.clean, task.corrupted, lambda out: (out[:, 1] > 0).float())
    with pytest.raises(PatchclampError, match="no gradient"):
        node_masks(subject, hard, size=2, sites="1.out")
    same = TensorTask("same", task.clean, task.clean, lambda out: out[:, 1])
    with pytest.raises(PatchclampError, match="nothing to find"):
        node_masks(subject, same, size=2, sites="1.out")


@pytest.mark.parametrize(
    "part",
    [
        {"units": 10**12, "index": [], "value": []},
        {"units": 0, "index": [], "value": []},
        {"units": 4, "index": [-1], "value": [1.0]},
        {"units": 4, "index": [4], "value": [1.0]},
        {"units": 4, "index": [1, 1], "value": [1.0, 2.0]},
        {"units": 4, "index": [1], "value": [float("nan")]},
        {"units": 4, "index": [1], "value": ["1"]},
        [],
    ],
)
def test_a_mask_of_a_stranger_is_looked_at_first(part):
    data = {"size": 1, "method": "m", "task": "t", "sites": {"mlp_act.0": part}}
    with pytest.raises(PatchclampError, match="mlp_act.0"):
        Mask.from_json(data)
