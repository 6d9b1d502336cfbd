"""Weights changed for a while: put back bit by bit, and drawn anew at their own size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import torch_rng
from patchclamp.subjects.base import Subject


@contextmanager
def restored(subject: Subject) -> Iterator[None]:
    """Whatever happens to weights and buffers inside, they are as they were afterwards, bit by bit.

    Inside, the subject has no fingerprint of the trained weights that recordings and claims could carry.
    """
    model = subject.model
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise PatchclampError(
            f"{subject.name}: has weights that are not in memory, so they cannot be put back"
        )
    kept = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    fingerprint, subject._fingerprint = subject._fingerprint, ""
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
        subject._fingerprint = fingerprint


def random_like(parameter: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """A weight's entries permuted (``"shuffle"``), or normal with its own mean and deviation (``"gaussian"``)."""
    values = parameter.detach().cpu().double()
    if how == "shuffle":
        flat = values.flatten()
        return flat[torch.randperm(len(flat), generator=generator)].reshape(values.shape).to(parameter)
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    return (values.mean() + values.std(correction=0) * noise).to(parameter)


@contextmanager
def reinitialised(subject: Subject, seed: int = 0) -> Iterator[None]:
    """A model whose weights are all drawn anew at their own mean and deviation; as it was afterwards.

    Constant tensors, such as the gains of an untrained norm, stay.
    """
    with restored(subject):
        generator = torch_rng(seed)
        with torch.no_grad():
            for parameter in subject.model.parameters():
                parameter.copy_(random_like(parameter, "gaussian", generator))
        yield
