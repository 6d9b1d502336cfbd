"""The built-in tasks, on a small tokenizer: balance, disjoint splits, seeds, equal lengths, single-token answers."""

import random
from collections import Counter

import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.builtin import CORRUPTIONS, TASKS, construction, load_task
from patchclamp.nouns.tasks.builtin.countries import CAPITALS
from patchclamp.nouns.tasks.builtin.pronouns import TEMPLATES
from patchclamp.nouns.tasks.builtin.word_lists import BAD, GOOD, MEN, WOMEN
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task
from task_tokenizer import build, for_tasks

EVERY = [(name, corruption) for name, known in CORRUPTIONS.items() for corruption in known]
N = 96


@pytest.fixture(scope="module")
def tokenizer():
    return for_tasks()


def words_of(item: Item) -> set[str]:
    return {word.strip(".,?:'") for text in (item.clean, item.corrupted) for word in text.split()}


@pytest.mark.parametrize(("name", "corruption"), EVERY)
def test_every_task_with_every_corruption_encodes(tokenizer, name, corruption):
    task = TASKS[name](tokenizer, n=N, corruption=corruption)
    assert len(task) == N and task.corruption == corruption
    assert [len(task.split(s)) for s in ("train", "validation", "test")] == [48, 24, 24]
    encoded = task.encode(
        tokenizer
    )  # refuses unequal lengths, answers of several tokens, roles that do not align
    assert (encoded.corrupted != encoded.clean).any(1).all()
    assert len({(item.clean, item.corrupted) for item in task}) == N
    assert all(item.template and item.group and item.spans for item in task)
    for role, index in encoded.roles.items():
        assert (index >= 0).all(), role


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_items(tokenizer, name):
    assert TASKS[name](tokenizer, n=32, seed=3) == TASKS[name](tokenizer, n=32, seed=3)
    assert TASKS[name](tokenizer, n=32, seed=3) != TASKS[name](tokenizer, n=32, seed=4)


@pytest.mark.parametrize("name", TASKS)
def test_templates_are_balanced_in_every_split(tokenizer, name):
    task = TASKS[name](tokenizer, n=N)
    for split in task.splits:
        counts = Counter(item.template for item in task.split(split))
        assert max(counts.values()) - min(counts.values()) <= 1, (split, counts)
        assert len(counts) == len({item.template for item in task})


@pytest.mark.parametrize("name", TASKS)
def test_splits_share_no_group(tokenizer, name):
    task = TASKS[name](tokenizer, n=N)
    groups = [{item.group for item in task.split(split)} for split in task.splits]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert min(map(len, groups)) >= 3, "an interval needs several groups"


NAMES = frozenset(MEN) | frozenset(WOMEN)
VOCABULARY = {
    "ioi": NAMES,
    "pronouns": NAMES,
    "sentiment": frozenset(GOOD) | frozenset(BAD),
    "capitals": frozenset(
        word for pair in CAPITALS for phrase in pair for word in phrase.split() if word[0].isupper()
    ),
}


@pytest.mark.parametrize("name", VOCABULARY)
def test_splits_share_no_name_fact_or_adjective(tokenizer, name):
    task = TASKS[name](tokenizer, n=N)
    template = {"What", "Which", "Let", "The", "Its", "Everyone", "So", "When"}
    used = []
    for split in task.splits:
        said = set().union(
            *(words_of(i) | {w.strip() for w in i.answers + i.foils} for i in task.split(split))
        )
        used.append((said & VOCABULARY[name]) - template)
    assert all(used)
    if name == "capitals":  # names like South Korea and South Africa share a word, not a fact
        shared = {
            "South",
            "North",
            "Republic",
            "Guinea",
            "and",
            "United",
            "New",
            "Saint",
            "Islands",
            "Sudan",
            "Korea",
        }
        used = [words - shared for words in used]
    assert not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]


