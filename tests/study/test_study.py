"""The whole chain on a model whose answer is known: the planted head is found, proved, claimed and verified."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from jsonschema import Draft202012Validator

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import read_json
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Units
from patchclamp.study import StudyOptions, read_claims, run_study, verify_claims
from patchclamp.study.report.findings import statement
from patchclamp.subjects.files.identity import fingerprint

SMALL = StudyOptions(
    n_train=32, n_validation=16, n_test=24, head_sizes=(1, 2, 3), neuron_sizes=(1, 4, 8), n_singles=2, refine_heads=4,
    curve_items=8, curve_points=3, n_random=1, exact_items=4, exact_layers=3, n_texts=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def subject():
    return planted.subject()


@pytest.fixture(scope="module")
def study(subject, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    file = folder / "copying.jsonl"
    planted.task().to_jsonl(file)
    return run_study(subject, planted.task(), folder / "out", options=SMALL, source=str(file))


def test_the_planted_head_is_what_is_found(study):
    heads = study.facts["selection"][0]
    assert heads["units"] == ["head.1[2]"]
    assert study.units.iloc[0]["unit"] == "head.1[2]"
    assert "head.1[2]" in str(study.claims[0].units)
    assert study.claims[0].estimate.value > 0.7
    assert abs(study.claims[0].estimate.null.mean) < 0.1


def test_neurons_which_do_nothing_are_not_claimed_to_matter(study):
    neurons = [c for c in study.claims if "mlp_act" in c.units[0]]
    assert all(c.negative for c in neurons)
    assert "No evidence" in "\n".join(study.data["findings"])


def test_the_only_head_is_also_enough(study):
    kept = next(c for c in study.claims if c.kind == "sufficiency")
    assert kept.estimate.value > 0.8
    assert not kept.negative


@pytest.mark.slow
def test_with_fewer_than_eight_groups_nothing_is_concluded(subject, tmp_path):
    """The same model and task, its items in as many groups as leave 5 for the test: effects as before, no claim."""
    task = planted.task(240)
    few = [replace(item, group=f"g{place % 20}") for place, item in enumerate(task.items)]
    found = run_study(subject, Task(task.name, few), tmp_path / "out", options=SMALL)
    assert not found.claims
    assert re.match(
        r"Nothing can be concluded: the 24 test items are in [1-7] independent groups", found.data["headline"]
    )
    assert "head.1[2]" in str(found.units.iloc[0]["unit"]) and found.units.iloc[0]["effect"] > 0.7
    assert (
        "no interval" in "\n".join(found.data["findings"])
        and "nan" not in (found.folder / "report.html").read_text()
    )


def test_no_item_selects_and_verifies(subject):
    task = planted.task()
    texts = {name: {i.clean for i in task.split(name).items} for name in ("train", "validation", "test")}
    assert not texts["test"] & (texts["train"] | texts["validation"])


def test_the_files_are_complete_and_keep_to_their_schema(study):
    schema = read_json(__import__("patchclamp.study", fromlist=["x"]).__path__[0] + "/study.schema.json")
    data = read_json(study.folder / "study.json")
    Draft202012Validator(schema).validate(data)
    assert next(s["facts"]["selection"] for s in data["sections"] if "selection" in s["facts"])[0][
        "units"
    ] == ["head.1[2]"]
    assert read_claims(study.folder / "claims.json") == list(study.claims)
    for name, table in study.tables.items():
        assert len(pd.read_parquet(study.folder / f"{name}.parquet")) == len(table)
    page = (study.folder / "report.html").read_text()
    assert page.count("<svg") >= 8
    assert "head.1[2]" in page


def test_claims_verify_where_they_were_made(study, subject):
    verdicts = verify_claims(study.claims, subject)
    assert {v.outcome for v in verdicts} == {"holds"}
    for verdict in verdicts:
        assert verdict.measured.value == pytest.approx(verdict.claim.estimate.value, abs=1e-5)
        assert json.dumps(verdict.to_json())


def test_a_claim_with_a_fingerprint_of_an_older_version_is_of_the_model_that_it_covers(study, subject):
    claim = study.claims[0]
    old = fingerprint(subject.model, version=1)
    verdict = verify_claims([replace(claim, model={**claim.model, "fingerprint": old})], subject)[0]
    assert verdict.outcome == "holds"
    assert "older version" in verdict.reason
    moved = replace(claim, model={**claim.model, "fingerprint": old[::-1]})
    assert "another model" in verify_claims([moved], subject)[0].reason


def test_a_claim_that_says_too_much_fails(study, subject):
    claim = study.claims[0]
    wrong = [
        replace(claim, criterion={"at_least": 3.0}),
        replace(claim, criterion={"at_most": 0.1}),
        replace(claim, estimate=replace(claim.estimate, low=0.1, high=0.2)),
        replace(claim, units=("head.0[1]",)),
    ]
    verdicts = verify_claims(wrong, subject)
    assert [v.outcome for v in verdicts] == ["fails"] * 4
    assert all(v.reason for v in verdicts)


def test_another_model_that_cannot_do_the_task_cannot_run(study):
    verdicts = verify_claims(study.claims, planted.subject(planted=False))
    assert {v.outcome for v in verdicts} == {"cannot run"}
    assert "accuracy" in verdicts[0].reason


def test_on_another_model_an_address_means_nothing_until_it_is_matched(study):
    other = planted.subject(seed=5, layers=4)
    claim = study.claims[0]
    verdict = verify_claims([claim], other)[0]
    assert verdict.outcome == "not comparable"
    assert verdict.measured is None
    assert "one unit of another model" in verdict.reason
    outcomes = [
        verify_claims([claim], other, matched={"head.1[2]": there})[0].outcome
        for there in ("head.1[2]", "head.2[2]", "head.7[2]")
    ]
    assert outcomes == ["holds", "fails", "cannot run"]
    assert verify_claims([claim], other, matched={"head.0[0]": "head.0[0]"})[0].outcome == "not comparable"


def test_a_claim_of_a_set_is_measured_on_the_other_models_own_set(study):
    """The other model has the planted head elsewhere: the claim's addresses are of idle heads there."""
    other = planted.subject(seed=5)
    attention, order = other.model.model.layers[1].self_attn, torch.arange(128).roll(32)
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj"):
            weight = getattr(attention, name).weight
            weight.copy_(weight[order].clone())
        attention.o_proj.weight.copy_(attention.o_proj.weight[:, order].clone())
    claim = replace(study.claims[0], units=("head.1[1,2]",))
    claim = replace(claim, statement=statement(claim))
    verdict = verify_claims([claim], other)[0]
    assert verdict.outcome == "holds", verdict.reason
    assert verdict.measured.value > 0.7
    assert "head.1[3]" in verdict.reason
    by_address = verify_claims([claim], other, matched={f"head.1[{i}]": f"head.1[{i}]" for i in (1, 2)})
    assert by_address[0].outcome == "fails"


