"""Every estimator against exact patching on SmolLM2, and relevance patching's time in passes.

Cells: heads summed over positions; MLP outputs and the stream at every role of the task (and the rest together).
Items are of the validation split; the constants of `partial_gradients` were chosen on train items.

    python -m benchmarks.attribution [--items 8] [--tasks ioi:s2_io_flip ioi:abc greater_than] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import patchclamp
from benchmarks.common import interleaved, save, show
from patchclamp.attribute import METHODS, activation_patching, integrated_gradients
from patchclamp.evaluate import agreement
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.builtin import load_task
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task
from patchclamp.subjects import LanguageModel
from patchclamp.subjects.clamp.hooks import frozen

CELLS = {"sum": ["head.*"], "roles": ["mlp_out.*", "resid_post.*"]}
ESTIMATORS: dict[str, Callable[..., Scores]] = {
    "attribution patching (1)": METHODS["attribution_patching"],
    "relevance patching (1)": METHODS["relevance_patching"],
    "integrated gradients (5)": partial(integrated_gradients, ln_rule=False),
    "integrated gradients, LN rule (5)": integrated_gradients,
    "partial gradients (6)": METHODS["partial_gradients"],
}


def task_of(lm: LanguageModel, name: str, items: int) -> Task:
    name, _, corruption = name.partition(":")
    return load_task(name, lm.tokenizer, n=256, corruption=corruption or None).split("validation").take(items)


def exact_of(lm: LanguageModel, task: Task, positions: Any, keep: Path | None, name: str) -> Scores:
    path = None if keep is None else keep / f"{name.replace(':', '_')}-{len(task)}-{positions}.parquet"
    if path is not None and path.exists():
        return Scores.load(path)
    scores = activation_patching(lm, task, CELLS[positions], positions=positions)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        scores.save(path)
    return scores


def against_exact(lm: LanguageModel, name: str, items: int, keep: Path | None) -> list[dict[str, Any]]:
    """One row an estimator and point."""
    task, rows = task_of(lm, name, items), []
    exact = {positions: exact_of(lm, task, positions, keep, name) for positions in CELLS}
    for label, method in ESTIMATORS.items():
        for positions, sites in CELLS.items():
            estimate = method(lm, task, sites, positions=positions)
            for row in agreement(estimate, exact[positions], n_boot=0).to_dict("records"):
                figures = {key: float(row[key]) for key in ("pearson", "spearman", "slope", "scale", "top")}
                rows.append({"task": name, "estimator": label, "point": row["point"], **figures})
    return rows


# The prompts on which relevance patching's authors demonstrate it, those of a public demonstration of TransformerLens.
SENTENCES = (
    ("When John and Mary went to the shops,{} gave the bag to", " Mary", " John"),
    ("When Tom and James went to the park,{} gave the ball to", " James", " Tom"),
    ("When Dan and Sid went to the shops,{} gave an apple to", " Sid", " Dan"),
    ("After Martin and Amy went to the park,{} gave a drink to", " Amy", " Martin"),
)


def eight_prompts() -> Task:
    """Four pairs of prompts that differ in the repeated name only, each prompt being its partner's contrast."""
    turns = [(text, *names) for text, one, two in SENTENCES for names in ((one, two), (two, one))]
    items = [
        Item(text.format(twice), (answer,), (twice,), corrupted=text.format(answer))
        for text, answer, twice in turns
    ]
    return Task("8 prompts", items)


def relevance_on_eight_prompts(lm: LanguageModel, keep: Path | None) -> list[dict[str, Any]]:
    """Gradient estimates of one backward pass at every layer and position, with a beginning-of-sequence token."""
    beginning = LanguageModel(lm.model, lm.tokenizer, lm.name, lm.fingerprint, bos=True)
    task, sites = eight_prompts(), ["resid_pre.*", "attn_out.*", "mlp_out.*"]
    path = None if keep is None else keep / "eight-prompts.parquet"
    if path is not None and path.exists():
        exact = Scores.load(path)
    else:
        exact = activation_patching(beginning, task, sites, positions="each")
        if path is not None:
            exact.save(path)
    rows = []
    for label in list(ESTIMATORS)[:2]:
        estimate = ESTIMATORS[label](beginning, task, sites, positions="each")
        for row in agreement(estimate, exact, n_boot=0).to_dict("records"):
            figures = {key: float(row[key]) for key in ("pearson", "spearman", "slope", "scale", "top")}
            rows.append({"task": task.name, "estimator": label, "point": row["point"], **figures})
    return rows


def passes(lm: LanguageModel, items: int = 64) -> list[dict[str, Any]]:
    """Relevance patching of all heads and neurons, as a multiple of one forward and backward pass of the bare model."""
    task = load_task("ioi", lm.tokenizer, n=256).split("train").take(items)
    pairs = list(lm.pairs(task, 32))

    def bare() -> None:
        with frozen(lm.model):
            for pair in pairs:
                tokens = pair.corrupted.tokens if pair.corrupted is not None else None
                embedded = lm.model.get_input_embeddings()(tokens).detach().requires_grad_(True)
                kept, column = pair.answer_position.unique(return_inverse=True)
                out = lm.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=kept).logits
                pair.metric(out[torch.arange(len(pair.rows)), column]).sum().backward()

    sites = ["head.*", "mlp_act.*"]
    calls = {"one forward and backward pass": bare}
    calls |= {
        name: partial(METHODS[name], lm, task, sites)
        for name in ("relevance_patching", "attribution_patching")
    }
    seconds = interleaved(calls, repeats=3)
    base = seconds["one forward and backward pass"]
    return [{"what": name, "items": len(task), "passes": value / base} for name, value in seconds.items()]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--tasks", nargs="+", default=["ioi:s2_io_flip", "ioi:abc", "greater_than"])
    parser.add_argument("--keep", type=Path, help="folder to keep exact maps in, and to take them from")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lm = patchclamp.open_subject("smollm2")
    timed = passes(lm)
    show("Time of all heads and neurons, 64 items of IOI (1 = a bare forward and backward pass)", timed)
    rows = relevance_on_eight_prompts(lm, options.keep)
    show("8 prompts that are each other's contrast: every layer and position", rows)
    for name in options.tasks:
        rows += (found := against_exact(lm, name, options.items, options.keep))
        show(
            f"{name}: estimators against exact denoising, {options.items} items, (n) = backward passes", found
        )
    save("attribution", timed + rows, f"{options.items} validation items a task")


if __name__ == "__main__":
    main()
