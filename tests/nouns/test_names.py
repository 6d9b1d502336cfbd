"""Labels and groups by their names: what a person compares is what the file said, never a code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from patchclamp import PatchclampError, Recording, Samples
from patchclamp.record import open_recording


def recording(label: list[int], names: list[str], **more: list[str]) -> Recording:
    n = len(label)
    samples = Samples.of(
        torch.arange(n), torch.zeros(n), label=torch.tensor(label), group=torch.arange(n) % 2
    )
    about = {"label_names": names, **more}
    return Recording.from_arrays({"lfp": np.arange(2.0 * n).reshape(n, 2)}, samples, about)


def test_names_are_compared(tmp_path: Path) -> None:
    r = recording([1, 0, -1, 1], ["go", "stop"], group_names=["s1", "s2"])
    assert r.column("label").tolist() == ["stop", "go", "", "stop"]
    assert (r.column("label") == "stop").tolist() == [True, False, False, True]
    assert r.column("group").tolist() == ["s1", "s2", "s1", "s2"]
    assert r.numbers("label").tolist() == r.samples.label.tolist() == [1, 0, -1, 1]
    assert r.column("doc").tolist() == [0, 1, 2, 3]
    assert r.to_xarray("lfp")["label"].values.tolist() == ["stop", "go", "", "stop"]
    again = r.save(tmp_path / "s")
    assert again.column("label").tolist() == r.column("label").tolist()
    assert again.select(where={"label": "stop"}).column("label").tolist() == ["stop", "stop"]


def test_names_that_are_numbers_are_numbers(tmp_path: Path) -> None:
    """Labels 2 and 5 have the codes 0 and 1; `== 5` and ``where={"label": 5}`` mean the label."""
    np.savez(tmp_path / "a.npz", activity=np.zeros((4, 2)), label=[5, 2, 5, 2], group=[7, 7, 9, 9])
    r = open_recording(tmp_path / "a.npz")
    assert isinstance(r, Recording)
    assert (r.column("label") == 5).tolist() == [True, False, True, False]
    assert r.column("group").tolist() == [7, 7, 9, 9]
    assert r.select(where={"label": 5}).samples.doc.shape == (2,)
    assert r.select(where={"label": 5}).column("label").tolist() == [5, 5]
    assert r.select(where={"label": "5"}).column("label").tolist() == [5, 5]
    assert r.select(where={"label": slice(3, 9)}).column("label").tolist() == [5, 5]
    assert r.select(where={"group": [9]}).column("group").tolist() == [9, 9]
    with pytest.raises(PatchclampError, match=r"no label '1'; there are \['2', '5'\]"):
        r.select(where={"label": 1})
    some = recording([1, 0, -1], ["2", "5"]).column("label")
    assert np.array_equal(some, [5, 2, np.nan], equal_nan=True)
    assert recording([1, 0, -1], ["2", "5"]).select(where={"label": -1}).n_samples == 1


def test_without_names_there_are_codes() -> None:
    assert recording([1, 0, -1], []).column("label").tolist() == [1, 0, -1]
    assert recording([1, 0, -1], []).select(where={"label": 1}).n_samples == 1
    with pytest.raises(PatchclampError, match="code 3 of 2 names"):
        recording([3, 0], ["a", "b"]).column("label")


def test_columns_that_are_set() -> None:
    r = recording([1, 0, 1, 0], ["go", "stop"])
    again = r.with_columns(label=r.column("label")[::-1])
    assert again.column("label").tolist() == ["go", "stop", "go", "stop"]
    assert again.select(where={"label": "go"}).n_samples == 2
    numbered = r.with_columns(label=[3, 3, 1, 1])
    assert numbered.column("label").tolist() == [3, 3, 1, 1]
    some = r.with_columns(label=np.array(["go", "", "stop", ""]))
    assert some.numbers("label").tolist() == [0, -1, 1, -1]


def test_what_stands_on_labels_still_does() -> None:
    """Bins keep the labels that agree, folds hold out groups, z-scores go by label."""
    samples = Samples.of(
        torch.zeros(8), torch.arange(8), label=torch.tensor([0, 0, 1, 1, 0, 1, 1, 1]), group=torch.zeros(8)
    )
    r = Recording.from_arrays(
        {"lfp": np.arange(16.0).reshape(8, 2)}, samples, {"label_names": ["go", "stop"]}
    )
    r = r.with_columns(time=np.arange(8) * 1.0)
    assert r.bin(2.0).column("label").tolist() == ["go", "stop", "", "stop"]
    scored = r.zscore(by="label")["lfp"][:].numpy()
    assert np.allclose(scored[r.column("label") == "go"].mean(0), 0, atol=1e-6)
    assert {len(np.unique(r.column("label")[f.test])) for f in r.split("label", gap=0)} == {1}