def test_the_same_model_in_another_precision_has_the_same_addresses(study):
    half = planted.subject()
    half.model.to(torch.bfloat16)
    half = type(half)(half.model, half.tokenizer, half.name, "")
    verdict = verify_claims([study.claims[0]], half)[0]
    assert verdict.outcome == "holds"
    assert verdict.reason == "in torch.bfloat16"


def test_a_task_that_has_changed_cannot_run(study, subject, tmp_path):
    file = tmp_path / "other.jsonl"
    planted.task(seed=9).to_jsonl(file)
    claim = replace(study.claims[0], task={**study.claims[0].task, "name": str(file)})
    verdict = verify_claims([claim], subject)[0]
    assert verdict.outcome == "cannot run"
    assert "other items" in verdict.reason


def test_what_a_study_refuses(subject):
    task = planted.task()
    with pytest.raises(PatchclampError, match="cannot do it.*accuracy"):
        run_study(planted.subject(planted=False), task, options=SMALL, write=False)
    bare = Task("bare", [replace(i, corrupted=None, corrupted_spans={}) for i in task.items])
    with pytest.raises(PatchclampError, match="no corrupted texts"):
        run_study(subject, bare, options=SMALL, write=False)
    with pytest.raises(PatchclampError, match="did you mean partial_gradients"):
        run_study(subject, task, options=SMALL.change(method="partial_gradient"), write=False)
    with pytest.raises(PatchclampError, match="better when lower"):
        run_study(subject, replace(task, metric="loss"), options=SMALL, write=False)
    with pytest.raises(PatchclampError, match="at least 20"):
        SMALL.change(n_control=3)
    with pytest.raises(PatchclampError, match="did you mean n_test"):
        SMALL.change(n_tests=3)


