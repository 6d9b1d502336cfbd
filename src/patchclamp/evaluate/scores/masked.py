"""Passes in which each item keeps some of its own features and has a baseline in place of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.seeds import numpy_rng
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair
from patchclamp.subjects.clamp.matching import collect
from patchclamp.subjects.clamp.reference import Reference

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
BASELINES = ("corrupted", "zero", "mean")


class MaskedFeatures:
    """The features that scores speak of: every node at every position (or at all positions together).

    Parameters
    ----------
    subject, task
        The items scored, in order.
    scores
        Of each item; positions summed, or one token each (``positions="each"``).
    baseline
        What stands in for a feature that is not kept: ``"corrupted"`` (the item's corrupted input), ``"zero"``, or
        ``"mean"`` (over `reference`).
    """

    def __init__(
        self,
        subject: Subject,
        task: TaskLike,
        scores: Scores,
        baseline: str = "corrupted",
        reference: TaskLike | Reference | None = None,
        batch_size: int = 64,
    ) -> None:
        check_choice("baseline", baseline, BASELINES)
        if scores.n != len(task):
            raise PatchclampError(
                f"{scores.method}: {scores.n} items were scored and the task has {len(task)}"
            )
        if scores.positions is not None and scores.positions != tuple(map(str, range(len(scores.positions)))):
            raise PatchclampError(
                f"{scores.method}: scored at {', '.join(scores.positions[:3])} ...; each item's features are needed, so score "
                "with positions='sum' or 'each'"
            )
        self.subject, self.task, self.baseline, self.batch_size = subject, task, baseline, batch_size
        self.reference = Reference.of(subject, reference, task, batch_size)
        self.sites = scores.sites
        self.shapes = {s: np.shape(scores.values[s])[1:] for s in self.sites}
        self.level, self.nodes = scores.level, {s: scores.index(s) for s in self.sites}
        self.values = flat_scores(scores)
        self.there = np.isfinite(self.values)
        self.groups = tuple(scores.groups)

    def order(self, by: str, values: Array | None = None, seed: int | None = None) -> NDArray[np.int64]:
        """(item, feature) places, best first and absent ones last; ties at random by item with a seed, else in order."""
        values = self.values if values is None else values
        key = np.abs(values) if by == "abs" else values
        key = np.where(self.there, key, -np.inf)
        out = np.empty(key.shape, dtype=np.int64)
        for item, row in enumerate(key):
            first = np.arange(len(row))
            if seed is not None:
                first = numpy_rng([seed, item]).permutation(first)
            out[item] = first[np.argsort(-row[first], kind="stable")]
        return out

    def orders(self, by: str, n_random: int, seed: int) -> dict[str, list[NDArray[np.int64]]]:
        """The order of the scores, and random ones, by name."""
        check_choice("by", by, ("signed", "abs"))
        nothing = np.zeros_like(self.values)
        return {
            "scores": [self.order(by, seed=seed)],
            "random": [self.order(by, nothing, seed=seed + 1 + draw) for draw in range(n_random)],
        }

    def first(self, order: NDArray[np.int64], share: float, *, up: bool = False) -> Mask:
        """(item, feature) mask of the first share of each item's features, rounded (`up`: upwards)."""
        count = self.there.sum(1)
        k = np.ceil(share * count - 1e-9) if up else np.round(share * count)
        rank = np.argsort(order, axis=1)
        return np.asarray((rank < k[:, None]) & self.there)

    def metric(self, kept: Sequence[Mask]) -> Array:
        """(mask, item) metric with a baseline in place of what a mask does not keep; equal masks run once a batch."""
        out = np.empty((len(kept), len(self.task)))
        for pair in self.subject.pairs(self.task, self.batch_size):
            rows = pair.rows.cpu().numpy()
            clean = self.subject.run(pair.clean, logits=pair.answer_position).logits
            stand_in = self._stand_in(pair)
            known: dict[bytes, Array] = {}
            for number, mask in enumerate(kept):
                part = mask[rows] | ~self.there[rows]
                key = part.tobytes()
                if key not in known:
                    known[key] = self._run(pair, part, stand_in, clean)
                out[number, rows] = known[key]
        return out

    def _run(self, pair: Pair, mask: Mask, stand_in: dict[Site, Tensor], clean: Tensor | None) -> Array:
        edits, first = [], 0
        for site in self.sites:
            shape = self.shapes[site]
            part = mask[:, first : first + int(np.prod(shape))].reshape(len(mask), *shape)
            first += int(np.prod(shape))
            if not part.all():
                edits.append(Edit(site, self._writer(site, torch.as_tensor(part), stand_in[site])))
        out = self.subject.run(pair.clean, write=edits, logits=pair.answer_position).logits
        with torch.no_grad():
            return pair.metric(out, clean).double().cpu().numpy()

    def _writer(self, site: Site, mask: Tensor, other: Tensor) -> Callable[[Tensor, Batch], Tensor]:
        """Puts the baseline where a (batch, node[, pos]) mask is False."""
        mask = mask[:, :, None] if mask.ndim == 2 else mask
        here = mask.transpose(1, 2)  # (batch, pos or 1, node)
        index = self.nodes[site]

        def write(activity: Tensor, batch: Batch) -> Tensor:
            keep = here[:, : activity.shape[1]].to(activity.device)
            if keep.shape[1] not in (1, activity.shape[1]):
                raise PatchclampError(
                    f"{site}: has {activity.shape[1]} positions and its scores {keep.shape[1]}; score positions='sum'"
                )
            if self.level[site] == "unit":
                wide = torch.ones(
                    *keep.shape[:2], activity.shape[2], dtype=torch.bool, device=activity.device
                )
                wide[:, :, torch.tensor(index, device=activity.device)] = keep
                keep = wide
            keep = keep if activity.ndim == 3 else keep[..., None]
            return torch.where(keep, activity, other.to(activity.device, activity.dtype))

        return write

    def _stand_in(self, pair: Pair) -> dict[Site, Tensor]:
        if self.baseline == "corrupted":
            if pair.corrupted is None:
                raise PatchclampError("the items have no corrupted inputs; take baseline='zero' or 'mean'")
            return dict(self.subject.run(pair.corrupted, read=self.sites).activity)
        if self.baseline == "zero":
            return {site: torch.zeros(1) for site in self.sites}
        means = self.reference.means(self.sites, "data")
        return {site: next(iter(means[site].values()))[0] for site in self.sites}


def flat_scores(scores: Scores) -> Array:
    """(item, feature), sites in order."""
    parts = [scores.values[s].reshape(scores.n, -1) for s in scores.sites]
    return np.concatenate(parts, axis=1).astype(np.float64)


def unit_names(scores: Scores) -> list[str]:
    """Address of every node, in the order of `flat_scores` of scores summed over positions."""
    return [str(collect([(site, index)])) for site in scores.sites for index in scores.index(site)]
