"""A tiny random language model with a tokenizer of letters, for tests of recording."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from patchclamp.subjects import Edit, LanguageModel

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


def tiny_subject(
    seed: int = 0, bos: bool = False, dtype: torch.dtype = torch.float32, **kw: Any
) -> LanguageModel:
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


def damaged(value: float) -> LanguageModel:
    """A subject whose unit mlp_act.1[5] takes `value` where the token is 'q'."""
    subject = tiny_subject()
    site = subject.resolve("mlp_act.1")[0]
    plain = subject.run

    def change(activity: Tensor, batch: Any) -> Tensor:
        out = activity.clone()
        out[..., 5] = torch.where(batch.tokens == 2 + 16, torch.tensor(value), out[..., 5])
        return out

    def run(batch: Any, read: Any = (), write: Any = (), *args: Any, **options: Any) -> Any:
        return plain(batch, read, [*write, Edit(site, change)], *args, **options)

    subject.run = run  # type: ignore[method-assign]
    return subject


def texts(n: int, seed: int = 0, longest: int = 40) -> list[str]:
    """Random texts of ragged lengths."""
    rng = random.Random(seed)
    return ["".join(rng.choice(LETTERS) for _ in range(rng.randint(2, longest))) for _ in range(n)]


def same_tree(a: Path, b: Path) -> bool:
    """Whether two stores hold the same files with the same bytes."""
    files = [sorted(str(f.relative_to(top)) for f in top.rglob("*") if f.is_file()) for top in (a, b)]
    return files[0] == files[1] and all((a / f).read_bytes() == (b / f).read_bytes() for f in files[0])


def work(store: Path) -> None:
    """Record texts, some of them repeated, in several windows and many small chunks, with measures."""
    from patchclamp.record import record

    source = texts(600, longest=30) + texts(60, longest=30) + texts(600, seed=1, longest=30)
    record(
        tiny_subject(),
        source,
        "mlp_act.*, head.1",
        store=store,
        batch_tokens=150,
        window_tokens=1000,
        chunk_rows=500,
        progress=False,
    )


def written(store: Path) -> int:
    """Samples that the journal says are on disk; -1 where there is none yet."""
    journal = store / "journal.jsonl"
    lines = journal.read_text().split("\n")[:-1] if journal.is_file() else []
    return json.loads(lines[-1].partition(" ")[2])["rows"] if lines else -1


def child(store: Path, least: int | None, wait: float = 0.0) -> None:
    """Do the work in a forked process, killed `wait` seconds after `least` samples were written; None: to its end.

    Progress says when, not a clock: on a machine that is busy the kill still falls in the middle of the work.
    """
    pid = os.fork()
    if pid == 0:
        work(store)
        os._exit(0)
    if least is None:
        status = os.waitpid(pid, 0)[1]
        if status != 0:
            raise SystemExit(f"the recording ended with status {status}")
        return
    done = 0
    while not done and written(store) < least:
        done = os.waitpid(pid, os.WNOHANG)[0]
        time.sleep(0.001)
    if not done:
        time.sleep(wait)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def main(folder: str) -> None:
    """Record once in peace and ten times killed at a random moment; print samples on disk at each kill."""
    from patchclamp.nouns.recording.recording import Recording

    torch.set_num_threads(1)
    top, rng = Path(folder), random.Random(0)
    child(top / "whole", None)
    samples = Recording.open(top / "whole").n_samples
    rows = []
    for number in range(10):
        store = top / f"killed-{number}"
        child(store, int(rng.uniform(-0.1, 0.9) * samples), rng.uniform(0.0, 0.02))
        rows.append(written(store))
        child(store, None)
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
