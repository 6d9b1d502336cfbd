"""Sources of text: files, tables, data sets, lists, the bundled sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.record import Document, documents, record
from record_subject import texts, tiny_subject

ENTRIES = [{"text": "ab", "label": "x", "group": 3}, {"text": "cd", "label": "y", "group": 3}]
WANTED = [Document("ab", "x", 3), Document("cd", "y", 3)]


def test_text_files_hold_a_document_a_line_or_a_paragraph(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n\n  \ntwo\nthree\n\n\nfour", encoding="utf-8")
    assert [d.text for d in documents(file)] == ["one", "two", "three", "four"]
    assert [d.text for d in documents(str(file), paragraphs=True)] == ["one", "two\nthree", "four"]


def test_jsonl_parquet_tables_and_lists_are_the_same_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ENTRIES)) + "\n\n")
    pd.DataFrame(ENTRIES).to_parquet(tmp_path / "a.parquet")
    sources: list[Any] = [
        tmp_path / "a.jsonl",
        tmp_path / "a.parquet",
        pd.DataFrame(ENTRIES),
        ENTRIES,
        iter(ENTRIES),
    ]
    for source in sources:
        assert list(documents(source)) == WANTED
    renamed = [{"body": e["text"], "kind": e["label"]} for e in ENTRIES]
    assert [d.label for d in documents(renamed, text="body", label="kind")] == ["x", "y"]


class DataSet:
    """As a Hugging Face data set: iterates over mappings, and its `features` name the labels."""

    class _Label:
        names = ("negative", "positive")

    features: ClassVar = {"text": None, "label": _Label()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([{"text": "ab", "label": 1}, {"text": "cd", "label": 0}])


def test_data_sets_give_the_names_of_their_labels() -> None:
    assert [d.label for d in documents(DataSet())] == ["positive", "negative"]
    rec = record(tiny_subject(), DataSet(), "mlp_act.0", progress=False)
    assert rec.manifest["label_names"] == ["positive", "negative"]
    assert rec.select(where={"label": "negative"}).samples.doc.tolist() == [1]


def test_labels_and_groups_reach_the_samples() -> None:
    rec = record(tiny_subject(), ENTRIES, "mlp_act.0", progress=False)
    assert rec.samples.label.tolist() == [0, 1] and rec.samples.group.tolist() == [3, 3]
    plain = record(tiny_subject(), ["abc", "de"], "mlp_act.0", progress=False)
    assert plain.samples.label.tolist() == [-1, -1, -1] and plain.samples.group.tolist() == [0, 0, 1]


def test_a_generator_is_read_once() -> None:
    rec = record(tiny_subject(), (t for t in texts(30)), "mlp_act.0", progress=False)
    assert rec.samples.doc.max() == 29


def test_the_bundled_sample_is_there() -> None:
    found = list(documents("sample"))
    assert len(found) > 900 and {d.label for d in found} == {"narrative", "definition", "example"}
    assert 100_000 < sum(len(d.text) for d in found) < 200_000 and all(d.group for d in found)


def test_sources_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    cases: list[tuple[Any, str]] = [
        ("A text itself", "for texts themselves give a list"),
        (tmp_path / "none.txt", "no such file"),
        ({"train": [], "test": []}, "choose one of its entries"),
        (3, "not a source of text"),
        (["ab", 3], "list 1: 3 is a int"),
        ([{"txt": "ab"}], "field 'text' is None.*did you mean txt"),
        ([{"text": "ab", "label": 0.5}], "label: 0.5 is a float"),
    ]
    (tmp_path / "bad.jsonl").write_text('{"text": "ab"}\n{"text": \n')
    cases.append((tmp_path / "bad.jsonl", "bad.jsonl, line 2: not JSON"))
    pd.DataFrame({"txt": ["a"]}).to_parquet(tmp_path / "bad.parquet")
    cases.append((tmp_path / "bad.parquet", "no column 'text'; there are txt"))
    for source, message in cases:
        with pytest.raises(PatchclampError, match=message):
            list(documents(source))
    with pytest.raises(PatchclampError, match="some are names and some integers"):
        record(tiny_subject(), [{"text": "ab", "label": 1}, {"text": "cd", "label": "x"}], "mlp_act.0")


def test_files_that_are_not_what_their_name_says_are_refused(tmp_path: Path) -> None:
    for name, words in (
        ("a.txt", "not UTF-8"),
        ("a.jsonl", "not UTF-8"),
        ("a.parquet", "not a Parquet file"),
    ):
        (tmp_path / name).write_bytes(b"\xff\xfejunk")
        with pytest.raises(PatchclampError, match=words):
            list(documents(tmp_path / name))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    """It was three tokens of the first document, and made a JSONL file "not JSON"."""
    (tmp_path / "a.txt").write_text("one\ntwo", encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ENTRIES)), encoding="utf-8-sig")
    assert [d.text for d in documents(tmp_path / "a.txt")] == ["one", "two"]
    assert list(documents(tmp_path / "a.jsonl")) == WANTED
    with_mark, plain = (
        record(tiny_subject(), source, "mlp_act.0", progress=False)
        for source in (tmp_path / "a.txt", ["one", "two"])
    )
    assert with_mark.n_samples == plain.n_samples


@pytest.mark.parametrize("what", ["label", "group"])
def test_a_field_that_was_asked_for_and_is_nowhere_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ENTRIES)))
    pd.DataFrame(ENTRIES).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("one\ntwo")
    named: Any = {what: "nosuch"}
    for source in (tmp_path / "a.jsonl", tmp_path / "a.parquet", tmp_path / "a.txt", ENTRIES, ["one"]):
        with pytest.raises(PatchclampError, match=f"no entry has a field 'nosuch' to take the {what} from"):
            list(documents(source, **named))
    with pytest.raises(PatchclampError, match="nosuch"):
        record(tiny_subject(), texts(4), "mlp_act.0", progress=False, **named)
    some = [{"text": "ab"}, {"text": "cd", "kind": "y"}]
    assert [d.label for d in documents(some, label="kind")] == [None, "y"]
