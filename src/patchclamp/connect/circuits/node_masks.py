"""Masks learned on a task: the smallest set of units that does what the model does, from blocks down to neurons."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.base.seeds import torch_rng
from patchclamp.base.statistics import ratio_interval
from patchclamp.draw.cards import shown
from patchclamp.nouns.mask import Mask
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.held_out import check_held_out
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair
from patchclamp.subjects.clamp.weights import reinitialised

# Of the hard concrete distribution (Louizos et al. 2018): stretched from 0..1 to LOW..HIGH and cut.
LOW, HIGH = -0.1, 1.1
FITS = ("answers", "shuffled answers", "other weights")


@shown
@dataclass(frozen=True)
class NodeMasks:
    """A learned mask, and what the same fit finds where there is nothing to find.

    Attributes
    ----------
    mask : Mask
        Over all units of the sites.
    table : DataFrame
        One row a fit and split: fit (``"answers"``, ``"shuffled answers"``, ``"other weights"``), split (``"fitted"``,
        ``"held out"``), loss (1 where nothing is kept), kept, low, high, items. `kept` is
        (m(C) - m(nothing)) / (aim - m(nothing)), where the aim is what the model says of its own answers.
    history : DataFrame
        fit, step, loss (with gates drawn at random), temperature.
    masks : dict
        The mask of every fit.
    seconds : float
        Of the processor, all fits.
    """

    mask: Mask
    table: pd.DataFrame
    history: pd.DataFrame = field(repr=False)
    masks: dict[str, Mask] = field(repr=False)
    seconds: float = 0.0

    def kept(self, fit: str = "answers", split: str = "held out") -> float:
        """The share kept by one fit on one split."""
        rows = self.table[(self.table.fit == fit) & (self.table.split == split)]
        if not len(rows):
            raise PatchclampError(f"there is no fit {fit!r} on items {split!r}")
        return float(rows["kept"].iloc[0])


@dataclass
class _Gated:
    """One batch: the pair, corrupted activity at the sites, where the metric's rows are from, and what is wanted."""

    pair: Pair
    corrupted: dict[Site, Tensor]
    aim: Float[Tensor, " batch"]
    order: Tensor
    reference: Tensor | None

    def score(self, logits: Tensor) -> Tensor:
        """The metric of each row by the answers of row `order`."""
        back = self.order.argsort()
        return self.pair.metric(logits[back], reference=self.reference)[self.order]


