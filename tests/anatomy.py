"""Every tiny model with a batch, its recorded sites and its layers."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import tiny
from patchclamp.nouns.units import Site
from patchclamp.subjects import Batch, LanguageModel, VisionModel
from patchclamp.subjects.families.anatomy import weight_in_out

LENGTHS = (9, 4, 7)


EVERY = sorted(tiny.ALL)


LANGUAGE = sorted(tiny.LANGUAGE)


@cache
def subject_of(name: str) -> Any:
    model = tiny.tiny_model(name)
    return VisionModel(model, name) if name in tiny.VISION else LanguageModel(model, name=name)


def texts(lengths: tuple[int, ...] = LENGTHS, seed: int = 1) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(6, tiny.VOCAB, (n,), generator=draw).tolist() for n in lengths]


def batch_of(name: str, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    subject = subject_of(name)
    if name in tiny.VISION:
        return subject.batch(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    return subject.batch(texts(lengths))


def plain_sites(subject: Any) -> list[Site]:
    return [site for site in subject.known_sites() if site.point != "attn_probs"]


@cache
def recorded(name: str) -> dict[str, Tensor]:
    subject = subject_of(name)
    run = subject.run(batch_of(name), read=plain_sites(subject), logits="all")
    return {str(site): value for site, value in run.activity.items()} | {"out": run.logits}


def close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    assert got.shape == want.shape
    error = (got - want).norm() / want.norm()
    assert error < tolerance, f"relative error {error:.2e}"


def layers_of(subject: Any) -> list[tuple[int, nn.Module, Any]]:
    return [(i, layer, subject.row_at(i)) for i, layer in enumerate(subject.layers)]


def linear(module: nn.Module, x: Tensor) -> Tensor:
    y = x @ weight_in_out(module)
    return y if module.bias is None else y + module.bias


def bare_logits(name: str, batch: Batch) -> Tensor:
    subject = subject_of(name)
    # GPT-J rounds otherwise when it keeps a cache, and the engine keeps none
    inputs = dict(batch.tensors) if name in tiny.VISION else {"input_ids": batch.tokens, "use_cache": False}
    with torch.no_grad():
        return subject.model(**inputs).logits


def writable(subject: Any) -> list[Site]:
    return [site for site in plain_sites(subject) if site.point not in ("router", "logits")]
