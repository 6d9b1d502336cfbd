"""The study on the embedded model: five heads carry indirect object identification, five random ones do not."""

from __future__ import annotations

import pytest

from patchclamp import open_subject
from patchclamp.nouns.units import Units
from patchclamp.study import StudyOptions, load_for_study, run_study, verify_claims
from patchclamp.study.experiments import Experiments

pytestmark = pytest.mark.smollm2

OPTIONS = StudyOptions(
    n_train=32, n_validation=32, n_test=32, neuron_sizes=(100,), n_singles=5, curve_items=8, curve_points=3, n_random=1,
    exact_items=4, exact_layers=3, n_texts=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def subject():
    return open_subject("smollm2")


@pytest.fixture(scope="module")
def task(subject):
    return load_for_study(subject, "ioi", OPTIONS)


@pytest.fixture(scope="module")
def study(subject, task, tmp_path_factory):
    return run_study(subject, task, tmp_path_factory.mktemp("ioi"), options=OPTIONS, source="ioi")


def test_the_five_heads_ranked_first_carry_it_and_random_ones_do_not(subject, task, study):
    from patchclamp.subjects.clamp.reference import Reference

    order = study.facts["selection"][0]["order"][:5]
    reference = Reference(subject, task.split("train"))
    bench = Experiments(subject, task.split("test").take(32), "mean", reference, source="corrupted")
    share = bench.lost(Units.parse(order), 20).share
    assert share.value >= 0.9, order
    assert share.null.mean < 0.2
    assert share.beats_null


def test_what_the_study_found_holds_when_measured_again(study, subject):
    claims = [c for c in study.claims if c.id in ("heads-together", "heads-redundancy")]
    assert claims
    assert {v.outcome for v in verify_claims(claims, subject)} == {"holds"}


def test_the_name_mover_is_among_the_first_and_writes_the_names(study):
    # Ablated alone, head.23[3] and head.20[0] take equal shares within their intervals, so their order is not fixed.
    assert "head.23[3]" in set(study.units["unit"].iloc[:2])
    assert study.facts["ability"]["accuracy"] > 0.9


def test_the_estimator_agrees_with_exact_patching(study):
    rows = {(r["method"], r["point"]): r for r in study.tables["agreement"].to_dict("records")}
    for point in ("resid_post", "mlp_out", "head"):
        assert rows["partial_gradients", point]["pearson"] > 0.9


def test_the_report_is_whole(study):
    page = study.report.read_text()
    assert page.count("<svg") >= 10
    assert len(page) < 3_000_000
