"""The circuit of subject-verb agreement on the embedded model: five heads carry it, and of neurons a few hundred of 46,080."""

from __future__ import annotations

import json

import pytest

from patchclamp.app import cli
from patchclamp.study import read_claims

pytestmark = pytest.mark.smollm2


def test_the_command_prints_a_circuit_that_is_kept_on_held_out_items(tmp_path, capsys):
    out = tmp_path / "agreement"
    assert cli.run(["study", "agreement", "--circuit", "--items", "24", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    facts = {name: fact for section in found["sections"] for name, fact in section["facts"].items()}
    kinds = {kind["kind"]: {row["size"]: row for row in kind["curve"]} for kind in facts["kinds"]}
    assert kinds["neurons"][100]["kept"] > 0.5 and kinds["neurons"][1000]["kept"] > 0.8
    assert kinds["neurons"][30]["left"] < 0.25
    assert kinds["heads"][5]["kept"] > 0.75
    assert facts["chosen"] in ("heads", "neurons")
    circuit = facts["circuit"]
    kept = next(row for row in circuit["curve"] if row["size"] == circuit["k"])
    assert kept["kept"] > 0.7 and kept["left"] < 0.2
    assert abs(circuit["kept"]["control"]["mean"]) < 0.05
    assert circuit["over_activity"]["low"] > 0
    first = {"heads": "head.26[0]", "neurons": "mlp_act.28[907]"}[facts["chosen"]]
    assert first in circuit["units"] and first in (out / "report.html").read_text()
    assert {claim.kind for claim in read_claims(out / "claims.json")} == {"circuit", "circuit removed"}
