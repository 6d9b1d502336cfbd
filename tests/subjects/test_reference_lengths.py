"""Items without a template correspond only where they are equally long."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import planted
from patchclamp import Intervention, PatchclampError, Task, effect
from patchclamp.nouns.tasks.texts import TextTask
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Edit

UNIT = Intervention("mlp_act.1[0]", "mean")


def own_items(lengths, per_length=6, template=""):
    """Items as a person writes them: no template, no contrast, as many words as `lengths` say."""
    found = []
    for place, item in enumerate(planted.task(len(lengths) * per_length).items):
        words = " ".join(item.clean.split()[: lengths[place % len(lengths)]])
        found.append(
            replace(item, clean=words, corrupted=None, spans={}, corrupted_spans={}, template=template)
        )
    return Task("own", found)


def changed_by_hand(lm, task, reference):
    """Metric with unit 0 of mlp_act.1 at its mean over reference items of the same length, position by position."""
    site = Site("mlp_act", 1)
    seen = {}
    for pair in lm.pairs(reference, 1):
        activity = lm.run(pair.clean, read=[site]).activity[site]
        seen.setdefault(activity.shape[1], []).append(activity[0, :, 0])
    out = np.empty(len(task))
    for pair in lm.pairs(task, 1):
        table = torch.stack(seen[pair.clean.tokens.shape[1]]).mean(0)

        def write(activity, batch, table=table):
            new = activity.clone()
            new[:, :, 0] = table
            return new

        logits = lm.run(pair.clean, write=[Edit(site, write)], logits=pair.answer_position).logits
        out[int(pair.rows[0])] = float(pair.metric(logits))
    return out


def test_means_by_template_are_by_length_where_no_template_is_named():
    lm, task = planted.subject(), own_items((3, 4, 6))
    test, train = task.split("test"), task.split("train")
    with pytest.warns(UserWarning, match="name no template and have 3 to 6 tokens"):
        found = effect(lm, test, UNIT, control=None, reference=train)
    want = np.array(found.baseline_per_item) - changed_by_hand(lm, test, train)
    np.testing.assert_allclose(found.per_item, want, atol=1e-5)


def test_a_length_that_no_reference_item_has_is_refused():
    lm = planted.subject()
    with pytest.raises(PatchclampError, match="no reference item has 6 tokens; name templates"):
        effect(lm, own_items((6,)), UNIT, control=None, reference=own_items((3, 4)))
    texts = TextTask("running", ("w1 w2 w3", "w4 w5 w6 w7"))
    with pytest.raises(PatchclampError, match="no reference item has 2 tokens"):
        effect(lm, TextTask("short", ("w1 w2",)), UNIT, control=None, reference=texts)
    assert effect(lm, own_items((6,)), replace(UNIT, by="data"), control=None).estimate.n == 6


def test_one_length_or_named_templates_need_no_word():
    lm = planted.subject()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = effect(lm, own_items((5,)), UNIT, control=None)
        named = effect(lm, own_items((5,), template="five"), UNIT, control=None)
    assert one.per_item == named.per_item
