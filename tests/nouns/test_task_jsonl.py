"""Tasks in JSONL files: a round trip loses nothing, and errors name file and line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task

TEXT = st.text(min_size=1, max_size=20).filter(lambda t: t.strip())


@st.composite
def items(draw):
    clean = draw(TEXT)
    return Item(
        clean=clean,
        corrupted=draw(TEXT.filter(lambda t: t != clean)),
        answers=tuple(draw(st.lists(TEXT, min_size=1, max_size=3))),
        foils=tuple(draw(st.lists(TEXT, min_size=1, max_size=3))),
        template=draw(st.sampled_from(["", "t", "ü\u2028x"])),
        group=draw(st.sampled_from(["", "a", "b", "c"])),
        spans={"whole": (0, len(clean))},
        meta=draw(st.dictionaries(TEXT, st.integers() | TEXT | st.none(), max_size=2)),
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(items(), min_size=1, max_size=6), st.sampled_from(["logit_diff", "loss"]))
def test_round_trip(tmp_path_factory, drawn, metric):
    path = tmp_path_factory.mktemp("task") / "my-task.jsonl"
    task = Task("facts", drawn, metric=metric, corruption="swap", min_accuracy=0.6, description="a\nb")
    task.to_jsonl(path)
    assert Task.from_jsonl(path) == task


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_a_minimal_file(tmp_path):
    lines = [{"clean": f"{x} is", "answers": " a", "foils": [" b"]} for x in "uvwxyz"]
    task = Task.from_jsonl(write(tmp_path / "mine.jsonl", *lines, ""))
    assert task.name == "mine" and len(task) == 6 and task.metric == "logit_diff"
    assert task.items[0].answers == (" a",) and not task.has_contrast
    assert len(task.split("train")) == 3


def test_splits_of_a_file_are_kept(tmp_path):
    lines = [
        {"clean": x, "answers": "a", "foils": "b", "split": s}
        for x, s in zip("uvw", ("dev", "test", "dev"), strict=True)
    ]
    task = Task.from_jsonl(write(tmp_path / "t.jsonl", *lines))
    assert task.splits == {"dev": (0, 2), "test": (1,)}


GOOD = {"clean": "x is", "answers": " a", "foils": " b"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "{nope"], r"t.jsonl, line 2: not JSON"),
        ([GOOD, "", "[1]"], r"line 3: a line must be an object, and this is a list"),
        ([GOOD | {"anwsers": "x"}], r"line 1: no field 'anwsers'; did you mean answers"),
        ([{"clean": "x"}], "line 1: the field 'answers' is missing"),
        ([GOOD, {"answers": "x"}], "line 2: the field 'clean' is missing"),
        ([GOOD | {"clean": 3}], "line 1: clean must be text, and is 3"),
        ([GOOD | {"answers": [1]}], "line 1: answers must be text or a list of texts"),
        ([GOOD | {"spans": {"a": [0]}}], r"line 1: spans must be \{role: \[first, end\]\}"),
        ([GOOD | {"spans": {"a": [0, 77]}}], "line 1: role a has the span"),
        ([GOOD | {"meta": 1}], "line 1: meta must be an object"),
        ([GOOD, GOOD | {"clean": " "}], "line 2: empty text"),
        ([{"clean": "x", "answers": "a"}], "line 1: no foils"),
        ([GOOD, {"task": {"name": "late"}}], "line 2: the header must be the first line"),
        ([{"task": {"metrik": "loss"}}, GOOD], "line 1: no field 'metrik'; did you mean metric"),
        ([{"task": {"metric": "los"}}, GOOD], "line 1: los: no such metric; did you mean loss"),
        ([{"task": {"min_accuracy": "high"}}, GOOD], "line 1: min_accuracy must be a number"),
        ([{"task": {}, "clean": "x"}, GOOD], "line 1: a header is"),
        ([GOOD | {"split": "test"}, GOOD | {"clean": "y"}], "1 of 2 items have no split"),
        ([], "t.jsonl: task t: it has no items"),
    ],
)
def test_errors_name_file_and_line(tmp_path, lines, message):
    with pytest.raises(PatchclampError, match=message):
        Task.from_jsonl(write(tmp_path / "t.jsonl", *lines))


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(PatchclampError, match="none.jsonl: cannot be read as a task"):
        Task.from_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PatchclampError, match="binary.jsonl: cannot be read as a task"):
        Task.from_jsonl(tmp_path / "binary.jsonl")
    task = Task("t", [Item("x", "a", "b")], metric=lambda logits, encoded, reference: logits[:, 0])
    with pytest.raises(PatchclampError, match="its metric <lambda> is a function and cannot be written"):
        task.to_jsonl(tmp_path / "out.jsonl")
    with pytest.raises(PatchclampError, match="in an item's meta is not a JSON value"):
        Task("t", [Item("x", "a", "b", meta={"a": {1, 2}})]).to_jsonl(tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
