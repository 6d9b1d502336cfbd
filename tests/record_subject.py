"""A tiny random language model with a tokenizer of letters, for tests of recording."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from patchclamp.subjects import LanguageModel

LETTERS = "abcdefghijklmnopqrstuvwxyz .,"


class Letters:
    """A token a letter; ids 0 and 1 are padding and BOS."""

    pad_token_id = 0
    bos_token_id = 1
    all_special_ids = (0, 1)

    def __init__(self, bos: bool = False, letters: str = LETTERS) -> None:
        self.bos, self.letters = bos, letters

    def __call__(self, texts: list[str], add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        """Token ids."""
        first = [1] if self.bos and add_special_tokens else []
        return {"input_ids": [first + [2 + self.letters.index(c) for c in text] for text in texts]}

    def get_vocab(self) -> dict[str, int]:
        """Letters and their ids."""
        return {letter: i + 2 for i, letter in enumerate(self.letters)}


def tiny_subject(seed: int = 0, bos: bool = False, dtype: torch.dtype = torch.float32, **kw: Any) -> LanguageModel:
    """A Llama with 2 layers, d 16 and 24 neurons a layer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        **kw,
    )
    model = LlamaForCausalLM(config).eval().to(dtype)
    return LanguageModel(model, Letters(bos), "tiny")


def texts(n: int, seed: int = 0, longest: int = 40) -> list[str]:
    """Random texts of ragged lengths."""
    rng = random.Random(seed)
    return ["".join(rng.choice(LETTERS) for _ in range(rng.randint(2, longest))) for _ in range(n)]


def main(store: str, dtype: str) -> None:
    """Record 400 texts in small chunks: what the test of killing runs in another process."""
    from patchclamp.record import record

    torch.set_num_threads(1)
    print("begin", flush=True)
    record(
        tiny_subject(),
        texts(400),
        "mlp_act.*, head.1",
        store=store,
        dtype=dtype,
        batch_tokens=200,
        chunk_rows=128,
        progress=False,
    )
    print("end", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
