"""Edges with positions: they add up to those without, heads are recomputed exactly, a planted circuit sits at its places."""

import numpy as np
import pytest
import torch

import tiny
from circuit_toys import AT_ROLES, InductionRoles, induction_model, induction_task
from language_toys import TokenModel, TokenTask, items
from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import edge_attribution
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Edit
from patchclamp.subjects.clamp.flow import FlowPlan

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "falcon-new", "phi3", "opt", "bert"]


def long_items(n=4):
    """Items that have all roles of the toy."""
    every = items(3 * n)
    rows = [i for i, row in enumerate(every.clean) if len(row) > 5]
    return TokenTask([every.clean[i] for i in rows][:n], [every.corrupted[i] for i in rows][:n])


def tiny_subject(name):
    return TokenModel(tiny.tiny_model(name), name=name)


def split(name):
    node, _, role = name.partition("@")
    return node, role


@pytest.mark.parametrize("name", FAMILIES)
def test_within_positions_scores_add_up_to_those_without(name):
    subject, task = tiny_subject(name), long_items()
    plain = edge_attribution(subject, task, steps=2)
    graph = edge_attribution(subject, task, steps=2, positions="roles")
    names = [tuple(split(graph.nodes[i])[0] for i in pair) for pair in graph.ends]
    total = {}
    for edge, pair in enumerate(names):
        if pair[0][0] != "h":  # into a head from what it reads: not an edge without positions
            total[pair] = total.get(pair, 0) + graph.items[:, edge].astype(float)
    want = {tuple(plain.nodes[i] for i in pair): plain.items[:, e] for e, pair in enumerate(plain.ends)}
    assert total.keys() == want.keys()
    size = abs(plain.items).max()
    assert max(abs(total[pair] - want[pair]).max() for pair in want) < 1e-5 * size


@pytest.mark.parametrize("name", FAMILIES)
def test_only_keys_and_values_lead_from_one_position_to_another(name):
    subject = tiny_subject(name)
    graph = edge_attribution(subject, long_items(), steps=0, positions="roles")
    later = {"changed": 0, "fifth": 1, "end": 2}
    kinds, backwards = set(), []
    for edge, (target, source) in enumerate(graph.ends):
        (u, at), (v, to) = split(graph.nodes[source]), split(graph.nodes[target])
        if at != to and v != "logits":
            kinds.add((u[0], v.split(".")[0]))
            if at in later and to in later and later[at] > later[to]:
                backwards.append(abs(graph.items[:, edge]).max())
        if u[0] == "q":
            assert at == to and v == u.replace("q.", "head.")
    assert kinds == {("k", "head"), ("v", "head")}
    assert backwards and (max(backwards) == 0) == (name != "bert")


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_is_recomputed_as_a_pass_with_that_position_changed(name, direction):
    """The key, value or query of one head at one position is exchanged in a real pass; nothing else of its layer is."""
    subject, task, layer = tiny_subject(name), long_items(3), 1
    graph = edge_attribution(subject, task, steps=0, rules=(), direction=direction, positions="roles")
    plan, head = FlowPlan(subject, ()), Site("head", layer)
    pair = next(subject.pairs(task))
    base, other = (pair.corrupted, pair.clean) if direction == "denoising" else (pair.clean, pair.corrupted)
    sign = 1 if direction == "denoising" else -1
    gradient = {}
    run = subject.run(
        base, read={head: lambda t: t.register_hook(lambda g: gradient.update(head=g))},
        write=[Edit(Site("embeddings"), lambda t, b: t.detach().requires_grad_(True))], logits=pair.answer_position, grad=True,
    )  # fmt: skip
    pair.metric(run.logits).sum().backward()
    rows, checked = torch.arange(len(pair.rows)), 0
    probs = Site("attn_probs", layer)
    for kind, at, to in (
        ("k", "changed", "end"),
        ("v", "changed", "end"),
        ("q", "end", "end"),
        ("k", "end", "end"),
    ):
        part = plan.projection(layer, kind)
        site = Site(part.path, io="out")
        kept, new = (subject.run(b, read=[head, site, probs]).activity for b in (base, other))
        for h in (0, subject.n_heads - 1):
            shared = h * len(part) // subject.n_heads

            def put(activity, batch, new=new[site], columns=part.columns[shared], places=pair.roles[at]):
                changed = activity.clone()
                changed[rows[:, None], places[:, None], columns] = new[
                    rows[:, None], places[:, None], columns
                ]
                return changed

            moved = subject.run(base, read=[head, probs], write=[Edit(site, put)]).activity[head] - kept[head]
            here = pair.roles[to]
            want = sign * (moved[rows, here, h] * gradient["head"][rows, here, h]).sum(-1)
            got = graph.edge(f"{kind}.{layer}[{shared}]@{at}", f"head.{layer}[{h}]@{to}")
            size = (moved[rows, here, h].abs() * gradient["head"][rows, here, h].abs()).sum(-1).max()
            assert np.abs(got - want.detach().numpy()).max() < 1e-4 * float(size) + 1e-8, (kind, h)
            checked += float(size) > 1e-7
    assert checked >= 4


