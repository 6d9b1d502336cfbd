"""Pairs of queries and keys add up to what the softmax is given, in every family; the planted head asks for what it should."""

import numpy as np
import pytest
import torch

import tiny
from circuit_toys import InductionModel, induction_model, induction_task
from hooks import hook_counts
from language_toys import TokenModel, items
from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import qk_attribution
from patchclamp.nouns.units import Site

FAMILIES = [
    "llama",
    "qwen3",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_neox",
    "gptj",
    "opt",
    "phi3",
    "olmo2",
    "falcon",
    "bloom",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_pairs_add_up_to_the_score_whose_softmax_is_the_pattern(name):
    subject, task = TokenModel(tiny.tiny_model(name), name=name), items(3)
    layer, head, place = 2, 3, 3
    found = [qk_attribution(subject, task, f"head.{layer}[{head}]", place, s) for s in range(place + 1)]
    total = np.stack([one.items.sum((1, 2)) for one in found], 1)
    score = np.stack([one.score for one in found], 1)
    size = np.stack([np.abs(one.items).sum((1, 2)) for one in found], 1)
    added = np.stack([one.added for one in found], 1)
    if name != "bloom":  # the only one of them that adds a penalty of distance
        assert (np.abs(total - score) < 1e-4 * np.maximum(1, size)).all()
    cap = getattr(subject.config, "attn_logit_softcapping", None)
    given = torch.tensor(total + (added if name == "bloom" else 0))
    given = cap * torch.tanh(given / cap) if cap else given
    pattern = np.stack([one.pattern for one in found], 1)
    pair = next(subject.pairs(task))
    read = subject.run(pair.clean, read="attn_probs.2").activity[Site("attn_probs", layer)]
    assert np.allclose(pattern, read[:, head, place, : place + 1], atol=1e-6)
    window = pattern > 0  # a sliding window leaves keys out
    expected = torch.where(torch.tensor(window), given, -torch.inf).softmax(1)
    assert np.allclose(expected, pattern, atol=1e-4)
    assert not any(hook_counts(subject.model))


def test_bias_of_distance_is_what_is_added_and_is_the_same_for_all_items():
    subject = TokenModel(tiny.tiny_model("bloom"), name="bloom")
    near, far = (qk_attribution(subject, items(3), "head.1[0]", 3, s).added for s in (3, 1))
    assert np.ptp(near - far) < 1e-4 and abs((near - far).mean()) > 1e-3


def test_the_planted_head_looks_for_its_own_token_in_what_the_previous_head_wrote():
    subject, task = InductionModel(induction_model()), induction_task()
    at = [row.index(row[-1]) + 1 for row in task.clean]
    same = [i for i, place in enumerate(at) if place == at[0]]
    chosen = type(task)(**{k: [getattr(task, k)[i] for i in same] for k in ("clean", "corrupted", "answers")})
    found = qk_attribution(subject, chosen, "head.1[0]", "end", at[0])
    best = found.table(1).iloc[0]
    assert (best["query part"], best["key part"]) == ("embeddings", "head.0[0]")
    assert best["weight"] > 0.8 * found.score.mean()
    other = qk_attribution(subject, chosen, "head.1[0]", "end", (at[0] + 2) % 6)
    assert abs(other.table(1)["weight"].iloc[0]) < 0.3 * best["weight"]
    margin = found.marginals().set_index("part")
    assert margin["key"].idxmax() == "head.0[0]" and margin["query"].idxmax() == "embeddings"


def test_neurons_are_taken_out_of_their_mlp_and_nothing_else_moves():
    subject, task = TokenModel(tiny.tiny_model("llama"), name="llama"), items(4)
    whole = qk_attribution(subject, task, "head.1[1]", "end", 1)
    cut = qk_attribution(subject, task, "head.1[1]", "end", 1, neurons=["mlp_act.0[5]"], batch_size=2)
    i, j = cut.parts.index("mlp_out.0"), cut.parts.index("mlp_act.0[5]")
    k = whole.parts.index("mlp_out.0")
    assert np.allclose(cut.items[:, [i, j]].sum(1).sum(1), whole.items[:, k].sum(1), atol=1e-4)
    assert np.abs(cut.items[:, j]).max() > 0


def test_what_has_no_score_is_refused():
    subject, task = TokenModel(tiny.tiny_model("llama"), name="llama"), items(4)
    for options, says in (
        ({"head": "mlp_act.1[0]"}, "give a head"),
        ({"head": "head.1[0]", "query": 1, "key": 3}, "behind"),
        ({"head": "head.1[0]", "query": "fifth"}, "item 0 has none"),
        ({"head": "head.1[0]", "query": "subject"}, "no such role"),
        ({"head": "head.1[0]", "neurons": ["mlp_act.1[0]"]}, "before that of the head"),
    ):
        with pytest.raises(PatchclampError, match=says):
            qk_attribution(subject, task, **options)
