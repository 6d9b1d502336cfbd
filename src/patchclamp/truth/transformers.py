"""Transformers of a known family with weights set by hand, so that what works on real ones is held against their edges."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from patchclamp.base.seeds import torch_rng
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task
from patchclamp.subjects import open_subject
from patchclamp.truth.base import Circuit, enter

TOKENS, LENGTH, PART, HEADS, NEURONS = 16, 8, 16, 4, 8
ITEMS = 32
NOISE = 0.02
SHARP, SHARPEST = 0.6, 2.0
INDUCTION = (
    ("embeddings", "v.0[0]"),
    ("head.0[0]", "k.1[0]"),
    ("embeddings", "q.1[0]"),
    ("embeddings", "v.1[0]"),
    ("head.1[0]", "logits"),
)
"""Edges that carry the answer. Which position is which is the same in both inputs, so that queries and keys of the first head
carry nothing that differs."""
RELAY = (("embeddings", "mlp_act.0[2]"), ("mlp_act.0[2]", "mlp_act.1[5]"), ("mlp_act.1[5]", "logits"))


def induction_gpt2(planted: bool = True, seed: int = 0, items: int = ITEMS, sharp: float = SHARP) -> Circuit:
    """A GPT-2 of two layers of four heads that finds "A B ... A" and says B; six heads and all MLPs are small noise.

    Head 0.0 copies the token before, head 1.0 looks for the place whose copy is the token at hand. All tokens of the
    corrupted input differ, at the same places.

    Parameters
    ----------
    planted
        False: the same network with noise in place of the two heads, a negative control.
    seed
        Of the noise and the items.
    items
        Number of items.
    sharp
        Size of queries and keys. From 2 on the softmax is saturated, and gradients through them vanish.

    Returns
    -------
    Circuit
        `nodes`: the eight heads. `edges`: ``"a->b"`` for every pair of `edge_attribution`, five of them true.

    Notes
    -----
    The circuit is that of Olsson et al. 2022; true up to the noise, which has an effect below a hundredth of the circuit's.
    """
    model = _gpt2(seed)
    if planted:
        _plant_induction(model, sharp)
    rng, made = random.Random(seed), []
    for _ in range(items):
        order = rng.sample(range(TOKENS), 14)
        at = rng.randrange(LENGTH - 3)
        sides = (order[:7], order[7:])
        clean, corrupted = (_text([*side, side[at]]) for side in sides)
        answer, foil = (f" w{side[at + 1]}" for side in sides)
        made.append(
            Item(clean=clean, corrupted=corrupted, answers=(answer,), foils=(foil,), template="eight")
        )
    name = "induction-gpt2" + ("-sharp" * (sharp > SHARP) if planted else "-idle")
    heads = [f"head.{layer}[{head}]" for layer in range(2) for head in range(HEADS)]
    return Circuit(
        _subject(model, name),
        Task(name, made, metric="logit_diff", min_accuracy=0.0),
        ("head.0", "head.1"),
        nodes={head: planted and head in ("head.0[0]", "head.1[0]") for head in heads},
        edges=_edges(INDUCTION, planted),
        data={"original": {"edges": _edges(INDUCTION, True)}},
    )


def relay(planted: bool = True, seed: int = 0, items: int = ITEMS) -> Circuit:
    """A GPT-2 in which one neuron of each of two layers, and nothing else, says whether the last token is even.

    Neuron 2 of the first layer reads the token's parity, neuron 5 of the second reads what that one writes, and the
    logits read what the second writes. Everything else is small noise.

    Parameters
    ----------
    planted, seed, items
        As in `induction_gpt2`.

    Returns
    -------
    Circuit
        `nodes`: the 16 neurons. `edges`: ``"a->b"`` among embeddings, neurons and logits, three of them true.
    """
    model = _gpt2(seed)
    if planted:
        _plant_relay(model)
    rng, made = random.Random(seed), []
    for _ in range(items):
        body = [rng.randrange(2, TOKENS) for _ in range(LENGTH - 1)]
        even, odd = (2 * rng.randrange(1, TOKENS // 2) + parity for parity in (0, 1))
        clean, corrupted = (_text([*body, last]) for last in (even, odd))
        made.append(
            Item(clean=clean, corrupted=corrupted, answers=(" w0",), foils=(" w1",), template="eight")
        )
    name = "relay-gpt2" + "-idle" * (not planted)
    neurons = [f"mlp_act.{layer}[{i}]" for layer in range(2) for i in range(NEURONS)]
    first, second = neurons[:NEURONS], neurons[NEURONS:]
    pairs = (
        [("embeddings", n) for n in neurons]
        + [(a, b) for a in first for b in second]
        + [(n, "logits") for n in neurons]
    )
    true = {f"{a}->{b}": (a, b) in RELAY for a, b in pairs}
    return Circuit(
        _subject(model, name),
        Task(name, made, metric="logit_diff", min_accuracy=0.0),
        ("mlp_act.0", "mlp_act.1"),
        nodes={n: planted and n in ("mlp_act.0[2]", "mlp_act.1[5]") for n in neurons},
        edges={edge: planted and real for edge, real in true.items()},
        data={"original": {"edges": true}},
    )


def _edges(true: tuple[tuple[str, str], ...], planted: bool) -> Mapping[str, bool]:
    """Every edge of the stream's graph, by the names of `edge_attribution`."""
    found: dict[str, bool] = {}
    for layer in range(2):
        senders = ["embeddings", *(f"head.{low}[{h}]" for low in range(layer) for h in range(HEADS)),
                   *(f"mlp_out.{low}" for low in range(layer))]  # fmt: skip
        here = [f"head.{layer}[{h}]" for h in range(HEADS)]
        reads = [f"{kind}.{layer}[{h}]" for kind in "qkv" for h in range(HEADS)]
        found |= {f"{a}->{b}": planted and (a, b) in true for b in reads for a in senders}
        found |= {f"{a}->mlp_out.{layer}": False for a in [*senders, *here]}
    every = [
        "embeddings",
        *(f"head.{low}[{h}]" for low in range(2) for h in range(HEADS)),
        "mlp_out.0",
        "mlp_out.1",
    ]
    return found | {f"{a}->logits": planted and (a, "logits") in true for a in every}


