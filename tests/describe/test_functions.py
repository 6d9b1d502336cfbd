"""The suite of black-box functions: closed forms of its score, and what the describers reach on it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.describe import FUNCTIONS, ChatClient, LLMDescriber
from patchclamp.describe.functions import Answer, Query, executable_describer, score_describer, sentences
from patchclamp.describe.numeric import FORMS, Formula, fit_formula, formula_from_json
from patchclamp.describe.predicates import Pattern
from rule_server import serving


@pytest.fixture(scope="module")
def executable():
    return score_describer(executable_describer).set_index("function")


def test_the_truth_itself_scores_one_on_every_function():
    each = [
        score_describer(lambda query, f=f: Answer("the truth", f.truth), {n: f}) for n, f in FUNCTIONS.items()
    ]
    table = pd.concat(each)
    assert len(table) == len(FUNCTIONS)
    assert table.success.all()
    assert (table.nmse.dropna() == 0).all()
    assert (table.exact.dropna() == 1).all()
    assert (table.local_error.dropna() == 0).all()
    assert (table.asked == 0).all()


def test_nothing_scores_an_nmse_of_one():
    zero = Formula("constant", (0.0,))
    table = score_describer(lambda q: Answer("0", zero if q.domain == "numeric" else None))
    assert table.nmse.dropna().to_numpy() == pytest.approx(1)
    assert not table.success.any()
    assert table.failed[table.domain == "tokens"].all()


def test_missing_a_small_corruption_passes_and_shows_in_its_own_column():
    table = score_describer(
        lambda q: Answer("line", Formula("linear", (7.0, 3.0))), {"x": FUNCTIONS["line_scratched"]}
    )
    assert table.success[0]
    assert table.nmse[0] < 0.01
    assert table.local_error[0] > 0.5


def test_the_executable_describer_says_what_it_can_say(executable):
    beyond = {"composition", "growing_wave", "long"}
    failed = set(executable.index[~executable.success])
    assert failed == beyond
    assert executable.loc["line", "said"] == "f(x) = 3 x + 7"
    assert executable.loc["after_determiner", "said"] == "tokens after a determiner"
    assert executable.loc["line_corrupted", "local_error"] < 1e-6
    assert not executable.failed.any()
    assert (executable.asked > 0).all()


def test_the_corrupted_part_of_a_rule_is_missed_where_it_is_rare(executable):
    """Two nouns of many: the global rule succeeds, and the column beside says what it missed."""
    row = executable.loc["nouns_corrupted"]
    assert row.success
    assert row.local_error > 0.3


def test_shuffled_descriptions_do_not_score(executable):
    tokens = [name for name, f in FUNCTIONS.items() if f.domain == "tokens"]
    turned = dict(zip(tokens, [*tokens[1:], tokens[0]], strict=True))
    each = [
        score_describer(lambda q, b=b: Answer("another", FUNCTIONS[b].truth), {a: FUNCTIONS[a]})
        for a, b in turned.items()
    ]
    table = pd.concat(each, ignore_index=True)
    assert table.success.mean() < 0.3


def test_noise_is_on_the_answers_and_not_in_the_score():
    noisy = replace(FUNCTIONS["line"], noise=0.3, name="noisy")
    x = list(range(-128, 128))
    assert not np.allclose(Query(noisy).numbers(x), FUNCTIONS["line"].truth(x))
    found = score_describer(executable_describer, {"noisy": noisy})
    assert found.success[0]
    assert 0 < found.nmse[0] < 0.01


@pytest.mark.parametrize("name", [n for n, f in FORMS.items() if f.searched])
def test_every_form_is_fitted_back(name):
    values = {"sine": (1.0, 2.0, -3.0, 0.21), "two_lines": (1.0, 2.0, -3.0, 0.5, 20.0)}.get(name)
    form = FORMS[name]
    truth = Formula(name, values or tuple([2.0, -1.5, 0.5][: form.n_linear]) + (16.5,) * form.n_shape)
    x = np.arange(-100.0, 101)
    found = fit_formula(x, truth(x))
    assert np.abs(found(x + 0.25) - truth(x + 0.25)).mean() < 0.02 * np.abs(truth(x)).max()
    again = formula_from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert str(again) == str(found)


def test_wrong_formulas_are_named():
    with pytest.raises(PatchclampError, match="did you mean linear"):
        Formula("liner", (1.0, 2.0))
    with pytest.raises(PatchclampError, match="wanted 2 finite"):
        Formula("linear", (1.0,))
    with pytest.raises(PatchclampError, match="form and values"):
        formula_from_json('{"form": "linear"}')
    with pytest.raises(PatchclampError, match="8 or more"):
        fit_formula([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(PatchclampError, match="not numbers"):
        Query(FUNCTIONS["digits"]).numbers([1.0])


def test_new_words_are_new():
    seen = {w for text in sentences(2000) for w in text}
    new = {w for text in sentences(500, seed=3, new_words=True) for w in text}
    assert " running" in new - seen
    assert sentences(5, seed=1) == sentences(5, seed=1)


def test_a_describer_over_http_is_scored_alike():
    """The server answers two of the functions rightly by rule and talks past the third: no model is involved."""

    def answer(system: str, user: str) -> str:
        if "-> " in user:
            x, y = np.array([[float(v) for v in line.split(" -> ")] for line in user.split("\n")]).T
            slope, offset = np.polyfit(x, y, 1)
            return "Surely: " + json.dumps({"form": "linear", "values": [offset, slope]})
        marked = re.findall(r"<<([^<>]*)>>", user)
        if marked and all(m.strip().isdigit() for m in marked):
            return json.dumps(Pattern("number").to_json())
        return "I cannot tell {"

    with serving(answer) as server:
        describer = LLMDescriber(ChatClient(server.url, "rules", pause=0.01))
        chosen = {name: FUNCTIONS[name] for name in ("line_noise", "digits", "animals")}
        table = score_describer(describer, {**chosen, "bowl": FUNCTIONS["bowl"]}).set_index("function")
    assert table.success[["line_noise", "digits"]].all()
    assert not table.success["bowl"]
    assert table.failed["animals"]
    assert not table.success["animals"]
