"""Small transformers with the norms of real families, trained on lists of words that begin a second time.

They learn to go on with the list (the built-in task ``induction``) in a minute on one thread. Weights follow from
the seed; what is measured on them is measured on the model at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from patchclamp.subjects import LanguageModel

LENGTH = 12
"""Words of a list, as in the task."""
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
_SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
FAMILIES: Mapping[str, tuple[Callable[[Any], nn.Module], Callable[..., Any]]] = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig),
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config),
    "gemma2": (transformers.Gemma2ForCausalLM, transformers.Gemma2Config),
    "gemma3": (transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig),
    "olmo2": (transformers.Olmo2ForCausalLM, transformers.Olmo2Config),
}
"""Plain norms; norms on queries and keys; norms behind attention and MLP; both, and both without norms before them."""


def words_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 240 made-up words, each one token after its space."""
    words = [
        a + v + b + w
        for a in CONSONANTS
        for v in VOWELS
        for b, w in (("n", "a"), ("l", "o"), ("s", "i"), ("k", "u"))
    ]
    known = ["<unk>", "<s>", "List", ":", *(f" {word}" for word in words[:240])]
    raw = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|:"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", pad_token="<unk>")


def lists(n: int, vocabulary: int, draw: torch.Generator) -> torch.Tensor:
    """(item, token) "List: " and twelve different words, twice."""
    words = torch.rand(n, vocabulary - 4, generator=draw).argsort(1)[:, :LENGTH] + 4
    head = torch.tensor([[2, 3]]).expand(n, 2)
    return torch.cat([head, words, words], 1)


def trained(family: str, steps: int = 450, seed: int = 0, batch: int = 32) -> LanguageModel:
    """A model of one of `FAMILIES` that goes on with lists.

    Embeddings are larger than the library's own draw, so that words can be told apart from the first step on.
    """
    tokenizer = words_tokenizer()
    torch.manual_seed(seed)
    make, config = FAMILIES[family]
    model: Any = make(config(vocab_size=len(tokenizer), **_SIZES))
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, step / 50) * max(0.05, 1 - step / steps)
    )
    model.train()
    for _ in range(steps):
        tokens = lists(batch, len(tokenizer), draw)
        logits = model(tokens).logits[:, LENGTH + 2 : -1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, LENGTH + 3 :].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return LanguageModel(model.eval(), tokenizer, f"{family} of three layers")
