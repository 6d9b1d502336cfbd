"""The heads that carry indirect object identification in the embedded model, against matched random heads."""

from __future__ import annotations

import numpy as np
import pytest

from patchclamp import load_task, open_subject
from patchclamp.base.errors import PatchclampError
from patchclamp.evaluate import Bench, faithfulness
from patchclamp.intervene import Reference, effect, joint_effect
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.scores import Scores
from patchclamp.subjects.clamp.trial import run_trial

pytestmark = pytest.mark.smollm2
FIVE = "head.23[3], head.29[1], head.20[0], head.17[4], head.19[2]"


@pytest.fixture(scope="module")
def lm():
    return open_subject("smollm2")


@pytest.fixture(scope="module")
def ioi(lm):
    return load_task("ioi", lm.tokenizer, n=128, seed=1)


@pytest.fixture(scope="module")
def reference(lm, ioi):
    return Reference(lm, ioi.split("train"), 32)


def test_five_heads_carry_the_behaviour_and_matched_random_ones_do_not(lm, ioi, reference):
    """Means by template over the corrupted inputs, three random names, as Wang et al. take them."""
    change = Intervention(FIVE, "mean", by="template", source="corrupted")
    found = effect(lm, ioi.split("test"), change, reference=reference)
    assert found.baseline > 4
    assert found.share >= 0.9
    assert found.estimate.null.mean < 0.2 * found.baseline
    assert found.estimate.null.p == pytest.approx(1 / 21)
    assert found.estimate.low > found.estimate.null.high


def test_means_over_clean_items_of_a_template_spare_what_the_template_says(lm, ioi, reference):
    """A template of the task fixes the order of the names, which is half of what these heads carry."""
    by = {
        by: effect(
            lm, ioi.split("test"), Intervention(FIVE, "mean", by=by), control=None, reference=reference
        ).share
        for by in ("template", "position")
    }
    assert by["position"] >= 0.9
    assert 0.3 < by["template"] < by["position"]


def test_together_they_do_what_the_sum_of_each_alone_does_not_say(lm, ioi, reference):
    items = ioi.split("test").take(12)
    change = Intervention(FIVE, "mean", by="position")
    found = joint_effect(lm, items, change, control=None, reference=reference)
    assert len(found.single) == 5
    assert found.joint.estimate.value == pytest.approx(np.mean(found.joint.per_item))
    assert max(one.estimate.value for one in found.single) < found.joint.estimate.value


def test_a_value_replaced_by_itself_has_no_effect(lm, ioi):
    items = ioi.split("test").take(8)
    for address in (FIVE, "mlp_act.20[5]", "resid_post.12"):
        change = Intervention(address, "patch", source="clean")
        trial = run_trial(lm, items, [[change]])
        assert np.array_equal(trial.changed[0], trial.baseline)
        with pytest.raises(PatchclampError, match="chang"):
            effect(lm, items, change, control=None)


def test_keeping_the_five_heads_beats_keeping_random_ones(lm, ioi, reference):
    """Ranked by a score that is 1 for the five and 0 for others: with all other heads at their means."""
    five = {tuple(map(int, part.strip()[5:-1].split("["))) for part in FIVE.split(",")}
    values = {
        site: np.array([[float((site.layer, h) in five) for h in range(9)]] * 2, dtype=np.float32)
        for site in lm.resolve("head.*")
    }
    ranking = Scores("five", "none", "logit_diff", "ioi", values, dict.fromkeys(values, "unit"))
    found = faithfulness(
        Bench(lm, ioi.split("test").take(12), "mean", reference, by="position"),
        ranking,
        [5, 270],
        baselines=("random", "matched"),
        n_random=2,
    )
    assert found.curve("ablated")["value"].iloc[0] < 0.3
    for order in ("random", "matched"):
        assert found.curve("ablated", order)["value"].iloc[0] > found.curve("ablated")["value"].iloc[0] + 0.3
        assert found.curve("kept", order)["value"].iloc[0] < found.curve("kept")["value"].iloc[0]
