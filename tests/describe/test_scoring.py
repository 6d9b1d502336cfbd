"""Scores of descriptions against oracle judges whose result is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from patchclamp.base.areas import roc_auc
from patchclamp.base.errors import PatchclampError
from patchclamp.describe import Description, Split, Tokens, windows_of
from patchclamp.describe.predicates import Near, Not, Or, Position, TokenSet
from patchclamp.describe.scoring import (
    SCORES,
    PredicateJudge,
    Steered,
    detection,
    embedding,
    fuzzing,
    intervention,
    simulation,
)

WIDTH = 8
TRUE = ("cat", "dog")


def corpus(per_window: int = 1, n: int = 400, seed: int = 0) -> tuple[Tokens, np.ndarray]:
    """Documents of one window; half hold `per_window` tokens of the set, on which the unit is active."""
    rng = np.random.default_rng(seed)
    texts = []
    for i in range(n):
        text = [f" w{k}" for k in rng.integers(0, 200, WIDTH)]
        if i % 2:
            places = rng.permutation(WIDTH - 2)[:per_window] + 1
            for place in places:
                # One token each: the halves of the set take turns. Several: drawn.
                text[place] = f" {TRUE[(i // 2) % 2 if per_window == 1 else rng.integers(2)]}"
            text[0] = " zoo"
        texts.append([*text[:-1], f" end{i}"])
    tokens = Tokens.of(texts)
    active = np.isin([p.strip() for p in tokens.pieces], TRUE)
    return tokens, (active * 2.0)[:, None]


@pytest.fixture(scope="module")
def examples():
    tokens, activity = corpus()
    return windows_of(activity, tokens, Split.of(tokens), 0, width=WIDTH, n_scoring=100, name="planted[0]")


def says(predicate, made_on=frozenset()) -> Description:
    return Description("planted[0]", str(predicate), "by hand", predicate, made_on)


def scoring(examples):
    return examples[1]


CASES = [
    (TokenSet(TRUE), 1.0),
    (TokenSet(("w1", "w2")), 0.5),
    (TokenSet(("cat",)), 0.75),
    (Position(0), 0.5),
]


@pytest.mark.parametrize(("predicate", "expected"), CASES, ids=["true", "unrelated", "half", "always yes"])
def test_detection_of_true_unrelated_half_and_always_yes(examples, predicate, expected):
    found = detection(says(predicate), scoring(examples))
    assert found.value == pytest.approx(expected, abs=0.07)
    assert found.estimate.low <= found.value <= found.estimate.high
    assert found.estimate.null.mean == pytest.approx(0.5, abs=0.07)
    assert found.failed == 0


def test_half_the_set_scores_more_where_windows_hold_several():
    tokens, activity = corpus(per_window=3)
    held = windows_of(activity, tokens, Split.of(tokens), 0, width=WIDTH, n_scoring=100)[1]
    assert detection(says(TokenSet(("cat",))), held).value == pytest.approx(1 - 0.5**3 / 2, abs=0.04)


def test_the_topic_of_the_window_detects_but_does_not_fuzz(examples):
    topic = says(Or((TokenSet(("zoo",)), Near(TokenSet(("zoo",)), 50))))
    held = scoring(examples)
    assert detection(topic, held).value == 1
    assert fuzzing(topic, held, wrong="same").value == pytest.approx(0.5)
    truth = says(TokenSet(TRUE))
    assert fuzzing(truth, held, wrong="same").value == 1
    assert fuzzing(truth, held).value == 1


def test_simulation_is_the_correlation_of_the_tokens(examples):
    held = scoring(examples)
    true = np.concatenate([w.activity for w in held.all])
    pieces = np.array([t.strip() for w in held.all for t in w.tokens])
    found = simulation(says(TokenSet(("cat",))), held)
    assert found.value == pytest.approx(np.corrcoef(pieces == "cat", true)[0, 1])
    assert simulation(says(TokenSet(TRUE)), held).value == pytest.approx(1)
    assert simulation(says(Position(0)), held).value == 0
    assert abs(found.estimate.null.mean) < 0.1


def test_the_description_of_another_unit_stands_beside(examples):
    other = says(TokenSet(("w1",)))
    found = detection(says(TokenSet(TRUE)), scoring(examples), others=[other, says(Not(TokenSet(("w3",))))])
    assert found.estimate.null.kind == "descriptions of other units"
    assert found.estimate.null.mean == pytest.approx(0.5, abs=0.06)


class Memoriser:
    """Knows the windows it was shown, and guesses otherwise: scores perfectly where the split leaks."""

    name = "memoriser"

    def __init__(self, shown, seed=0):
        self.known = {w.tokens: float(w.peak > 0) for w in shown}
        self.rng = np.random.default_rng(seed)

    def detect(self, description, windows):
        return np.array([self.known.get(tuple(w), float(self.rng.random() < 0.5)) for w in windows])


def test_a_judge_that_memorises_the_shown_windows_scores_one_half(examples):
    making, held = examples
    judge = Memoriser(making.all)
    blank = Description("planted[0]", "?", "memory")
    assert detection(blank, making, judge).value == 1
    assert detection(blank, held, judge).value == pytest.approx(0.5, abs=0.12)
    assert not {w.doc for w in making.all} & {w.doc for w in held.all}


@pytest.mark.parametrize("method", ["detection", "fuzzing", "simulation"])
def test_what_made_a_description_never_scores_it(examples, method):
    made = says(TokenSet(TRUE), frozenset(w.doc for w in examples[0].all))
    assert np.isfinite(SCORES[method](made, examples[1]).value)
    with pytest.raises(PatchclampError, match="made the description"):
        SCORES[method](made, examples[0])


class Mute:
    """Never gives a valid answer."""

    name = "mute"

    def detect(self, description, windows):
        return np.full(len(windows), np.nan)


def test_no_valid_answer_gives_no_number(examples):
    found = detection(says(TokenSet(TRUE)), scoring(examples), Mute())
    assert np.isnan(found.value)
    assert found.estimate.low is None
    assert found.failed == found.n == len(scoring(examples).all)
    assert "cannot be had: no answer was valid" in str(found)
    assert "nan" not in str(found)
    assert found.facts["sensitivity"] is None


def test_some_failures_are_counted_and_left_out(examples):
    class HalfMute(PredicateJudge):
        def detect(self, description, windows):
            answers = super().detect(description, windows)
            answers[::2] = np.nan
            return answers

    found = detection(says(TokenSet(TRUE)), scoring(examples), HalfMute(name="half mute"))
    assert found.value == pytest.approx(1)
    assert found.failed == (found.n + 1) // 2


def test_embedding_ranks_windows_by_nearness(examples):
    def counts(texts):
        return np.array([[t.count("cat") + t.count("dog"), 1.0] for t in texts])

    held = scoring(examples)
    found = embedding(
        Description("u", "cat or dog", "by hand"), held, counts, others=[Description("u", "w", "x")]
    )
    assert found.value == pytest.approx(1)
    assert found.estimate.null.mean == 0


def test_intervention_is_the_share_of_described_tokens_gained():
    def effect(prompts):
        return Steered(
            tuple((" cat", " x") for _ in prompts), tuple((" y", " x") for _ in prompts), (1.0,) * 3
        )

    prompts = ["a", "b", "c"]
    found = intervention(says(TokenSet(TRUE)), effect, prompts, others=[says(TokenSet(("x",)))])
    assert (found.value, found.estimate.null.mean) == (0.5, 0.0)
    assert found.estimate.low is None  # three prompts give no interval
    assert "(no interval: 3 independent groups, at least 8 are needed)" in str(found)
    assert "nan" not in str(found)
    assert found.facts["kl"] == 1
    nats = intervention(says(TokenSet(TRUE)), effect, prompts, lambda d, texts: [len(t[0]) for t in texts])
    assert nats.value == 2
    assert abs(nats.estimate.null.mean) < 1
    with pytest.raises(PatchclampError, match="no generated token"):
        intervention(says(TokenSet(TRUE)), lambda p: Steered(((),) * 3, ((),) * 3), prompts)


def test_windows_never_cross_documents_and_are_drawn_over_the_range(examples):
    rng = np.random.default_rng(0)
    tokens = Tokens.of([[f" a{i}_{j}" for j in range(rng.integers(3, 40))] for i in range(200)])
    activity = rng.exponential(size=(len(tokens), 1)) * (rng.random((len(tokens), 1)) < 0.05)
    making, held = windows_of(activity, tokens, Split.of(tokens), 0, width=16, n_making=20)
    for window in making.all + held.all:
        assert len({t.split("_")[0] for t in window.tokens}) == 1
    peaks = [w.peak for w in making.active]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < np.median(activity[activity > 0])
    top = windows_of(activity, tokens, Split.of(tokens), 0, width=16, n_making=20, sampling="top")[0]
    assert min(w.peak for w in top.active) >= np.median(peaks)


def test_a_unit_that_is_silent_has_no_examples():
    tokens, activity = corpus(n=40)
    with pytest.raises(PatchclampError, match="0 active"):
        windows_of(activity * 0, tokens, Split.of(tokens), 0)


def test_weighted_auc_agrees_with_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    y, x, w = rng.random(60) < 0.4, rng.integers(0, 6, 60).astype(float), rng.integers(0, 4, 60).astype(float)
    assert roc_auc(x, y, w) == pytest.approx(roc_auc_score(y, x, sample_weight=w))
