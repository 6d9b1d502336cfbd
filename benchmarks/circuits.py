"""Time of graphs inside SmolLM2, in forward and backward passes of the bare model under plain torch, and their memory.

`edge_attribution` is also told per step of its path. The same items, the same batches, seconds of the processor.

    python -m benchmarks.circuits [--items 32] [--neurons 200] [--repeats 1]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

import patchclamp
from benchmarks.common import save, show
from patchclamp.connect.circuits import edge_attribution, neuron_graph
from patchclamp.nouns.tasks.builtin import load_task
from patchclamp.subjects.clamp.hooks import frozen

STEPS = 5


def peak() -> float:
    """Largest memory of the process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def processor(call: Callable[[], Any], repeats: int) -> float:
    """Fewest seconds of the processor: what else the machine does is not counted."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        seconds.append(time.process_time() - began)
    return min(seconds)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--neurons", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lm = patchclamp.open_subject("smollm2")
    task = load_task("agreement", lm.tokenizer, n=256).split("train").take(options.items)
    pairs = list(lm.pairs(task, 8))

    def bare() -> None:
        with frozen(lm.model):
            for pair in pairs:
                assert pair.corrupted is not None
                embedded = lm.model.get_input_embeddings()(pair.corrupted.tokens)
                kept, column = pair.answer_position.unique(return_inverse=True)
                out = lm.model(
                    inputs_embeds=embedded.detach().requires_grad_(True), use_cache=False, logits_to_keep=kept
                ).logits
                pair.metric(out[torch.arange(len(pair.rows)), column]).sum().backward()

    edges = f"edge_attribution, all {len(edge_attribution(lm, task.take(2), steps=0).ends):,} edges"
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        f"{edges}, one gradient": (lambda: edge_attribution(lm, task, steps=0), 1),
        f"{edges}, {STEPS} midpoints": (lambda: edge_attribution(lm, task, steps=STEPS), STEPS),
        "neuron_graph, edges among nodes": (
            lambda: neuron_graph(lm, task, neurons=options.neurons, senders=0),
            1,
        ),
        "neuron_graph, and 50 of all neurons into each": (
            lambda: neuron_graph(lm, task, neurons=options.neurons, senders=50),
            1,
        ),
    }
    bare()
    base, before = processor(bare, options.repeats + 1), peak()
    rows = []
    for name, (call, steps) in calls.items():
        seconds = processor(call, options.repeats)
        more = peak() - before
        rows.append({"what": name, "seconds": seconds, "passes": seconds / base, "per step": seconds / base / steps, "GB more": more})  # fmt: skip
    title = f"agreement, {len(task)} items (1 pass: forward and backward of the bare model, {base:.1f} s)"
    show(title, rows)
    save("circuits", rows, f"{len(task)} items of agreement, {options.neurons} neurons, one thread")


if __name__ == "__main__":
    main()
