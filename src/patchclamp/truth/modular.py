"""A one-layer transformer that has learnt addition modulo p, and the Fourier facts by which it is known.

Trained with weight decay on half of all pairs, such a network generalises by way of a few key frequencies k: it holds
cos(2 pi k a / p) and sin(2 pi k a / p) of both summands, multiplies them in the MLP, and reads out

    logit(c) = sum_k alpha_k cos(2 pi k (a + b - c) / p).

Which frequencies it takes depends on the seed; the four properties that `fourier_facts` measures do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.truth.weight_files import seeded_normal

WIDTH, HEADS, HIDDEN = 64, 4, 256
Array = NDArray[np.float64]


class ModularNet(nn.Module):
    """One-hot (item, 3, p + 1) of "a b =" -> logits (item, p) at "=".

    One layer of attention (4 heads) and an MLP (256 ReLU), no LayerNorm. Only the last position is computed: nothing
    reads the others after the attention. `mlp_act` (item, 256) holds the neurons, `z` (item, 64) the heads' outputs.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        vocabulary = weights["embed"].shape[0]
        self.embed = nn.Linear(vocabulary, WIDTH, bias=False)
        self.position = nn.Parameter(torch.zeros(3, WIDTH))
        self.query, self.key, self.value, self.attn_out = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)
        )
        self.z = nn.Identity()
        self.mlp_in = nn.Linear(WIDTH, HIDDEN)
        self.mlp_act = nn.ReLU()
        self.mlp_out = nn.Linear(HIDDEN, WIDTH)
        self.unembed = nn.Linear(WIDTH, vocabulary - 1, bias=False)
        state = {"position": weights["position"]}
        for name in ("embed", "query", "key", "value", "attn_out", "mlp_in", "mlp_out", "unembed"):
            state[f"{name}.weight"] = weights[name].T
        state["mlp_in.bias"], state["mlp_out.bias"] = weights["mlp_in_bias"], weights["mlp_out_bias"]
        self.load_state_dict({key: value.detach().contiguous() for key, value in state.items()})
        self.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attention of "=" to all three positions, MLP, read-out."""
        stream = self.embed(tokens) + self.position
        query = self.query(stream[:, -1]).unflatten(-1, (HEADS, -1))
        key, value = (part(stream).unflatten(-1, (HEADS, -1)) for part in (self.key, self.value))
        probs = (torch.einsum("ihd,iphd->ihp", query, key) / query.shape[-1] ** 0.5).softmax(-1)
        mixed = self.z(torch.einsum("ihp,iphd->ihd", probs, value).flatten(1))
        last = stream[:, -1] + self.attn_out(mixed)
        last = last + self.mlp_out(self.mlp_act(self.mlp_in(last)))
        out: Tensor = self.unembed(last)
        return out


# ---- training


@dataclass(frozen=True)
class ModularRecipe:
    """How a network is trained.

    Parameters
    ----------
    p
        Modulus.
    share
        Of all p^2 pairs, for training.
    steps
        Of the full batch; AdamW 1e-3, weight decay 1, betas .9 and .98.
    shuffled
        Sums replaced by random numbers: memorised, and no algorithm to find.
    """

    p: int = 53
    share: float = 0.5
    steps: int = 8000
    shuffled: bool = False


def pairs_and_sums(p: int) -> tuple[Tensor, Tensor]:
    """All (a, b) in the order of a p + b, and (a + b) mod p."""
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    return pairs, pairs.sum(1) % p


def one_hot(pairs: Tensor, p: int) -> Float[Tensor, "item 3 token"]:
    """Inputs of `ModularNet`: a, b and the token "=", which is number p."""
    tokens = torch.cat([pairs, torch.full((len(pairs), 1), p)], 1)
    return nn.functional.one_hot(tokens, p + 1).float()


def initial(p: int, seed: int) -> dict[str, Tensor]:
    """Random weights, normal with variance 1 / width."""
    draw = torch_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"embed": (p + 1, WIDTH), "position": (3, WIDTH)}
    shapes |= dict.fromkeys(("query", "key", "value", "attn_out"), (WIDTH, WIDTH))
    shapes |= {"mlp_in": (WIDTH, HIDDEN), "mlp_out": (HIDDEN, WIDTH), "unembed": (WIDTH, p)}
    weights = {name: seeded_normal(shape, WIDTH**-0.5, draw) for name, shape in shapes.items()}
    weights["mlp_in_bias"] = torch.zeros(HIDDEN, requires_grad=True)
    weights["mlp_out_bias"] = torch.zeros(WIDTH, requires_grad=True)
    return weights


def forward(weights: Mapping[str, Tensor], pairs: Tensor) -> Tensor:
    """The same function as `ModularNet`, from pairs of numbers: faster to train."""
    p = len(weights["embed"]) - 1
    tokens = torch.cat([pairs, torch.full((len(pairs), 1), p)], 1)
    stream = weights["embed"][tokens] + weights["position"]
    query = (stream[:1, -1] @ weights["query"]).unflatten(-1, (HEADS, -1))[0]
    key, value = ((stream @ weights[n]).unflatten(-1, (HEADS, -1)) for n in ("key", "value"))
    probs = ((key * query).sum(-1) / query.shape[-1] ** 0.5).softmax(1)
    last = stream[:, -1] + (probs[..., None] * value).sum(1).flatten(1) @ weights["attn_out"]
    hidden = torch.relu(last @ weights["mlp_in"] + weights["mlp_in_bias"])
    out: Tensor = (last + hidden @ weights["mlp_out"] + weights["mlp_out_bias"]) @ weights["unembed"]
    return out


def train(recipe: ModularRecipe, seed: int, steps: int | None = None) -> dict[str, Tensor]:
    """Train from a seed; `steps` cuts the run short without changing what comes before.

    After Nanda et al. 2023 (Progress measures for grokking), smaller.
    """
    weights = initial(recipe.p, seed)
    pairs, labels, chosen = training_set(recipe, seed)
    pairs, labels = pairs[chosen], labels[chosen]
    optimizer = torch.optim.AdamW(list(weights.values()), lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98))
    for _ in range(recipe.steps if steps is None else steps):
        loss = nn.functional.cross_entropy(forward(weights, pairs).double(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: value.detach() for name, value in weights.items()}


def training_set(recipe: ModularRecipe, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs, their labels, and which of them are for training."""
    draw = torch_rng(check_seed(seed) + 20_000)
    pairs, labels = pairs_and_sums(recipe.p)
    chosen = torch.randperm(len(pairs), generator=draw)[: int(recipe.share * len(pairs))]
    if recipe.shuffled:
        labels = labels[torch.randperm(len(labels), generator=draw)]
    return pairs, labels, chosen


