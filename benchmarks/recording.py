"""Recording one MLP site over ragged real text, against the bare pass and against peers at their best.

Baseline (1.00): the model's own forward pass over the texts in the given order, padded to the longest of each
batch of 8. Everything is timed in one run, candidate by candidate, and the medians are divided.

    python -m benchmarks.recording [--texts 96] [--repeats 3] [--peers]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import patchclamp
from benchmarks.common import interleaved, save, show
from patchclamp.measure import METHODS
from patchclamp.nouns.recording import store
from patchclamp.record import record
from patchclamp.record.texts import documents
from patchclamp.subjects import LanguageModel

BATCH = 8


class Stop(Exception):
    """Ends a hand-written pass."""


def batches(ids: list[list[int]], order: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for first in range(0, len(order), BATCH):
        rows = [ids[i] for i in order[first : first + BATCH]]
        width = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        yield tokens, torch.arange(width)[None] < torch.tensor([len(row) for row in rows])[:, None]


def by_hand(lm: LanguageModel, ids: list[list[int]], *, stop: bool, sort: bool) -> Callable[[], float]:
    """A forward hook on the down projection of block 15, as a careful user would write it."""
    module = lm.model.model.layers[15].mlp.down_proj
    order = sorted(range(len(ids)), key=lambda i: len(ids[i])) if sort else list(range(len(ids)))

    def call() -> float:
        kept = []

        def hook(mod: Any, args: Any) -> None:
            kept.append(args[0][mask].clone())
            if stop:
                raise Stop

        handle = module.register_forward_pre_hook(hook)
        try:
            with torch.no_grad():
                for tokens, mask in batches(ids, order):
                    try:
                        lm.model(input_ids=tokens, attention_mask=mask.long(), use_cache=False)
                    except Stop:
                        continue
        finally:
            handle.remove()
        return float(sum(len(k) for k in kept))

    return call


def bare(lm: LanguageModel, ids: list[list[int]]) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            for tokens, mask in batches(ids, list(range(len(ids)))):
                lm.model(input_ids=tokens, attention_mask=mask.long(), use_cache=False)

    return call


def ours(
    lm: LanguageModel, texts: list[str], sites: str, *, store: bool, measures: bool = False
) -> Callable[[], Any]:
    def call() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return record(
                lm,
                texts,
                sites,
                store=Path(folder) / "r" if store else None,
                measures=[METHODS["moments"], METHODS["firing"]] if measures else None,
                progress=False,
            )

    return call


def transformer_lens(lm: LanguageModel, ids: list[list[int]], *, best: bool) -> Callable[[], None]:
    from transformer_lens.model_bridge import TransformerBridge

    folder = Path(tempfile.mkdtemp())
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    from transformers import AutoModelForCausalLM

    bridge = TransformerBridge.boot_transformers(
        str(folder),
        hf_model=AutoModelForCausalLM.from_pretrained(folder).eval(),
        tokenizer=lm.tokenizer,
        dtype=torch.float32,
    )
    name = "blocks.15.mlp.hook_post"
    order = sorted(range(len(ids)), key=lambda i: len(ids[i])) if best else list(range(len(ids)))

    def call() -> None:
        with torch.no_grad():
            for tokens, mask in batches(ids, order):
                more = {"stop_at_layer": 16} if best else {}
                _, cache = bridge.run_with_cache(
                    tokens, names_filter=[name], attention_mask=mask.long(), **more
                )
                cache[name][mask].clone()

    return call


def nnsight(lm: LanguageModel, ids: list[list[int]], *, best: bool) -> Callable[[], None]:
    from nnsight import NNsight

    wrapped = NNsight(lm.model)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i])) if best else list(range(len(ids)))

    def call() -> None:
        with torch.no_grad():
            for tokens, mask in batches(ids, order):
                with wrapped.trace(input_ids=tokens, attention_mask=mask.long(), use_cache=False) as tracer:
                    seen = wrapped.model.layers[15].mlp.down_proj.input.save()
                    if best:
                        tracer.stop()
                seen[mask].clone()

    return call


def checksums(lm: LanguageModel, texts: list[str], pairs: int) -> float:
    """Processor time of storing all MLP layers, the most bytes a token, with checksums over without; median of pairs."""
    codec, ratios = store.CHECKSUM, []
    call = ours(lm, texts, "mlp_act.*", store=True)
    call()
    for number in range(pairs):
        seconds = {}
        for on in (True, False) if number % 2 else (False, True):
            store.CHECKSUM = codec if on else None  # type: ignore[assignment]
            began = time.process_time()
            call()
            seconds[on] = time.process_time() - began
        ratios.append(seconds[True] / seconds[False])
    store.CHECKSUM = codec
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peers", action="store_true", help="also TransformerLens and nnsight, where installed"
    )
    parser.add_argument("--checksums", type=int, metavar="PAIRS", help="only what checksums in stores cost")
    options = parser.parse_args()
    lm = patchclamp.open_subject("smollm2")
    assert isinstance(lm, LanguageModel)
    texts = [document.text for document in documents("sample")][: options.texts]
    if options.checksums:
        print(f"with checksums over without: {checksums(lm, texts, options.checksums):.3f}")
        return
    ids = lm.encode(texts)
    half = patchclamp.open_subject("smollm2", dtype="bfloat16")
    candidates: dict[str, Callable[[], Any]] = {
        "bare pass, given order (baseline)": bare(lm, ids),
        "hook by hand, early stop": by_hand(lm, ids, stop=True, sort=False),
        "hook by hand, sorted": by_hand(lm, ids, stop=False, sort=True),
        "hook by hand, both": by_hand(lm, ids, stop=True, sort=True),
        "patchclamp mlp_act.15 to Zarr": ours(lm, texts, "mlp_act.15", store=True),
        "patchclamp mlp_act.15 to Zarr, bfloat16": ours(half, texts, "mlp_act.15", store=True),
        "patchclamp mlp_act.15 to measures": ours(lm, texts, "mlp_act.15", store=False, measures=True),
    }
    if options.peers:
        candidates["TransformerLens as documented"] = transformer_lens(lm, ids, best=False)
        candidates["TransformerLens stop + sorted"] = transformer_lens(lm, ids, best=True)
        candidates["nnsight as documented"] = nnsight(lm, ids, best=False)
        candidates["nnsight stop + sorted"] = nnsight(lm, ids, best=True)
    seconds = interleaved(candidates, options.repeats)
    base = seconds["bare pass, given order (baseline)"]
    rows = [{"what": name, "seconds": value, "ratio": value / base} for name, value in seconds.items()]
    lengths = [len(row) for row in ids]
    title = f"{len(ids)} texts, {sum(lengths)} tokens, lengths {min(lengths)} to {max(lengths)}, float32"
    show(title, rows)
    save("recording", rows, title)


if __name__ == "__main__":
    main()
