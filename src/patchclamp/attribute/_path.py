"""The straight path between the two inputs of an item, and gradients at points of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.attribute._shared import Collector, runs_of
from patchclamp.attribute.attribution_patching import backward
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair
from patchclamp.subjects.clamp.hooks import on_gradient
from patchclamp.subjects.clamp.relevance_rules import RulePlan

Gather = Callable[[Site, Float[Tensor, "batch pos *unit"]], None]


@dataclass
class Path:
    """Both runs of a batch, and the points between them.

    `start` is the run that would be patched: the corrupted one for denoising. Points lie between the embeddings;
    for a model without such a site, between the input tensors themselves.
    """

    collector: Collector
    pair: Pair
    start: Batch
    ends: tuple[Tensor, Tensor] | None
    difference: dict[Site, Tensor]
    reference: Tensor

    @classmethod
    def between(cls, collector: Collector, pair: Pair, also: list[Site] | None = None) -> Path:
        """Run both ends, note their metrics, keep a_clean - a_corrupted at the sites (and at `also`)."""
        subject = collector.subject
        start, end = runs_of(pair, collector.direction, collector.method)
        embeddings = [e for e in [Site("embeddings")] if e in subject.known_sites()]
        sites = list(dict.fromkeys([*collector.sites, *(also or [])]))
        read = list(dict.fromkeys([*sites, *embeddings]))
        runs = [subject.run(batch, read=read, logits=pair.answer_position) for batch in (start, end)]
        ends = (runs[0].activity[embeddings[0]], runs[1].activity[embeddings[0]]) if embeddings else None
        clean, corrupted = runs[::-1] if collector.direction == "denoising" else runs
        assert clean.logits is not None and corrupted.logits is not None
        metrics = [pair.metric(run.logits, reference=clean.logits) for run in (clean, corrupted)]
        collector.metric(pair, metrics[0], metrics[1])
        difference = {site: clean.activity.pop(site) - corrupted.activity.pop(site) for site in sites}
        return cls(collector, pair, start, ends, difference, clean.logits)

    def point(self, alpha: Float[Tensor, " batch"]) -> tuple[Batch, list[Edit]]:
        """The batch and the edits that run each item at its alpha: 0 at the run that is patched, 1 at the other."""
        if self.ends is not None:
            low, high = self.ends
            between = torch.lerp(low, high, _beside(alpha, low)).requires_grad_(True)
            return self.start, [Edit(Site("embeddings"), lambda activity, batch: between)]
        _, end = runs_of(self.pair, self.collector.direction, self.collector.method)
        tensors = {n: self._between(n, x, end.tensors[n], alpha) for n, x in self.start.tensors.items()}
        return replace(self.start, tensors=tensors), []

    def _between(self, name: str, low: Tensor, high: Tensor, alpha: Float[Tensor, " batch"]) -> Tensor:
        if low.is_floating_point():
            return torch.lerp(low, high, _beside(alpha, low))
        if torch.equal(low, high):
            return low
        raise PatchclampError(
            f"{self.collector.method}: the input {name!r} holds {str(low.dtype).removeprefix('torch.')} and differs between the "
            "two runs, so there is no path between them; use attribution_patching or activation_patching"
        )

    def gradients(self, alpha: Float[Tensor, " batch"], plan: RulePlan, gather: Gather) -> None:
        """One forward and backward pass; `gather` receives (a_clean - a_corrupted) * gradient of each site."""
        collector = self.collector
        batch, edits = self.point(alpha)

        def reader(site: Site) -> Callable[[Tensor], None]:
            def hook(gradient: Tensor) -> None:
                gather(site, gradient * self.difference[site])

            def read(tensor: Tensor) -> None:
                on_gradient(site, tensor, hook)

            return read

        with plan.active():
            run = collector.subject.run(
                batch,
                read={site: reader(site) for site in self.difference},
                write=edits,
                logits=self.pair.answer_position,
                grad=True,
            )
            assert run.logits is not None
            backward(self.pair.metric(run.logits, reference=self.reference), collector.method)


def _beside(alpha: Tensor, like: Tensor) -> Tensor:
    return alpha.to(like.device, like.dtype).view(-1, *[1] * (like.ndim - 1)).expand_as(like)