@pytest.mark.parametrize("name", ["agreement", "induction"])
def test_splits_share_no_noun_or_random_word(tokenizer, name):
    task = TASKS[name](tokenizer, n=N)
    roles = {"agreement": ("subject", "attractor"), "induction": ("A1", "B1")}[name]
    used = []
    for split in task.splits:
        items = task.split(split).items
        used.append(
            {
                i.clean[slice(*i.spans[r])].removesuffix("s" * (name == "agreement"))
                for i in items
                for r in roles
            }
        )
    assert not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]


def test_ioi_is_what_it_says(tokenizer):
    for corruption in CORRUPTIONS["ioi"]:
        task = TASKS["ioi"](tokenizer, n=N, corruption=corruption)
        for item in task:
            io, s = item.answers[0].strip(), item.foils[0].strip()

            def said(role, text=item.clean, spans=item.spans):
                return text[slice(*spans[role])]

            def corrupted(role, text=item.corrupted, spans=item.corrupted_spans):
                return text[slice(*spans[role])]

            assert (said("IO"), said("S1"), said("S2")) == (io, s, s)
            assert item.clean.split().count(s) == 2
            assert item.template.endswith("ABBA") == (item.spans["IO"] < item.spans["S1"])
            assert item.spans["S1+1"][0] >= item.spans["S1"][1]
            there = corrupted("IO"), corrupted("S1"), corrupted("S2")
            expected = {"s2_io_flip": (io, s, io), "name_swap": (s, io, io)}
            if corruption in expected:
                assert there == expected[corruption]
            elif corruption == "random_s2":
                assert there[:2] == (io, s) and there[2] not in (io, s)
            else:
                assert len({*there, io, s}) == 5
    templates = {item.template for item in task}
    assert len(templates) == 12 and len({i.group for i in task}) > 40


