"""Neurons of the embedded model described without a language model, scored on documents that did not describe them."""

from __future__ import annotations

import numpy as np
import pytest

from patchclamp import open_subject
from patchclamp.base.errors import PatchclampError
from patchclamp.describe import Split, Tokens, lm_head, search_description
from patchclamp.nouns.tasks.wordnet import WordNet
from patchclamp.record import documents, record

pytestmark = pytest.mark.smollm2
DOCUMENTS = 500
UNITS = range(0, 1536, 4)


@pytest.fixture(scope="module")
def subject():
    return open_subject("smollm2")


@pytest.fixture(scope="module")
def described(subject):
    entries = [d.text for d in documents("sample")][:DOCUMENTS]
    recording = record(subject, entries, "mlp_act.15", progress=False)
    try:
        net = WordNet()
    except PatchclampError:
        net = None
    tokens = Tokens.from_samples(recording.samples, subject.tokenizer, wordnet=net)
    activity = recording["mlp_act.15"][:]
    split = Split.of(tokens, held_out=0.4, seed=0)
    return search_description(
        activity, tokens, split, units=list(UNITS), names="mlp_act.15", n_null=20, quantile=0.99
    )


def test_a_neuron_is_described_above_four_fifths_on_held_out_text(described):
    table = described.table.sort_values("score", ascending=False)
    best = table.iloc[0]
    print(table[["unit", "description", "score", "low", "high", "shuffled", "active"]].head(8).to_string())
    assert best.score > 0.8
    assert best.low > 0.7
    assert best.shuffled < 0.65


def test_descriptions_beat_those_of_shifted_activity_and_of_other_units(described):
    table = described.table
    assert table.score.median() > np.quantile(described.null, 0.9)
    assert (table.score - table.shuffled).median() > 0.05
    # Held out is lower than in the making, and must not be higher by more than chance.
    assert (table.made - table.score).median() > -0.02


def test_all_neurons_decode_in_one_call(subject):
    table = lm_head(subject, "mlp_act.15", top=10)
    assert len(table) == 1536 * 20
    one = lm_head(subject, "mlp_act.15[7]", top=10)
    assert table[table.unit == "mlp_act.15[7]"].token_id.tolist() == one.token_id.tolist()
