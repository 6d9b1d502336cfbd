"""Each predicate by hand on a few tokens; JSON; English; refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.describe import Tokens
from patchclamp.describe.predicates import (
    PATTERNS,
    Affix,
    After,
    And,
    Centroid,
    Hypernym,
    Near,
    NGram,
    Not,
    Or,
    Pattern,
    Position,
    Regex,
    Supersense,
    TokenSet,
    WordSet,
    predicate_from_json,
)
from patchclamp.nouns.tasks.wordnet import WordNet

TEXT = [
    "The",
    " cater",
    "pillar",
    " (",
    "an",
    " insect",
    ")",
    " saw",
    " 3",
    " Dogs",
    ".",
    "\n",
    "THE",
    " end",
]
TOKENS = Tokens.of([TEXT, ["the", " end", " the", " end"]])
N = len(TEXT)


def holds(predicate, tokens=TOKENS):
    return [i for i, held in enumerate(predicate.evaluate(tokens)) if held]


CASES = [
    (TokenSet(("the",)), [0, 12, N, N + 2]),
    (TokenSet((" The ", "END")), [0, 12, 13, N, N + 1, N + 2, N + 3]),
    (WordSet(("caterpillar",)), [1, 2]),
    (NGram(("the", "end")), [13, N + 1, N + 3]),
    (NGram(("end", "the", "end")), [N + 3]),
    (Regex(r"^ [A-Z]"), [9]),
    (Regex("pill", on="word"), [1, 2]),
    (Regex(r"end the"[:3] + r"\b"), [13, N + 1, N + 3]),
    (Regex(r"saw 3", on="text"), [7, 8]),
    (Affix("ar"), [1, 2]),
    (Affix("in", end=False), [5]),
    (Pattern("determiner"), [0, 4, 12, N, N + 2]),
    (Pattern("number"), [8]),
    (Pattern("capitalised"), [0, 9, 12]),
    (Pattern("all_capitals"), [12]),
    (Pattern("punctuation"), [3, 6, 10]),
    (Pattern("newline"), [11]),
    (Pattern("word_inner"), [2]),
    (Pattern("in_brackets"), [3, 4, 5]),
    (Pattern("seen_before"), [12, N + 2, N + 3]),
    (Pattern("induction"), [N + 3]),
    (Pattern("sentence_first"), [0, 12, N]),
    (Position(0, 0), [0, N]),
    (Position(12), [12, 13]),
    (After(TokenSet(("the",))), [1, 13, N + 1, N + 3]),
    (After(TokenSet(("the",)), by=2), [2, N + 2]),
    (Near(TokenSet(("3",)), within=2), [9, 10]),
    (Near(TokenSet(("the",)), within=50), [*range(1, N), N + 1, N + 2, N + 3]),
    (And((TokenSet(("the",)), Pattern("sentence_first"))), [0, 12, N]),
    (Or((Pattern("number"), Pattern("newline"))), [8, 11]),
    (And((TokenSet(("the",)), Not(Position(0, 0)))), [12, N + 2]),
]


@pytest.mark.parametrize(("predicate", "rows"), CASES, ids=lambda x: str(x)[:40])
def test_holds_where_it_says_and_survives_json(predicate, rows):
    assert holds(predicate) == rows
    again = predicate_from_json(json.loads(json.dumps(predicate.to_json())))
    assert again == predicate
    assert holds(again) == rows
    assert str(again) == str(predicate)
    assert predicate.length > 0


@pytest.mark.parametrize("name", PATTERNS)
def test_every_pattern_holds_of_something_and_has_english(name):
    text = [
        "Is",
        " my",
        " this",
        " the",
        " of",
        " me",
        " and",
        " Who",
        " not",
        " two",
        " all",
        " May",
        " Friday",
    ]
    text += [
        " 1999",
        " x2",
        ".",
        " ,",
        ";",
        "—",
        " “",
        "'s",
        "(",
        "é",
        ")",
        " +",
        "\n",
        "  ",
        " USA",
        " a",
        " under",
    ]
    text += ["stand", " Is", " my"]
    tokens = Tokens.of([text])
    rows = holds(Pattern(name), tokens)
    assert 0 < len(rows) < len(text)
    assert str(Pattern(name))
    assert str(After(Pattern(name))).startswith("tokens after ")


def test_brackets_close_with_the_document_and_after_64_tokens():
    long = Tokens.of([["("] + ["a"] * 100, ["b"]])
    assert max(holds(Pattern("in_brackets"), long)) == 64
    assert 101 not in holds(Pattern("in_brackets"), long)


@pytest.mark.slow
def test_wordnet_part_of_the_hierarchy():
    try:
        net = WordNet()
    except PatchclampError as error:
        pytest.skip(str(error))
    tokens = Tokens.of([TEXT], wordnet=net)
    animal = Hypernym("noun:00015388", "animal")
    assert holds(animal, tokens) == [1, 2, 5, 9]
    assert str(And((animal, After(Pattern("determiner"))))) == "words for animals, after a determiner"
    assert holds(And((animal, After(Pattern("determiner")))), tokens) == [1, 5]
    assert holds(Supersense("noun.animal"), tokens) == [1, 2, 5, 9]
    assert str(Not(Supersense("noun.animal"))) == "tokens other than nouns for animals"
    with pytest.raises(PatchclampError, match="WordNet"):
        animal.evaluate(TOKENS)


def test_centroid_needs_the_function_that_made_it():
    near = Centroid((1.0, 0.0), 0.5)
    embed = {"The cat.": [3.0, 0.0], "A dog.": [0.0, 2.0]}
    tokens = Tokens.of([["The", " cat", ".", " A", " dog", "."]], embed=lambda s: [embed[x] for x in s])
    # The blank before "A" belongs to the sentence before, so the token " A" begins there.
    assert holds(near, tokens)[:3] == [0, 1, 2]
    assert 4 not in holds(near, tokens)
    with pytest.raises(PatchclampError, match="embed=function"):
        near.evaluate(TOKENS)


def test_text_with_signs_of_its_own_is_no_pattern():
    tokens = Tokens.of([["a.*b", " (", "axxb", ' "quoted"', "\\d", "7"]])
    assert holds(TokenSet(("a.*b",)), tokens) == [0]
    assert holds(TokenSet(("(", "\\d")), tokens) == [1, 4]
    assert holds(NGram(("a.*b", "(")), tokens) == [1]
    assert str(TokenSet(("\n",))) == "the token “\\n”"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"kind": "tokn", "tokens": ["a"]}, "did you mean token"),
        ({"kind": "token"}, "has fields tokens"),
        ({"kind": "token", "tokens": []}, "at least one text"),
        ({"kind": "token", "tokens": "abc"}, "list of at least one"),
        ({"kind": "pattern", "name": "determinr"}, "did you mean determiner"),
        ({"kind": "regex", "pattern": "("}, "no regular expression"),
        ({"kind": "and", "parts": [{"kind": "token", "tokens": ["a"]}]}, "at least two"),
        ({"kind": "position", "first": 3, "last": 1}, "first <= last"),
        ("[1", "no JSON"),
        ("[1]", "no JSON object"),
    ],
)
def test_wrong_data_is_named(data, match):
    with pytest.raises(PatchclampError, match=match):
        predicate_from_json(data)


def test_layout_of_tokens():
    with pytest.raises(PatchclampError, match="cut by another"):
        Tokens(["a", "b", "c"], [0, 1, 0])
    with pytest.raises(PatchclampError, match="as many of each"):
        Tokens(["a"], [0, 1])
    part = TOKENS.take([1])
    assert part.text(0) == "the end the end"
    assert part.fingerprints == TOKENS.fingerprints[1:]
    assert np.array_equal(TOKENS.rows([1]), np.arange(N, N + 4))
