"""The functional connectome of SmolLM2's heads over text: the same call as for a brain.

python -m benchmarks.heads [--texts 200] [--tokens 20] [--every 3] [--rank 4]

Norms of the output of each head (`z`, before the output projection) at the first tokens of texts of the bundled sample.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import patchclamp
from benchmarks.common import save, show
from patchclamp.connect import correlation, head_connectome
from patchclamp.nouns.recording.recording import Recording
from patchclamp.record import record
from patchclamp.record.texts import documents


def head_norms(n_texts: int, tokens: int, every: int) -> Recording:
    """(token, head) norms of every `every`-th layer, each text cut to `tokens` tokens and one more, the first."""
    lm: Any = patchclamp.open_subject("smollm2")
    texts: list[str] = []
    for document in documents("sample"):
        ids = lm.encode([document.text])[0]
        if len(ids) > tokens:
            texts.append(lm.tokenizer.decode(ids[: tokens + 1]))
        if len(texts) == n_texts:
            break
    sites = [f"z.{layer}" for layer in range(0, 30, every)]
    with tempfile.TemporaryDirectory() as folder:
        made = record(lm, texts, sites, store=Path(folder) / "store", progress=False)
        norms = {str(site): _norm(made[site][:]) for site in made.sites}
        return Recording.from_arrays(norms, made.samples)


def _norm(values: torch.Tensor, heads: int = 9) -> torch.Tensor:
    return values.float().reshape(len(values), heads, -1).norm(dim=-1)


def layers(names: tuple[str, ...]) -> str:
    """How many heads of each layer: 3 x 6, 6 x 2 ..."""
    count = Counter(int(name.split(".")[1].split("[")[0]) for name in names)
    return " ".join(f"{layer}x{n}" for layer, n in sorted(count.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--rank", type=int, default=4)
    options = parser.parse_args()
    recording = head_norms(options.texts, options.tokens, options.every)
    print(recording, flush=True)
    graph = correlation(recording, null_samples=99)
    facts = graph.measures(significant=0.05)
    print(
        f"{int((graph.significant() & graph.pairs).sum())} of {int(graph.pairs.sum())} pairs of heads correlate (q <= .05); ",
        end="",
    )
    print(
        f"{facts['community'].nunique()} communities, modularity {facts.attrs['modularity']:.2f}", flush=True
    )
    rows = []
    for null in ("neuron_shift", "animal_shift", "phase"):
        found = head_connectome(recording, options.tokens - 1, rank=options.rank, null=null, restarts=3)
        print(found, flush=True)
        table = found.components()
        for k in range(found.rank):
            dense = [
                layers(
                    tuple(
                        n
                        for n, b in zip(found.graphs[k].nodes, found.blocks[k].labels, strict=True)
                        if b == r
                    )
                )
                for r in found.blocks[k].dense()
            ]
            rows.append(
                {
                    "null": null,
                    "component": k,
                    "share": round(float(table["share"][k]), 2),
                    "stability": round(float(table["stability"][k]), 2),
                    "tokens": " ".join(f"{a}-{b}" for a, b in found.intervals(k)),
                    "texts": len(found.engaged(k)),
                    "p motif": float(table["p_motif"][k]),
                    "community (layer x heads)": dense[0] if dense else "",
                }
            )
    show("functional connectome of SmolLM2's heads", rows)
    save("heads", rows, f"{options.texts} texts, {options.tokens} tokens, every {options.every}rd layer")


if __name__ == "__main__":
    main()
