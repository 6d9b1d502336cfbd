"""Dynamic connectome: planted motifs come back with their neurons, times and animals; shuffled ones do not."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from patchclamp.connect import dynamic_connectome
from patchclamp.connect.groups.connectome import DynamicConnectome
from patchclamp.truth.populations_coded import MOTIFS, motifs

pytestmark = pytest.mark.slow
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


def test_pictures_are_drawn(found, tmp_path):
    pytest.importorskip("matplotlib")

    found.plot().savefig(tmp_path / "connectome.png")
    found.graphs[1].plot(significant=0.05).savefig(tmp_path / "graph.png")
    assert (tmp_path / "connectome.png").stat().st_size > 5000
