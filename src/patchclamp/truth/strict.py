"""A network trained to hold a known algorithm: strict interchange-intervention training.

The task is y = ((a + b) mod 5 + c) mod 5. The network is a residual stream of width 48 with two layers of four parallel
units (32 GELUs each). Variable v = (a + b) mod 5 is meant to live on unit (0, 1) and the answer on unit (1, 2):

- *behaviour only* learns the task anyhow;
- *IIT* also trains that taking unit (0, 1) from a source input changes the answer as taking v from it does, and unit
  (1, 2) likewise: those units then carry the variables, and nothing keeps others from carrying them too;
- *strict IIT* also trains that taking other units from a source input changes nothing, **with gradients through the
  source's run** (with the source detached it stays leaky).

`strict_facts.interchange` measures it without a method in between: over all 125 x 125 pairs of inputs, how often the
answer changes when a unit comes from the other input. `strict_entries` makes circuits of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.truth.weight_files import seeded_normal

WIDTH, LAYERS, UNITS, HIDDEN, MODULUS = 48, 2, 4, 32, 5
V_UNIT, Y_UNIT = (0, 1), (1, 2)
NAMES = [f"layers.{layer}.{unit}" for layer in range(LAYERS) for unit in range(UNITS)]
ALIGNED = (f"layers.{V_UNIT[0]}.{V_UNIT[1]}", f"layers.{Y_UNIT[0]}.{Y_UNIT[1]}")


# ---- the network


class MLPUnit(nn.Module):
    """One MLP unit: what it adds to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(WIDTH, HIDDEN)
        self.act = nn.GELU()
        self.write = nn.Linear(HIDDEN, WIDTH)

    def forward(self, stream: Tensor) -> Tensor:
        """(item, 48) -> (item, 48)."""
        out: Tensor = self.write(self.act(self.read(stream)))
        return out


class UnitNet(nn.Module):
    """One-hot (a, b, c) (item, 15) -> logits of y (item, 5); ``layers.L.U`` is the contribution of one unit."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.embedding = nn.Linear(3 * MODULUS, WIDTH, bias=False)
        self.layers = nn.ModuleList(nn.ModuleList(MLPUnit() for _ in range(UNITS)) for _ in range(LAYERS))
        self.unembed = nn.Linear(WIDTH, MODULUS)
        state = {
            "embedding.weight": weights["embedding"].T,
            "unembed.weight": weights["unembed"].T,
            "unembed.bias": weights["unembed_bias"],
        }
        for layer in range(LAYERS):
            for unit in range(UNITS):
                for name in ("read", "write"):
                    state[f"layers.{layer}.{unit}.{name}.weight"] = weights[name][layer, unit].T
                    state[f"layers.{layer}.{unit}.{name}.bias"] = weights[f"{name}_bias"][layer, unit]
        self.load_state_dict({key: value.detach().contiguous() for key, value in state.items()})
        self.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Each unit of a layer reads the stream before the layer; their contributions are added to it."""
        stream = self.embedding(inputs)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            stream = stream + torch.stack([unit(stream) for unit in layer]).sum(0)
        out: Tensor = self.unembed(stream)
        return out


def all_inputs() -> tuple[Float[Tensor, "125 15"], Int[Tensor, "125 3"]]:
    """Every (a, b, c), one-hot and as numbers."""
    digits = torch.cartesian_prod(*[torch.arange(MODULUS)] * 3)
    return nn.functional.one_hot(digits, MODULUS).flatten(1).float(), digits


def variable(digits: Tensor) -> Tensor:
    """v = (a + b) mod 5."""
    return (digits[:, 0] + digits[:, 1]) % MODULUS


def answer(digits: Tensor) -> Tensor:
    """y = (v + c) mod 5."""
    return (variable(digits) + digits[:, 2]) % MODULUS


# ---- training, on stacked weights: (layer, unit, in, out)


def initial(seed: int) -> dict[str, Tensor]:
    """Random weights."""
    draw = torch_rng(seed)
    shapes = {
        "embedding": (3 * MODULUS, WIDTH),
        "read": (LAYERS, UNITS, WIDTH, HIDDEN),
        "read_bias": (LAYERS, UNITS, HIDDEN),
        "write": (LAYERS, UNITS, HIDDEN, WIDTH),
        "write_bias": (LAYERS, UNITS, WIDTH),
        "unembed": (WIDTH, MODULUS),
        "unembed_bias": (MODULUS,),
    }
    fan_in = {"embedding": 3.0, "read": float(WIDTH), "write": float(HIDDEN), "unembed": float(WIDTH)}
    return {
        name: seeded_normal(shape, fan_in.get(name, float("inf")) ** -0.5, draw)
        for name, shape in shapes.items()
    }


def contributions(weights: Mapping[str, Tensor], layer: int, stream: Tensor) -> Float[Tensor, "unit item 48"]:
    """What the units of a layer add, from the stream that they read: (item, 48), or (unit, item, 48) each its own."""
    hidden = stream @ weights["read"][layer] + weights["read_bias"][layer][:, None]
    return nn.functional.gelu(hidden) @ weights["write"][layer] + weights["write_bias"][layer][:, None]


