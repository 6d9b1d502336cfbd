"""The activity of a subject's sites on a list of stimuli, as one matrix (stimulus, feature) a site."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch

Pool = Literal["flatten", "mean", "last"]
Features = NDArray[np.float32]


def default_sites(subject: Subject) -> list[Site]:
    """The residual stream after each block; of other modules, the outermost numbered ones (``blocks.3.out``)."""
    if subject.n_layers:
        return in_order(subject, subject.resolve("resid_post.*"))
    known = subject.known_sites()
    numbered = [site for site in known if re.search(r"(^|\.)\d+$", site.point)]
    if not numbered:
        return known
    depth = min(site.point.count(".") for site in numbered)
    return [site for site in numbered if site.point.count(".") == depth]


def in_order(subject: Subject, sites: Sequence[Site]) -> list[Site]:
    """Sites in the order in which a pass reaches them: sorted as text, block 10 would come before block 2."""
    place = {site: i for i, site in enumerate(subject.known_sites())}
    return sorted(sites, key=lambda site: place.get(site, len(place)))


def activities(
    subject: Subject,
    stimuli: Any,
    sites: Sequence[Site],
    *,
    pool: Pool,
    project: int | None,
    batch_size: int,
    memory: float,
    seed: int,
) -> Iterator[tuple[Site, Features]]:
    """Yield (site, features) in the order given, in as many passes as `memory` bytes of activity ask for."""
    n = len(stimuli)
    widths = _widths(subject, stimuli, sites, pool)
    kept = {site: min(width, project or width) for site, width in widths.items()}
    for group in _groups(list(sites), {site: 4.0 * n * kept[site] for site in sites}, memory):
        out = {site: np.empty((n, kept[site]), np.float32) for site in group}
        sketches = {
            site: Sketch(widths[site], kept[site], seed) for site in group if kept[site] < widths[site]
        }
        for rows, batch in _batches(subject, stimuli, batch_size):
            mask = subject.content_mask(batch)  # type: ignore[attr-defined]
            for site, tensor in subject.run(batch, read=group).activity.items():
                found = _pooled(tensor, mask, pool)
                found = sketches[site](found) if site in sketches else found
                if not bool(torch.isfinite(found).all()):
                    raise PatchclampError(
                        f"{site}: holds NaN or Inf on stimuli {rows.start} to {rows.stop - 1}"
                    )
                out[site][rows] = found.cpu().numpy()
        for site in group:
            yield site, out.pop(site)


def untrained_twin(subject: Subject, seed: int) -> Subject:
    """A copy of a subject whose parameters are drawn anew by the modules' own `reset_parameters`.

    Raises
    ------
    PatchclampError
        If a module holds parameters and cannot draw them.
    """
    twin = copy.deepcopy(subject)
    twin._fingerprint, twin.name = "", f"{subject.name} (untrained, seed {seed})"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_seed(seed))
        for name, module in twin.model.named_modules():
            own = list(module.parameters(recurse=False))
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif own and not _redrawn(twin.model, module):
                raise PatchclampError(
                    f"{name or type(module).__name__}: holds parameters and has no reset_parameters(); pass "
                    "untrained=a subject around a fresh model, or controls=('pixels',)"
                )
    return twin


def _redrawn(model: nn.Module, module: nn.Module) -> bool:
    """Draw a module of a Hugging Face model with that model's own rule; False where it has none."""
    rule = getattr(model, "_init_weights", None)
    if rule is None:
        return False
    for parameter in module.parameters(recurse=False):
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    rule(module)
    return True


def _widths(subject: Subject, stimuli: Any, sites: Sequence[Site], pool: Pool) -> dict[Site, int]:
    _, batch = next(_batches(subject, stimuli, 1))
    mask = subject.content_mask(batch)  # type: ignore[attr-defined]
    found = subject.run(batch, read=list(sites)).activity
    return {site: _pooled(tensor, mask, pool).shape[1] for site, tensor in found.items()}


def _batches(subject: Subject, stimuli: Any, size: int) -> Iterator[tuple[slice, Batch]]:
    wrap: Any = subject
    for start in range(0, len(stimuli), size):
        rows = slice(start, min(start + size, len(stimuli)))
        part = stimuli[rows]
        yield rows, wrap.batch(part if isinstance(part, Tensor) else wrap.encode(list(part)))


def _pooled(tensor: Tensor, mask: Tensor, pool: Pool) -> Tensor:
    """(batch, pos, ...) to (batch, feature) in float32."""
    flat = tensor.float()
    if flat.ndim > 3:
        flat = flat.flatten(2)
    if pool == "flatten":
        return flat.flatten(1)
    # Where a site's positions are not the input's (pixels, calls of a module), all of them count.
    seen = mask.to(flat.device)
    seen = seen.new_ones(flat.shape[:2]) if seen.shape[1] != flat.shape[1] else seen
    if pool == "mean":
        weight = seen.float()
        return (flat * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1)
    if pool == "last":
        steps = torch.arange(seen.shape[1], device=seen.device)
        return flat[torch.arange(len(flat), device=seen.device), (seen * steps).amax(1)]
    raise PatchclampError(f"pool={pool!r}: give 'flatten', 'mean' or 'last'")


def _groups(sites: list[Site], sizes: dict[Site, float], memory: float) -> Iterator[list[Site]]:
    group: list[Site] = []
    for site in sites:
        if sizes[site] > memory:
            raise PatchclampError(
                f"{site}: its activity on all stimuli takes {sizes[site] / 1e9:.1f} GB, more than memory="
                f"{memory / 1e9:g} GB; give project=4096 (random projection), pool='mean' or more memory"
            )
        if group and sum(sizes[s] for s in group) + sizes[site] > memory:
            yield group
            group = []
        group.append(site)
    if group:
        yield group


class Sketch:
    """Random projection by signed sums of random groups of features; inner products are kept on average.

    E <Sx, Sy> = <x, y> with variance (|x|^2 |y|^2 + <x, y>^2) / width. Holds two numbers a feature (Charikar et
    al. 2002), where a Gaussian matrix of 200,000 x 4,096 would take 3 GB.
    """

    def __init__(self, width: int, kept: int, seed: int) -> None:
        random = torch_rng(seed)
        self.kept = kept
        self.bucket = torch.randint(kept, (width,), generator=random)
        self.sign = torch.randint(0, 2, (width,), generator=random).float() * 2 - 1

    def __call__(self, x: Tensor) -> Tensor:
        """(sample, kept) of (sample, unit)."""
        out = torch.zeros(len(x), self.kept)
        return out.index_add_(1, self.bucket, x.cpu() * self.sign)
