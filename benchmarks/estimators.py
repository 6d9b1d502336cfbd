"""Every estimator of `attribute` against exact patching, on models of different anatomy and in both directions.

Models: SmolLM2; three small ones trained here on lists that begin again, with norms on queries and keys (Qwen 3), behind
attention and MLP (Gemma 2), and both without any before (OLMo 2); Gemma 3 270M where its GGUF file is given. Nodes: heads
(all positions together), MLP outputs and the stream at every role, at layers spread over the model (few layers are no fair sample: on Gemma one MLP has most of the effect).

    python -m benchmarks.estimators [--items 16] [--layers 18] [--models qwen3 gemma2 olmo2 smollm2] [--gemma FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch

import patchclamp
from benchmarks.common import save, show
from benchmarks.small_models import FAMILIES, trained
from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError
from patchclamp.evaluate import agreement
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.builtin import load_task
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Site
from patchclamp.subjects import LanguageModel

PARTS = ((("head",), "sum"), (("mlp_out", "resid_post"), "roles"))
"""Points, and how their positions are patched."""
DIRECTIONS = ("noising", "denoising")
ESTIMATORS = [
    m for m in METHODS if m != "activation_patching" and "direction" in signature(METHODS[m]).parameters
]
TASKS = {"small": ("induction", "swap"), "large": ("ioi", "random_s2")}
"""Task and corruption of the small models and of the others."""


def opened(names: list[str], gemma: Path | None) -> Iterator[tuple[str, LanguageModel, str]]:
    """(name, model, kind in `TASKS`), one at a time."""
    if gemma is not None:
        yield "gemma 3 270M", patchclamp.open_subject(str(gemma)), "large"
    for name in names:
        if name in FAMILIES:
            yield name, trained(name), "small"
        else:
            yield name, patchclamp.open_subject(name), "large"


def task_of(lm: LanguageModel, kind: str, items: int) -> Task:
    """Items that no constant of an estimator was chosen on."""
    name, corruption = TASKS[kind]
    return load_task(name, lm.tokenizer, n=256, corruption=corruption).split("validation").take(items)


def sites_of(lm: LanguageModel, points: tuple[str, ...], layers: int) -> list[Site]:
    """The points at layers spread evenly over the model."""
    spread = np.unique(np.linspace(0, lm.n_layers - 1, min(layers, lm.n_layers)).round().astype(int)).tolist()
    return [Site(point, layer) for point in points for layer in spread]


def compared(
    lm: LanguageModel, task: Task, layers: int, methods: list[str] = ESTIMATORS
) -> list[dict[str, Any]]:
    """One row an estimator, direction and point."""
    rows = []
    for direction in DIRECTIONS:
        for points, positions in PARTS:
            sites = sites_of(lm, points, layers)
            asked: dict[str, Any] = {"direction": direction, "positions": positions}
            exact: Scores = METHODS["activation_patching"](lm, task, sites, **asked)
            for method in methods:
                try:
                    estimate = METHODS[method](lm, task, sites, **asked)
                except PatchclampError as refusal:
                    print(f"{method}: {refusal}", flush=True)
                    continue
                for row in agreement(estimate, exact, n_boot=0).to_dict("records"):
                    figures = {key: float(row[key]) for key in ("pearson", "spearman", "sign", "slope")}
                    rows.append({"method": method, "direction": direction, "point": row["point"], **figures})
                    rows[-1]["cells"] = int(row["cells"])
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--models", nargs="*", default=["qwen3", "gemma2", "olmo2", "smollm2"])
    parser.add_argument("--gemma", type=Path, help="a GGUF file of Gemma 3 270M")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, lm, kind in opened(options.models, options.gemma):
        task = task_of(lm, kind, options.items)
        found = compared(lm, task, options.layers)
        show(f"{name}, {task.name}, {len(task)} items", found)
        sys.stdout.flush()
        rows += [{"model": name, "task": task.name, **row} for row in found]
        save("estimators", rows, f"{options.items} validation items, {options.layers} layers")


if __name__ == "__main__":
    main()