def test_a_failed_check_of_the_tensors_stops_the_study(monkeypatch):
    broken = planted.subject()
    # A wrong anatomy: neurons are read from another layer than the one they are named after.
    place = type(broken).place
    monkeypatch.setattr(
        type(broken),
        "place",
        lambda self, site: place(
            self, replace(site, layer=0) if site.point == "mlp_act" and site.layer == 2 else site
        ),
    )
    with pytest.raises(PatchclampError, match="check .* fails"):
        run_study(broken, planted.task(), options=SMALL, write=False)


def test_the_bench_ablates_what_it_says(subject, study):
    from patchclamp.study.experiments import complement

    rest = complement(subject, Units.parse("head.1[2]"), ["head.*"])
    assert rest.count == 11
    assert (rest[next(s for s in rest.sites if s.layer == 1)]) == (0, 1, 3)


def test_a_claim_is_judged_by_its_figures_not_by_what_its_file_says_of_them(study, subject):
    claim = study.claims[0]
    of_nothing = replace(claim, units=("head.0[1]",), statement="Ablating head.0[1] takes 99 %.")
    wide = replace(claim.estimate, value=0.99, low=-100.0, high=100.0)
    everything = {"at_least": -10}
    forged = {
        "with no control, decide nothing": replace(
            of_nothing, criterion=everything, estimate=replace(wide, null=None)
        ),
        "with 20 random sets, decide nothing": replace(of_nothing, criterion=everything, estimate=wide),
        "statement says 99 %": replace(claim, statement="Ablating head.1[2] takes 99 % of everything."),
        r"statement says head.1\[3\]": replace(claim, statement=claim.statement.replace("[2]", "[3]")),
        "statement says 7;": replace(claim, statement=claim.statement.replace("one of", "7 of")),
        "statement says 999": replace(claim, statement=claim.statement.replace("of 12", "of 999")),
        "outside its own interval": replace(claim, estimate=replace(claim.estimate, value=9.0)),
        "measured interval.* does not hold what is claimed": replace(
            claim,
            criterion=everything,
            statement="Ablating head.1[2] takes much of it.",
            estimate=replace(claim.estimate, value=0.2, low=0.15, high=9.0),
        ),
        "no ablation": replace(claim, intervention={**claim.intervention, "kind": "scale", "value": -5.0}),
    }
    for verdict, reason in zip(verify_claims(list(forged.values()), subject), forged, strict=True):
        assert verdict.outcome == "fails", reason
        assert re.search(reason, verdict.reason), verdict.reason
        assert (verdict.measured is None) == (reason == "no ablation")
    lax = verify_claims([replace(claim, criterion=everything)], subject)[0]
    assert lax.outcome == "holds"
    assert lax.to_json()["criterion"] == claim.criterion != everything


def test_a_control_of_one_set_is_drawn_again_with_enough(study, subject):
    claim = study.claims[0]
    few = replace(claim, estimate=replace(claim.estimate, null=replace(claim.estimate.null, n=1)))
    assert verify_claims([few], subject)[0].measured.null.n == claim.estimate.null.n == 20
