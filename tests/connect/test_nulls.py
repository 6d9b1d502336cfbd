"""Nulls of the connectome, the choice of its rank, and heads of a model in the place of neurons."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.connect import affinities, biclustering, dynamic_connectome
from patchclamp.connect.circuits.heads import head_connectome, head_traces
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.truth.populations_coded import motifs

PLANTED = motifs(0)


@pytest.mark.slow
def test_shuffled_motifs_give_none():
    twin = dynamic_connectome(motifs(0, shuffled=True).recording, rank=2, restarts=1, tolerance=1e-3)
    assert len(twin.table()) == 0 and not twin.components()["motif"].any() and twin.p_error > 0.05


@pytest.mark.slow
def test_rank_is_where_the_error_stops_falling_more_than_on_the_null():
    from patchclamp.connect.groups.functional_connectome import errors_by_rank

    tensor = affinities(PLANTED.recording)
    fit = {"tolerance": 1e-4, "seed": 0}
    table = errors_by_rank(tensor, None, 6, 0.01, "neuron_shift", 2, fit)
    assert table["rank"][table["kept"]].max() == 4
    twin = affinities(motifs(0, shuffled=True).recording)
    assert errors_by_rank(twin, None, 6, 0.01, "neuron_shift", 1, fit)["kept"].sum() == 1


def test_draws_too_few_for_any_motif_are_refused():
    with pytest.raises(PatchclampError, match=r"null_samples=9: no p could be below 0.10.*19"):
        dynamic_connectome(PLANTED.recording, null_samples=9)
    with pytest.raises(PatchclampError, match="null_samples=9: no p could be .05"):
        biclustering(PLANTED.recording, null_samples=9)


def test_nulls_keep_what_they_promise():
    tensor = affinities(motifs(0, missing=3).recording)
    rng = np.random.default_rng(0)
    gone = np.isnan(tensor.slopes)

    def together(x: np.ndarray) -> np.ndarray:
        return np.stack(
            [np.corrcoef(np.nan_to_num(one).T + 1e-12 * rng.normal(size=one.T.shape)) for one in x]
        )

    for how in ("neuron_shift", "animal_shift", "phase"):
        made = tensor.shifted(how, rng).slopes
        assert np.array_equal(np.isnan(made), gone)
        kept = np.abs(together(made) - together(tensor.slopes))[0][~gone[0, 0]][:, ~gone[0, 0]].max()
        assert (kept < 1e-6) == (how != "neuron_shift"), how


# ---- heads


@pytest.mark.slow
def test_heads_over_text_take_the_same_call():
    rng = np.random.default_rng(0)
    documents, length = 12, 30
    norm = rng.normal(size=(documents, length, 20))
    norm[:, 10:20, :8] = (
        2 * rng.normal(size=(documents, 10, 1)) + 0.1 * norm[:, 10:20, :8]
    )  # 8 heads, tokens 10..20
    place = torch.arange(documents * length)
    samples = Samples.of(place // length, place % length)
    rec = Recording.from_arrays({"head.0": np.exp(norm).reshape(-1, 20).astype("float32")}, samples)
    traces, names, _ = head_traces(rec)
    assert np.abs(traces - norm).max() < 1e-4 and names[2] == "head.0[2]"
    found = head_connectome(rec, rank=2, restarts=2, smooth_affinity=1.0)
    row = found.table().iloc[0]
    assert set(row["community"]) == {f"head.0[{i}]" for i in range(8)}
    assert abs(row["start"] - 10) < 3 and abs(row["stop"] - 20) < 3
