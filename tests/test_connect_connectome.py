"""Dynamic connectome: planted motifs come back with their neurons, times and animals; shuffled ones do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from patchclamp.connect import affinities, dynamic_connectome
from patchclamp.connect.connectome import DynamicConnectome
from patchclamp.connect.heads import head_connectome, head_traces
from patchclamp.recording import Recording, Samples
from patchclamp.truth.populations_coded import MOTIFS, motifs

PLANTED = motifs(0)


@pytest.fixture(scope="module")
def found() -> DynamicConnectome:
    return dynamic_connectome(PLANTED.recording, rank=4, restarts=2)


# ---- the connectome


def test_planted_motifs_come_back_with_their_neurons_times_and_animals(found):
    groups, table = PLANTED.data["groups"], found.table()
    assert found.components()["motif"].sum() == 3 and found.p_error == 0.05
    for group, start, stop, animals in MOTIFS:
        of_group = [f"neuron[{i}]" for i in np.flatnonzero(groups == group)]
        rows = table[[set(of_group) == set(c) for c in table["community"]]]
        assert len(rows), f"group {group} is not a community"
        row = rows.iloc[(rows["stop"] - rows["start"]).argmax()]
        component = int(row["component"])
        labels = found.blocks[component].labels
        assert normalized_mutual_info_score(groups == group, labels) == pytest.approx(1)
        assert set(row["animals"]) == {f"animal{a}" for a in animals}
        assert abs(row["start"] - start) < 25 and abs(row["stop"] - stop) < 25
        assert row["within"] > 3 * row["between"]


def test_the_background_is_one_block_and_no_motif(found):
    facts = found.components()
    rest = facts[~facts["motif"]]
    assert len(rest) == 1 and rest["blocks"].tolist() == [1] and rest["modulation"].item() < 0.3
    assert len(found.table(all_components=True)) > len(found.table())


def test_graphs_of_components_have_null_baseline_and_limits(found):
    motif = int(np.flatnonzero(found.components()["motif"])[0])
    graph = found.graphs[motif]
    inside = graph.node_data["block"].to_numpy() == 0
    strong = graph.significant()[np.ix_(inside, inside)][~np.eye(10, dtype=bool)]
    assert strong.all() and graph.baseline.method.startswith("correlation") and "causation" in graph.limits


def test_shuffled_motifs_give_none():
    twin = dynamic_connectome(motifs(0, shuffled=True).recording, rank=2, restarts=1, tolerance=1e-3)
    assert len(twin.table()) == 0 and not twin.components()["motif"].any() and twin.p_error > 0.05


def test_rank_is_where_the_error_stops_falling_more_than_on_the_null():
    from patchclamp.connect.functional_connectome import _ranks

    tensor = affinities(PLANTED.recording)
    fit = {"tolerance": 1e-4, "seed": 0}
    table = _ranks(tensor, None, 6, 0.01, "neuron_shift", 2, fit)
    assert table["rank"][table["kept"]].max() == 4
    twin = affinities(motifs(0, shuffled=True).recording)
    assert _ranks(twin, None, 6, 0.01, "neuron_shift", 1, fit)["kept"].sum() == 1


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


def test_pictures_are_drawn(found, tmp_path):
    pytest.importorskip("matplotlib")
    from patchclamp.connect import plot_graph

    found.plot().savefig(tmp_path / "connectome.png")
    plot_graph(found.graphs[1], significant=0.05).savefig(tmp_path / "graph.png")
    assert (tmp_path / "connectome.png").stat().st_size > 5000


# ---- heads


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
