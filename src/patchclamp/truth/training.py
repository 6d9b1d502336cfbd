"""Train the systems whose weights are stored: ``python -m patchclamp.truth.training NAME --seed 0``.

Each takes seconds to two minutes on one thread. The same seed gives the same weights bit for bit on one machine and
one version of torch; elsewhere sums may be rounded in another order, so that the stored files, with their checksums,
are the reference.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.truth import modular, strict, strict_facts, superposition
from patchclamp.truth.weight_files import FOLDER, rounded, save_weights

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Training:
    """How one system is trained and what is measured on its weights."""

    train: Callable[[int, int | None], Weights]
    facts: Callable[[Weights, int], dict[str, Any]]
    seeds: tuple[int, ...]


def _trainings(system: Any, facts: Callable[[Weights, Any, int], dict[str, Any]]) -> dict[str, Training]:
    """One for each of a file's `RECIPES`; `facts` are measured on (weights, recipe, seed)."""
    return {
        name: Training(
            partial(system.train, recipe),
            lambda weights, seed, recipe=recipe: facts(weights, recipe, seed),  # type: ignore[misc]
            seeds,
        )
        for name, (recipe, seeds) in system.RECIPES.items()
    }


def _strict_facts(weights: Weights, recipe: strict.StrictRecipe, seed: int) -> dict[str, Any]:
    return strict_facts.interchange_facts(weights, strict.labels(recipe, seed))


TRAININGS: dict[str, Training] = {
    **_trainings(strict, _strict_facts),
    **_trainings(modular, modular.fourier_facts),
    **_trainings(superposition, lambda weights, recipe, seed: superposition.superposition_facts(weights)),
}


def train(name: str, seed: int = 0, steps: int | None = None) -> dict[str, Tensor]:
    """Train one system, on one thread.

    Parameters
    ----------
    name
        One of `TRAININGS`.
    seed
        Of initial weights, data and their order.
    steps
        Stop after so many; the schedule of the learning rate stays that of the whole run.

    Returns
    -------
    dict
        Weights, float32.

    Raises
    ------
    PatchclampError
        For a name that is not there.

    Examples
    --------
    >>> {key: tuple(value.shape) for key, value in train("superposition-5", seed=0, steps=2).items()}
    {'weight': (2, 5), 'bias': (5,)}
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return dict(_training(name).train(seed, steps))
    finally:
        torch.set_num_threads(threads)


def measure(name: str, weights: Weights, seed: int) -> dict[str, Any]:
    """What is known of trained weights, as plain data."""
    return _training(name).facts(weights, seed)


def store(name: str, seed: int = 0, folder: Path = FOLDER) -> dict[str, Any]:
    """Train, measure and write; facts are those of the weights as rounded to float16."""
    weights = train(name, seed)
    facts = measure(name, rounded(weights), seed)
    save_weights(name, seed, weights, facts, folder)
    return facts


def _training(name: str) -> Training:
    if name not in TRAININGS:
        hint = did_you_mean(name, TRAININGS) or f"; there are {', '.join(TRAININGS)}"
        raise PatchclampError(f"training {name!r}: there is none of this name{hint}")
    return TRAININGS[name]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one system, or all with all their seeds, and write what was measured to standard output."""
    parser = argparse.ArgumentParser(prog="python -m patchclamp.truth.training", description=__doc__)
    parser.add_argument("name", help=f"all, or one of {', '.join(TRAININGS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where weights and index.json are written"
    )
    options = parser.parse_args(arguments)
    jobs = [(options.name, options.seed)]
    if options.name == "all":
        jobs = [(name, seed) for name, training in TRAININGS.items() for seed in training.seeds]
    for name, seed in jobs:
        facts = store(name, seed, options.folder)
        sys.stdout.write(json.dumps({"name": name, "seed": seed, **facts}) + "\n")


if __name__ == "__main__":
    main()
