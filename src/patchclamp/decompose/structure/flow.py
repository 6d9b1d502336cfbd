"""Activity and gradients of a live subject on some data, for methods that look at how layers act on each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site, SitesLike
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch


def batches_of(subject: Subject, data: Any, batch_size: int = 32) -> list[Batch]:
    """Batches of a task's clean inputs, of texts, or as they are given.

    Parameters
    ----------
    data
        A task, a list of texts, a `Batch` or a list of those.
    """
    if isinstance(data, Batch):
        return [data]
    if isinstance(data, Sequence) and data and all(isinstance(entry, Batch) for entry in data):
        return list(data)
    live: Any = subject
    if isinstance(data, Sequence) and data and all(isinstance(entry, str) for entry in data):
        cut = [list(data[i : i + batch_size]) for i in range(0, len(data), batch_size)]
        return [live.batch(live.encode(part)) for part in cut]
    found = [pair.clean for pair in subject.pairs(data, batch_size)]
    if not found:
        raise PatchclampError(f"{subject.name}: there is no input to look at; give at least one")
    return found


def counted(subject: Subject, batch: Batch, activity: Tensor) -> Bool[Tensor, "batch pos"]:
    """Positions that enter statistics: no padding, no special or sink token; all of them where positions are pixels."""
    if batch.mask.shape[1] != activity.shape[1]:
        return torch.ones(activity.shape[:2], dtype=torch.bool, device=activity.device)
    live: Any = subject
    content: Tensor = live.content_mask(batch) if hasattr(live, "content_mask") else batch.mask
    return content.to(activity.device)


def chain(subject: Subject, sites: SitesLike) -> list[Site]:
    """Sites of a chain in the order given (text: in the order of the pass); each (batch, pos, units)."""
    listed: Sequence[SitesLike] = (
        sites if isinstance(sites, Sequence) and not isinstance(sites, str) else [sites]
    )
    found = [site for entry in listed for site in subject.resolve(entry)]
    for site in found:
        if site.point in ("head", "attn_probs") or site.dictionary is not None:
            raise PatchclampError(f"{site}: is no plain vector of units a position; give another site")
    if len(set(found)) < len(found):
        raise PatchclampError(f"{', '.join(map(str, found))}: a site is named twice")
    return found


def probes(
    like: Tensor, where: Bool[Tensor, "batch pos"], n: int | None, generator: torch.Generator
) -> Iterator[Tensor]:
    """Vectors v over (batch, pos, output) with sum of v v^T = 1: all unit vectors, or `n` random signs.

    Unit vectors are shared by the items of the batch, which do not depend on each other. Random signs (Hutchinson)
    make the sum right on average only.
    """
    shape = like.shape[1:]
    mask = where[..., None].to(like.dtype)
    if n is None:
        for place in range(shape[0]):
            for unit in range(shape[1]):
                one = torch.zeros_like(like)
                one[:, place, unit] = 1
                yield one * mask
        return
    for _ in range(n):
        signs = torch.randint(0, 2, like.shape, generator=generator).to(like.device, like.dtype) * 2 - 1
        yield signs * mask / n**0.5


def pulled_back(outputs: Tensor, inputs: Tensor, along: Iterable[Tensor]) -> Iterator[Tensor]:
    """J^T v for each v; zeros where nothing depends on the inputs."""
    for vector in along:
        (found,) = torch.autograd.grad(
            outputs, inputs, vector.to(outputs.dtype), retain_graph=True, allow_unused=True
        )
        yield torch.zeros_like(inputs) if found is None else found
