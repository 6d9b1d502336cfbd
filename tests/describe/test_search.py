"""Planted units are described by the predicates that made them, on text that did not make the description."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import numpy as np
import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.describe import Description, Split, Tokens, search_description
from patchclamp.describe.predicates import (
    Affix,
    After,
    And,
    Hypernym,
    Not,
    Or,
    Pattern,
    TokenSet,
    predicate_from_json,
)
from patchclamp.describe.search import NOTHING
from patchclamp.describe.search.candidates import candidates_of
from patchclamp.nouns.recording.sparse import SparseCodes
from patchclamp.nouns.tasks.wordnet import WordNet

ANIMAL = "noun:00015388"


@pytest.fixture(scope="module")
def net():
    try:
        return WordNet()
    except PatchclampError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tokens(net):
    lines = files("patchclamp.record").joinpath("data/sample.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines[:500]]
    return Tokens.of([re.findall(r"\s?\w+|\s?[^\w\s]|\s", text) for text in texts], wordnet=net)


@pytest.fixture(scope="module")
def split(tokens):
    return Split.of(tokens, seed=0)


PLANTED = {
    "person": And((Hypernym("noun:00007846", "person"), After(Pattern("determiner")))),
    "set": TokenSet(("the", "of")),
    "or": Or((Pattern("number"), Affix("ing"))),
    "and_not": And((Pattern("capitalised"), Not(Pattern("sentence_first")))),
    "after": After(Pattern("comma")),
}


@pytest.fixture(scope="module")
def activity(tokens):
    active = np.stack([predicate.evaluate(tokens) for predicate in PLANTED.values()], 1)
    return active * np.random.default_rng(0).uniform(0.5, 2, active.shape).astype(np.float32)


@pytest.fixture(scope="module")
def found(activity, tokens, split):
    return search_description(activity, tokens, split, names=list(PLANTED), n_null=5)


def test_planted_units_are_found_on_held_out_text(found):
    table = found.table.set_index("unit")
    assert (table.score > 0.95).all(), table[["description", "score"]]
    assert (table.shuffled < 0.65).all()
    assert (table.low <= table.score).all()
    assert (table.score <= table.high + 1e-12).all()


def test_it_is_said_in_plain_english(found):
    said = found.table.set_index("unit").description
    assert said["person"] == "words for people, after a determiner"
    assert said["after"] == "tokens after “,”"
    assert "the" in said["set"]
    assert "of" in said["set"]


def test_shifted_activity_is_not_found(found):
    assert len(found.null) == 5
    assert found.null.max() < 0.65


def test_permuted_activity_is_not_found(activity, tokens, split):
    shuffled = np.random.default_rng(1).permutation(activity, axis=0)
    table = search_description(shuffled, tokens, split, n_boot=20).table
    assert table.score.max() < 0.65


def test_where_chance_is_in_the_interval_there_is_no_description(tokens, split):
    noise = np.random.default_rng(2).random((len(tokens), 6))
    found = search_description(noise, tokens, split, quantile=0.9, n_boot=200)
    for one, row in zip(found.descriptions, found.table.itertuples(), strict=True):
        assert (one.text == NOTHING) == (not row.low > 0.5)
        assert (one.predicate is None) == (one.text == NOTHING) == ("tried" in one.facts)
        assert row.description == one.text
    assert sum(one.text == NOTHING for one in found.descriptions) >= 4
    real = search_description(np.stack([PLANTED["after"].evaluate(tokens)], 1).astype(float), tokens, split)
    assert real.descriptions[0].predicate is not None


def test_noise_in_the_labels_lowers_the_score_as_it_must(tokens, split):
    """A tenth of the active tokens is silent, at random: recall of the truth stays 1, nothing else is lost."""
    truth = PLANTED["after"].evaluate(tokens)
    kept = truth & (np.random.default_rng(3).random(len(truth)) < 0.9)
    row = search_description(kept[:, None].astype(float), tokens, split, n_boot=20).table.iloc[0]
    assert row.recall == 1
    assert row.precision == pytest.approx(0.9, abs=0.05)


def test_the_result_is_the_same_for_any_batch_and_any_layout(activity, tokens, split, found):
    ones = search_description(activity, tokens, split, names=list(PLANTED), batch=1)
    sparse = SparseCodes.from_dense(torch.from_numpy(activity).float())
    coded = search_description(sparse, tokens, split, names=list(PLANTED), batch=2)
    columns = ["description", "score", "made", "low", "high", "shuffled"]
    for other in (ones, coded):
        assert [d.predicate for d in other.descriptions] == [d.predicate for d in found.descriptions]
        assert other.table[columns].equals(found.table[columns])


def test_a_unit_alone_gets_the_description_it_gets_among_others(activity, tokens, split, found):
    alone = search_description(activity, tokens, split, units=[3], names=["and_not"])
    assert alone.descriptions[0] == found.descriptions[3]


def test_silent_and_constant_units_have_a_defined_answer(tokens, split):
    units = np.stack([np.zeros(len(tokens)), np.ones(len(tokens))], 1)
    silent = search_description(units, tokens, split, n_boot=10)
    assert [d.text for d in silent.descriptions] == ["never active", "never active"]
    assert silent.table.score.isna().all()
    always = search_description(units, tokens, split, threshold=0.5, n_boot=10)
    assert [d.text for d in always.descriptions] == ["never active", "always active"]


def test_what_is_not_finite_is_named(tokens, split):
    units = np.zeros((len(tokens), 3))
    units[5, 1] = np.nan
    with pytest.raises(PatchclampError, match="unit 1 has NaN"):
        search_description(units, tokens, split)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"criterion": "balanced"}, "balanced_accuracy"),
        ({"families": ["tokn"]}, "did you mean token"),
        ({"threshold": "top"}, "auto"),
        ({"units": [9]}, "wanted one each"),
    ],
)
def test_wrong_options_are_named(activity, tokens, split, options, match):
    with pytest.raises(PatchclampError, match=match):
        search_description(activity, tokens, split, **options)


def test_rows_must_match(activity, tokens, split):
    with pytest.raises(PatchclampError, match="wanted one a token"):
        search_description(activity[:-1], tokens, split)


def test_average_precision_finds_rare_units(tokens, split):
    truth = PLANTED["person"].evaluate(tokens)
    found = search_description(
        truth[:, None].astype(float), tokens, split, criterion="average_precision", n_boot=20
    )
    assert found.table.score[0] > 0.95


def test_every_candidate_holds_where_its_predicate_says(tokens):
    candidates = candidates_of(tokens.take(range(120)))
    part = tokens.take(range(120))
    for i in range(0, len(candidates), 5):
        row = np.zeros(len(part), bool)
        row[candidates.matrix[[i]].indices] = True
        assert (row == candidates.predicates[i].evaluate(part)).all(), str(candidates.predicates[i])


def test_descriptions_survive_json(found):
    for description in found.descriptions:
        again = Description.from_json(json.loads(json.dumps(description.to_json())))
        assert again == description
        assert predicate_from_json(json.dumps(description.predicate.to_json())) == description.predicate


def test_a_centroid_of_sentences_describes_what_words_do_not():
    """Sentences about two topics share no word of their own; an embedding that knows the topic tells them apart."""
    rng = np.random.default_rng(0)
    words = [[f" t{topic}w{i}" for i in range(400)] for topic in (0, 1)]
    texts = [[*rng.choice(words[i % 2], 6, replace=False), "."] for i in range(120)]
    tokens = Tokens.of(texts, embed=_topic)
    units = np.array([[i % 2] for i, text in enumerate(texts) for _ in text], float)
    found = search_description(units, tokens, Split.of(tokens), families=["token"], threshold=0.5)
    assert found.descriptions[0].predicate.kind == "centroid"
    assert found.table.score[0] > 0.95
    assert found.descriptions[0].text.startswith("tokens in sentences like “")


def _topic(sentences):
    topics = np.array([[s.count("t0w"), s.count("t1w")] for s in sentences], float)
    return topics + 0.01


def test_splits_never_share_a_text():
    tokens = Tokens.of([["a"], ["a"], ["b"], ["c"]])
    for seed in range(5):
        split = Split.of(tokens, seed=seed)
        assert not split.making & split.held_out
        assert len(set(split.made(tokens)) & set(split.held(tokens))) == 0
    with pytest.raises(PatchclampError, match="made the description"):
        Split(frozenset(["x", "y"]), frozenset(["y"]))


def test_groups_are_never_cut():
    tokens = Tokens.of([[str(i)] for i in range(30)], groups=[i // 3 for i in range(30)])
    split = Split.of(tokens, seed=2)
    assert {tokens.groups[i] for i in split.made(tokens)}.isdisjoint(
        {tokens.groups[i] for i in split.held(tokens)}
    )
