"""What the instrument costs beside the bare pass on the same batches: one short prompt, all neurons, writing to disk.

python -m benchmarks.overhead [--texts 64] [--repeats 5]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import patchclamp
from benchmarks.common import interleaved, save, show
from patchclamp.measure import METHODS
from patchclamp.record import record
from patchclamp.record.texts import documents
from patchclamp.subjects import LanguageModel


class Stop(Exception):
    """Ends a hand-written pass."""


def short_prompt(lm: LanguageModel, repeats: int) -> list[dict[str, Any]]:
    """Eight tokens, one site: ours against a hook by hand that stops."""
    batch = lm.batch([list(range(100, 108))])
    module = lm.model.model.layers[15].mlp.down_proj
    site = lm.resolve("mlp_act.15")

    def by_hand() -> None:
        def hook(mod: Any, args: Any) -> None:
            kept.append(args[0].clone())
            raise Stop

        kept: list[torch.Tensor] = []
        handle = module.register_forward_pre_hook(hook)
        try:
            with torch.no_grad():
                lm.model(input_ids=batch.tokens, use_cache=False)
        except Stop:
            return
        finally:
            handle.remove()

    seconds = interleaved({"by hand": by_hand, "ours": lambda: lm.run(batch, read=site)}, repeats)
    return [
        {"what": "one prompt of 8 tokens, mlp_act.15; baseline: hook by hand with stop", "ms": seconds["ours"] * 1e3,
         "ratio": seconds["ours"] / seconds["by hand"]}
    ]  # fmt: skip


def streaming(lm: LanguageModel, texts: list[str], repeats: int) -> list[dict[str, Any]]:
    """All neurons into measures, one site to Zarr: against the bare pass on the batches that `record` runs."""
    ran: list[torch.Tensor] = []
    original = lm.model.forward

    def watch(*args: Any, **kwargs: Any) -> Any:
        ran.append(kwargs["input_ids"])
        return original(*args, **kwargs)

    lm.model.forward = watch
    try:
        with tempfile.TemporaryDirectory() as folder:
            record(lm, texts, "mlp_act.*", measures=[METHODS["moments"]], progress=False, checkpoint=folder)
    finally:
        del lm.model.forward
    batches = ran[:]

    def bare() -> None:
        """The pass that our record makes: no head, since nothing asks for logits."""
        with torch.no_grad():
            for tokens in batches:
                lm.model.model(input_ids=tokens, use_cache=False)

    def measured(names: list[str]) -> Callable[[], Any]:
        return lambda: record(lm, texts, "mlp_act.*", measures=[METHODS[n] for n in names], progress=False)

    def stored(sites: str) -> Callable[[], Any]:
        def call() -> None:
            with tempfile.TemporaryDirectory() as folder:
                record(lm, texts, sites, store=Path(folder) / "store", progress=False)

        return call

    last = f"resid_post.{lm.n_layers - 1}"
    seconds = interleaved(
        {
            "bare pass, same batches, no LM head (baseline)": bare,
            "46,080 neurons: moments": measured(["moments"]),
            "46,080 neurons: moments and firing rate": measured(["moments", "firing"]),
            f"{last} written to Zarr": stored(last),
            "mlp_act.29 written to Zarr": stored("mlp_act.29"),
        },
        repeats,
    )
    base = next(iter(seconds.values()))
    return [{"what": name, "ms": value * 1e3, "ratio": value / base} for name, value in seconds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    lm = patchclamp.open_subject("smollm2")
    assert isinstance(lm, LanguageModel)
    texts = [document.text for document in documents("sample")][: options.texts]
    rows = short_prompt(lm, 20 * options.repeats) + streaming(lm, texts, options.repeats)
    show("overhead over the bare pass", rows)
    save(
        "overhead",
        rows,
        f"{len(texts)} texts of the bundled sample, {sum(map(len, lm.encode(texts)))} tokens, float32",
    )


if __name__ == "__main__":
    main()
