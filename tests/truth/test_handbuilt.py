"""Hand-built transformers: the induction circuit and its dial, compiled programs that equal their source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError
from patchclamp.intervene import effects
from patchclamp.nouns.intervention import Intervention
from patchclamp.truth import Circuit, load_truth
from patchclamp.truth.induction import Induction, induction
from patchclamp.truth.rasp import (
    Aggregate,
    Indices,
    Map,
    Map2,
    Program,
    Select,
    Tokens,
    Width,
    fraction_of_previous,
    histogram,
    reverse,
)
from patchclamp.truth.rasp_compile import Compiled
from patchclamp.truth.rasp_truths import PROGRAMS, edges_that_matter, rasp


def area(scores: dict[str, float], truth: dict[str, bool]) -> float:
    """Area under the ROC curve of absolute scores, ties one half."""
    names = list(truth)
    rank = rankdata([abs(scores[name]) for name in names])
    true = np.array([truth[name] for name in names])
    n = true.sum()
    return float((rank[true].sum() - n * (n + 1) / 2) / (n * (len(true) - n)))


def scored(system: Circuit, method: str, candidates: dict[str, bool], **options: Any) -> dict[str, float]:
    call: Any = METHODS[method]
    scores = call(
        system.subject,
        system.task,
        list(candidates),
        direction="noising",
        level="site",
        batch_size=64,
        **options,
    )
    return {str(site): float(scores.mean(site)[0]) for site in scores.sites}


SEEDS = range(3)
SHARPNESS = (2, 5, 20, 100)


@pytest.fixture(scope="module")
def areas() -> dict[tuple[int, str], list[float]]:
    """Area for each sharpness and method, over seeds of items and of random heads."""
    found: dict[tuple[int, str], list[float]] = {}
    for beta in SHARPNESS:
        for seed in SEEDS:
            system = induction(beta, seed)
            edges = dict(system.edges)
            for method, options in (
                ("attribution_patching", {}),
                ("integrated_gradients", {"steps": 20 if beta == 100 else 10}),
            ):
                value = area(scored(system, method, edges, **options), edges)
                found.setdefault((beta, method), []).append(value)
        few = induction(beta, items=16)  # exact patching makes 42 passes an item
        found[beta, "activation_patching"] = [area(scored(few, "activation_patching", edges), edges)]
    return found


def test_exact_patching_and_integrated_gradients_find_all_edges(areas: dict[Any, list[float]]) -> None:
    for beta in SHARPNESS:
        assert min(areas[beta, "activation_patching"]) == 1.0, beta
        assert min(areas[beta, "integrated_gradients"]) > 0.99, beta


def test_attribution_patching_falls_as_attention_saturates(areas: dict[Any, list[float]]) -> None:
    means = {beta: np.mean(areas[beta, "attribution_patching"]) for beta in SHARPNESS}
    assert means[2] > 0.99
    assert means[5] > 0.99
    assert 0.79 < means[20] < 0.85
    assert 0.68 < means[100] < 0.74
    # Two edges lie behind the last softmax and keep their place. The gradients of the other five fall below those of the
    # nine idle edges that leak, but stay above the 26 that do nothing, until (beta = 100) some of them are 0 as well.
    assert abs(means[20] - (2 * 35 + 5 * 26) / (7 * 35)) < 0.01
    assert (2 * 35 + 5 * 26 / 2) / (7 * 35) < means[100]


def test_induction_says_the_successor_and_needs_no_training() -> None:
    for seed in range(3):
        assert induction(2, seed).data["accuracy"] > 0.9
        assert induction(20, seed).data["accuracy"] == 1.0
    a, b = (induction(20, 3) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.subject.model.parameters(), b.subject.model.parameters()))
    assert torch.equal(a.task.clean, b.task.clean)


def test_components_of_induction() -> None:
    system = induction(20)
    nodes = dict(system.nodes)
    assert area(scored(system, "activation_patching", nodes), nodes) == 1.0
    assert nodes == {
        "tok.out": True, "pos.out": True, "a0h0.out": True, "a0h1.out": False, "a1h0.out": True, "a1h1.out": False
    }  # fmt: skip


def test_without_permuted_positions_their_edges_drop_out() -> None:
    system = induction(20)
    net = system.subject.model
    assert isinstance(net, Induction)
    corrupted = torch.cat([system.task.corrupted[..., :16], system.task.clean[..., 16:]], 2)
    task = type(system.task)(
        "same", system.task.clean, corrupted, system.task.metric, targets=system.task.targets
    )
    call: Any = METHODS["activation_patching"]
    edges = ["edges.pos.a0h0_q.out", "edges.pos.a0h0_k.out"]
    scores = call(system.subject, task, edges, direction="noising", level="site")
    assert all(scores.mean(site)[0] == 0 for site in scores.sites)


# ---- whole sites


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m not in ("direct_logit_attribution", "relevance_patching")]
)
def test_whole_sites_are_the_sum_of_their_units_for_gradients(method: str) -> None:
    system = induction(5, items=8)
    call: Any = METHODS[method]
    site = "edges.a1h0.out.out"
    whole = call(system.subject, system.task, site, direction="noising", level="site")
    parts = call(system.subject, system.task, site, direction="noising")
    address = whole.sites[0]
    assert whole.level[address] == "site"
    assert parts.level[address] == "unit"
    assert whole.values[address].shape == (8, 1)
    assert parts.values[address].shape == (8, system.subject.width(address))
    if (
        method != "partial_gradients"
    ):  # whose shares differ for a whole and its parts; the last edge is linear
        assert np.allclose(whole.values[address][:, 0], parts.values[address].sum(1), atol=1e-4)


def test_levels_are_checked() -> None:
    system = induction(5, items=4)
    call: Any = METHODS["attribution_patching"]
    with pytest.raises(PatchclampError, match="level 'sites': give auto, unit or site; did you mean site"):
        call(system.subject, system.task, "tok.out", level="sites")
    exact: Any = METHODS["activation_patching"]
    with pytest.raises(PatchclampError, match="scores the site as a whole"):
        exact(system.subject, system.task, system.subject.units("tok.out[1,2]"), level="site")


# ---- compiled programs


def length_parity() -> Program:
    """Uses every kind of expression, a selection by a computed key, and rows that select nothing."""
    tokens, indices = Tokens(), Indices()
    same = Width(Select(tokens, tokens, lambda k, q: k == q))
    odd = Map(lambda n: n % 2, same)
    mixed = Map2(lambda a, b: f"{a}{b}", odd, tokens)
    next_to = Aggregate(Select(indices, indices, lambda k, q: k == q + 1), mixed)
    return Program("parity", next_to, ("a", "b"), 4)


def by_computed_key() -> Program:
    """A selection whose keys come out of a width: BOS must not pass for one of them."""
    tokens = Tokens()
    none = Width(Select(tokens, tokens, lambda k, q: k != q))
    return Program("lonely", Width(Select(none, tokens, lambda k, q: k == 0)), ("a", "b"), 4)


@pytest.mark.parametrize(
    "program",
    [reverse(), fraction_of_previous(), histogram(), reverse(("x", "y"), 7), histogram(("a", "b"), 9),
     length_parity(), by_computed_key()],
    ids=lambda p: f"{p.name}-{p.length}",
)  # fmt: skip
def test_compiled_programs_equal_their_source_on_all_inputs(program: Program) -> None:
    net, inputs = Compiled(program), program.inputs()
    with torch.no_grad():
        output = net(net.encode(inputs))
    assert float((output - net.target(inputs)).abs().max()) < 1e-10
    decoded, wanted = net.decode(output), [program.run(tokens) for tokens in inputs]
    assert decoded == wanted if not program.output.numerical else np.allclose(decoded, wanted, atol=1e-12)


def test_programs_say_what_they_should() -> None:
    assert reverse().run("11233") == list("33211")
    assert fraction_of_previous().run("xwxxz") == [1, 0.5, 2 / 3, 0.75, 0.6]
    assert histogram().run("abcaa") == [3, 1, 1, 3, 3]
    assert length_parity().run("abba") == ["0b", "0b", "0a", None]


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_declared_edges_are_those_that_exact_patching_finds(name: str) -> None:
    program = PROGRAMS[name].make()
    net = Compiled(program)
    inputs = net.encode(program.inputs()[:: 3 if name == "rasp-reverse" else 1])
    found: dict[str, set[tuple[str, str]]] = {"zero": set(), "patch": set()}
    found["zero"] |= {e for e, matters in edges_that_matter(net, inputs, None).items() if matters}
    draw = torch.Generator().manual_seed(1)
    for _ in range(1 if name == "rasp-reverse" else 2):
        other = inputs[torch.randperm(len(inputs), generator=draw)]
        found["patch"] |= {e for e, matters in edges_that_matter(net, inputs, other).items() if matters}
    assert found == {"zero": set(PROGRAMS[name].zero), "patch": set(PROGRAMS[name].patch)}


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_patching_finds_the_edges_of_other_inputs(name: str) -> None:
    system = rasp(name, items=16)
    edges = dict(system.edges)
    scores = scored(system, "activation_patching", edges)
    assert all((abs(scores[edge]) > 0.01) == true for edge, true in edges.items()), scores
    nodes = scored(system, "activation_patching", dict(system.nodes))
    assert all((abs(nodes[node]) > 0.01) == true for node, true in system.nodes.items()), nodes


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_zero_ablation_finds_the_edges_of_zero_ablation(name: str) -> None:
    system = rasp(name, "zero", items=16)
    assert system.ablation == "zero"
    edges = list(system.edges)
    sets = [[Intervention(system.subject.units(edge), "zero")] for edge in edges]
    measured = effects(system.subject, system.task, sets, None, n_boot=20)
    found = {
        edge: float(np.abs(one.per_item).max()) > 1e-6 for edge, one in zip(edges, measured, strict=True)
    }
    assert found == dict(system.edges)


def test_the_card_s_counts_of_edges() -> None:
    counts = {
        name: tuple(sum(rasp(name, how, items=2).edges.values()) for how in ("patch", "zero"))
        for name in PROGRAMS
    }
    assert counts["rasp-reverse"] == (2, 10)
    assert counts["rasp-fraction"] == (3, 5)
    assert len(load_truth("rasp-reverse").edges) == 77  # type: ignore[union-attr]


def test_bad_programs_are_refused() -> None:
    tokens = Tokens()
    mixed = Program("mixed", Aggregate(Select(tokens, tokens, lambda k, q: True), tokens), ("a", "b"), 2)
    with pytest.raises(PatchclampError, match="make them numbers"):
        mixed.run("ab")
    with pytest.raises(PatchclampError, match="takes 2 tokens of a, b; got a c"):
        mixed.run("ac")
    number = Map(lambda t: 1.0, tokens, number=True)
    with pytest.raises(PatchclampError, match="aggregate numbers last"):
        Compiled(Program("numbers", Map(lambda v: v, number), ("a",), 2))