def _text(tokens: list[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


def _subject(model: Any, name: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(
        models.WordLevel({**{f"w{i}": i for i in range(TOKENS)}, "<unk>": TOKENS}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    subject = open_subject(model, tokenizer=tokenizer)
    subject.name = f"truth:{name}"
    return subject


def _gpt2(seed: int) -> Any:
    """Two layers of noise, between one-hot embeddings and a read-out of the last part of the stream."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=TOKENS + 1, n_embd=4 * PART, n_layer=2, n_head=HEADS, n_positions=LENGTH, n_inner=NEURONS,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    draw = torch_rng(seed)
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            if parameter.ndim > 1:
                parameter.copy_(NOISE * torch.randn(parameter.shape, generator=draw))
        tokens, places = model.transformer.wte.weight, model.transformer.wpe.weight
        tokens.zero_()[:TOKENS, :PART] = torch.eye(TOKENS)
        places.zero_()[:, PART : PART + LENGTH] = torch.eye(LENGTH)
        model.lm_head.weight.zero_()[:TOKENS, 3 * PART :] = torch.eye(TOKENS)
    return model


def _at(part: int, size: float = 1.0) -> Tensor:
    """(stream, part): reads one part of the stream (token, position, previous token, output)."""
    block = torch.zeros(4 * PART, PART)
    block[part * PART : (part + 1) * PART] = torch.eye(PART) * size
    return block


@torch.no_grad()
def _plant_induction(model: Any, sharp: float) -> None:
    shift = torch.roll(torch.eye(PART), 1, 1)
    for layer, (query, key) in enumerate([(1, 1), (0, 2)]):
        attention = model.transformer.h[layer].attn
        q, k, v = (slice(i * 4 * PART, i * 4 * PART + PART) for i in range(3))
        weight = attention.c_attn.weight  # (inputs, outputs)
        weight[:, q] = _at(query, sharp)
        weight[:, k] = _at(key, sharp) @ (shift if layer == 0 else torch.eye(PART))
        weight[:, v] = _at(0, 0.2)
        attention.c_proj.weight[:PART] = _at(2 + layer).T


@torch.no_grad()
def _plant_relay(model: Any) -> None:
    parity = torch.zeros(4 * PART)
    parity[:PART] = torch.tensor([1.0, -1.0]).repeat(TOKENS // 2)
    carried, out = torch.zeros(4 * PART), torch.zeros(4 * PART)
    carried[2 * PART] = 1.0
    out[3 * PART], out[3 * PART + 1] = 1.0, -1.0
    for layer, (neuron, reads, writes) in enumerate([(2, parity, carried), (5, carried, out)]):
        mlp = model.transformer.h[layer].mlp
        mlp.c_fc.weight[:, neuron] = 0.5 * reads
        mlp.c_proj.weight[neuron] = 2 * writes


_SOURCE = "induction heads: Olsson et al. 2022"
enter(
    "induction-gpt2",
    "circuit",
    partial(induction_gpt2, True),
    "an induction circuit of five edges set in a GPT-2",
    _SOURCE,
)
enter(
    "induction-gpt2-sharp",
    "circuit",
    partial(induction_gpt2, True, sharp=SHARPEST),
    "the same with a saturated softmax, past which plain gradients do not see",
    _SOURCE,
)
enter(
    "induction-gpt2-idle", "circuit", partial(induction_gpt2, False), "the same GPT-2 with noise in place of it", _SOURCE,
    control=True,
)  # fmt: skip
enter(
    "relay-gpt2",
    "circuit",
    partial(relay, True),
    "two neurons of a GPT-2, one behind the other, and three edges",
    "transformers.py",
)
