"""The concept study: planted selective units are found and shown to matter; shuffled labels find none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.texts import TextTask
from patchclamp.nouns.units import Site, Unit
from patchclamp.study.claims import read_claims
from patchclamp.study.concepts import ConceptOptions, load_labelled, run_concept_study
from patchclamp.study.concepts.activity import pooled_activity
from patchclamp.study.concepts.selective import find_experts
from patchclamp.study.verify import verify_claims
from patchclamp.subjects.texts import mean_log_probability

FAST = ConceptOptions(per_label=30, n_units=2, n_permutations=30, sizes=(1, 2), n_described=1, max_tokens=16)


def corpus(n: int = 40, seed: int = 0) -> list[dict[str, str]]:
    """Texts of two labels that differ in the half of the vocabulary they use."""
    rng = np.random.default_rng(seed)
    found = []
    for label in ("low", "high"):
        for _ in range(n):
            own = rng.integers(0, 30, 6) + 30 * (label == "high")
            words = rng.permutation([*own, *rng.integers(0, 60, 2)])
            found.append({"text": " ".join(f"w{i}" for i in words), "label": label})
    return found


def with_concepts(first: int = 0):
    """A model that predicts well whatever word the text has had before; two of its neurons serve one half of the words."""
    lm = planted.subject()
    layer = lm.model.model.layers[1].mlp
    code = lm.model.lm_head.weight[:, 32:64]
    low, high = code[:30].mean(0), code[30:60].mean(0)
    embedded = lm.model.model.embed_tokens.weight[:, :32]
    side = embedded[30:60].mean(0) - embedded[:30].mean(0)
    with torch.no_grad():
        for unit, sign, out in ((0, 1, high), (1, 1, high), (2, -1, low), (3, -1, low)):
            at = first + unit
            layer.gate_proj.weight[at] = 0
            layer.gate_proj.weight[at, :32] = 40 * sign * side / side.norm()
            layer.up_proj.weight[at] = (
                layer.gate_proj.weight[at] / 40
            )  # about x^2 on one side, nothing on the other
            layer.down_proj.weight[:, at] = 0
            layer.down_proj.weight[32:64, at] = 6 * out / out.norm()
    return lm


@pytest.fixture(scope="module")
def subject():
    return with_concepts()


def test_the_loss_of_a_text_is_the_models_own(subject) -> None:
    task = TextTask("t", ("w1 w2 w3 w4 w5", "w7 w8 w9"))
    for pair in subject.pairs(task, 8):
        run = subject.run(pair.clean, logits="all")
        ours = pair.metric(run.logits)
        for row, tokens in enumerate(subject.encode([task.texts[int(i)] for i in pair.rows])):
            ids = torch.tensor([tokens])
            theirs = subject.model(input_ids=ids, labels=ids).loss
            assert float(-ours[row]) == pytest.approx(float(theirs.detach()), abs=1e-5)


def test_padding_does_not_enter_the_loss() -> None:
    logits, tokens = torch.randn(2, 6, 9), torch.randint(0, 9, (2, 6))
    long = mean_log_probability(logits, tokens, torch.tensor([6, 4]))
    short = mean_log_probability(logits[1:, :4], tokens[1:, :4], torch.tensor([4]))
    assert float(long[1]) == pytest.approx(float(short[0]), abs=1e-6)


def test_average_precision_is_that_of_scikit_learn_and_p_holds_over_all_units() -> None:
    values = torch.randn(60, 400, generator=torch.Generator().manual_seed(0))
    labels = ["a"] * 20 + ["b"] * 40
    values[:20, 7] += 3
    units = [Unit(Site("mlp_act", 0), i) for i in range(400)]
    found = {e.label: e for e in find_experts(values, units, labels, n_permutations=100)}
    best = found["a"].table.iloc[0]
    assert best["unit"] == "mlp_act.0[7]" and best["p"] < 0.02 and found["a"].n_significant == 1
    expected = average_precision_score([1] * 20 + [0] * 40, values[:, 7])
    assert best["average_precision"] == pytest.approx(expected, abs=1e-6)
    assert found["b"].n_significant == 0


@pytest.mark.slow
def test_noise_has_no_experts_more_often_than_stated() -> None:
    units = [Unit(Site("mlp_act", 0), i) for i in range(200)]
    hits = []
    for seed in range(40):
        values = torch.randn(30, 200, generator=torch.Generator().manual_seed(seed))
        found = find_experts(values, units, ["a"] * 15 + ["b"] * 15, n_permutations=60, seed=seed)
        hits.append(found[0].n_significant > 0)
    assert np.mean(hits) < 0.2


def test_labels_are_shuffled_by_group_where_groups_have_one_label() -> None:
    # Two groups a label: whatever tells the groups apart tells the labels apart; only the grouped null knows.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 15)
    values = torch.tensor(
        rng.normal(size=(4, 50))[groups] * 3 + rng.normal(size=(60, 50)), dtype=torch.float32
    )
    labels = ["a" if g < 2 else "b" for g in groups]
    units = [Unit(Site("mlp_act", 0), i) for i in range(50)]
    free = find_experts(values, units, labels, n_permutations=60)
    grouped = find_experts(values, units, labels, [str(g) for g in groups], n_permutations=60)
    assert free[0].n_significant > 5
    assert grouped[0].n_significant == 0


def test_pooling_ignores_batches_padding_and_the_first_position(subject) -> None:
    texts = tuple(entry["text"] for entry in corpus(5))
    whole, units = pooled_activity(
        subject, TextTask("t", texts + ("w1 w2 w3",)), subject.resolve("mlp_act.*")
    )
    alone, _ = pooled_activity(subject, TextTask("t", ("w1 w2 w3",)), subject.resolve("mlp_act.*"))
    assert torch.allclose(whole[-1], alone[0], atol=1e-5) and len(units) == whole.shape[1]


def test_a_planted_concept_is_found_proved_and_verified(subject, tmp_path) -> None:
    path = tmp_path / "halves.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in corpus()))
    study = run_concept_study(subject, str(path), tmp_path / "out", options=FAST)
    rows = {row["label"]: row for row in study.facts["labels"]}
    assert set(rows["high"]["units"]) == {"mlp_act.1[0,1]"}
    assert set(rows["low"]["units"]) == {"mlp_act.1[2,3]"}
    nats = np.array(study.facts["damage"]["nats"])
    assert nats[0, 0] > 0.05 and nats[1, 1] > 0.05 and nats[0, 0] > nats[0, 1] + 0.05
    claims = read_claims(tmp_path / "out" / "claims.json")
    assert {c.id for c in claims} == {"concept-high", "concept-low"}
    assert {v.outcome for v in verify_claims(claims, subject)} == {"holds"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What these numbers are not evidence for" in page and page.count("<svg") >= 2
    path.write_text("\n".join(json.dumps(entry) for entry in corpus(seed=1)))
    assert {v.outcome for v in verify_claims(claims, subject)} == {"cannot run"}


def test_on_another_model_its_own_first_units_are_measured(subject, tmp_path) -> None:
    """The other model has the concepts in other neurons: an address of the claim means nothing there."""
    path = tmp_path / "halves.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in corpus()))
    run_concept_study(subject, str(path), tmp_path / "out", options=FAST)
    claims = read_claims(tmp_path / "out" / "claims.json")
    other = with_concepts(first=8)
    own = verify_claims(claims, other)
    assert [v.outcome for v in own] == ["holds"] * 2
    assert {v.reason for v in own} == {"on another model, on its own first 2 units"}
    named = {f"mlp_act.1[{i}]": f"mlp_act.1[{8 + i}]" for i in range(4)}
    right = verify_claims(claims, other, matched=named)
    assert [v.measured.value for v in own] == pytest.approx([v.measured.value for v in right])
    assert {v.reason for v in right} == {"on another model, units matched"}
    same_address = {f"mlp_act.1[{i}]": f"mlp_act.1[{i}]" for i in range(4)}
    assert [v.outcome for v in verify_claims(claims, other, matched=same_address)] == ["fails"] * 2


def test_texts_are_escaped(subject, tmp_path) -> None:
    entries = [{**entry, "label": f"<script>{entry['label']}"} for entry in corpus()]
    study = run_concept_study(subject, entries, tmp_path, options=FAST)
    assert "<script>high" not in (tmp_path / "report.html").read_text()
    assert study.folder == tmp_path


@pytest.mark.parametrize(
    "entries, words",
    [
        ([{"text": f"w{i} w2", "label": "a"} for i in range(9)], "1 label"),
        ([{"text": f"w{i} w2", "label": "ab"[i > 8]} for i in range(12)], "has 3 texts"),
        (
            [{"text": "w1 w2", "label": "ab"[i % 2], "group": "g" + "ab"[i % 2]} for i in range(20)],
            "one group",
        ),
    ],
)
def test_refusals(entries, words) -> None:
    with pytest.raises(PatchclampError, match=words):
        load_labelled(entries)


def test_no_group_is_on_both_sides() -> None:
    entries = [{"text": f"w{i} w2", "label": "ab"[i % 2], "group": f"g{i % 7}"} for i in range(140)]
    data = load_labelled(entries)
    assert not set(data.train.groups) & set(data.test.groups)
    assert data.fingerprint == load_labelled(entries).fingerprint


def test_copies_of_a_text_are_on_one_side():
    entries = corpus(20) * 2
    data = load_labelled(entries)
    assert not set(data.train.texts) & set(data.test.texts)
    assert len(set(data.test.groups)) == len(set(data.test.texts)) < len(data.test.texts)
