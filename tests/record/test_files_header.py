"""Text tables with and without names in their first row: no sample is lost, no name becomes one, doubt is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from patchclamp import PatchclampError, Recording
from patchclamp.app.cli import app
from patchclamp.record import file_contents, open_recording

X = np.random.default_rng(0).normal(size=(100, 100))


def written(folder: Path, text: str, name: str = "a.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def opened(path: Path, **options: Any) -> Recording:
    found = open_recording(path, **options)
    assert isinstance(found, Recording)
    return found


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_without_names_no_sample_is_lost(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    np.savetxt(file, X, delimiter="\t" if suffix == ".tsv" else ",")
    found = opened(file)
    assert np.array_equal(found["activity"].numpy(), X)
    assert found.units()["name"].tolist() == [str(i) for i in range(100)]
    assert found.manifest["first_row"].startswith("a sample (1.257302210933932962e-01, ")
    held = file_contents(file)
    assert held.items[0].shape == (100, 100)
    assert held.about["first_row"] == found.manifest["first_row"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 6), st.integers(2, 9), st.booleans(), st.integers(0, 1000))
def test_what_pandas_writes_comes_back(tmp_path: Path, n: int, width: int, named: bool, seed: int) -> None:
    """With its own names 0, 1, 2 ..., with names of ours, with the column of row numbers and without."""
    x = np.random.default_rng(seed).normal(size=(n, width + 1))
    names = [f"cell{i}" for i in range(width + 1)] if named else list(range(width + 1))
    for index in (True, False):
        pd.DataFrame(x, columns=names).to_csv(tmp_path / "p.csv", index=index)
        found = opened(tmp_path / "p.csv")
        assert np.array_equal(found["activity"].numpy(), x)
        assert found.units()["name"].tolist() == [str(name) for name in names]
    pd.DataFrame(x).to_csv(tmp_path / "p.csv", header=False, index=False)
    assert np.array_equal(opened(tmp_path / "p.csv")["activity"].numpy(), x)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b\n1,2\n3,4\n", ["a", "b"]),
        ("time,12,17\n0.0,1,2\n0.1,3,4\n", ["12", "17"]),  # a word of the schema beside numbers of units
        ("label,0,1\ngo,1,2\nstop,3,4\n", ["0", "1"]),
        ("c1,17\n1.5,2\n3.5,4\n", ["c1", "17"]),  # text above a number
        ('"12","17"\n1,2\n3,4\n', ["12", "17"]),  # it alone is in quotes
        ("0,1,2\n1.5,2,3\n3,4,5\n", ["0", "1", "2"]),  # counts the columns
        ("1,2,3\n1.5,2,3\n3,4,5\n", ["1", "2", "3"]),
        ('\ufeff"a","b"\n"1","2"\n"3","4"\n', ["a", "b"]),  # all in quotes, behind a mark of order
    ],
)
def test_names(tmp_path: Path, text: str, names: list[str]) -> None:
    found = opened(written(tmp_path, text))
    assert found.units()["name"].tolist() == names
    assert found.n_samples == 2


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("3,1,0\n1,2,2\n", [3, 1, 0]),  # counts
        ("0,0,0\n0.5,0.2,0.1\n", [0, 0, 0]),  # a repeat is no name
        ("1.0,2.0,3.0\n0.5,0.2,0.1\n", [1, 2, 3]),
        ("nan,2.5\n0.5,0.2\n", None),
        ("-1,2,3\n0.5,0.2,0.5\n", [-1, 2, 3]),
        ('"3","1"\n"1","2"\n', [3, 1]),  # all in quotes: these say nothing
        (",7.5\n3,4\n", None),
    ],
)
def test_numbers_are_a_sample(tmp_path: Path, text: str, first: list[float] | None) -> None:
    path = written(tmp_path, text)
    if first is None:
        found = open_recording(path, missing="keep")
        assert found.n_samples == 2
    else:
        assert opened(path)["activity"][0].tolist() == first


@pytest.mark.parametrize(
    "text",
    ["12,17,33\n0.5,0.2,0.1\n1.5,2.5,3.5\n", "0,1\n1,2\n", "1,2\n3,4\n", "1\n2\n3\n", "0,1,2\n5,7,9\n"],
)
def test_doubt_is_refused_and_can_be_ended(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    rows = text.strip().split("\n")
    with pytest.raises(
        PatchclampError, match=r"a\.csv: its first row .* may be the names .* header=True"
    ) as caught:
        open_recording(path)
    assert rows[0].replace(",", ", ") in str(caught.value)
    with pytest.raises(PatchclampError, match="its first row"):
        file_contents(path)
    assert opened(path, header=True).units()["name"].tolist() == rows[0].split(",")
    assert opened(path, header=True).n_samples == len(rows) - 1
    sample = opened(path, header=False)
    assert sample["activity"][0].tolist() == [float(cell) for cell in rows[0].split(",")]
    assert file_contents(path, header=False).items[0].shape == sample["activity"].shape


def test_names_of_rows_are_no_units(tmp_path: Path) -> None:
    """R writes names of rows below no name; a row that is longer than that is damaged."""
    found = opened(written(tmp_path, "a,b\nr1,1,2\nr2,3,4\n"))
    assert found["activity"][:].tolist() == [[1, 2], [3, 4]]
    assert "left_out" in found.manifest
    with pytest.raises(PatchclampError, match="2 cells more than its first row"):
        open_recording(written(tmp_path, "a,b\n1,2,3,4\n5,6,7,8\n"))
    numbered = opened(written(tmp_path, ",a,b\n0,1,2\n1,3,4\n"))
    assert numbered.units()["name"].tolist() == ["a", "b"]
    assert "counts the rows" in numbered.manifest["left_out"]


@pytest.mark.parametrize(
    "text", ["a,b\n1.5,2,3\n2.5,4,5\n", "a,b\n1,2,\n3,4,\n", "a,b\n1,2,3\n", "a,b\n0,2,3\n2,4,5\n"]
)
def test_a_row_is_no_longer_than_the_names(tmp_path: Path, text: str) -> None:
    """The first of its cells was dropped without a word, and the others moved under other names."""
    for call in (open_recording, file_contents):
        with pytest.raises(
            PatchclampError, match="one cell more than its first row has names, and the first"
        ):
            call(written(tmp_path, text))
    counted = opened(written(tmp_path, "a,b\n1,2,3\n2,4,5\n"))
    assert counted["activity"][:].tolist() == [[2, 3], [4, 5]] and "left_out" in counted.manifest


@pytest.mark.parametrize("text", ["a,b,a\n1,2,3\n4,5,6\n", "time,time,a\n0,0,1\n1,1,2\n", '"a", a\n1.5,2\n'])
@pytest.mark.parametrize("header", [None, True])
def test_columns_of_equal_names(tmp_path: Path, text: str, header: bool | None) -> None:
    """pandas called the second one "a.1"."""
    for call in (open_recording, file_contents):
        with pytest.raises(PatchclampError, match="2 columns are called"):
            call(written(tmp_path, text), header=header)
    bold = pytest.importorskip("nibabel").Nifti1Image(X[:2, :24].reshape(2, 2, 2, 6), np.eye(4))
    bold.header.set_zooms((1, 1, 1, 2))
    bold.to_filename(tmp_path / "sub-1_bold.nii")
    written(tmp_path, "onset\tduration\tonset\n1\t2\t3\n", "sub-1_events.tsv")
    with pytest.raises(PatchclampError, match="2 columns are called 'onset'"):
        open_recording(tmp_path / "sub-1_bold.nii")


def test_parquet_columns_of_equal_names_are_refused_before_they_are_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array([1.0, 2.0])] * 3
    pq.write_table(pa.Table.from_arrays(columns, ["a", "b", "a"]), tmp_path / "a.parquet")
    for call in (open_recording, file_contents):
        with pytest.raises(PatchclampError, match="2 columns are called 'a'"):
            call(tmp_path / "a.parquet")
    assert opened(tmp_path / "a.parquet", skip=["a"]).units()["name"].tolist() == ["b"]


def test_another_format_under_the_name_of_one(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    frame.to_parquet(tmp_path / "a.csv")
    np.save(tmp_path / "b", X)
    (tmp_path / "b.npy").rename(tmp_path / "b.mat")
    for name, kind, way_out in (("a.csv", "Parquet", "table"), ("b.mat", "NumPy", "numpy")):
        with pytest.raises(PatchclampError, match=f"first bytes are those of {kind}; .*format='{way_out}'"):
            open_recording(tmp_path / name)
        assert open_recording(tmp_path / name, format=way_out).n_samples in (2, 100)


def test_where_it_cannot_be_asked(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1.0], "b": [2.0]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(PatchclampError, match="Parquet always has names"):
        open_recording(tmp_path / "a.parquet", header=False)
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(PatchclampError, match="numpy files have no option 'header'"):
        file_contents(tmp_path / "a.npy", header=False)


def test_the_commands_say_it_and_take_it(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "x.csv", X, delimiter=",")
    shown = CliRunner().invoke(app, ["open", str(tmp_path / "x.csv")])
    assert "100 x 100" in shown.output
    assert "first_row: a sample" in " ".join(shown.output.split())
    doubt = str(written(tmp_path, "0,1\n1,2\n5,6\n9,1\n"))
    refused = CliRunner().invoke(app, ["open", doubt])
    assert refused.exit_code != 0
    facts = CliRunner().invoke(app, ["open", doubt, "--no-header", "--json"])
    assert json.loads(facts.stdout)["items"][0]["shape"] == [4, 2]
    facts = CliRunner().invoke(app, ["open", doubt, "--header", "--json"])
    assert json.loads(facts.stdout)["items"][0]["shape"] == [3, 2]
    measured = CliRunner().invoke(app, ["measure", doubt, "--no-header", "--json"])
    rows = json.loads(measured.stdout)["table"]
    assert {row["unit"]: row["mean"] for row in rows} == {"activity[0]": 3.75, "activity[1]": 2.5}
    assert "first row: a sample" in measured.stderr
    other = CliRunner().invoke(app, ["measure", "mlp_act.3", "--no-header"])
    assert isinstance(other.exception, PatchclampError)
    assert "--header: mlp_act.3 is no file" in str(other.exception)
