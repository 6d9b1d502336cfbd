"""Features beside neurons, on a model in which a block of neurons stands between the planted head and the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Units
from patchclamp.study import StudyOptions, read_claims, run_study, verify_claims
from patchclamp.study.features import attach_saved, who_takes_more

OPTIONS = StudyOptions(
    n_train=32, n_validation=16, n_test=24, head_sizes=(1,), neuron_sizes=(1, 4, 8), n_singles=2, refine_heads=2,
    curve_items=4, curve_points=2, n_random=1, exact_items=2, exact_layers=2, n_texts=3, decompose="snmf",
    n_features=8, feature_layers=1, feature_texts=5, feature_sizes=(1, 2),
)  # fmt: skip


@pytest.fixture(scope="module")
def subject():
    """The head's output goes to a scratch space; from there only two groups of neurons of layer 2 reach the answer."""
    lm = planted.subject()
    attention = lm.model.model.layers[planted.LAYER].self_attn
    rows = slice(32 * planted.HEAD, 32 * (planted.HEAD + 1))
    mlp = lm.model.model.layers[2].mlp
    code = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():
        attention.o_proj.weight[:, rows] = 0
        attention.o_proj.weight[64:96, rows] = 3 * torch.eye(32)
        mlp.gate_proj.weight.zero_()
        mlp.up_proj.weight.zero_()
        mlp.down_proj.weight.zero_()
        # silu(c) is about c for a constant gate: each neuron passes one direction of the scratch space on.
        mlp.gate_proj.weight[:, 96] = 0
        mlp.gate_proj.weight[:, 64:96] = 4 * code
        mlp.up_proj.weight[:, 64:96] = 4 * code
        mlp.down_proj.weight[32:64] = 0.5 * code.T
    return lm


@pytest.mark.slow
def test_a_study_with_features(subject, tmp_path) -> None:
    file = tmp_path / "copying.jsonl"
    task = planted.task()
    easy = replace(task, min_accuracy=0.0)
    easy.to_jsonl(file)
    study = run_study(subject, easy, tmp_path / "out", options=OPTIONS, source=str(file))
    found = study.facts["features"]
    assert found["sites"] == ["mlp_act.2/snmf"]
    sizes = [row["size"] for row in found["curve"]]
    assert sizes == sorted(sizes) and found["curve"][-1]["features"] > 0
    assert {row["unit"].split("[")[0] for row in found["rows"]} == {"mlp_act.2/snmf"}
    assert "Features beside neurons" in study.report.read_text()
    # One winner of 32 neurons a feature: to ablate the feature is to ablate the neuron, here found by the same scores.
    for row in found["curve"]:
        assert row["features"] == pytest.approx(row["neurons"], abs=1e-5) and row["features"] > 0.05
    assert "no difference beyond the interval" in found["answer"]
    claims = [c for c in read_claims(tmp_path / "out" / "claims.json") if c.id == "features-together"]
    fresh = type(subject)(subject.model, subject.tokenizer, subject.name, subject.fingerprint)
    assert all(v.outcome == "cannot run" for v in verify_claims(claims, fresh))
    again = verify_claims(claims, fresh, dictionaries=tmp_path / "out" / "dictionaries")
    assert all(v.outcome == "holds" for v in again)
    attach_saved(fresh, tmp_path / "out" / "dictionaries")
    assert fresh.units(found["selection"]["units"][0]) == Units.parse(found["selection"]["units"][0])


def test_an_unknown_decomposition_is_refused_before_work_begins(subject) -> None:
    with pytest.raises(PatchclampError, match="did you mean snmf"):
        run_study(subject, planted.task(), options=replace(OPTIONS, decompose="snfm"), write=False)


def test_the_answer_says_at_which_sizes():
    rows = [
        {"size": 1, "low": 0.1, "high": 0.2},
        {"size": 2, "low": 0.1, "high": 0.3},
        {"size": 5, "low": -0.1, "high": 0.1},
    ]
    assert who_takes_more(rows) == "features carry more among the first 1 to 2"
    assert who_takes_more([*rows, {"size": 9, "low": -0.3, "high": -0.1}]) == (
        "features carry more among the first 1 to 2, neurons carry more among the first 9"
    )
    assert who_takes_more(rows[:2]) == "features carry more of this behaviour at every size tried"
    assert "no difference" in who_takes_more(rows[2:])
