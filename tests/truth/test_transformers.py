"""Transformers with weights set by hand do what they are set to do, and their edges are those that matter when patched."""

from __future__ import annotations

import numpy as np
import pytest

from patchclamp.connect.circuits import edge_patching
from patchclamp.intervene import effects
from patchclamp.nouns.intervention import Intervention
from patchclamp.truth import TRUTHS, load_truth


@pytest.mark.parametrize("name", ["induction-gpt2", "induction-gpt2-sharp", "relay-gpt2"])
def test_the_answer_is_given_and_falls_with_each_planted_unit(name):
    system = load_truth(name, 1)
    changes = [Intervention(unit, "patch") for unit in system.nodes]
    measured = effects(system.subject, system.task, changes, control=None)
    for (unit, planted), found in zip(system.nodes.items(), measured, strict=True):
        share = found.estimate.value / found.baseline
        assert (share > 0.5) if planted else (abs(share) < 0.1), (unit, share)
    assert measured[0].baseline > 1


@pytest.mark.parametrize("name", ["induction-gpt2", "relay-gpt2"])
def test_only_the_edges_of_the_truth_do_much_when_patched(name):
    system = load_truth(name, 2)
    pairs = [tuple(edge.split("->")) for edge in system.edges]
    graph = edge_patching(system.subject, system.task, pairs, direction="noising")
    size = {
        edge: abs(float(graph.edge(*pair).mean())) for edge, pair in zip(system.edges, pairs, strict=True)
    }
    true = [size[edge] for edge, real in system.edges.items() if real]
    idle = [size[edge] for edge, real in system.edges.items() if not real]
    assert min(true) > 3 * max(idle)
    assert len(true) == {"induction-gpt2": 5, "relay-gpt2": 3}[name]


def test_the_control_has_no_edge_and_knows_those_that_are_gone():
    system = load_truth("induction-gpt2-idle")
    assert TRUTHS["induction-gpt2-idle"].control
    assert not any(system.edges.values()) and not any(system.nodes.values())
    assert sum(system.data["original"]["edges"].values()) == 5


def test_a_seed_gives_the_same_items_and_weights():
    one, two, other = (load_truth("relay-gpt2", seed) for seed in (0, 0, 1))
    assert [i.clean for i in one.task.items] == [i.clean for i in two.task.items]
    assert [i.clean for i in one.task.items] != [i.clean for i in other.task.items]
    weights = [s.subject.model.transformer.h[0].mlp.c_fc.weight.detach().numpy() for s in (one, two, other)]
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