# ---- Fourier facts


def fourier_basis(p: int) -> Float[Array, "wave p"]:
    """Orthonormal rows: constant, then cos k, sin k for k = 1 .. (p - 1) / 2."""
    k = np.arange(1, (p + 1) // 2)[:, None]
    angle = 2 * np.pi * k * np.arange(p) / p
    waves = np.stack([np.cos(angle), np.sin(angle)], 1).reshape(-1, p)
    return np.concatenate([np.full((1, p), p**-0.5), waves * (2 / p) ** 0.5])


def frequency_power(values: Float[Array, "p column"]) -> Float[Array, " frequency"]:
    """Share of each frequency k = 1 .. (p - 1) / 2 in the power of columns over a residue, the mean left out."""
    waves = fourier_basis(len(values)) @ values
    power = (waves[1:] ** 2).sum(1).reshape(-1, 2).sum(1)
    return np.asarray(power / power.sum())


def neuron_frequencies(activity: Float[Array, "p p neuron"]) -> tuple[Array, Array]:
    """For each neuron the frequency that explains most of its variance over (a, b), and that share.

    Waves of frequency k: cos and sin of k a, of k b, and their four products.
    """
    p, _, n = activity.shape
    basis = fourier_basis(p)
    power = np.einsum("xa,yb,abn->xyn", basis, basis, activity, optimize=True) ** 2
    power[0, 0] = 0.0
    total = power.sum((0, 1))
    shares = np.zeros(((p - 1) // 2, n))
    for k in range(1, (p + 1) // 2):
        pair = [2 * k - 1, 2 * k]
        own = power[0, pair].sum(0) + power[pair, 0].sum(0) + power[np.ix_(pair, pair)].sum((0, 1))
        shares[k - 1] = own / np.maximum(total, 1e-12)
    return shares.argmax(0) + 1, shares.max(0)


def sum_waves(p: int, frequencies: list[int]) -> Float[Array, "wave pair"]:
    """Orthonormal rows over all (a, b): cos and sin of k (a + b)."""
    total = np.add.outer(np.arange(p), np.arange(p)).reshape(-1)
    rows = [wave(2 * np.pi * k * total / p) for k in frequencies for wave in (np.cos, np.sin)]
    return np.asarray(rows) * 2**0.5 / p


@torch.no_grad()
def fourier_facts(weights: Mapping[str, Tensor], recipe: ModularRecipe, seed: int) -> dict[str, Any]:
    """The four properties, over all p^2 inputs.

    ``key_frequencies`` carry more than 2 % of the power of the logits as a function of a + b - c. (i)
    ``embedding_share``: share of the six strongest frequencies in the Fourier power of the embedding. (ii)
    ``logits_explained``: share of the variance of the logits, their mean over c left out, that cosines of a + b - c at
    key frequencies explain. (iii) ``restricted`` and ``excluded``: accuracy with only the waves of a + b at key
    frequencies left in the logits, and with only those taken out; ``excluded_loss`` and ``loss`` beside it. (iv)
    ``neuron_share``: median share of one frequency in the variance of an active neuron; ``neurons_pure``: part of
    active neurons where that share is above .85.
    """
    p = recipe.p
    pairs, labels, chosen = training_set(recipe, seed)
    net = ModularNet(weights)
    stored: list[Tensor] = []
    handle = net.mlp_act.register_forward_hook(lambda module, args, out: stored.append(out))
    logits = net(one_hot(pairs, p)).double().numpy()
    handle.remove()
    centred = logits - logits.mean(1, keepdims=True)
    a, b = pairs[:, 0].numpy(), pairs[:, 1].numpy()
    differences = (a + b)[:, None] - np.arange(p)
    by_difference = np.bincount((differences % p).ravel(), centred.ravel(), p) / p**2
    power = frequency_power(by_difference[:, None])
    keys = [int(k) + 1 for k in np.argsort(-power) if power[k] > 0.02]
    cosines = np.stack([np.cos(2 * np.pi * k * differences / p).ravel() for k in keys])
    alpha = cosines @ centred.ravel() / (cosines**2).sum(1)
    waves = sum_waves(p, keys)
    kept = waves.T @ (waves @ logits)
    rest = np.setdiff1d(np.arange(p * p), chosen.numpy())
    activity = stored[0].double().numpy()
    found, share = neuron_frequencies(activity.reshape(p, p, -1))
    alive = activity.std(0) * np.linalg.norm(weights["mlp_out"].numpy(), axis=1) > 1e-3
    wanted = labels.numpy()
    return {
        "p": p,
        "accuracy_train": _accuracy(logits, wanted, chosen.numpy()),
        "accuracy_test": _accuracy(logits, wanted, rest),
        "key_frequencies": keys,
        "key_power": [float(power[k - 1]) for k in keys],
        "embedding_share": float(np.sort(frequency_power(weights["embed"][:p].double().numpy()))[-6:].sum()),
        "logits_explained": float(1 - ((centred.ravel() - alpha @ cosines) ** 2).sum() / (centred**2).sum()),
        "restricted": _accuracy(kept, wanted),
        "excluded": _accuracy(logits - kept, wanted),
        "loss": _loss(logits, wanted),
        "excluded_loss": _loss(logits - kept, wanted),
        "neuron_share": float(np.median(share[alive])),
        "neurons_pure": float((share[alive] > 0.85).mean()),
        "neurons_alive": int(alive.sum()),
        "neuron_frequency": [int(k) for k in found],
    }


def _accuracy(logits: Array, wanted: NDArray[np.int64], rows: Any = slice(None)) -> float:
    return float((logits[rows].argmax(1) == wanted[rows]).mean())


def _loss(logits: Array, wanted: NDArray[np.int64]) -> float:
    return float(nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(wanted)))


RECIPES: dict[str, tuple[ModularRecipe, tuple[int, ...]]] = {
    "modular-addition": (ModularRecipe(), (0, 1)),
    "modular-addition-31": (ModularRecipe(p=31, share=0.6, steps=6000), (1,)),
    "modular-addition-shuffled": (ModularRecipe(steps=3000, shuffled=True), (0,)),
}
