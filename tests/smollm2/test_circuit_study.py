"""The circuit of subject-verb agreement on the embedded model: a hundred or a few hundred of 46,080 neurons carry it."""

from __future__ import annotations

import json

import pytest

from patchclamp.app import cli
from patchclamp.study import read_claims

pytestmark = pytest.mark.smollm2


def test_the_command_prints_a_circuit_of_neurons_kept_on_held_out_items(tmp_path, capsys):
    out = tmp_path / "agreement"
    assert cli.run(["study", "agreement", "--circuit", "--items", "24", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    facts = {name: fact for section in found["sections"] for name, fact in section["facts"].items()}
    assert facts["chosen"] == "neurons"
    curve = {row["size"]: row for row in facts["circuit"]["curve"]}
    assert curve[100]["kept"] > 0.7 and curve[1000]["kept"] > 0.85
    assert curve[30]["left"] < 0.2
    assert abs(facts["circuit"]["kept"]["control"]["mean"]) < 0.05
    assert facts["circuit"]["over_activity"]["low"] > 0.4
    assert "mlp_act.28[907]" in facts["circuit"]["units"]
    assert {claim.kind for claim in read_claims(out / "claims.json")} == {"circuit", "circuit removed"}
    assert "mlp_act.28[907]" in (out / "report.html").read_text()
