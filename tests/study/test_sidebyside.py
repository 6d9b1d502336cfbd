"""Estimators beside exact patching."""

from __future__ import annotations

import planted
from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError
from patchclamp.study import StudyOptions
from patchclamp.study.sidebyside import compare_methods


def test_a_method_that_refuses_the_model_is_named_and_the_others_are_compared(monkeypatch):
    def relevance(subject, task, sites, direction="denoising", **more):
        raise PatchclampError("no rules for this family")

    monkeypatch.setitem(METHODS, "relevance_patching", relevance)
    options = StudyOptions(exact_items=2, exact_layers=1)
    data, table = compare_methods(planted.subject(), planted.task(8), options, lambda *_: None)
    assert data["refused"] == {"relevance patching": "no rules for this family"}
    assert set(table["method"]) == set(METHODS) - {
        "relevance_patching",
        "activation_patching",
        "direct_logit_attribution",
    }
