"""Labels of a circuit's nodes: what they write and where they are active, held against the model's own numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import planted
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.units import Site
from patchclamp.study import label_nodes


@pytest.fixture(scope="module")
def labelled():
    subject, task = planted.subject(), planted.task(12)
    names = ["tokens:source", "q.1[2]", "head.1[2]", "mlp_act.2[3]+", "mlp_act.2[3]-", "logits"]
    ends = [(t, s) for t in range(2, 6) for s in range(t)]
    table = pd.DataFrame({"role": ["source", "", "end", "source", "source", ""], "score": np.arange(6.0)})
    graph = CircuitGraph.of(names, ends, np.ones((2, len(ends))), method="by hand", node_data=table)
    return subject, task, label_nodes(subject, task, graph, exemplars=3)


def test_exemplars_are_the_places_of_the_largest_activity_of_the_nodes_sign(labelled):
    subject, task, graph = labelled
    data = graph.node_data.set_index(pd.Index(graph.nodes))
    pair = next(subject.pairs(task, 12))
    activity = subject.run(pair.clean, read=[Site("mlp_act", 2)]).activity[Site("mlp_act", 2)][..., 3]
    for name, sign in (("mlp_act.2[3]+", 1), ("mlp_act.2[3]-", -1)):
        best = (
            (sign * activity).masked_fill(~pair.clean.mask, -torch.inf).amax(1).sort(descending=True).values
        )
        shown = data.loc[name, "exemplars"]
        assert [one["value"] for one in shown] == pytest.approx(best[:3].tolist(), abs=1e-6)
        for one in shown:
            text = f"{one['before']} {one['token']} {one['after']}".split()
            assert " ".join(text) in {item.clean for item in task.items}


def test_what_a_node_writes_is_its_output_through_the_lm_head_times_its_sign(labelled):
    subject, _, graph = labelled
    data = graph.node_data.set_index(pd.Index(graph.nodes))
    direction = subject.output_matrix(Site("mlp_act", 2))[3].float()
    weights, gain = subject.unembed()
    rows = weights.float() * gain.float()
    rows = rows - rows[: len(planted.WORDS) + 1].mean(0)
    score = (rows @ direction) / rows.norm(dim=1).clamp(min=1e-9)
    for name, sign in (("mlp_act.2[3]+", 1), ("mlp_act.2[3]-", -1)):
        order = (sign * score[: len(planted.WORDS)]).argsort(descending=True)[:8].tolist()
        near = {subject.tokenizer.decode([i]) for i in order}
        assert {token.strip() for token in data.loc[name, "written"]} <= {token.strip() for token in near}
    assert data.loc["mlp_act.2[3]+", "written"] != data.loc["mlp_act.2[3]-", "written"]


def test_labels_are_short_and_others_have_none(labelled):
    _, _, graph = labelled
    data = graph.node_data.set_index(pd.Index(graph.nodes))
    for name in ("tokens:source", "q.1[2]", "logits"):
        assert data.loc[name, "label"] == "" and data.loc[name, "written"] is None
    assert data.loc["head.1[2]", "label"].startswith(("writes ", "at "))
    assert data["score"].tolist() == list(range(6))  # what was there stays
    notes = {one["name"]: one["note"] for one in graph.picture()["nodes"]}
    assert notes["head.1[2]"] == data.loc["head.1[2]", "label"]
