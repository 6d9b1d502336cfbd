"""The recording object: labels, selection, storage, sparse codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.nouns.recording.sparse import SparseCodes
from patchclamp.nouns.units import Site

N = 300


def made(seed: int = 0) -> Recording:
    """Two sites, 300 samples of 30 documents."""
    g = torch.Generator().manual_seed(seed)
    doc = torch.arange(30).repeat_interleave(10)
    samples = Samples.of(
        doc, torch.arange(10).repeat(30), torch.arange(N) % 7, torch.arange(N) % 10 > 0, doc % 3, doc // 2
    )
    arrays = {"mlp_act.1": torch.randn(N, 6, generator=g), "resid_post.0": torch.randn(N, 4, generator=g)}
    return Recording.from_arrays(arrays, samples, {"label_names": ["a", "b", "c"], "group_names": []})


def stored(path: Path, dtype: str = "float32", chunk_rows: int = 64) -> tuple[Recording, torch.Tensor]:
    """A store with heads, and what was put into it."""
    values = torch.randn(N, 3, 5).to(getattr(torch, dtype))
    samples = made().samples
    with Recording.create(path, {"who": "test"}, {"head.2": (3, 5)}, N, dtype, chunk_rows) as writer:
        for start in range(0, N, 17):
            part = slice(start, min(start + 17, N))
            writer.append(samples[part], {Site("head", 2): values[part]})
        writer.finish()
    return Recording.open(path), values


def test_selection_by_unit_and_sample_labels() -> None:
    rec = made()
    full = rec["mlp_act.1"][:]
    view = rec.select("mlp_act.1[4,2]", {"label": "b", "position": slice(3, 6)})
    mask = (rec.samples.label == 1) & (rec.samples.position >= 3) & (rec.samples.position < 6)
    assert torch.equal(view["mlp_act.1"][:], full[mask][:, [2, 4]])
    assert view.sites == [Site("mlp_act", 1)] and view.n_samples == int(mask.sum())
    assert view.units()["unit"].tolist() == ["mlp_act.1[2]", "mlp_act.1[4]"]
    again = view.select("mlp_act.1[4]", lambda s: s.token == 3)
    assert torch.equal(again["mlp_act.1"][:], full[mask & (rec.samples.token == 3)][:, [4]])
    assert torch.equal(rec.select(where={"content": True}).samples.position.unique(), torch.arange(1, 10))
    assert torch.equal(rec["blocks.1.mlp.hook_post"][5:9, 2], full[5:9, 2])
    assert torch.equal(rec["mlp_act.1"][-1], full[-1]) and torch.equal(
        rec["mlp_act.1"][[5, 2, 2]], full[[5, 2, 2]]
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_a_store_gives_back_every_bit_under_any_selection(tmp_path: Path, dtype: str) -> None:
    rec, values = stored(tmp_path / "s.zarr", dtype)
    assert torch.equal(rec["head.2"][:], values) and rec["head.2"].dtype == values.dtype
    index = torch.tensor([250, 3, 3, 299, 64])
    assert torch.equal(rec["head.2"][index], values[index])
    view = rec.select(where={"label": [0, 2]}, units={"head.2": [2, 0]})
    mask = rec.samples.label != 1
    assert torch.equal(view["head.2"][:], values[mask][:, [2, 0]])
    pieces = list(view.chunks(33))
    assert torch.equal(torch.cat([a[Site("head", 2)] for _, a in pieces]), values[mask][:, [2, 0]])
    assert torch.equal(Samples.concat(s for s, _ in pieces).token, rec.samples.token[mask])


def test_xarray_opens_the_store_and_both_axes_are_labelled(tmp_path: Path) -> None:
    rec, values = stored(tmp_path / "s.zarr")
    plain = xr.open_zarr(tmp_path / "s.zarr")
    assert plain["head.2"].dims == ("sample", "unit.head.2", "part.head.2")
    assert np.array_equal(plain["head.2"].values, values.numpy())
    assert set(plain["head.2"].coords) >= {"doc", "position", "token", "content", "label", "group"}
    assert plain.attrs["patchclamp"]["manifest"] == {"who": "test"}
    array = rec.to_xarray("head.2")
    assert array.dims == ("sample", "unit", "part") and array["unit"].values.tolist()[2] == "head.2[2]"
    assert np.array_equal(array[10:20, 1].values, values[10:20, 1].numpy())
    assert np.array_equal(array.isel(sample=7).values, values[7].numpy())
    assert np.array_equal(array.isel(sample=[9, 4], unit=[2, 0]).values, values[[9, 4]][:, [2, 0]].numpy())
    assert np.array_equal(array[array["doc"] == 4].values, values[40:50].numpy())
    assert rec.to_xarray()["head.2"].shape == (N, 3, 5)


def test_reading_is_lazy(tmp_path: Path) -> None:
    rec, _ = stored(tmp_path / "s.zarr")
    for chunk in (tmp_path / "s.zarr" / "head.2" / "c").iterdir():
        if chunk.name != "1":
            for file in chunk.rglob("*"):
                if file.is_file():
                    file.write_bytes(b"damaged")
    assert rec["head.2"][64:128].shape == (64, 3, 5)
    assert rec.to_xarray("head.2")[70:72].values.shape == (2, 3, 5)
    with pytest.raises((ValueError, RuntimeError)):
        rec["head.2"][0:64]


def test_saving_a_selection_keeps_the_units_names(tmp_path: Path) -> None:
    view = made().select("mlp_act.1[4,2]", {"label": "b"})
    saved = view.save(tmp_path / "s.zarr")
    assert saved.units()["unit"].tolist() == ["mlp_act.1[2]", "mlp_act.1[4]"]
    assert torch.equal(saved["mlp_act.1"][:], view["mlp_act.1"][:])
    assert torch.equal(saved.select("mlp_act.1[4]")["mlp_act.1"][:, 0], view["mlp_act.1"][:, 1])
    assert xr.open_zarr(tmp_path / "s.zarr")["unit.mlp_act.1"].values.tolist() == [2, 4]
    assert saved.select(where={"label": "b"}).n_samples == saved.n_samples
    with pytest.raises(PatchclampError, match=r"mlp_act\.1\[3\]: this recording has 2 units"):
        saved.select("mlp_act.1[3]")


def test_brain_recordings_trials_by_time_with_missing_units(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 8, 3)).astype("float32")
    values[:, :, 1] = np.nan
    labels = {"spikes": {"present": [True, False, True], "region": ["V1", "V1", "V4"]}}
    rec = Recording.from_arrays({"spikes": values}, labels=labels)
    assert rec.n_samples == 40 and rec.samples.doc.tolist()[8:10] == [1, 1] and rec.samples.position[9] == 1
    assert rec.present("spikes").tolist() == [True, False, True]
    saved = rec.select(where={"doc": [1, 2]}).save(tmp_path / "s.zarr")
    assert saved.units()["region"].tolist() == ["V1", "V1", "V4"]
    assert saved.present("spikes").tolist() == [True, False, True]
    assert saved.to_xarray("spikes")["region"].values.tolist() == ["V1", "V1", "V4"]
    with pytest.raises(PatchclampError, match=r"spikes\[1\]: nan at sample 0; mark missing units"):
        Recording.from_arrays({"spikes": values})


def test_selections_that_cannot_be_are_refused() -> None:
    rec = made()
    with pytest.raises(PatchclampError, match="matches none of the 300 samples"):
        rec.select(where={"doc": 99})
    with pytest.raises(PatchclampError, match="no column 'lable'.*label"):
        rec.select(where={"lable": 1})
    with pytest.raises(PatchclampError, match="no label 'd'"):
        rec.select(where={"label": "d"})
    with pytest.raises(PatchclampError, match="one bool a sample"):
        rec.select(where=lambda s: s.doc)
    with pytest.raises(
        PatchclampError, match=r"mlp_act\.1\[6\]: this recording has 6 units of mlp_act.1, 0..5"
    ):
        rec.select("mlp_act.1[6]")
    with pytest.raises(PatchclampError, match=r"mlp_act\.2: not in this recording.*did you mean mlp_act.1"):
        rec["mlp_act.2"]
    with pytest.raises(PatchclampError, match="sample 300"):
        rec["mlp_act.1"][[300]]
    with pytest.raises(PatchclampError, match="10 samples, but there are labels for 300"):
        Recording.from_arrays({"x": np.zeros((10, 2))}, rec.samples)
    with pytest.raises(PatchclampError, match="no such file or folder"):
        Recording.open("/nowhere/at/all")


def test_an_unfinished_store_shows_what_is_safe(tmp_path: Path) -> None:
    rec, values = made(), torch.randn(N, 3)
    writer = Recording.create(tmp_path / "s.zarr", {}, {"lfp": (3,)}, N, chunk_rows=64)
    writer.append(rec.samples[:150], {Site("lfp"): values[:150]})
    assert writer.rows == 128 and writer.taken == 150
    assert torch.equal(writer.read(Site("lfp"), 100, 140), values[100:140])
    with pytest.raises(PatchclampError, match="150 of 300 samples"):
        writer.finish()
    writer.close()
    part = Recording.open(tmp_path / "s.zarr")
    assert not part.complete and part.n_samples == 128 and torch.equal(part["lfp"][:], values[:128])
    with Recording.create(tmp_path / "s.zarr", {}, {"lfp": (3,)}, N, chunk_rows=64) as again:
        again.append(rec.samples[128:], {Site("lfp"): values[128:]})
        with pytest.raises(PatchclampError, match="more than its 300"):
            again.append(rec.samples[:1], {Site("lfp"): values[:1]})
        again.finish()
    assert torch.equal(Recording.open(tmp_path / "s.zarr")["lfp"][:], values)
    assert not (tmp_path / "s.zarr" / "journal.json").exists()


def test_other_groups_are_not_recordings(tmp_path: Path) -> None:
    zarr.create_group(str(tmp_path / "g"))
    with pytest.raises(PatchclampError, match="a Zarr group of something else"):
        Recording.open(tmp_path / "g")
    rec, _ = stored(tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / "zarr.json"
    data = json.loads(file.read_text())
    data["attributes"]["patchclamp"]["format"] = "patchclamp-recording/9"
    file.write_text(json.dumps(data))
    with pytest.raises(PatchclampError, match="holds patchclamp-recording/9"):
        Recording.open(rec.path or "")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=5), st.integers(1, 9), st.randoms(use_true_random=False))
def test_sparse_codes_are_the_dense_array(sizes: list[int], units: int, rng: Any) -> None:
    parts = []
    for size in [*sizes, 2]:
        dense = torch.zeros(size, units)
        for row in range(size):
            for unit in range(units):
                if rng.random() < 0.3:
                    dense[row, unit] = rng.uniform(-2, 2)
        parts.append(dense)
    codes = SparseCodes.concat(SparseCodes.from_dense(part) for part in parts)
    whole = torch.cat(parts)
    assert torch.equal(codes.to_dense(), whole)
    a, b = sorted((rng.randint(0, len(whole)), rng.randint(0, len(whole))))
    assert torch.equal(codes.rows(a, b).to_dense(), whole[a:b])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sparse_codes_live_in_the_store(tmp_path: Path, dtype: torch.dtype) -> None:
    rec, _ = stored(tmp_path / "s.zarr")
    dense = torch.relu(torch.randn(N, 50) - 1).to(dtype)
    codes = SparseCodes.from_dense(dense)
    group = zarr.open_group(str(tmp_path / "s.zarr"), mode="r+", use_consolidated=False)
    codes.save(group, "resid_post.5|sae", chunk=100)
    back = rec.codes("resid_post.5|sae")
    assert torch.equal(back.to_dense(), dense) and back.value.dtype == dtype
    assert codes.nbytes < 0.6 * dense.float().numpy().nbytes
    with pytest.raises(PatchclampError, match="already holds"):
        codes.save(group, "resid_post.5|sae")
    with pytest.raises(PatchclampError, match="no codes of this name"):
        rec.codes("other")
    with pytest.raises(PatchclampError, match="NaN or Inf"):
        SparseCodes.from_dense(torch.tensor([[float("nan")]]))


def test_what_would_pair_or_overwrite_samples_wrongly_is_refused(tmp_path: Path) -> None:
    one, other = np.zeros((2, 3, 4), "float32"), np.zeros((3, 2, 4), "float32")
    with pytest.raises(PatchclampError, match="trials x time differ: lfp has 2 x 3, spikes has 3 x 2"):
        Recording.from_arrays({"lfp": one, "spikes": other})
    rec = Recording.from_arrays({"lfp": one})
    rec.save(tmp_path / "s")
    with pytest.raises(PatchclampError, match="exists already"):
        rec.save(tmp_path / "s")
    for where, words in (({"doc": slice(0, 4, 2)}, "a slice is"), ({"doc": 0.5}, "give a value")):
        with pytest.raises(PatchclampError, match=words):
            rec.select(where=where)
