"""Decoding all neurons through the LM head against the bare product, and describing features without a language model.

The decoding runs on the sizes of SmolLM2 (46,080 neurons, 576 wide, 49,152 tokens) with random weights: time and
memory depend on sizes alone; seconds are of the processor, which other work on the machine does not change. Features are planted: each is active where one simple predicate of the text holds, with
a tenth of its tokens silent and as many others active, over definitions of WordNet.

    python -m benchmarks.describe [--neurons 46080] [--features 2304] [--tokens 60000]
"""

from __future__ import annotations

import argparse
import re
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common import save, show
from patchclamp.describe import Split, Tokens, search_description
from patchclamp.describe.lm_head import decode_directions
from patchclamp.describe.search.candidates import candidates_of
from patchclamp.nouns.recording.sparse import SparseCodes
from patchclamp.nouns.tasks.wordnet import WordNet


def resident() -> float:
    """Largest memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def decoding(neurons: int) -> dict[str, Any]:
    """Top 10 both ways of every neuron, as a multiple of the product alone."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(49_152, 576, generator=generator)
    directions = torch.randn(neurons, 576, generator=generator)

    def bare() -> None:
        for start in range(0, neurons, 256):
            torch.mm(directions[start : start + 256], head.T)

    before = resident()
    calls: dict[str, Callable[[], Any]] = {
        "product": bare,
        "decode": lambda: decode_directions(directions, head, torch.ones(576), top=10),
    }
    took = {}
    for name, call in calls.items():
        began = time.process_time()
        call()
        took[name] = time.process_time() - began
    ratio = took["decode"] / took["product"]
    return {
        "what": f"decode {neurons:,} neurons, 49,152 tokens",
        "seconds": took["decode"],
        "baseline": took["product"],
        "ratio": ratio,
        "gigabytes": resident() - before,
        "median_score": float("nan"),
    }


def describing(features: int, wanted: int) -> dict[str, Any]:
    """Executable descriptions of planted sparse features."""
    rng = np.random.default_rng(0)
    net = WordNet()
    glosses = [sense.gloss for sense in net.senses.values()]
    pieces: list[list[str]] = []
    for i in rng.permutation(len(glosses)):
        pieces.append(re.findall(r"\s?\w+|\s?[^\w\s]|\s", glosses[i]) or ["."])
        if len(pieces) % 500 == 0 and sum(map(len, pieces)) >= wanted:
            break
    tokens = Tokens.of(pieces, wordnet=net)
    codes = planted(tokens, features, rng)
    split = Split.of(tokens, seed=0)
    before, began = resident(), time.perf_counter()
    found = search_description(codes, tokens, split)
    took = time.perf_counter() - began
    return {
        "what": f"describe {features:,} features, {len(tokens):,} tokens",
        "seconds": took,
        "baseline": 600.0,
        "ratio": took / 600,
        "gigabytes": resident() - before,
        "median_score": float(found.table.score.median()),
    }


def planted(tokens: Tokens, features: int, rng: np.random.Generator) -> SparseCodes:
    """Features that follow simple predicates of at least 40 tokens and at most a twentieth of all, with noise."""
    candidates = candidates_of(tokens)
    size = np.diff(candidates.matrix.indptr)
    usable = np.flatnonzero((size >= 40) & (size < len(tokens) / 20))
    chosen = rng.choice(usable, features, replace=len(usable) < features)
    rows, columns = [], []
    for feature, i in enumerate(chosen):
        held = candidates.matrix[[i]].indices
        kept = held[rng.random(len(held)) > 0.1]
        noise = rng.integers(0, len(tokens), max(1, len(held) // 10))
        own = np.unique(np.r_[kept, noise])
        rows.append(own)
        columns.append(np.full(len(own), feature))
    row, column = np.concatenate(rows), np.concatenate(columns)
    order = np.lexsort((column, row))
    indptr = np.r_[0, np.cumsum(np.bincount(row, minlength=len(tokens)))].astype(np.int64)
    value = torch.from_numpy(rng.uniform(0.5, 2, len(row)).astype(np.float32))
    return SparseCodes(indptr, column[order].astype(np.uint32), value, features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neurons", type=int, default=46_080)
    parser.add_argument("--features", type=int, default=2304)
    parser.add_argument("--tokens", type=int, default=60_000)
    options = parser.parse_args()
    rows = [decoding(options.neurons), describing(options.features, options.tokens)]
    notes = "decode: processor seconds, baseline the product alone; describe: wall seconds, baseline the 600 s that describing may take. Gigabytes over the peak before."
    show("Describe", rows)
    save("describe", rows, notes)


if __name__ == "__main__":
    main()
