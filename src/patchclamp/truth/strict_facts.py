"""What a trained network of units has become, exactly: over all 125 x 125 pairs of inputs, unit by unit, edge by edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchclamp.truth.strict import (
    ALIGNED,
    LAYERS,
    MODULUS,
    NAMES,
    UNITS,
    all_inputs,
    contributions,
    run,
    variable,
)


@torch.no_grad()
def interchange(weights: Mapping[str, Tensor], units: list[str]) -> tuple[Tensor, Tensor]:
    """Logits (base, source, 5) when `units` come from the source, over all pairs; and logits as they are (base, 5)."""
    inputs, _ = all_inputs()
    logits, seen = run(weights, inputs)
    taken = torch.tensor([name in units for name in NAMES]).reshape(LAYERS, UNITS)
    embedded = inputs @ weights["embedding"]
    # What changes from base to source in the contributions of each layer: (unit, base, source, 48).
    early, late = (
        (adds[:, None] - adds[:, :, None])[chosen] for adds, chosen in zip(seen, taken, strict=True)
    )
    if not taken[0].any():
        return logits[:, None] + late.sum(0) @ weights["unembed"], logits
    stream = (embedded + seen[0].sum(0))[:, None] + early.sum(0)
    adds = contributions(weights, 1, stream.flatten(0, 1)).unflatten(1, stream.shape[:2])
    adds = torch.where(taken[1][:, None, None, None], seen[1][:, None], adds)
    return (stream + adds.sum(0)) @ weights["unembed"] + weights["unembed_bias"], logits


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """log p / (1 - p) of each row's class: logit minus log-sum-exp of the others."""
    chosen = logits.gather(-1, classes[..., None])
    others = logits.masked_fill(nn.functional.one_hot(classes, logits.shape[-1]).bool(), -torch.inf)
    return chosen[..., 0] - others.logsumexp(-1)


def interchange_facts(weights: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
    """What is stored beside the weights.

    ``accuracy`` on what the network was trained to answer; ``iia_v``, ``iia_y``: interchange accuracy, the share of
    pairs in which taking unit (0, 1) changes the answer to (v of the source + c of the base) mod 5, and unit (1, 2) to
    the answer of the source. ``effect``: for each unit the share of pairs in which the answer changes at all, and
    ``edges`` the same for each edge; ``joint`` for the six other units together. ``leak``: mean absolute change of the
    log-odds of the plain answer, which moves also where the class does not.
    """
    _, digits = all_inputs()
    v, c = variable(digits), digits[:, 2]
    effect, leak, said = {}, {}, {}
    for name in NAMES:
        patched, plain = interchange(weights, [name])
        said[name], effect[name] = patched.argmax(2), changed(patched, plain)
        own = plain.argmax(1)
        moved = log_odds(patched, own[:, None].expand(-1, len(own))) - log_odds(plain, own)[:, None]
        leak[name] = float(moved.abs().mean())
    others, plain = interchange(weights, [name for name in NAMES if name not in ALIGNED])
    own = plain.argmax(1)
    return {
        "accuracy": float((own == labels).float().mean()),
        "iia_v": float((said[ALIGNED[0]] == (v[None] + c[:, None]) % MODULUS).float().mean()),
        "iia_y": float((said[ALIGNED[1]] == labels[None]).float().mean()),
        "effect": effect,
        "joint": changed(others, plain),
        "edges": edge_effects(weights),
        "leak": leak,
        "log_odds": float(log_odds(plain, own).mean()),
    }


def changed(patched: Float[Tensor, "base source 5"], plain: Float[Tensor, "base 5"]) -> float:
    """Share of pairs in which the answer is another than without the patch."""
    return float((patched.argmax(2) != plain.argmax(1)[:, None]).double().mean())


@torch.no_grad()
def edge_effects(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """``SENDER->RECEIVER`` -> share of pairs in which the answer changes when that edge alone carries the source.

    The receiver reads the stream with the sender's part taken from the source; the rest of the network follows.
    """
    inputs, _ = all_inputs()
    embedded = inputs @ weights["embedding"]
    logits, seen = run(weights, inputs)
    stream = embedded + seen[0].sum(0)
    senders = {"embedding": embedded} | {name: seen[k // UNITS][k % UNITS] for k, name in enumerate(NAMES)}
    found = {}
    for name in NAMES[:UNITS]:  # a unit of the first layer reads nothing but the embedding
        found[f"embedding->{name}"] = changed(*interchange(weights, [name]))
    for sender, value in senders.items():
        delta = value[None] - value[:, None]
        found[f"{sender}->unembed"] = changed(logits[:, None] + delta @ weights["unembed"], logits)
        if sender in NAMES[UNITS:]:
            continue
        adds = contributions(weights, 1, (stream[:, None] + delta).flatten(0, 1)).unflatten(
            1, delta.shape[:2]
        )
        for k, receiver in enumerate(NAMES[UNITS:]):
            moved = (adds[k] - seen[1][k][:, None]) @ weights["unembed"]
            found[f"{sender}->{receiver}"] = changed(logits[:, None] + moved, logits)
    return found