@pytest.mark.parametrize("digits", [1, 2])
def test_greater_than_is_what_it_says(digits):
    tokenizer = for_tasks(digits)
    for corruption in CORRUPTIONS["greater_than"]:
        task = TASKS["greater_than"](tokenizer, n=N, corruption=corruption)
        task.encode(tokenizer)
        for item in task:
            year = item.meta["year"]
            century = item.clean[-2:]
            assert int(century) == year // 100
            tail = year % 100
            if digits == 1:
                assert all(int(a) >= tail // 10 for a in item.answers)
                assert all(int(f) < tail // 10 for f in item.foils)
                assert len(item.answers) + len(item.foils) == 10
            else:
                assert all(int(a) > tail for a in item.answers) and all(int(f) <= tail for f in item.foils)
                assert len(item.answers) + len(item.foils) == 100
            assert item.meta["corrupted_year"] // 10 < year // 10
        decades = Counter(item.meta["year"] % 100 // 10 for item in task.split("train"))
        assert set(decades) == set(range(2, 9)) and max(decades.values()) <= 9


def test_agreement_is_balanced_over_numbers(tokenizer):
    counts = Counter(item.template for item in TASKS["agreement"](tokenizer, n=N))
    assert len(counts) == 4 and set(counts.values()) == {24}
    for item in TASKS["agreement"](tokenizer, n=N):
        plural = item.template.startswith("plural")
        assert item.answers == ((" are", " were", " have") if plural else (" is", " was", " has"))


def test_pronouns_and_sentiment_flip(tokenizer):
    for name, answers in (("pronouns", {" he", " she"}), ("sentiment", {" positive", " negative"})):
        task = TASKS[name](tokenizer, n=N)
        assert {i.answers + i.foils for i in task} == {tuple(answers), tuple(answers)[::-1]}
        assert len(set(Counter(i.answers for i in task).values())) == 1
    for item in TASKS["pronouns"](tokenizer, n=N):
        assert (item.group in WOMEN) == (item.answers == (" she",)) == (item.meta["corrupted_name"] in MEN)


def test_copied_answers_stand_in_the_text(tokenizer):
    for name in ("colored_objects", "mcqa", "induction"):
        for item in TASKS[name](tokenizer, n=N):
            assert item.answers[0] in item.clean or f"\n{item.answers[0].strip()}." in item.clean
    for item in TASKS["colored_objects"](tokenizer, n=N):
        assert item.foils[0] in item.clean
    for form in ("statement", "question"):
        TASKS["colored_objects"](tokenizer, n=N, form=form).encode(tokenizer)
    with pytest.raises(PatchclampError, match="no form 'poem'"):
        TASKS["colored_objects"](tokenizer, form="poem")


def test_induction_repeats_its_list(tokenizer):
    for item in TASKS["induction"](tokenizer, n=N):
        said = item.clean.removeprefix("List: ").split()
        again = len(said) - 12
        assert said[12:] == said[:again] and said[again] == item.answers[0].strip()
        assert item.clean[slice(*item.spans["A1"])] == said[-1]
        assert item.clean[slice(*item.spans["B1"])] == item.answers[0].strip()


def test_capitals_table():
    assert len(CAPITALS) == len({country for country, _ in CAPITALS}) >= 190
    assert dict(CAPITALS)["Mongolia"] == "Ulaanbaatar" and dict(CAPITALS)["the Netherlands"] == "Amsterdam"


def test_a_tokenizer_with_too_few_words_is_refused_with_the_figure():
    poor = build(["The Then and Mary Tom Anna went to the store garden park . gave a ring kiss book"])
    with pytest.raises(
        PatchclampError, match=r"task ioi: with this tokenizer 3 first names of \d+ are one token, and 24"
    ):
        TASKS["ioi"](poor)
    with pytest.raises(PatchclampError, match="greater_than: this tokenizer cuts 1743 neither"):
        TASKS["greater_than"](build(["from the year 17 43 17 1743 war"], digits=4))


def test_bad_arguments_are_refused(tokenizer):
    with pytest.raises(
        PatchclampError, match="task ioi: no corruption 'abd'; did you mean abc.*it has abc, s2_io_flip"
    ):
        TASKS["ioi"](tokenizer, corruption="abd")
    with pytest.raises(PatchclampError, match="n=2 items cannot be split"):
        TASKS["ioi"](tokenizer, n=2)
    few = build([f" {word}" for word in (*MEN[:8], *WOMEN[:8], "he", "she")] + list(TEMPLATES.values()))
    with pytest.raises(PatchclampError, match=r"n=2000 is too many; \d+ different items were found"):
        TASKS["pronouns"](few, n=2000)
    with pytest.raises(PatchclampError, match="task ioi: there is no tokenizer"):
        TASKS["ioi"](None)


def test_load_task(tokenizer, tmp_path):
    assert load_task("ioi", tokenizer, n=32) == TASKS["ioi"](tokenizer, n=32)
    path = tmp_path / "mine.jsonl"
    TASKS["ioi"](tokenizer, n=64).to_jsonl(path)
    assert Task.from_jsonl(path) == TASKS["ioi"](tokenizer, n=64)
    assert len(load_task(path, n=16)) == 16 and len(load_task(path, corruption="abc")) == 64
    with pytest.raises(PatchclampError, match="the file's corruption is 'abc' and cannot become 'random_s2'"):
        load_task(path, corruption="random_s2")
    with pytest.raises(
        PatchclampError, match="greater-than: no such task and no such file; did you mean greater_than"
    ):
        load_task("greater-than", tokenizer)


def test_a_third_country_is_a_third_one_and_an_empty_pool_is_refused(tokenizer):
    task = TASKS["capitals"](tokenizer, n=24, corruption="third_country")
    capital_of = dict(CAPITALS)
    for item in task.items:
        assert f" {capital_of[item.meta['corrupted_country']]}" not in (*item.answers, *item.foils)
    with pytest.raises(PatchclampError, match="without fitting words"):
        construction.rounds([], random.Random(0))