def run(
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    taken: Tensor | None = None,
    source: list[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Logits and contributions; units where `taken` (layer, unit, item) holds come from `source`'s contributions."""
    stream, seen = inputs @ weights["embedding"], []
    for layer in range(LAYERS):
        adds = contributions(weights, layer, stream)
        if taken is not None and source is not None:
            adds = torch.where(taken[layer][..., None], source[layer], adds)
        seen.append(adds)
        stream = stream + adds.sum(0)
    return stream @ weights["unembed"] + weights["unembed_bias"], seen


@dataclass(frozen=True)
class StrictRecipe:
    """How a network is trained.

    Parameters
    ----------
    iit, strict
        Weights of the interchange and the strictness loss, beside 1 for the behaviour.
    steps
        Of 256 pairs of base and source.
    rate
        Peak learning rate: 100 steps of warm-up, then linear decay to 0.
    shuffled
        Answers of the 125 inputs permuted at random: no algorithm to find.
    """

    iit: float = 1.0
    strict: float = 1.0
    steps: int = 6000
    rate: float = 3e-3
    shuffled: bool = False


def train(recipe: StrictRecipe, seed: int, steps: int | None = None) -> dict[str, Tensor]:
    """Train from a seed; `steps` cuts the run short without changing what comes before.

    After strict interchange-intervention training (Gupta et al. 2024), with the source's run *not* detached, which
    their published description leaves open and without which our networks stay leaky.
    """
    weights, draw = initial(seed), torch_rng(check_seed(seed) + 10_000)
    inputs, digits = all_inputs()
    v, y = variable(digits), labels(recipe, seed)
    optimizer = torch.optim.AdamW(list(weights.values()), lr=recipe.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min(1.0, (t + 1) / 100) * max(0.0, 1 - t / recipe.steps)
    )
    for _ in range(recipe.steps if steps is None else steps):
        base, source = torch.randint(len(inputs), (2, 256), generator=draw)
        loss = _loss(weights, recipe, inputs, (v, y, digits[:, 2]), base, source, draw)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        schedule.step()
    return {name: value.detach() for name, value in weights.items()}


def labels(recipe: StrictRecipe, seed: int) -> Int[Tensor, " 125"]:
    """What each input must be answered with."""
    y = answer(all_inputs()[1])
    draw = torch_rng(check_seed(seed) + 30_000)
    return y[torch.randperm(len(y), generator=draw)] if recipe.shuffled else y


def _loss(
    weights: Mapping[str, Tensor],
    recipe: StrictRecipe,
    inputs: Tensor,
    variables: tuple[Tensor, Tensor, Tensor],
    base: Tensor,
    source: Tensor,
    draw: torch.Generator,
) -> Tensor:
    v, y, c = variables
    logits, _ = run(weights, inputs[base])
    loss = nn.functional.cross_entropy(logits, y[base])
    if not recipe.iit and not recipe.strict:
        return loss
    _, seen = run(weights, inputs[source])
    taken = torch.zeros(LAYERS, UNITS, len(base), dtype=torch.bool)
    if recipe.iit:
        first = torch.rand(len(base), generator=draw) < 0.5
        taken[V_UNIT], taken[Y_UNIT] = first, ~first
        wanted = torch.where(first, (v[source] + c[base]) % MODULUS, y[source])
        patched, _ = run(weights, inputs[base], taken, seen)
        loss = loss + recipe.iit * nn.functional.cross_entropy(patched, wanted)
    if recipe.strict:
        taken = _others(len(base), draw)
        patched, _ = run(weights, inputs[base], taken, seen)
        loss = loss + recipe.strict * nn.functional.cross_entropy(patched, y[base])
    return loss


def _others(items: int, draw: torch.Generator) -> Tensor:
    """(layer, unit, item): in half of the items all units but the aligned ones, in the rest one of those."""
    others = torch.tensor([k for k, name in enumerate(NAMES) if name not in ALIGNED])
    single = others[torch.randint(len(others), (items,), generator=draw)]
    chosen = nn.functional.one_hot(single, LAYERS * UNITS).bool()
    everything = torch.rand(items, generator=draw) < 0.5
    chosen[everything] = torch.isin(torch.arange(LAYERS * UNITS), others)
    return chosen.T.reshape(LAYERS, UNITS, items)


RECIPES: dict[str, tuple[StrictRecipe, tuple[int, ...]]] = {
    "strict-iit": (StrictRecipe(), (0, 1)),
    "iit-leaky": (StrictRecipe(strict=0.0, steps=4000), (0, 1)),
    "behaviour-only": (StrictRecipe(iit=0.0, strict=0.0, steps=3000), (0,)),
    "strict-iit-shuffled": (StrictRecipe(iit=0.0, strict=0.0, steps=3000, shuffled=True), (0,)),
}
