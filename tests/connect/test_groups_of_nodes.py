"""Groups of nodes: two planted variables come back as two groups that add up, and noise as none."""

import numpy as np
import pandas as pd
import pytest
import torch

import tiny
from circuit_toys import InductionModel, induction_model, induction_task
from language_toys import TokenModel
from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import edge_attribution, group_effects, group_nodes, neuron_graph
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.subjects.clamp.batch import Pair, right_pad


class TwoVariables(TokenModel):
    """A role for each token: the metric is told both."""

    def pairs(self, task, batch_size=32):
        for first in range(0, len(task), batch_size):
            rows = list(range(first, min(first + batch_size, len(task))))
            clean, corrupted = (
                right_pad([side[r] for r in rows], rows) for side in (task.clean, task.corrupted)
            )
            roles = {"one": torch.zeros_like(clean.last), "two": torch.ones_like(clean.last)}
            yield Pair(clean, corrupted, lambda logits, reference=None: logits[:, 0], clean.last, roles)


def two_variables(planted=True):
    """Heads carry both tokens to the end as they are; four neurons read the sign of the first, four that of the second."""
    model = tiny.tiny_model("gpt2")
    torch.manual_seed(0)
    size = model.config.n_embd
    if not planted:
        return TwoVariables(model)
    tokens = model.transformer.wte.weight.data.zero_()
    model.transformer.wpe.weight.data.zero_()
    # tokens 3 and 4: variable one is on or off, 5 and 6: variable two; both mean zero, as layer norm wants it
    for token, (place, sign) in {3: (0, 1), 4: (0, -1), 5: (2, 1), 6: (2, -1)}.items():
        tokens[token, place], tokens[token, place + 1] = sign, -sign
    for block in model.transformer.h:
        for parameter in [*block.attn.parameters(), *block.mlp.parameters()]:
            parameter.data.zero_()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)):
        norm.weight.data.fill_(1)
        norm.bias.data.zero_()
    attention, mlp = model.transformer.h[0].attn, model.transformer.h[0].mlp
    attention.c_attn.weight.data[:, 2 * size :] = torch.eye(size)
    attention.c_proj.weight.data.copy_(torch.eye(size))
    for neuron in range(8):
        place = 0 if neuron < 4 else 2
        mlp.c_fc.weight.data[place, neuron] = 0.5 + 0.1 * (neuron % 4)
        mlp.c_fc.weight.data[place + 1, neuron] = -0.5
        mlp.c_proj.weight.data[neuron, 4] = 0.05
        mlp.c_proj.weight.data[neuron, 5] = -0.05
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(tokens))
    model.lm_head.weight.data[0, 4] = 1
    return TwoVariables(model)


class Both:
    name, metric_name, groups = "both", "logit", ()
    clean = [[3, 5]] * 8
    corrupted = [[4, 5], [3, 6]] * 4

    def __len__(self):
        return 8


def test_two_planted_variables_are_two_groups_that_act_alike():
    subject, task = two_variables(), Both()
    graph = neuron_graph(subject, task, neurons=8, heads=0, senders=0, rules=("LN", "Identity"))
    groups = group_nodes(graph)
    assert groups.found and groups.silhouette > 0.95 and groups.p < 0.05
    found = {frozenset(name.rstrip("+-") for name in row) for row in groups.table.members}
    assert found == {frozenset(f"mlp_act.0[{i}]" for i in part) for part in (range(4), range(4, 8))}
    assert sorted(groups.table.source) == ["tokens:one", "tokens:two"]
    assert (groups.table.share > 0.9).all()
    data = groups.graph.node_data
    assert (data.loc[data.kind == "neuron", "group"].value_counts() == 4).all()
    assert set(data.loc[data.kind != "neuron", "group"]) == {""}
    measured = group_effects(subject, task, groups)
    assert (measured.units == 4).all() and (measured.alike == 1).all() and (measured.joint > 0).all()
    # small beside the stream, so that the final layer norm hardly bends the sum
    assert np.allclose(measured.joint, measured.total, rtol=0.1)
    assert np.allclose(measured.beyond, measured.joint - measured.total)
    assert (measured.beyond_low <= measured.beyond).all() and (measured.beyond <= measured.beyond_high).all()
    assert (measured.beyond_low < measured.beyond_high).all()


def random_graph(seed, n=24, roles=4, heavy=False):
    draw = np.random.default_rng(seed)
    nodes = [*(f"tokens:{i}" for i in range(roles)), *(f"mlp_act.0[{i}]+" for i in range(n)), "logits"]
    ends = [(roles + i, r) for i in range(n) for r in range(roles)]
    ends += [(len(nodes) - 1, roles + i) for i in range(n)]
    table = pd.DataFrame({"kind": ["x"] * len(nodes)})
    size = (8, len(ends))
    items = draw.standard_t(1, size) if heavy else draw.normal(size=size)
    return CircuitGraph.of(nodes, ends, items, method="by hand", node_data=table)


@pytest.mark.parametrize("heavy", [False, True])
def test_profiles_without_structure_give_no_groups(heavy):
    results = [group_nodes(random_graph(seed, 40, heavy=heavy), most=4, n_shuffles=39) for seed in range(20)]
    # 5 % by chance: more than 4 of 20 with probability .003
    assert sum(result.found for result in results) <= 4
    silent = next(result for result in results if not result.found)
    assert silent.table.empty and (silent.graph.node_data.group == "").all()
    with pytest.raises(PatchclampError, match="no groups were found"):
        group_effects(None, None, silent)


def test_groups_are_the_same_every_time_and_bad_graphs_are_refused():
    graph = random_graph(0)
    one, two = group_nodes(graph), group_nodes(graph)
    assert one.table.equals(two.table) and one.p == two.p
    with pytest.raises(PatchclampError, match="at least 6"):
        group_nodes(random_graph(0, n=5))
    with pytest.raises(PatchclampError, match="most=1"):
        group_nodes(graph, most=1)
    edges = edge_attribution(InductionModel(induction_model()), induction_task(4), steps=0)
    with pytest.raises(PatchclampError, match="no tokens by role"):
        group_nodes(edges)
