"""Scores that were held against exact patching where they are used, and what takes the place of a bad estimator."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import planted
from patchclamp.attribute import DEFAULT, ESTIMATORS, METHODS
from patchclamp.evaluate import calibration
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Units
from patchclamp.study.behaviour import Behaviour
from patchclamp.study.checked import ENOUGH, checked_scores
from patchclamp.study.options import StudyOptions
from patchclamp.study.proof import ablate, select
from patchclamp.study.stages import Stage
from patchclamp.study.study import attribute, choose
from patchclamp.subjects import TensorTask, TorchModule


class Steps(nn.Module):
    """Sum over units of weight times a ramp: some begin at 0, where the gradient is, and some far from there."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.a = nn.Identity()
        self.weight = torch.linspace(1, 3, units) * (1 - 2 * (torch.arange(units) % 3 == 0))
        self.start = torch.where(torch.arange(units) % 2 == 0, 0.0, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * ((self.a(x) - self.start) / 0.4).clamp(0, 1)).sum(-1, keepdim=True)


@pytest.fixture
def steps() -> tuple[TorchModule, TensorTask]:
    items = torch.ones(20, 24)
    return TorchModule(Steps(24), items[:1]), TensorTask("steps", items, 0 * items, lambda out: out[:, 0])


def test_there_is_one_default():
    assert StudyOptions().method == DEFAULT == ESTIMATORS[0]
    assert set(ESTIMATORS) <= set(METHODS)


def test_a_bad_estimator_gives_way_to_a_better_one(steps):
    subject, task = steps
    found = checked_scores(subject, task, "a.out", "attribution_patching")
    assert found.agreement("attribution_patching") < ENOUGH
    assert found.replaced
    assert found.used in ESTIMATORS
    assert found.agreement() > 0.95
    exact = METHODS["activation_patching"](subject, task, "a.out")
    assert calibration(found.scores, exact)["pearson"] > 0.95
    assert any("in place of attribution patching" in sentence for sentence in found.verdict())
    data = found.to_json()
    assert (data["asked"], data["used"]) == ("attribution_patching", found.used)
    assert set(data["checks"]) >= {"attribution_patching", found.used}


def test_units_that_are_off_are_named(steps):
    subject, task = steps
    found = checked_scores(subject, task, "a.out", "attribution_patching", n=24)
    worse = replace(found, scores=METHODS["attribution_patching"](subject, task, "a.out"))
    exact = METHODS["activation_patching"](subject, task, "a.out")
    site = exact.sites[0]
    late = {
        f"a.out[{unit}]" for unit in range(1, 24, 2)
    }  # no gradient where they are, and all of their effect
    named = {text.split(" ")[0] for text in worse.off()}
    assert late <= named
    assert abs(worse.scores.mean(site)[1]) < 1e-6 < abs(exact.mean(site)[1])
    assert any(text.startswith("Off by more than half: ") for text in worse.sentences())


def test_a_good_estimator_stays_and_no_check_is_none(steps):
    subject, task = steps
    good = checked_scores(subject, task, "a.out", "integrated_gradients", n=6, items=4)
    assert not good.replaced
    assert not good.verdict()
    assert good.runs == 6 * 4
    bad = checked_scores(subject, task, "a.out", "attribution_patching", n=0)
    assert (bad.used, bad.sentences()) == ("attribution_patching", [])
    exact = checked_scores(subject, task, "a.out", "activation_patching")
    assert (exact.used, exact.runs) == ("activation_patching", 0)


def upside_down(*args: Any, **options: Any) -> Scores:
    """A deliberately bad estimator."""
    scores = METHODS[DEFAULT](*args, **options)
    return replace(scores, method="upside_down", values={s: -v for s, v in scores.values.items()})


upside_down.__signature__ = inspect.signature(METHODS[DEFAULT])  # type: ignore[attr-defined]
SMALL = StudyOptions(
    n_train=32, n_validation=16, n_test=24, head_sizes=(1, 2), neuron_sizes=(1, 4), n_singles=2, refine_heads=4,
    refine_neurons=6, exact_items=8,
)  # fmt: skip


@pytest.mark.slow
def test_a_study_says_which_estimator_it_used(monkeypatch):
    monkeypatch.setitem(METHODS, "upside_down", upside_down)
    task = planted.task()
    stages = [Stage("attributing", attribute), Stage("choosing", choose), Stage("ablating", ablate)]
    found = {}
    for method in (DEFAULT, "upside_down"):
        options = SMALL.change(method=method)
        context = Behaviour(planted.subject(), None, task, task.name, options)
        for stage in stages:
            context.sections[stage.name] = stage.run(context)
        found[method] = context
        facts = context.sections["attributing"].facts["attribution"]
        assert (facts["method"], facts["check"]["asked"]) == (DEFAULT, method)
        assert {claim.task["ranked_by"] for claim in context.claims} == {DEFAULT}
        assert [claim.units for claim in context.claims][0] == ("head.1[2]",)
    assert not found[DEFAULT].sections["attributing"].findings
    assert "in place of upside down" in found["upside_down"].sections["attributing"].findings[0]
    assert "in place of upside down" in found["upside_down"].sections["attributing"].note


def test_a_study_puts_neurons_in_the_order_of_their_measured_effect():
    task = planted.task()
    context = Behaviour(planted.subject(), None, task, task.name, SMALL)
    attribute(context)
    neurons = next(s for s in select(context) if s.kind == "neurons")
    assert 2 <= len(neurons.measured) <= 6
    assert list(neurons.measured) == sorted(neurons.measured, reverse=True)
    bench = context.bench.on(context.splits["validation"])
    alone = bench.shares([Units.parse(unit) for unit in neurons.order[: len(neurons.measured)]])
    assert alone == pytest.approx(neurons.measured, abs=1e-6)


def test_units_that_do_nothing_call_for_no_other_estimator():
    """The neurons of the planted model are noise beside its head: what estimates say of their order does not count."""
    task = planted.task().split("train").take(16)
    found = checked_scores(planted.subject(), task, ["head.*", "mlp_act.*"], direction="noising")
    assert not found.replaced
    assert found.agreement() > 0.9
    assert any("no order to agree on" in sentence for sentence in found.sentences())
