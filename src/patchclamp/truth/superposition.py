"""Toy models of superposition: n sparse features through m < n hidden units, x' = relu(W^T W x + b)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.nouns.recording.recording import Recording
from patchclamp.subjects.module import TensorTask, TorchModule
from patchclamp.truth.base import Circuit, Planted, enter
from patchclamp.truth.weight_files import load_weights, seeded_normal, stored_seed
from patchclamp.truth.wiring import linear


@dataclass(frozen=True)
class SuperpositionRecipe:
    """How a toy model is trained.

    Parameters
    ----------
    n, m
        Features and hidden units.
    sparsity
        Probability that a feature is 0; else it is uniform in [0, 1].
    ratio
        Importance of feature i is ratio^i.
    steps
        Of 512 fresh samples; Adam 1e-2 with cosine decay.
    """

    n: int
    m: int
    sparsity: float
    ratio: float
    steps: int = 5000

    @property
    def importance(self) -> Tensor:
        """(n,)"""
        return self.ratio ** torch.arange(self.n)


def sample(recipe: SuperpositionRecipe, items: int, draw: torch.Generator) -> Tensor:
    """(item, n) features."""
    value, gate = torch.rand(2, items, recipe.n, generator=draw)
    features: Tensor = value * (gate >= recipe.sparsity)
    return features


def train(recipe: SuperpositionRecipe, seed: int, steps: int | None = None) -> dict[str, Tensor]:
    """Train from a seed; `steps` cuts the run short without changing what comes before.

    After Elhage et al. 2022.
    """
    draw = torch_rng(seed)
    weight = seeded_normal((recipe.m, recipe.n), 0.5 * recipe.m**-0.5, draw)
    bias = torch.zeros(recipe.n, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    importance = recipe.importance
    for _ in range(recipe.steps if steps is None else steps):
        x = sample(recipe, 512, draw)
        error = torch.relu(x @ weight.T @ weight + bias) - x
        loss = (importance * error**2).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {"weight": weight.detach(), "bias": bias.detach()}


def dimensionality(weight: Tensor) -> Tensor:
    """D_i = |W_i|^2 / sum_j (W_i / |W_i| . W_j)^2: the share of a dimension that feature i has for itself."""
    norms: Tensor = weight.norm(dim=0)
    unit = weight / norms.clamp(min=1e-12)
    return norms**2 / ((unit.T @ weight) ** 2).sum(1).clamp(min=1e-12)


def superposition_facts(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Which features are represented (|W_i| > 1/2), and the dimensionality of each."""
    norms = weights["weight"].norm(dim=0)
    return {
        "represented": [bool(x) for x in norms > 0.5],
        "norms": [float(x) for x in norms],
        "dimensionality": [float(x) for x in dimensionality(weights["weight"])],
    }


# ---- as known answers


class ToyNet(nn.Module):
    """features (item, n) -> hidden (item, m) -> relu(read-out) (item, n), in float64; `features` can be patched."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        weight = weights["weight"].double()
        self.features = nn.Identity()
        self.hidden, self.readout = linear(weight.T), linear(weight, weights["bias"])
        self.relu = nn.ReLU()
        self.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """x' = relu(W^T W x + b)."""
        out: Tensor = self.relu(self.readout(self.hidden(self.features(features))))
        return out


def planted_superposition(name: str, seed: int = 0, items: int = 4096, shuffled: bool = False) -> Planted:
    """Hidden activity of a toy model, whose directions are the columns of W.

    Parameters
    ----------
    name
        One of `RECIPES`.
    seed
        Of the samples; weights are those of the stored seeds in turn.
    items
        Samples.
    shuffled
        Shuffle each hidden unit on its own: a control without directions.

    Returns
    -------
    Planted
        Represented features only (|W_i| > 1/2): `directions` W_i / |W_i|, `codes` x_i |W_i|. The others leave a little
        noise. `data`: see `superposition_facts`; ``features`` (index of each direction), ``importance``, ``weight``.

    Examples
    --------
    >>> planted_superposition("superposition-5", items=10).directions.shape
    torch.Size([5, 2])
    """
    recipe = RECIPES[name][0]
    weights, facts = load_weights(name, stored_seed(name, seed))
    draw = torch_rng(check_seed(seed) + 60_000)
    x = sample(recipe, items, draw)
    weight = weights["weight"]
    hidden, norms = x @ weight.T, weight.norm(dim=0)
    kept = torch.tensor(facts["represented"])
    codes = (x * norms)[:, kept]
    if shuffled:
        hidden = torch.stack(
            [hidden[torch.randperm(items, generator=draw), unit] for unit in range(recipe.m)], 1
        )
        codes = torch.zeros_like(codes)
    manifest = {"source": name + "-shuffled" * shuffled, "seed": seed}
    recording = Recording.from_arrays({"planted": hidden.numpy()}, manifest=manifest)
    known = {
        **facts,
        "features": kept.nonzero()[:, 0].tolist(),
        "importance": recipe.importance.tolist(),
        "weight": weight,
    }
    return Planted(recording, (weight / norms).T[kept], codes, None, known)


def superposition_circuit(name: str, seed: int = 0, items: int = 256) -> Circuit:
    """The toy model with its input features as units: those that are represented matter, the others do not.

    The task is the sum of the outputs; corrupted inputs are zero. Represented features interfere, so that there is no
    closed form of an effect.

    Examples
    --------
    >>> sum(superposition_circuit("superposition-20-dense").nodes.values())
    5
    """
    recipe = RECIPES[name][0]
    weights, facts = load_weights(name, stored_seed(name, seed))
    x = sample(recipe, items, torch_rng(check_seed(seed) + 70_000)).double()
    task = TensorTask(name, x, torch.zeros_like(x), lambda out: out.sum(1))
    nodes = {f"features.out[{i}]": belongs for i, belongs in enumerate(facts["represented"])}
    subject = TorchModule(ToyNet(weights).eval(), x[:1], name=f"truth:{name}-net")
    return Circuit(subject, task, ("features.out",), nodes, data={**facts, "weight": weights["weight"]})


RECIPES: dict[str, tuple[SuperpositionRecipe, tuple[int, ...]]] = {
    "superposition-5-dense": (SuperpositionRecipe(5, 2, 0.0, 0.9), (0, 1)),
    "superposition-5": (SuperpositionRecipe(5, 2, 0.9, 0.9), (0, 1)),
    "superposition-20-dense": (SuperpositionRecipe(20, 5, 0.0, 0.95), (0, 1)),
    "superposition-20": (SuperpositionRecipe(20, 5, 0.9, 0.95), (0, 1)),
}
_ABOUT = {
    "superposition-5-dense": "two of five features have a dimension each, the rest are dropped",
    "superposition-5": "five sparse features in two dimensions: a pentagon",
    "superposition-20-dense": "five of twenty features have a dimension each",
    "superposition-20": "fifteen or so of twenty sparse features in five dimensions",
}
_SOURCE = "toy models of superposition (Elhage et al. 2022)"


for _name, _text in _ABOUT.items():
    enter(_name, "dictionary", partial(planted_superposition, _name), _text, _SOURCE)
    if _name != "superposition-5":  # all of its features matter
        enter(f"{_name}-net", "circuit", partial(superposition_circuit, _name), f"{_text}: live", _SOURCE)
enter(
    "superposition-20-shuffled",
    "dictionary",
    partial(planted_superposition, "superposition-20", shuffled=True),
    "each hidden unit shuffled on its own: directions gone",
    _SOURCE,
    control=True,
)
