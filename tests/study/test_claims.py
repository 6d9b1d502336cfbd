"""Claims: written, read, validated, and judged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null
from patchclamp.study.claims import SCHEMA, Claim, read_claims, schema, write_claims

NULL = Null(0.05, -0.02, 0.12, 20, "site and activity", p=0.048)


@pytest.fixture
def claim() -> Claim:
    return Claim(
        id="heads",
        kind="necessity",
        statement="Ablating 2 heads takes 90%.",
        units=("head.1[0]", "head.2[3]"),
        task={
            "name": "toy",
            "n": 64,
            "seed": 0,
            "corruption": "swap",
            "split": "test",
            "items": 16,
            "fingerprint": "00",
        },
        intervention={"kind": "mean", "by": "template"},
        metric="logit_diff",
        baseline=4.0,
        changed=0.4,
        estimate=Estimate(0.9, 0.8, 1.0, 16, NULL),
        criterion={"at_least": 0.8, "beats_control": True},
        seed=0,
        ablation="mean over train items",
        model={"name": "tiny", "fingerprint": "ab"},
        version="0.1.0",
    )


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(schema())


def test_a_file_reads_back_as_it_was_written(tmp_path, claim):
    alone = replace(claim.estimate, null=None)
    write_claims(tmp_path / "claims.json", [claim, replace(claim, id="other", estimate=alone)], "0.1.0")
    first, second = read_claims(tmp_path / "claims.json")
    assert first == claim
    assert second.estimate.null is None
    assert second.to_json()["control"] is None and second.to_json()["p"] is None
    data = json.loads((tmp_path / "claims.json").read_text())
    assert data["schema"] == SCHEMA
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "patchclamp/claims/99"}, "patchclamp/claims/99"),
        ({"schema": None}, "not a claims file"),
        ({"claims": []}, "claims"),
        ({"extra": 1}, "extra"),
    ],
)
def test_another_schema_is_refused(tmp_path, claim, change, message):
    path = tmp_path / "claims.json"
    write_claims(path, [claim], "0.1.0")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(PatchclampError, match=message):
        read_claims(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("estimate", "high", "estimate"),
        ("kind", "magic", "kind"),
        ("units", [], "units"),
        ("interval", [1], "interval"),
    ],
)
def test_a_broken_claim_is_refused_naming_the_place(tmp_path, claim, field, value, message):
    path = tmp_path / "claims.json"
    write_claims(path, [claim], "0.1.0")
    data = json.loads(path.read_text())
    data["claims"][0][field] = value
    path.write_text(json.dumps(data))
    with pytest.raises(PatchclampError, match=rf"claims\[0\].{message}"):
        read_claims(path)


def test_missing_files_and_files_of_something_else_are_refused(tmp_path):
    with pytest.raises(PatchclampError, match="no such file"):
        read_claims(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(PatchclampError, match="not a JSON file"):
        read_claims(tmp_path / "text.json")
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(PatchclampError, match="not a claims file"):
        read_claims(tmp_path / "list.json")


@pytest.mark.parametrize(
    ("criterion", "estimate", "high", "holds"),
    [
        ({"at_least": 0.8}, 0.8, 0.1, True),
        ({"at_least": 0.8}, 0.79, 0.1, False),
        ({"at_most": 0.1}, 0.05, 0.1, True),
        ({"at_most": 0.1}, 0.11, 0.1, False),
        ({"at_least": 0.1, "beats_control": True}, 0.2, 0.3, False),
        ({"at_least": 0.1, "beats_control": True}, 0.4, 0.3, True),
        ({"at_least": 0.1}, float("nan"), 0.3, False),
        ({"at_most": 0.1}, float("nan"), 0.3, False),
    ],
)
def test_a_claim_holds_when_its_criterion_is_met(claim, criterion, estimate, high, holds):
    measured = Estimate(estimate, null=replace(NULL, high=high))
    assert replace(claim, criterion=criterion).meets(measured) is holds


def test_beating_a_control_needs_a_control(claim):
    assert not claim.meets(Estimate(1.0))
