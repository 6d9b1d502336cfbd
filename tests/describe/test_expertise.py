"""Experts for planted concepts, none for concepts that nothing encodes; rendering of exemplars."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.describe import exemplars_as_html, exemplars_as_text, expertise, render_exemplars
from patchclamp.describe.expertise import prevalence_free_precision
from patchclamp.measure import Exemplars, Selectivity
from patchclamp.nouns.recording.recording import Samples


def measured(n_permutations=99, units=40, n=400, seed=0):
    """Unit 3 rises with label 0, unit 7 falls with label 1; labels 2 and 3 are encoded by none."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    x = torch.randn(n, units, generator=g)
    x[:, 3] += 3 * (y == 0)
    x[:, 7] -= 3 * (y == 1)
    measure = Selectivity(
        pool="none", labels=["a", "b", "c", "d"], statistics=["ap"], n_permutations=n_permutations
    )
    rows = torch.arange(n)
    measure.update(x, Samples.of(rows, torch.zeros_like(rows), label=y))
    return measure.result()


@pytest.fixture(scope="module")
def found():
    return expertise(measured(), site="mlp_act.3")


def test_planted_concepts_have_their_experts_and_the_others_none(found):
    best = found.experts.groupby("concept").first()
    assert best.loc["a", "unit"] == "mlp_act.3[3]"
    assert best.loc["a", "sign"] == 1
    assert best.loc["b", "unit"] == "mlp_act.3[7]"
    assert best.loc["b", "sign"] == -1
    assert found.without == ["c", "d"]
    concepts = found.concepts.set_index("concept")
    assert concepts.loc["a", "q"] <= 0.05 < concepts.loc["c", "q"]
    assert concepts.loc["a", "ap"] > 0.9
    assert (concepts.prevalence == 0.25).all()


def test_the_best_of_many_random_units_is_no_expert():
    rows = torch.arange(50)
    measure = Selectivity(pool="none", statistics=["ap"], n_permutations=60)
    noise = torch.randn(50, 500, generator=torch.Generator().manual_seed(5))
    measure.update(noise, Samples.of(rows, torch.zeros_like(rows), label=(rows % 5 == 0).long()))
    result = measure.result()
    assert float(result["ap"].max()) > 0.5
    assert expertise(result).experts.empty


def test_too_few_shuffles_and_no_null_are_named():
    with pytest.raises(PatchclampError, match="needs more"):
        expertise(measured(n_permutations=5))
    with pytest.raises(PatchclampError, match="p_ap"):
        expertise(measured(n_permutations=0))


def test_precision_free_of_prevalence_is_nearly_flat_where_average_precision_is_not():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    plain, free = [], []
    for share in (0.01, 0.1, 0.5):
        y = rng.random(36_500) < share
        x = rng.normal(size=len(y)) + 1.5 * y
        plain.append(average_precision_score(y, x))
        free.append(prevalence_free_precision(x, y, positives=100))
    assert plain[2] > 5 * plain[0]
    assert free[2] < 3 * free[0]
    y = np.arange(300) % 3 == 0
    x = rng.normal(size=300).round(1)
    assert prevalence_free_precision(x, y, positives=100) == pytest.approx(average_precision_score(y, x))
    with pytest.raises(PatchclampError, match="each kind"):
        prevalence_free_precision(x, np.ones(300), 5)


TEXTS = [["The", " <b>", " cat", "\n"], ["A", " <<dog>>", "!"]]


@pytest.fixture
def exemplars():
    measure = Exemplars(k=2, per_doc=True)
    activity = torch.tensor([[0.0], [1.0], [4.0], [0.0], [0.0], [2.0], [0.0]])
    doc, position = torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    measure.update(activity, Samples.of(doc, position))
    rows = {0: activity[:4, 0].tolist(), 1: activity[4:, 0].tolist()}
    return measure.result(), rows


def test_exemplars_stand_in_their_context(exemplars):
    result, rows = exemplars
    found = render_exemplars(result, TEXTS.__getitem__, activity_of=lambda doc, unit: rows[doc], before=1)
    assert [e.value for e in found] == [4, 2]
    assert found[0].tokens == (" <b>", " cat", "\n")
    assert found[0].strength() == (0.25, 1, 0)
    assert exemplars_as_text(found, level=0.2).splitlines() == [
        "    4.000  << <b> cat>>\\n",
        "    2.000  A<< < <dog> >>>!",
    ]
    alone = render_exemplars(result, TEXTS.__getitem__)
    assert exemplars_as_text(alone[:1]) == "    4.000  The <b><< cat>>\\n"


def test_html_is_escaped(exemplars):
    page = exemplars_as_html(render_exemplars(exemplars[0], TEXTS.__getitem__))
    assert "<b>" not in page.replace("<b>4.000</b>", "").replace("<b>2.000</b>", "")
    assert "&lt;b&gt;" in page
    assert "&lt;&lt;dog&gt;&gt;" in page


def test_texts_that_were_not_measured_are_named(exemplars):
    with pytest.raises(PatchclampError, match="must give the documents that were measured"):
        render_exemplars(exemplars[0], lambda doc: ["x"])
    with pytest.raises(PatchclampError, match="unit 5"):
        render_exemplars(exemplars[0], TEXTS.__getitem__, units=[5])
