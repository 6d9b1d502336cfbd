"""A tiny Llama in which one head, and nothing else, carries a behaviour: the answer is a word that was in the prompt.

Embeddings live in 32 dimensions, the unembedding reads 32 others, and head 2 of layer 1, which attends evenly to all
positions, is the only way from the ones to the others that is not small and random.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task
from patchclamp.subjects import LanguageModel, open_subject

LAYER, HEAD = 1, 2
WORDS = [f"w{i}" for i in range(60)]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    vocabulary = {word: i for i, word in enumerate([*WORDS, "<unk>"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def subject(planted: bool = True, seed: int = 0, layers: int = 3) -> LanguageModel:
    """The model, or the same one without the head."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, initializer_range=0.02, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    code = torch.nn.functional.normalize(torch.randn(64, 32), dim=1)
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()[:, :32] = code
        model.lm_head.weight.zero_()[:, 32:64] = code
        if planted:
            attention = model.model.layers[LAYER].self_attn
            rows = slice(32 * HEAD, 32 * (HEAD + 1))
            attention.q_proj.weight[rows] = 0
            attention.v_proj.weight[rows] = 0
            attention.v_proj.weight[rows, :32] = torch.eye(32)
            attention.o_proj.weight[:, rows] = 0
            attention.o_proj.weight[32:64, rows] = 3 * torch.eye(32)
    found = open_subject(model, tokenizer=tokenizer())
    assert isinstance(found, LanguageModel)
    return found


def save(folder: Path) -> str:
    """Write the model as a folder that `open_subject` opens; returns its path."""
    subject().model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def task(n: int = 96, seed: int = 0) -> Task:
    """Prompts of six words; the answer is the second of them, which the corrupted prompt replaces by the foil."""
    rng = random.Random(seed)
    items = []
    for _ in range(n):
        *words, foil = rng.sample(WORDS, 7)
        answer = words[1]
        clean, corrupted = " ".join(words), " ".join([words[0], foil, *words[2:]])
        span = (len(words[0]) + 1, len(words[0]) + 1 + len(answer))
        items.append(
            Item(
                clean=clean,
                corrupted=corrupted,
                answers=(f" {answer}",),
                foils=(f" {foil}",),
                template="six",
                spans={"source": span},
                corrupted_spans={"source": (span[0], span[0] + len(foil))},
            )
        )
    return Task(
        "copying",
        items,
        metric="logit_diff",
        corruption="replace",
        min_accuracy=0.9,
        description="copying: a word",
    )