def node_masks(
    subject: Subject,
    task: TaskLike,
    *,
    size: int,
    sites: str = "mlp_act.*",
    scores: Scores | None = None,
    candidates: int = 1000,
    held_out: TaskLike | None = None,
    steps: int = 80,
    learning_rate: float = 0.15,
    temperature: tuple[float, float] = (0.67, 0.2),
    batch_size: int = 16,
    controls: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> NodeMasks:
    """Learn which `size` units, all others patched from the corrupted run, do what the whole model does.

    Every candidate has a gate, and so has every site (a block of neurons, the heads of a layer); a unit's activity is

    a' = z_site z_unit a + (1 - z_site z_unit) a_corrupted,  z = min(1, max(0, s (1.1 + 0.1) - 0.1)),
    s = sigmoid((log u - log(1 - u) + alpha) / temperature),  u uniform: the hard concrete distribution,

    and the loss is mean over items of ((m(gated) - m(model)) / span)^2, m the task's metric and span the root mean
    square of m(model) - m(nothing kept). The expected number of open gates is `size` at every step: what all alpha of units have
    in common is solved for, which takes the place of a penalty and its schedule. At the end the `size` units with the
    largest probability are kept whole.

    Parameters
    ----------
    subject, task
        A task with corrupted inputs and a metric with a gradient.
    size
        How many units are kept.
    sites
        Addresses of sites whose units (neurons, heads, features) are masked; all else is free.
    scores
        Where gates begin, such as `relevance_patching`'s; by default the first-order effect of each gate, from one
        backward pass.
    candidates
        Only so many units with the largest |score| have a gate; the others are always patched.
    held_out
        Items that had no part in the fit, of other groups. Without them `table` has no rows ``"held out"``.
    steps, learning_rate, temperature, batch_size
        Of Adam; the temperature falls from the first value to the second; items a step.
    controls
        Fit twice more: answers of the items turned among those of a batch, so that none keeps its own (from the same
        candidates and start, that of `scores` where given), and all weights of the model drawn anew at their own size (and
        put back; from first-order effects of the new weights, of which `scores` say nothing). A method that finds a circuit
        there finds one anywhere.
    seed
        Of noise, batches, permutations and weights.

    Returns
    -------
    NodeMasks

    Raises
    ------
    PatchclampError
        For a task without corrupted inputs, a metric without a gradient, more units than there are, items held out
        that were fitted, and batches of one item where controls are fitted.

    Notes
    -----
    After multi-granular node pruning (2025), with the gates of Louizos et al. 2018 and patching as in edge pruning
    (Bhaskar et al. 2024). The fitted share flatters: read the one of held-out items, beside its controls.

    Examples
    --------
    >>> found = node_masks(subject, task.split("train"), size=100, scores=relp,   # doctest: +SKIP
    ...                    held_out=task.split("test"))
    >>> found.table
    """
    begun = time.process_time()
    if held_out is not None:
        check_held_out(held_out, task, "the mask")
    fit = _MaskFit(subject, task, subject.resolve(sites), size, candidates, steps, learning_rate, temperature,
               batch_size, seed, progress)  # fmt: skip
    if controls:
        fit.require_shuffles(task, held_out)
    found = {FITS[0]: fit.learn(fit.data(task), FITS[0], scores)}
    rows = fit.rows(FITS[0], found[FITS[0]], task, held_out)
    if controls:
        found[FITS[1]] = fit.learn(fit.data(task, shuffled=True), FITS[1], scores)
        rows += fit.rows(FITS[1], found[FITS[1]], task, held_out, shuffled=True)
        aims = {split: fit.aims(some) for split, some in (("fitted", task), ("held out", held_out)) if some}
        with reinitialised(subject, seed):
            found[FITS[2]] = fit.learn(fit.data(task, aims=aims["fitted"]), FITS[2], None)
            rows += fit.rows(FITS[2], found[FITS[2]], task, held_out, aims=aims)
    return NodeMasks(
        found[FITS[0]], pd.DataFrame(rows), pd.DataFrame(fit.history), found, time.process_time() - begun
    )


@dataclass
class _MaskFit:
    """What all fits share."""

    subject: Subject
    task: TaskLike
    sites: list[Site]
    size: int
    candidates: int
    steps: int
    learning_rate: float
    temperature: tuple[float, float]
    batch_size: int
    seed: int
    progress: Progress | None
    history: list[dict[str, object]] = field(default_factory=list)

    def require_shuffles(self, *tasks: TaskLike | None) -> None:
        """Refuse batches of one item before the first pass."""
        for task in tasks:
            if task is not None and (self.batch_size < 2 or len(task) % self.batch_size == 1):
                raise PatchclampError(
                    f"batch_size={self.batch_size}: of {len(task)} items a batch of one is left, whose answer cannot be another "
                    "item's; give another batch_size (at least 2), or controls=False"
                )

    def __post_init__(self) -> None:
        self.widths = [self.subject.width(site) for site in self.sites]
        total = sum(self.widths)
        if not 1 <= self.size < min(self.candidates, total):
            raise PatchclampError(
                f"size={self.size}: give at least one unit and fewer than the {min(self.candidates, total)} candidates"
            )
        if self.steps < 1 or not 0 < self.temperature[1] <= self.temperature[0]:
            raise PatchclampError(
                f"steps={self.steps}, temperature={self.temperature}: at least one step, and a temperature above 0 that "
                "does not rise"
            )

    # ---- data

    def data(
        self, task: TaskLike, shuffled: bool = False, aims: NDArray[np.float64] | None = None
    ) -> list[_Gated]:
        """Batches with the corrupted activity and what the metric should be."""
        found = []
        draw = torch_rng(self.seed)
        for pair in self.subject.pairs(task, self.batch_size):
            if pair.corrupted is None:
                raise PatchclampError("node_masks: the task's items have no corrupted inputs to patch from")
            clean = self.subject.run(pair.clean, logits=pair.answer_position).logits
            assert clean is not None
            corrupted = self.subject.run(pair.corrupted, read=self.sites, logits=pair.answer_position)
            n = len(pair.rows)
            order = torch.arange(n)
            if shuffled:  # by a turn, so that none keeps its own
                order = order.roll(int(torch.randint(1, n, (1,), generator=draw)))
            own = pair.metric(clean, reference=clean)
            aim = own if aims is None else torch.as_tensor(aims[pair.rows.cpu().numpy()]).to(own)
            activity = {site: corrupted.activity[site] for site in self.sites}
            found.append(_Gated(pair, activity, aim[order].detach(), order.to(clean.device), clean))
        if not found:
            raise PatchclampError("node_masks: the task has no items")
        return found

    def aims(self, task: TaskLike) -> NDArray[np.float64]:
        """The model's metric on every item."""
        values = np.zeros(len(task))
        for item in self.data(task):
            values[item.pair.rows.cpu().numpy()] = item.aim.double().cpu().numpy()
        return values

    def metric(self, item: _Gated, gates: Float[Tensor, "one unit"]) -> Tensor:
        """The metric of each item with gates (1 or batch, unit) over all units."""
        parts = dict(zip(self.sites, gates.split(self.widths, 1), strict=True))
        edits = [Edit(site, _gated(parts[site], item.corrupted[site])) for site in self.sites]
        grad = gates.requires_grad
        batch: Batch = item.pair.clean
        logits = self.subject.run(batch, write=edits, logits=item.pair.answer_position, grad=grad).logits
        assert logits is not None
        value = item.score(logits)
        if grad and not value.requires_grad:
            raise PatchclampError("node_masks: the metric has no gradient (an accuracy, say); use logit_diff")
        return value

    # ---- one fit

    def learn(self, data: list[_Gated], name: str, scores: Scores | None) -> Mask:
        """The mask of one fit."""
        device = data[0].aim.device
        draw = torch_rng(self.seed)
        start = self._first_order(data) if scores is None else self._given(scores).to(device)
        nothing = torch.zeros(1, sum(self.widths), device=device)
        empty = torch.cat([self.metric(item, nothing) for item in data])
        span = (torch.cat([item.aim for item in data]) - empty).square().mean().sqrt()
        if not float(span) > 0:
            raise PatchclampError(
                "node_masks: patching all units does not change the metric; nothing to find"
            )
        chosen = start.abs().argsort(descending=True, stable=True)[: self.candidates].sort().values
        owner = torch.repeat_interleave(torch.arange(len(self.sites)), torch.tensor(self.widths))[
            chosen.cpu()
        ]
        owner = owner.to(device)
        sizes = start[chosen].abs()
        floor = sizes[sizes > 0].min() if bool((sizes > 0).any()) else sizes.new_tensor(1.0)
        units = sizes.clamp(min=float(floor)).log().requires_grad_()
        blocks = torch.full((len(self.sites),), 3.0, device=device, requires_grad=True)
        adam = torch.optim.Adam([units, blocks], self.learning_rate, betas=(0.9, 0.95))
        order: list[int] = []
        for step in range(self.steps):
            share = step / max(1, self.steps - 1)
            heat = self.temperature[0] * (self.temperature[1] / self.temperature[0]) ** share
            order = order or torch.randperm(len(data), generator=draw).tolist()
            item = data[order.pop()]
            alpha = units - self._shift(units, blocks, owner, heat)
            rows = len(item.aim)
            z = _concrete(alpha, heat, rows, draw) * _concrete(blocks, heat, rows, draw)[:, owner]
            gates = torch.zeros(rows, sum(self.widths), device=device).index_copy(1, chosen, z)
            loss = ((self.metric(item, gates) - item.aim) / span).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            self.history.append({"fit": name, "step": step, "loss": loss.item(), "temperature": heat})
            if self.progress is not None:
                self.progress(f"masks: {name}", step + 1, self.steps)
        with torch.no_grad():
            shift = self._shift(units, blocks, owner, self.temperature[1])
            alpha, block = units - shift, blocks[owner]
            open_ = _probability(alpha, self.temperature[1]) * _probability(block, self.temperature[1])
        flat = torch.zeros(sum(self.widths), dtype=torch.float64)
        flat[chosen.cpu()] = open_.double().cpu().clamp(1e-12, 1)
        parts = flat.split(self.widths)
        values = {site: part.numpy() for site, part in zip(self.sites, parts, strict=True)}
        return Mask(values, self.size, "node_masks", self.task.name)

    def _shift(self, units: Tensor, blocks: Tensor, owner: Tensor, heat: float) -> Tensor:
        """What all alpha have in common, so that the expected number of open gates is `size`; with its gradient."""
        with torch.no_grad():
            low, high = units.min() - 40.0, units.max() + 40.0
            open_ = _probability(blocks, heat)[owner]
            for _ in range(60):
                middle = (low + high) / 2
                many = (_probability(units - middle, heat) * open_).sum() > self.size
                low, high = torch.where(many, middle, low), torch.where(many, high, middle)
        tau = ((low + high) / 2).detach()
        p = _probability(units - tau, heat)
        whole = p * _probability(blocks, heat)[owner]
        slope = (whole * (1 - p)).sum().detach().clamp(min=1e-6)
        return tau + (whole.sum() - whole.sum().detach()) / slope

    def _first_order(self, data: list[_Gated]) -> Tensor:
        """Mean over items of d metric / d gate at half-open gates, unit by unit."""
        total = torch.zeros(sum(self.widths), device=data[0].aim.device)
        for item in data:
            gates = torch.full((1, sum(self.widths)), 0.5, device=total.device, requires_grad=True)
            away = (item.aim - self.metric(item, torch.zeros_like(gates).detach())).sign()
            (found,) = torch.autograd.grad((self.metric(item, gates) * away).sum(), gates)
            total += found[0]
        return total

    def _given(self, scores: Scores) -> Tensor:
        parts = []
        for site, width in zip(self.sites, self.widths, strict=True):
            values = torch.zeros(width)
            if site in scores.values and scores.level[site] == "unit":
                index = [i for i in scores.index(site) if i is not None]
                values[index] = torch.as_tensor(scores.summed().mean(site), dtype=torch.float32)
            parts.append(values)
        if not any(bool(part.any()) for part in parts):
            raise PatchclampError(f"scores: none of single units at {self.sites[0]}; score these sites")
        return torch.cat(parts)

    # ---- what it found

    def rows(
        self, name: str, mask: Mask, task: TaskLike, held_out: TaskLike | None, *, shuffled: bool = False,
        aims: dict[str, NDArray[np.float64]] | None = None,
    ) -> list[dict[str, object]]:  # fmt: skip
        """Loss and share kept of the whole units, on both splits."""
        rows = []
        for split, some in (("fitted", task), ("held out", held_out)):
            if some is None:
                continue
            data = self.data(some, shuffled, None if aims is None else aims[split])
            kept = torch.as_tensor(np.concatenate(list(mask.hard.values()))[None])
            gates = kept.to(data[0].aim)
            with torch.no_grad():
                value, empty = (
                    torch.cat([self.metric(item, g) for item in data]).double().cpu().numpy()
                    for g in (gates, torch.zeros_like(gates))
                )
            aim = torch.cat([item.aim for item in data]).double().cpu().numpy()
            groups = [item.pair.groups[i] for item in data for i in range(len(item.pair.groups))]
            low, high = ratio_interval(value - empty, aim - empty, groups or None, seed=self.seed)
            rows.append(
                {"fit": name, "split": split, "loss": _ratio(((value - aim) ** 2).sum(), ((empty - aim) ** 2).sum()),
                 "kept": _ratio((value - empty).sum(), (aim - empty).sum()), "low": low, "high": high,
                 "items": len(aim)}
            )  # fmt: skip
        return rows


def _ratio(top: float, bottom: float) -> float:
    return float(top / bottom) if bottom else float("nan")


def _gated(gates: Tensor, corrupted: Tensor) -> Callable[[Tensor, Batch], Tensor]:
    def act(activity: Tensor, batch: Batch) -> Tensor:
        z = gates[:, None].reshape(len(gates), 1, -1, *[1] * (activity.ndim - 3)).to(activity.dtype)
        return corrupted + z * (activity - corrupted)

    return act


def _concrete(alpha: Tensor, heat: float, rows: int, draw: torch.Generator) -> Float[Tensor, "row gate"]:
    """Gates drawn from the hard concrete distribution."""
    u = torch.rand((rows, len(alpha)), generator=draw).clamp(1e-6, 1 - 1e-6).to(alpha.device)
    s = torch.sigmoid((u.log() - (1 - u).log() + alpha) / heat)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def _probability(alpha: Tensor, heat: float) -> Tensor:
    """Probability that a gate is not 0."""
    return torch.sigmoid(alpha - heat * float(np.log(-LOW / HIGH)))
