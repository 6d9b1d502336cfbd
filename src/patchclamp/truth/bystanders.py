"""Models in which no unit carries a behaviour: the negative control of a whole study."""

from __future__ import annotations

import random
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from patchclamp.base.seeds import torch_rng
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task
from patchclamp.subjects import LanguageModel, open_subject
from patchclamp.subjects.clamp.bench import item_values

WORDS = tuple(f"w{i}" for i in range(48))


SIGNS = ("yes", "no")


LAYERS, HEADS, WIDTH, NEURONS = 1, 32, 64, 48


READ, WRITE, SIGN, LEVEL, CARRIED = slice(0, 16), slice(16, 32), 32, 33, 34


def bystanders(seed: int = 0, noise: float = 1.5, *, alike: bool = False) -> LanguageModel:
    """A model in which no head and no neuron has an effect on the mean.

    The stream has three parts: what blocks read (16 units), what they write (16) and the sign (1), which the last
    token's embedding sets and no block reads. logit(yes) - logit(no) = sign + noise * (what was written along one
    direction), up to the final norm, which the sign dominates.

    Parameters
    ----------
    seed
        Of all weights.
    noise
        Standard deviation over items of what all blocks together add to the metric, in units of its mean.
    alike
        Carry the sign by all heads in equal parts, instead of past them: every head matters, and none more than any
        other, so that a claim that some do is false again.
    """
    config = LlamaConfig(
        vocab_size=64, hidden_size=WIDTH, intermediate_size=NEURONS, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=16, tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).eval()
    generator = torch_rng(seed)
    with torch.no_grad():
        for parameter in [p for p in model.parameters() if p.ndim == 2]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
        for layer in model.model.layers:
            _part_ways(layer.self_attn, layer.mlp, alike)
        _ends(model.model.embed_tokens.weight, model.lm_head.weight, generator, CARRIED if alike else SIGN)
    subject = open_subject(model, tokenizer=_tokenizer())
    assert isinstance(subject, LanguageModel)
    values = item_values(subject, bystander_task(64, seed), "clean", 64)[0]
    with torch.no_grad():  # what blocks add to the metric now varies by `noise` of its mean
        model.lm_head.weight[:, WRITE] *= noise * values.mean() / values.std()
    return subject


def _part_ways(attention: Any, mlp: Any, alike: bool) -> None:
    """Heads read words, neurons read what heads wrote, both write beside the sign.

    With `alike`, the first unit of each head's value is the sign, and all heads write it to the same place.
    """
    for module in (attention.q_proj, attention.k_proj, attention.v_proj):
        _reads(module, READ, 8.0)
    for module in (mlp.gate_proj, mlp.up_proj):
        _reads(module, WRITE, 128.0)
    for module in (attention.o_proj, mlp.down_proj):
        module.weight[: WRITE.start] = 0
        module.weight[WRITE.stop :] = 0
        # Small beside the sign, so that the norms stay as they are; the read-out makes up for it.
        module.weight *= 0.1
    if alike:
        first = slice(0, None, WIDTH // HEADS)
        attention.v_proj.weight[first] = 0
        attention.v_proj.weight[first, SIGN] = 1
        attention.o_proj.weight[:, first] = 0
        attention.o_proj.weight[CARRIED, first] = 0.1


def _ends(embedding: Tensor, unembedding: Tensor, generator: torch.Generator, read: int) -> None:
    """Words have random codes, signs a unit of their own; logits read `read` and one direction of what is written."""
    embedding.zero_()
    embedding[: len(WORDS), READ] = torch.randn(len(WORDS), READ.stop, generator=generator)
    embedding[: len(WORDS), LEVEL] = 40  # as large as the sign, so that norms are alike at all tokens
    direction = torch.randn(WRITE.stop - WRITE.start, generator=generator)
    unembedding.zero_()
    for token, sign in enumerate((1.0, -1.0), start=len(WORDS)):
        embedding[token, SIGN] = 40 * sign
        unembedding[token, read] = sign / 2
        unembedding[token, WRITE] = sign / 2 * direction / direction.norm()


def _reads(module: torch.nn.Linear, part: slice, gain: float) -> None:
    """Make a projection read one part of the stream alone."""
    kept = module.weight[:, part] * gain
    module.weight.zero_()
    module.weight[:, part] = kept


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*WORDS, *SIGNS, "<unk>"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def bystander_task(n: int = 96, seed: int = 0) -> Task:
    """Prompts of five words and a sign, which is the answer; in the corrupted prompt all six are others."""
    rng = random.Random(seed)
    items = []
    for number in range(n):
        words, others = rng.sample(WORDS, 5), rng.sample(WORDS, 5)
        answer, foil = SIGNS if number % 2 else SIGNS[::-1]
        clean, corrupted = (" ".join([*some, sign]) for some, sign in ((words, answer), (others, foil)))
        start = len(clean) - len(answer)
        items.append(
            Item(
                clean=clean,
                corrupted=corrupted,
                answers=(f" {answer}",),
                foils=(f" {foil}",),
                template="six",
                spans={"sign": (start, len(clean))},
                corrupted_spans={"sign": (len(corrupted) - len(foil), len(corrupted))},
            )
        )
    return Task(
        "bystanders",
        items,
        metric="logit_diff",
        corruption="other",
        min_accuracy=0.5,  # its noise makes it err; what is counted are claims about a metric that is there
        description="bystanders: yes or no",
    )
