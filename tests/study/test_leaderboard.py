"""The leaderboard: rows that tell right from wrong, users' own entries, and the stored table against a fresh run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from patchclamp.app import cli
from patchclamp.attribute import activation_patching
from patchclamp.base.areas import area_over_items, chance_of_largest, roc_auc, rounded
from patchclamp.base.errors import PatchclampError
from patchclamp.study.leaderboard import ADAPTORS, Board, Truth, compare, leaderboard, register, render
from patchclamp.study.leaderboard import docs as pages
from patchclamp.study.leaderboard.base import VERDICTS, Outcome
from patchclamp.study.leaderboard.dictionaries import judge_dictionary, matched_cosines
from patchclamp.study.leaderboard.memory import peak
from patchclamp.study.leaderboard.table import methods_of, verbs
from patchclamp.subjects import TensorTask, TorchModule
from patchclamp.truth import TRUTHS, load_truth
from patchclamp.truth.base import Circuit

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "docs" / "leaderboard.json"


def one(board: Board, **wanted: str):
    found = [row for row in board.rows if all(getattr(row, k) == v for k, v in wanted.items())]
    assert len(found) == 1, [row.key for row in board.rows]
    return found[0]


@pytest.fixture
def halves(monkeypatch):
    """A system of our own: the output is the sum of the first two of four units."""
    net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(4, 1, bias=False))
    net[1].weight.data = torch.tensor([[1.0, 2.0, 0.0, 0.0]])

    def build(seed: int) -> Circuit:
        clean = torch.rand(12, 4, generator=torch.Generator().manual_seed(seed)) + 0.5
        mean = clean.mean(0).tolist()
        effects = {f"0.out[{i}]": w * mean[i] for i, w in enumerate((1.0, 2.0, 0.0, 0.0))}
        return Circuit(
            TorchModule(net, torch.zeros(1, 4)),
            TensorTask("halves", clean, torch.zeros(12, 4), lambda out: out[:, 0]),
            sites=("0.out",),
            nodes={name: value != 0 for name, value in effects.items()},
            effects={"denoising": effects, "noising": effects},
        )

    monkeypatch.delitem(TRUTHS, "halves", raising=False)
    yield register(Truth("halves", "circuit", build, "the first two of four"))
    TRUTHS.pop("halves", None)


def test_a_users_truth_and_method_are_rows_of_the_same_table(halves):
    def mine(subject, task, sites, direction="denoising"):
        return {"0.out[0]": 1.0, "0.out[1]": 2.0, "0.out[2]": 1.5, "0.out[3]": 0.0}

    board = leaderboard("attribute", methods={"mine": mine}, truths=["halves"])
    assert {row.method for row in board.rows} == {*methods_of("attribute"), "mine"}
    row = one(board, method="mine", variant="noising").outcome
    assert row.recovery == 0.75 and row.verdict == "missed" and row.tolerance is None
    assert row.low <= 0.5 and row.over == "nodes"  # one score for all items: candidates are resampled
    exact = one(board, method="activation_patching", variant="noising")
    assert exact.outcome.verdict == "recovered" and exact.outcome.error < 1e-6
    assert (exact.outcome.recovery, exact.outcome.low, exact.outcome.high) == (1.0, 1.0, 1.0)
    assert "all others score exactly 0" in exact.outcome.note
    assert exact.seconds > 0
    short = {m["method"]: m for m in board.summaries()}
    assert (short["mine"]["found"], short["mine"]["found_of"], short["mine"]["weakest_recovery"]) == (
        0,
        2,
        0.75,
    )
    assert short["activation_patching"]["exact"] == short["activation_patching"]["exact_of"] == 2


def test_refusals_and_failures_are_rows_with_a_name(halves):
    def refuses(subject, task, sites):
        raise PatchclampError("not made for this")

    def breaks(subject, task, sites):
        return 1 / 0

    def garbage(subject, task, sites):
        return "scores"

    def half(subject, task, sites):
        return {"0.out[0]": 1.0}

    def vandal(subject, task, sites):
        scores = activation_patching(subject, task, sites)
        subject.model[1].weight.data += 1
        return scores

    methods = {f.__name__: f for f in (refuses, breaks, garbage, half, vandal)}
    board = leaderboard(methods=methods, only=list(methods), truths=["halves"])
    found = {row.method: row.outcome for row in board.rows}
    assert (found["refuses"].verdict, found["refuses"].note) == ("refused", "not made for this")
    assert (found["breaks"].verdict, found["breaks"].note) == (
        "failed",
        "ZeroDivisionError: division by zero",
    )
    assert found["garbage"].verdict == "failed" and "a str came back" in found["garbage"].note
    assert found["half"].verdict == "failed" and "0.out[1]: has no score" in found["half"].note
    assert found["vandal"].verdict == "failed" and "other weights" in found["vandal"].note
    assert {said.split(": ")[0] for _, said, _, _ in board.failures()} == {
        f"attribute {name}" for name in methods
    }


def test_a_method_that_misses_its_own_closed_form_is_wrong(halves):
    def scaled(*args, **options):
        scores = activation_patching(*args, **options)
        return replace(scores, values={site: 2 * v for site, v in scores.values.items()})

    board = leaderboard(
        methods={"activation_patching": scaled}, only=["activation_patching"], truths=["halves", "sum"]
    )
    assert {row.outcome.verdict for row in board.rows} == {"wrong"}
    assert one(board, truth="sum", variant="noising").outcome.error == pytest.approx(0.5)


def test_a_system_that_cannot_be_built_is_a_failure_of_each_method():
    def build(seed):
        raise PatchclampError("no weights")

    board = leaderboard("attribute", truths=[Truth("broken", "circuit", build, "cannot be built")])
    assert len(board.rows) == len(methods_of("attribute"))
    assert {row.outcome.verdict for row in board.rows} == {"failed"}
    assert "building the system: no weights" in board.rows[0].outcome.note


def test_names_that_are_not_there():
    with pytest.raises(PatchclampError, match="did you mean attribute"):
        leaderboard("atribute")
    with pytest.raises(PatchclampError, match="did you mean activation_patching"):
        leaderboard("attribute", only=["activation_patch"])
    with pytest.raises(PatchclampError, match="truth 'nand'"):
        leaderboard("attribute", truths=["nand"])


def test_area_by_hand():
    real = np.array([True, True, False, False])
    assert roc_auc(np.array([[3.0, 1.0, 1.0, 0.0]]), real)[0] == 0.875
    assert roc_auc(np.zeros((1, 4)), real)[0] == 0.5
    # Rounding is no order: what differs by 1e-9 of the largest is equal.
    assert rounded(np.array([[1.0, 1e-9, 0.0]])).tolist() == [[1.0, 0.0, 0.0]]
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 4)) + np.array([0.3, 0.3, 0.0, 0.0])
    value, low, high = area_over_items(values, real, seed=1)
    assert low <= value <= high and low < high
    assert (value, low, high) == area_over_items(values, real, seed=1)


def test_noise_is_no_find_and_a_shift_is():
    rng = np.random.default_rng(3)
    p = [chance_of_largest(rng.normal(size=(30, 20)), seed) for seed in range(40)]
    assert sum(v <= 0.05 for v in p) <= 6
    assert chance_of_largest(rng.normal(size=(30, 20)) + 1, 0) <= 0.002
    assert chance_of_largest(np.zeros((5, 3))) == 1.0


def test_matched_cosines_and_random_dictionaries():
    system = load_truth("planted-orthogonal", 0)
    truth = TRUTHS["planted-orthogonal"]
    shuffled = -system.directions[[2, 0, 3, 1]] * 7
    outcome = judge_dictionary("x", shuffled, system, None, truth, 0)
    assert outcome.recovery == pytest.approx(1.0) and outcome.verdict == "recovered"
    random = torch.randn(system.directions.shape, generator=torch.Generator().manual_seed(0))
    assert judge_dictionary("x", random, system, None, truth, 0).verdict == "missed"
    assert (
        judge_dictionary("x", shuffled, system, None, replace(truth, control=True), 0).verdict
        == "false positive"
    )
    # One found direction cannot stand for two planted ones.
    assert sorted(matched_cosines(np.eye(2), np.array([[1.0, 0.0], [2.0, 0.0]])).tolist()) == [0.0, 1.0]
    with pytest.raises(PatchclampError, match="no directions"):
        judge_dictionary("x", torch.zeros(3, 5), system, None, truth, 0)


def test_boards_are_read_back_and_compared(halves):
    board = leaderboard("attribute", truths=["halves", "or"], only=["activation_patching"])
    again = Board.from_json(json.loads(json.dumps(board.to_json())))
    assert again.rows == board.rows and compare(board, again) == []

    def changed(**values):
        rows = [
            replace(r, outcome=replace(r.outcome, **values)) if r.truth == "halves" else r for r in again.rows
        ]
        return compare(board, Board(tuple(rows), again.about))

    assert len(changed(recovery=0.9, low=0.8, high=0.95)) == 2 and "0.900" in changed(recovery=0.9)[0]
    assert changed(recovery=0.999, low=0.9, high=1.0) == []
    assert "refused" in changed(verdict="refused", note="why")[0]
    assert len(changed(error=1.0)) == 2  # the closed form is no longer met
    assert "no longer there" in compare(board, Board(board.rows[1:]))[0]
    assert "is new" in compare(Board(board.rows[1:]), board)[0]
    with pytest.raises(PatchclampError, match="schema"):
        Board.from_json({"schema": "other"})


def test_the_page_escapes_and_loads_nothing(halves):
    def refuses(subject, task, sites):
        raise PatchclampError("<script>alert(1)</script>")

    page = render(leaderboard(methods={"<b>mine</b>": refuses}, truths=["halves"]))
    assert "<script" not in page and "&lt;script&gt;" in page and "&lt;b&gt;mine" in page
    assert "http://" not in page and "https://" not in page and "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert all(name in page for name in VERDICTS)


def test_the_command_writes_json_and_page(tmp_path, capsys):
    out, page = tmp_path / "board.json", tmp_path / "board.html"
    status = cli.run(
        ["leaderboard", "attribute", "--truth", "backup", "--json", "--out", str(out), "--html", str(page)]
    )
    printed = json.loads(capsys.readouterr().out)
    assert status == 0 and printed == json.loads(out.read_text())
    assert {row["truth"] for row in printed["rows"]} == {"backup"}
    assert "direct_logit_attribution" in page.read_text()
    assert cli.run(["leaderboard", "attribute", "--truth", "backup", "--method", "activation_patching"]) == 0
    text = capsys.readouterr().out
    assert "exact" in text and "2 of 2" in text


def test_memory_of_a_call_is_seen():
    with peak() as memory:
        block = torch.ones(30_000_000)
        del block
    assert 100 < memory.megabytes < 400


def test_every_verdict_of_an_adaptor_is_explained():
    assert {adaptor.verb for adaptor in ADAPTORS.values()} == set(verbs())
    for verdict in VERDICTS:
        assert Outcome(verdict).verdict in VERDICTS  # type: ignore[arg-type]


# ---- what is stored


@pytest.fixture(scope="module")
def stored():
    return Board.load(STORED)


@pytest.mark.slow
@pytest.mark.parametrize("verb", verbs())
def test_the_stored_table_is_what_a_fresh_run_gives(stored, verb):
    said = compare(stored.of(verb), leaderboard(verb))
    assert not said, "make leaderboard stores it anew:\n" + "\n".join(said)


def test_pages_show_the_stored_table(stored):
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert pages.filled(page.read_text(), stored) == page.read_text(), (
            f"{page.name}: python -m patchclamp.study.leaderboard.docs fills it anew"
        )


def test_a_page_that_names_what_is_not_there(stored):
    with pytest.raises(PatchclampError, match="did you mean activation_patching"):
        pages.filled("<!-- leaderboard: activation_patchin -->\nold\n<!-- /leaderboard -->", stored)


def test_known_patterns_are_in_the_stored_table(stored):
    """Gates exact for every method; sharp softmax breaks plain gradients, and neither exact patching nor paths."""
    gates = [r for r in stored.rows if r.truth in ("or", "and", "sum", "backup", "cancel")]
    assert {r.outcome.verdict for r in gates} == {"exact", "refused"}
    assert {r.method for r in gates if r.outcome.verdict == "refused"} == {"direct_logit_attribution"}

    def recovery(method, truth, variant):
        return one(stored, verb="attribute", method=method, truth=truth, variant=variant).outcome.recovery

    for truth in ("induction-20", "induction-100"):
        assert recovery("activation_patching", truth, "noising") == 1.0
        assert recovery("integrated_gradients", truth, "path") == 1.0
        assert recovery("attribution_patching", truth, "noising") < 0.8
    assert recovery("attribution_patching", "induction-2", "noising") == 1.0


def test_a_describer_that_says_little_misses_and_its_words_are_kept():
    from patchclamp.describe.functions import Answer

    def silent(query):
        query.numbers([0.0, 1.0])
        return Answer("something with numbers", None)

    board = leaderboard(
        "describe", methods={"silent": silent}, only=["silent"], truths=["function-line_corrupted"]
    )
    (row,) = board.rows
    assert (row.method, row.outcome.verdict, row.outcome.recovery) == ("silent", "missed", 0.0)
    assert row.outcome.note == "said nothing that runs"
    asked = leaderboard("describe", methods={"silent": silent}, only=["silent"], truths=["function-animals"])
    assert "takes tokens, not numbers" in asked.rows[0].outcome.note


def test_a_black_box_is_an_entry_that_can_be_asked():
    box = load_truth("function-after_determiner")
    assert box.function(["the", " dog", " saw", " a", " cat"]) == 2.0
    assert len(box.inputs) == 64 and box.sample(3, 5) == box.sample(3, 5)
    line = load_truth("function-line_corrupted")
    assert line.domain == "numeric" and isinstance(line.function(line.inputs[0]), float)
