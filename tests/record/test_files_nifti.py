"""fMRI: voxels of a mask, regions of an atlas, runs, BIDS events, repetition time and confounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.record import file_contents, open_recording

nibabel = pytest.importorskip("nibabel")

GRID, N, TR = (4, 3, 2), 20, 2.0
RNG = np.random.default_rng(0)
AFFINE = np.diag([3.0, 3.0, 4.0, 1.0])
AFFINE[:3, 3] = [-6, 1, 2]


def volumes(seed: int = 0) -> np.ndarray:
    data = np.random.default_rng(seed).normal(size=(*GRID, N)).astype("float32")
    data[0] = 7.0  # outside of the brain nothing varies
    return data


def written(
    path: Path, data: np.ndarray, tr: float = TR, unit: str = "sec", affine: np.ndarray = AFFINE
) -> Path:
    image = nibabel.Nifti1Image(data, affine)
    if data.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
        image.header.set_xyzt_units("mm", unit)
    nibabel.save(image, path)
    return path


def voxels(data: np.ndarray, keep: np.ndarray) -> np.ndarray:
    return data.reshape(-1, data.shape[-1])[keep.ravel()].T


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_that_vary(tmp_path: Path, suffix: str) -> None:
    data = volumes()
    found = open_recording(written(tmp_path / f"a{suffix}", data))
    keep = np.ones(GRID, bool)
    keep[0] = False
    assert np.allclose(found["bold"].numpy(), voxels(data, keep))
    assert np.allclose(found["bold"][[13, 2]].numpy(), voxels(data, keep)[[13, 2]])
    assert found.column("time").tolist() == (np.arange(N) * TR).tolist()
    first = found.units().iloc[0]
    assert [first["x"], first["y"], first["z"]] == (AFFINE @ [1, 0, 0, 1])[:3].tolist()
    assert file_contents(tmp_path / f"a{suffix}").about["tr"] == TR


def test_mask_and_atlas(tmp_path: Path) -> None:
    data = volumes()
    file = written(tmp_path / "a.nii", data)
    mask = RNG.uniform(size=GRID) > 0.5
    found = open_recording(file, mask=written(tmp_path / "mask.nii", mask.astype("uint8")))
    assert np.allclose(found["bold"].numpy(), voxels(data, mask))
    atlas = np.zeros(GRID, "int16")
    atlas[1], atlas[3, 0] = 5, 2
    regions = open_recording(file, atlas=atlas, regions={5: "V1", 2: "IT"})
    expected = np.stack([voxels(data, atlas == k).mean(1) for k in (2, 5)], 1)
    assert np.allclose(regions["bold"].numpy(), expected, atol=1e-6)
    assert regions.units()["region"].tolist() == ["IT", "V1"]
    assert regions.units()["voxels"].tolist() == [2, 6]
    both = open_recording(file, atlas=atlas, mask=mask)
    assert np.allclose(both["bold"].numpy()[:, -1], voxels(data, (atlas == 5) & mask).mean(1), atol=1e-6)
    with pytest.raises(PatchclampError, match="selects no voxel"):
        open_recording(file, mask=np.zeros(GRID))
    with pytest.raises(PatchclampError, match=r"mask: \(2, 2\); wanted the image's grid \(4, 3, 2\)"):
        open_recording(file, mask=np.ones((2, 2)))
    moved = AFFINE.copy()
    moved[0, 3] += 3
    other = written(tmp_path / "other.nii", atlas, affine=moved)
    with pytest.raises(PatchclampError, match="resample=True"):
        open_recording(file, atlas=other)
    pytest.importorskip("nilearn")
    brought = open_recording(file, atlas=other, resample=True)
    assert np.allclose(
        brought["bold"].numpy()[:, -1], voxels(data, np.roll(atlas, 1, 0) == 5).mean(1), atol=1e-6
    )


def bids(folder: Path) -> list[Path]:
    """Two runs with all that BIDS puts beside them."""
    paths = []
    for run in (1, 2):
        stem = f"sub-01_task-see_run-{run}"
        paths.append(written(folder / f"{stem}_space-x_desc-preproc_bold.nii", volumes(run), tr=0.0))
        (folder / f"{stem}_space-x_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": 1.5}))
        events = {
            "onset": [0.0, 9.0],
            "duration": [3.0, 4.5],
            "trial_type": ["face", "house"][:: 3 - 2 * run],
        }
        pd.DataFrame(events).to_csv(folder / f"{stem}_events.tsv", sep="\t", index=False)
        drift = {"drift": np.arange(N) * 1.0, "rest": ["n/a", *["1"] * (N - 1)]}
        pd.DataFrame(drift).to_csv(folder / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)
    return paths


def test_bids_runs_are_groups(tmp_path: Path) -> None:
    found = open_recording(bids(tmp_path), confounds=["drift"])
    assert found.time_step == 1.5
    assert found.samples.group.tolist() == [0] * N + [1] * N
    assert found.column("time").tolist() == [1.5 * i for i in range(N)] * 2
    assert found.manifest["label_names"] == ["face", "house"]
    run = [0, 0, *[-1] * 4, 1, 1, 1, *[-1] * 11]
    assert found.samples.label.tolist() == run + [{0: 1, 1: 0}.get(k, -1) for k in run]
    assert found.column("drift").tolist() == [*range(N), *range(N)]
    folds = found.split()
    assert [fold.held_out for fold in folds] == [(0,), (1,)]
    assert all(len(train) == len(test) == N for train, test in folds)
    late = open_recording(tmp_path / "sub-01_task-see_run-1_space-x_desc-preproc_bold.nii", delay=3.0)
    assert late.samples.label.tolist() == ([-1, -1, *run])[:N]
    cut = found.epoch("events", (0.0, 3.0))
    assert cut.samples.doc.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.allclose(cut["bold"][4:6].numpy(), found["bold"][N : N + 2].numpy())


def test_confounds_are_taken_out_run_by_run(tmp_path: Path) -> None:
    paths = bids(tmp_path)
    plain = open_recording(paths)["bold"].numpy().astype(float)
    found = open_recording(paths, confounds=["drift"], regress=True)["bold"].numpy().astype(float)
    drift = np.arange(N) - np.arange(N).mean()
    for run in (slice(0, N), slice(N, 2 * N)):
        weight = drift @ plain[run] / (drift @ drift)
        assert np.allclose(found[run], plain[run] - drift[:, None] * weight, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tr": 0}, "a repetition time of 0 s cannot be; give tr="),
        ({"runs": [0, 1]}, "2 entries of runs for 20 samples"),
        ({"labels": ["a"]}, "1 entries of labels for 20 samples"),
        ({"confounds": ["x"]}, "no table of confounds beside it"),
        ({"events": pd.DataFrame({"onset": [500.0], "duration": [1.0], "trial_type": ["a"]})}, r"a at 500 s is outside the run, 0 to 38 s"),
        ({"events": pd.DataFrame({"time": [5.0]})}, r"missing: \['duration', 'onset'\]"),
        ({"runs": [0, 1] * 10}, "not neighbours"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    file = written(tmp_path / "a.nii", volumes())
    with pytest.raises(PatchclampError, match=message):
        open_recording(file, **options)


def test_volumes_that_are_no_series_and_cut_files(tmp_path: Path) -> None:
    flat = written(tmp_path / "t1.nii", volumes()[..., 0])
    with pytest.raises(PatchclampError, match=r"t1\.nii: \(4, 3, 2\); wanted 4-D"):
        open_recording(flat)
    assert file_contents(flat).about["note"] == "one volume: a mask or an atlas"
    whole = written(tmp_path / "a.nii.gz", volumes()).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PatchclampError, match=r"cut\.nii\.gz: not readable as NIfTI"):
        open_recording(tmp_path / "cut.nii.gz")
    milli = written(tmp_path / "ms.nii", volumes(), tr=2000.0, unit="msec")
    assert open_recording(milli).time_step == 2.0


@pytest.mark.parametrize("kind", ["a.mgz", "a.dtseries.nii"])
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_images_of_other_kinds_end_in_a_line(tmp_path: Path, kind: str, share: float) -> None:
    data = RNG.normal(size=(*GRID, N)).astype("float32")
    if kind == "a.mgz":
        image = nibabel.MGHImage(data, AFFINE)
    else:
        voxels = nibabel.cifti2.BrainModelAxis.from_mask(np.ones(GRID), affine=AFFINE)
        image = nibabel.Cifti2Image(data.reshape(-1, N).T, (nibabel.cifti2.SeriesAxis(0, TR, N), voxels))
    nibabel.save(image, tmp_path / kind)
    whole = (tmp_path / kind).read_bytes()
    (tmp_path / kind).write_bytes(whole[: int(len(whole) * share)])
    for call in (open_recording, file_contents):
        with pytest.raises(PatchclampError, match=rf"{kind}: (not readable as NIfTI|.* not NIfTI volumes)"):
            call(tmp_path / kind, format="nifti")