def area(graph):
    truth = torch.zeros(graph.n, graph.n)
    for source, target in AT_ROLES:
        truth[graph.nodes.index(target), graph.nodes.index(source)] = 1
    return graph.auroc(truth)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_planted_induction_circuit_sits_at_its_places(direction):
    """The first head's copy is read as a key after the earlier token, the value there too, the query at the end."""
    options = {"direction": direction, "rules": (), "positions": "roles"}
    model, task = induction_model(), induction_task()
    graph = edge_attribution(InductionRoles(model), task, **options)
    assert area(graph) > 0.98
    found = {(row.source, row.target) for row in graph.edges().head(7).itertuples()}
    assert found < AT_ROLES
    for source, target in (("head.0[0]", "k.1[0]"), ("embeddings", "v.1[0]")):
        size = {
            role: abs(graph.edge(f"{source}@{role}", f"{target}@{role}").mean())
            for role in ("first", "after", "other")
        }
        assert size["after"] > 5 * max(size["first"], size["other"])
    for shift in (2, 3):
        elsewhere = edge_attribution(InductionRoles(model, shift), task, **options)
        found = {(row.source, row.target) for row in elsewhere.edges().head(7).itertuples()}
        assert len(found & AT_ROLES) < 5
        assert area(elsewhere) < area(graph) - 0.03


def test_nodes_say_where_they_stand():
    task = induction_task()
    graph = edge_attribution(InductionRoles(induction_model()), task, steps=0, positions="roles")
    table = graph.node_data.set_axis(graph.nodes)
    assert list(dict.fromkeys(table.role)) == ["first", "other", "after", "end", ""]
    assert table.position["head.1[0]@end"] == 7
    assert table.position["v.0[0]@after"] == table.position["v.0[0]@first"] + 1
    picture = graph.picture(n=12)
    columns = {node["name"]: node["column"] for node in picture["nodes"]}
    assert columns["head.1[0]@end"] == "end" and columns["v.1[0]@after"] == "after"
    assert not any("no edge is drawn within a head" in note for note in picture["notes"])
    assert graph.params["positions"] == "roles"


def test_items_do_not_depend_on_their_batch():
    subject, task = tiny_subject("qwen3"), long_items(4)
    one, all_ = (edge_attribution(subject, task, positions="roles", batch_size=n) for n in (1, 4))
    assert one.nodes == all_.nodes
    assert abs(one.items - all_.items).max() < 2e-5 * max(1, abs(all_.items).max())


def test_what_has_no_place_is_refused():
    with pytest.raises(PatchclampError, match="item 0 has no 'fifth'; select items"):
        edge_attribution(tiny_subject("llama"), items(3), steps=0, positions="roles")
    with pytest.raises(PatchclampError, match="positions"):
        edge_attribution(tiny_subject("llama"), items(3), steps=0, positions="each")
