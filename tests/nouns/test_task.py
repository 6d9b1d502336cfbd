"""Items, tasks, splits, encoding, metrics and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import ByT5Tokenizer

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import METRICS, Metric, Task, require_ability, split_groups
from patchclamp.subjects import LanguageModel
from task_tokenizer import build
from tiny import tiny_model

WORDS = "The big small cat dog bird sees likes finds one two three four red blue . Mary Tom"


@pytest.fixture(scope="module")
def tokenizer():
    return build([f" {word}" for word in WORDS.split()] + ["The"])


@pytest.fixture(scope="module")
def bos_tokenizer():
    return build([f" {word}" for word in WORDS.split()] + ["The"], bos=True)


def item(clean="The big cat sees", corrupted="The big dog sees", answers=" red", foils=" blue", **more):
    return Item(clean=clean, corrupted=corrupted, answers=answers, foils=foils, **more)


def some(n=12):
    verbs, nouns = ("sees", "likes", "finds"), ("cat", "dog", "bird")
    items = []
    for i in range(n):
        extra = " ".join(["", "one", "two"][: 1 + i % 3])
        clean = f"The big {nouns[i % 3]} {verbs[i // 3 % 3]}{extra}"
        items.append(
            item(
                clean,
                clean.replace("big", "small"),
                group=f"g{i // 2}",
                template=f"t{i % 2}",
                spans={"noun": (8, 8 + len(nouns[i % 3]))},
            )
        )
    return items


# ---- encoding ----------------------------------------------------------------------------------------------------


def test_encoding_pads_on_the_right_and_finds_roles(tokenizer):
    encoded = Task("t", some()).encode(tokenizer)
    plain = [tokenizer(i.clean)["input_ids"] for i in some()]
    for row, ids in enumerate(plain):
        assert encoded.clean[row, : len(ids)].tolist() == ids
        assert encoded.mask[row].tolist() == [True] * len(ids) + [False] * (encoded.mask.shape[1] - len(ids))
        assert encoded.last[row] == len(ids) - 1 == encoded.roles["end"][row]
    assert encoded.roles["noun"].tolist() == [2] * 12
    assert (encoded.answers == tokenizer(" red")["input_ids"][0]).all()
    assert encoded.templates[:3] == ("t0", "t1", "t0")
    assert encoded.corrupted.shape == encoded.clean.shape


def test_bos_follows_the_policy_and_shifts_roles(tokenizer, bos_tokenizer):
    task = Task("t", some())
    for tok, bos, first in ((tokenizer, True, 1), (bos_tokenizer, None, 1), (bos_tokenizer, True, 1)):
        encoded = task.encode(tok, bos=bos)
        assert (encoded.clean[:, 0] == first).all() and encoded.clean[0, 1] != first
        assert encoded.roles["noun"].tolist() == [3] * 12
    for tok, bos in ((tokenizer, None), (bos_tokenizer, False)):
        encoded = task.encode(tok, bos=bos)
        assert (encoded.clean[:, 0] != 1).all()
        assert encoded.roles["noun"].tolist() == [2] * 12


def test_without_offsets_roles_come_from_prefixes():
    # A byte tokenizer in Python: no offsets, and an end token after every text, which must not stay.
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    encoded = Task("t", [item("abc def", "abd def", "x", "y", spans={"second": (4, 7), "b": (1, 2)})]).encode(
        tokenizer
    )
    assert encoded.clean.shape == (1, 7)
    assert encoded.roles["second"].tolist() == [6] and encoded.roles["b"].tolist() == [1]
    assert tokenizer.convert_ids_to_tokens(encoded.answers[0].tolist()) == ["x"]


def test_a_role_is_the_last_token_of_its_span(tokenizer):
    one = item(spans={"phrase": (4, 11), "inside": (9, 10)})
    encoded = Task("t", [one]).encode(tokenizer)
    assert encoded.roles["phrase"].tolist() == [2] and encoded.roles["inside"].tolist() == [2]


def test_roles_that_an_item_lacks_are_minus_one(tokenizer):
    items = [item(spans={"noun": (8, 11)}, group="a"), item(clean="The small cat sees", group="b")]
    assert Task("t", items).encode(tokenizer).roles["noun"].tolist() == [2, -1]


def test_answers_of_different_number_are_padded(tokenizer):
    items = [
        item(answers=(" red", " one")),
        item(clean="The small cat sees", foils=(" one", " two", " three")),
    ]
    encoded = Task("t", items).encode(tokenizer)
    assert encoded.answers.shape == (2, 2) and encoded.answers[1, 1] == -1
    assert encoded.foils.shape == (2, 3) and (encoded.foils[0, 1:] == -1).all()


def test_batches_hold_every_item_once_and_nothing_depends_on_their_size(tokenizer):
    task = Task("t", some())
    encoded = task.encode(tokenizer)
    for size in (1, 5, 100):
        parts = list(encoded.batches(size))
        assert sorted(int(r) for p in parts for r in p.rows) == list(range(12))
        assert all(p.mask.any(0).all() for p in parts), "a column of padding only"
        for part in parts:
            for row, place in enumerate(part.rows.tolist()):
                assert (
                    part.clean[row][part.mask[row]].tolist()
                    == encoded.clean[place][encoded.mask[place]].tolist()
                )
                assert part.groups[row] == task.items[place].group
    with pytest.raises(PatchclampError, match="batch size 0"):
        next(encoded.batches(0))


def test_scores_on_a_model_do_not_depend_on_batches(tokenizer):
    subject = LanguageModel(tiny_model("llama"), tokenizer)
    task = Task("t", some())

    def scores(size):
        out = torch.zeros(len(task))
        for pair in subject.pairs(task, size):
            out[pair.rows] = pair.metric(subject.run(pair.clean, logits=pair.answer_position).logits)
        return out

    whole = scores(12)
    assert whole.unique().numel() > 6
    for size in (1, 5):
        torch.testing.assert_close(scores(size), whole, rtol=1e-5, atol=1e-5)


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "has no items"),
        ([item(), item(clean="  ")], "item 1: empty text"),
        ([item(corrupted="")], "item 0: empty text"),
        ([item(foils=())], r"item 0: no foils, and the metric logit_diff .* metric='prob'"),
        ([item(answers=())], "item 0: no answer"),
        ([item(answers="")], "an answer or a foil is empty"),
        ([item(corrupted="The big cat sees")], "corrupted text equals the clean one"),
        ([item(), item(corrupted=None)], "item 1: some items have a corrupted text"),
        ([item(spans={"noun": (8, 99)})], r"role noun has the span \(8, 99\), and the text has 16"),
        ([item(spans={"end": (0, 3)})], "the role 'end' is the last token"),
        ([item(corrupted_spans={"noun": (8, 11)})], "in corrupted_spans and not in spans"),
    ],
)
def test_bad_items_are_refused_when_the_task_is_made(items, message):
    with pytest.raises(PatchclampError, match=message):
        Task("t", items)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (
            item(corrupted="The big dog sees one"),
            "item 0: clean has 4 tokens and corrupted 5.*'The big cat sees'.*'The big dog sees one'",
        ),
        (item(answers=" red blue"), "the answer ' red blue' is 2 tokens"),
        (item(answers="red"), "did you mean ' red' with a space"),
        (item(foils=" red"), "is an answer and a foil"),
        (item(answers=" zebra"), "does not know the answer ' zebra'"),
        (
            item("The big cat sees", "The cat big sees", spans={"n": (8, 11)}, corrupted_spans={"n": (4, 7)}),
            "role n ends at token 2 .* at token 1",
        ),
    ],
)
def test_items_that_do_not_fit_the_tokenizer_are_refused(tokenizer, one, message):
    with pytest.raises(PatchclampError, match=message):
        Task("t", [one]).encode(tokenizer)


def test_texts_longer_than_the_context_are_refused(tokenizer):
    task = Task("t", some())
    with pytest.raises(PatchclampError, match="item 2: 6 tokens, and the context holds 5"):
        task.encode(tokenizer, max_length=5)
    with pytest.raises(PatchclampError, match="item 1: 6 tokens"):
        task.encode(tokenizer, bos=True, max_length=5)
    assert task.encode(tokenizer, max_length=6).clean.shape[1] == 6


def test_other_refusals(tokenizer):
    with pytest.raises(PatchclampError, match="no such metric; did you mean logit_diff"):
        Task("t", [item()], metric="logit_dif")
    with pytest.raises(PatchclampError, match="no tokenizer"):
        Task("t", [item()]).encode(None)
    with pytest.raises(PatchclampError, match="min_accuracy 80 is outside"):
        Task("t", [item()], min_accuracy=80)
    with pytest.raises(PatchclampError, match="does not end at the end of a token"):
        Task("t", [item("é b", "è b", "x", "y", spans={"a": (0, 1)})]).encode(_Merging())
    Task("t", [item(foils=())], metric="prob").encode(tokenizer)


class _Merging(ByT5Tokenizer):
    """A tokenizer without offsets whose last token differs when the text is cut."""

    def _tokenize(self, text):
        return super()._tokenize(text) if len(text) > 1 else ["a"]


# ---- splits ------------------------------------------------------------------------------------------------------


def test_splits_cut_no_group_and_lose_no_item():
    task = Task("t", some())
    parts = {name: task.split(name) for name in ("train", "validation", "test")}
    groups = [{i.group for i in part} for part in parts.values()]
    assert sum(len(p) for p in parts.values()) == 12
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert len(task.split("train", "validation")) == len(parts["train"]) + len(parts["validation"])
    assert parts["test"].splits["test"] == tuple(range(len(parts["test"])))


def test_splits_given_by_hand_are_checked():
    items = some(4)
    with pytest.raises(PatchclampError, match="group 'g0' is in a and in b; a group is never cut"):
        Task("t", items, splits={"a": [0], "b": [1]})
    with pytest.raises(PatchclampError, match="item 0 is in a and in b"):
        Task("t", items, splits={"a": [0, 1], "b": [0]})
    with pytest.raises(PatchclampError, match="split a has item 9 of 4"):
        Task("t", items, splits={"a": [9]})
    with pytest.raises(PatchclampError, match="no split 'tset'; did you mean test"):
        Task("t", items).split("tset")
    with pytest.raises(PatchclampError, match="4 items in 2 groups.*at least 3 groups"):
        Task("t", items).split("test").split("train")


def test_items_without_a_group_are_dealt_one_by_one():
    sizes = {k: len(v) for k, v in split_groups([""] * 40).items()}
    assert sizes == {"train": 20, "validation": 10, "test": 10}
    assert split_groups([""] * 40, seed=1) != split_groups([""] * 40)


def test_take_keeps_the_proportion_of_splits():
    task = Task("t", [item(f"The {i}", f"A {i}", group=str(i)) for i in range(40)])
    part = task.take(12)
    assert {k: len(v) for k, v in part.splits.items()} == {"train": 6, "validation": 3, "test": 3}
    assert all(one in task.split("test").items for one in part.split("test"))
    assert task.take(100) is task


# ---- metrics -----------------------------------------------------------------------------------------------------


def encoded_by_hand(answers, foils):
    task = Task("t", [item()], metric="prob")
    encoded = task.encode(build([f" {word}" for word in WORDS.split()] + ["The"]))
    return replace(encoded, answers=torch.tensor(answers), foils=torch.tensor(foils, dtype=torch.int64))


def test_metrics_in_closed_form():
    p = torch.tensor([[0.5, 0.2, 0.2, 0.1]])
    encoded = encoded_by_hand([[0, -1]], [[1, 3]])
    logits = p.log() + 7
    value = {name: float(metric(logits, encoded, logits)) for name, metric in METRICS.items()}
    assert value["logit_diff"] == pytest.approx(math.log(0.5) - (math.log(0.2) + math.log(0.1)) / 2, rel=1e-5)
    assert value["prob_diff"] == pytest.approx(0.5 - 0.3, rel=1e-5)
    assert value["prob"] == pytest.approx(0.5, rel=1e-5)
    assert value["loss"] == pytest.approx(-math.log(0.5), rel=1e-5)
    assert value["accuracy"] == 1.0
    assert value["kl"] == pytest.approx(0.0, abs=1e-6)
    q = torch.tensor([[0.25, 0.25, 0.25, 0.25]])
    expected = float((p * (p.log() - q.log())).sum())
    assert float(METRICS["kl"](q.log(), encoded, logits)) == pytest.approx(expected, rel=1e-5)


def test_accuracy_without_foils_asks_for_the_largest_logit():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    assert float(METRICS["accuracy"](logits, encoded_by_hand([[1]], [[]]))) == 1.0
    assert float(METRICS["accuracy"](logits, encoded_by_hand([[2]], [[-1]]))) == 0.0
    assert float(METRICS["accuracy"](logits, encoded_by_hand([[2]], [[0]]))) == 1.0
    assert float(METRICS["accuracy"](torch.zeros(1, 3), encoded_by_hand([[2]], [[0]]))) == 0.0, (
        "a tie is no answer"
    )


def test_metrics_have_gradients_and_directions():
    encoded = encoded_by_hand([[0, 2]], [[1, -1]])
    for name in ("logit_diff", "prob_diff", "prob", "loss", "kl"):
        logits = torch.randn(1, 5, requires_grad=True)
        (grad,) = torch.autograd.grad(METRICS[name](logits, encoded, torch.randn(1, 5)).sum(), logits)
        assert torch.isfinite(grad).all() and grad.abs().sum() > 0
    assert [m.name for m in METRICS.values() if not m.higher_is_better] == ["loss", "kl"]
    with pytest.raises(PatchclampError, match="kl: compares with the clean run"):
        METRICS["kl"](torch.zeros(1, 5), encoded)


def test_a_users_function_is_a_metric():
    def first_logit(logits, encoded, reference):
        return logits[:, 0]

    task = Task("t", [item(foils=())], metric=first_logit)
    assert task.score.name == "first_logit" and task.score.higher_is_better
    assert float(task.score(torch.tensor([[2.0, 3.0]]), None)) == 2.0
    assert not Task(
        "t", [item()], metric=Metric("m", first_logit, higher_is_better=False)
    ).score.higher_is_better


# ---- ability -----------------------------------------------------------------------------------------------------


def test_a_task_that_the_model_cannot_do_is_refused_with_the_figure():
    task = Task("t", [item()], min_accuracy=0.8)
    require_ability(task, 0.8, 1.0)
    with pytest.raises(
        PatchclampError, match=r"cannot do it \(accuracy 0.612, mean logit_diff 0.300 .* 0.80 is needed"
    ):
        require_ability(task, 0.612, 0.3)
    with pytest.raises(PatchclampError, match="prefers the foils"):
        require_ability(task, 0.9, -0.3)
    with pytest.raises(PatchclampError, match="cannot do it"):
        require_ability(task, float("nan"))
    require_ability(Task("t", [item()], metric="loss"), 0.9, -0.3)
