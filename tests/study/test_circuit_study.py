"""A study of a circuit on models whose circuit is known: what is planted is found, kept on held-out items, and claimed."""

from __future__ import annotations

from dataclasses import replace

import pytest

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.task import Task
from patchclamp.study import CircuitOptions, read_claims, run_circuit_study, verify_claims

SMALL = CircuitOptions(
    n_train=32, n_validation=16, n_test=24, head_sizes=(1, 2, 4), neuron_sizes=(4, 16), both_sizes=(4, 16), n_measured=6,
    measured_items=12, n_splits=6, graph_nodes=4, graph_items=10,
)  # fmt: skip


@pytest.fixture(scope="module")
def subject():
    return planted.subject()


@pytest.fixture(scope="module")
def study(subject, tmp_path_factory):
    folder = tmp_path_factory.mktemp("circuit")
    planted.task().to_jsonl(folder / "copying.jsonl")
    source = str(folder / "copying.jsonl")
    return run_circuit_study(subject, planted.task(), folder / "out", options=SMALL, source=source)


def test_the_planted_head_is_the_circuit_and_heads_are_the_nodes(study):
    assert study.facts["chosen"] == "heads"
    assert study.facts["circuit"]["units"] == ["head.1[2]"]
    kinds = {one["kind"]: one for one in study.facts["kinds"]}
    assert abs(kinds["neurons"]["carried"]) < 0.1 and not kinds["neurons"]["enough"]
    assert "all 96 MLP neurons carry" in study.facts["why"]
    assert study.data["headline"].startswith("1 of 12 attention heads carries it")


def test_it_is_kept_on_items_that_did_not_choose_it_and_random_heads_are_not(study):
    kept, removed = (study.context.joint[name].share for name in ("kept", "removed"))
    assert 0.9 < kept.low < kept.value < kept.high < 1.1
    assert abs(kept.null.mean) < 0.1 and kept.null.n == 20
    assert removed.value > 0.9 and abs(removed.null.mean) < 0.1
    assert set(study.tables["circuit_curve"]["verdict"]) == {""}


def test_predicted_effects_meet_those_measured_on_other_items(study):
    found = study.facts["predicted"]
    assert found["after"]["pearson"] > 0.99 and 0.8 < found["after"]["slope"] < 1.2


def test_the_planted_node_is_in_every_half_and_overlap_stands_beside_chance(study):
    row = study.facts["stability"]["halves"][0]
    assert (row["size"], row["overlap"]) == (1, 1.0)
    assert row["chance"] == pytest.approx(1 / 12)  # two random sets of one node share it or do not
    assert study.tables["nodes"].iloc[0].to_dict()["halves"] == 1.0


def test_edges_lead_from_the_tokens_through_the_head_to_the_logits(study):
    edges = study.tables["edges"].set_index(["source", "target"])
    assert edges.loc[("embeddings", "v.1[2]"), "low"] > 0
    assert edges.loc[("head.1[2]", "logits"), "low"] > 0
    assert study.facts["graph"]["on_paths"] >= 2


def test_its_claims_are_measured_again_and_an_edited_one_fails(study, subject):
    claims = read_claims(study.folder / "claims.json")
    assert {claim.kind for claim in claims} == {"circuit", "circuit removed"}
    verdicts = verify_claims(claims, subject)
    assert {v.outcome for v in verdicts} == {"holds"}
    for verdict in verdicts:
        assert verdict.measured.value == pytest.approx(verdict.claim.estimate.value, abs=1e-5)
    kept = next(claim for claim in claims if claim.kind == "circuit")
    estimate = kept.estimate
    edited = [
        replace(kept, units=("head.0[1]",)),
        replace(kept, estimate=replace(estimate, value=0.6, low=0.55, high=0.65)),
        replace(kept, statement=kept.statement.replace("one of 12", "one of 500")),
    ]
    assert [v.outcome for v in verify_claims(edited, subject)] == ["fails"] * 3
    stronger = replace(kept, estimate=replace(estimate, value=1.8, low=1.7, high=1.9))
    assert verify_claims([stronger], subject)[0].outcome == "fails"


def test_where_the_corrupted_word_has_no_part_in_the_answer_there_is_no_circuit(subject):
    """Shuffled: the answer is the first word, and the corruption changes the second, whatever the answer was."""
    items = [
        replace(item, answers=(" " + item.clean.split()[0],), foils=item.foils)
        for item in planted.task().items
    ]
    items = [
        replace(item, foils=(" " + next(w for w in planted.WORDS if w not in item.clean + item.corrupted),))
        for item in items
    ]
    task = Task("shuffled", items, metric="logit_diff", corruption="replace", min_accuracy=0.9)
    with pytest.raises(PatchclampError, match="no circuit: the difference in logit_diff"):
        run_circuit_study(subject, task, options=SMALL, write=False)


def test_where_neurons_are_the_only_nodes_and_do_nothing_there_is_no_circuit(subject):
    only = SMALL.change(head_sizes=(), both_sizes=())
    with pytest.raises(
        PatchclampError, match="no circuit: no kind of nodes carries half .*all 96 MLP neurons carry"
    ):
        run_circuit_study(subject, planted.task(), options=only, write=False)


def test_a_task_without_corrupted_inputs_and_options_of_no_circuit_are_refused(subject):
    bare = Task(
        "bare", [replace(item, corrupted=None, corrupted_spans={}) for item in planted.task(16).items]
    )
    with pytest.raises(PatchclampError, match="no corrupted texts"):
        run_circuit_study(subject, bare, options=SMALL, write=False)
    with pytest.raises(PatchclampError, match="ablation of a circuit"):
        SMALL.change(kind="mean")
    with pytest.raises(PatchclampError, match="n_splits=1"):
        SMALL.change(n_splits=1)
