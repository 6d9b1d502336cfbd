"""Partial gradients: each node's gradient averaged over that share of the path which the node itself makes up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.attribute._path import Path
from patchclamp.attribute._shared import Collector, Direction, Level, Positions, Sites, level_of
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Pair
from patchclamp.subjects.clamp.relevance_rules import RulePlan

# Points that are the whole stream at a place, or lie outside of the blocks: measured against themselves.
_WHOLE = frozenset({"resid_pre", "resid_mid", "resid_post"})
REACH: Mapping[str, float] = {"head": 1.5}
_GOLDEN = 0.6180339887498949


def partial_gradients(
    subject: Subject,
    task: TaskLike,
    sites: Sites = None,
    *,
    direction: Direction = "denoising",
    positions: Positions = "sum",
    batch_size: int = 32,
    steps: int = 5,
    ln_rule: bool = True,
    reach: Mapping[str, float] = REACH,
    level: Level = "auto",
) -> Scores:
    """Estimate the effect of patching each node from the gradients on its own stretch of the path between the runs.

    A patch moves the run that is patched only as far towards the other run as the node makes up of the difference
    between them. With share s of node u, score = (a_clean - a_corrupted) * (1 / s) * integral over alpha in [0, s]
    of dm/da at embeddings e + alpha (e' - e), from the run that is patched (e) to the other (e'). A node without
    weight gets the gradient at the patched run (attribution patching), one that is the whole difference the
    integral over the whole path (integrated gradients). Positive: the node raises the metric.

    s = min(1, reach * c(u) / sum over tokens t of c(resid_post at t)), where c = mean over the path of
    abs((a_clean - a_corrupted) * dm/da): what the node does to the metric along the path, against what the stream
    behind its layer does. Streams, and sites outside of the blocks, are measured against themselves.

    Parameters
    ----------
    subject, task, sites, direction, positions, batch_size, level
        As for `attribution_patching`.
    steps
        Gradients along the path, beside the one at the patched run. The path is cut into `steps` cells; each item
        has its own place within the cells, spread evenly over items, so that the mean over n items sees n * steps
        points. Scores of one item are accordingly rougher than their mean.
    ln_rule
        Hold the scale of every norm that reads the stream fixed in the backward passes along the path. Norms of queries and
        keys, and those behind attention and MLP, keep their gradient: one unit moves their scale.
    reach
        Point -> factor on the share; 1 where not named. That of heads (patched at all positions together) was
        chosen on SmolLM2; 1.25 to 2 give much the same (docs/attribute.md).

    Returns
    -------
    Scores
        In units of the metric, per item.

    Raises
    ------
    PatchclampError
        For fewer than one step, a reach that is not positive, otherwise as `attribution_patching`.

    Notes
    -----
    New here. Where items interact (several words changed, one patched back) integrated gradients follow a path on
    which all change at once; this one stops at the node's share. For an OR gate it gives
    both directions exactly (with an even number of steps), where integrated gradients give one half in each.

    Examples
    --------
    >>> import torch
    >>> from patchclamp.subjects import TensorTask, TorchModule
    >>> net = TorchModule(torch.nn.Sequential(torch.nn.Identity(), torch.nn.Hardtanh(-1, 1)), torch.zeros(1, 1))
    >>> task = TensorTask("saturates", 2 * torch.ones(1, 1), torch.zeros(1, 1), lambda out: out[:, 0])
    >>> partial_gradients(net, task, "0.out", steps=4).mean(net.resolve("0.out")[0]).tolist()
    [1.0]
    """
    if steps < 1 or any(not factor > 0 for factor in reach.values()):
        raise PatchclampError(
            f"steps={steps}, reach={dict(reach)}: give at least one step and positive factors"
        )
    collector = Collector.of(
        subject, task, "partial_gradients", sites, direction, positions, batch_size, level
    )
    collector.meta |= {"steps": steps, "ln_rule": ln_rule, "reach": dict(reach)}
    plans = (
        RulePlan(subject, (), strict=False),
        RulePlan(subject, ("Stream",) if ln_rule else (), strict=False),
    )
    yardsticks = {site: _yardstick(subject, site) for site in collector.sites}
    for pair in collector.pairs():
        _own_stretch(collector, pair, steps, plans, _Cells(collector, yardsticks, reach))
    return collector.scores(cost=f"two forward passes, and {steps + 1} forward and backward passes")


@dataclass
class _Cells:
    """Products of gradient and difference of one batch: by node for each cell, and in total for each yardstick."""

    collector: Collector
    yardsticks: Mapping[Site, Site]
    reach: Mapping[str, float]
    nodes: dict[Site, dict[int, Float[Tensor, "batch node group"]]] = field(default_factory=dict)
    whole: dict[Site, Float[Tensor, " batch"]] = field(default_factory=dict)

    def gather(self, site: Site, product: Float[Tensor, "batch pos *unit"], cell: int) -> None:
        if site in self.yardsticks:
            self.nodes.setdefault(site, {})[cell] = self.collector.reduce(site, product)
        if cell >= 0 and site in self.yardsticks.values():
            self.whole[site] = self.whole.get(site, 0) + self._size(site, product)

    def _size(self, site: Site, product: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, " batch"]:
        """What the site as a whole does to the metric: over real tokens, and units where each is a node."""
        level = self.collector.level.get(site, level_of(site))
        product = product.flatten(2) if level == "site" else product
        if product.ndim == 4 or level == "site":
            product = product.sum(-1, keepdim=product.ndim == 3)
        mask = self.collector.pair_mask
        if product.shape[1] == mask.shape[1]:
            product = product * mask[..., None]
        return product.abs().sum((1, 2))

    def scores(self, site: Site, steps: int) -> Float[Tensor, "batch node group"]:
        cells = self.nodes[site]
        own = sum(cells[cell].abs() for cell in range(steps))
        whole = self.whole[self.yardsticks[site]].clamp(min=torch.finfo(cells[0].dtype).tiny)
        share = (self.reach.get(site.point, 1.0) * own / whole[:, None, None]).clamp(0, 1)
        return torch.stack([cell_weight(share, cell, steps) * found for cell, found in cells.items()]).sum(0)


def _own_stretch(
    collector: Collector, pair: Pair, steps: int, plans: tuple[RulePlan, RulePlan], cells: _Cells
) -> None:
    path = Path.between(collector, pair, also=list(cells.yardsticks.values()))
    offset = (0.5 + pair.rows.double().cpu() * _GOLDEN) % 1
    for cell in range(-1, steps):
        alpha = torch.zeros(len(offset)) if cell < 0 else (cell + offset) / steps
        path.gradients(alpha, plans[cell >= 0], lambda site, product, c=cell: cells.gather(site, product, c))  # type: ignore[misc]
    for site in cells.nodes:
        collector.add(site, pair, cells.scores(site, steps))


def cell_weight(share: Float[Tensor, "*node"], cell: int, steps: int) -> Float[Tensor, "*node"]:
    """Weight of a cell's gradient in the average over [0, share]; cell -1 is the patched run itself.

    Within the first cell the weight goes over from the patched run's gradient to the cell's. Weights sum to 1.

    Examples
    --------
    >>> [cell_weight(torch.tensor([0.0, 0.25, 1.0]), cell, 2).round(decimals=3).tolist() for cell in (-1, 0, 1)]
    [[1.0, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.5]]
    """
    share = share.clamp(1e-12, 1)
    first = share.clamp(max=1 / steps)
    turned = first * steps
    if cell < 0:
        return first * (1 - turned) / share
    if cell == 0:
        return first * turned / share
    return (share - cell / steps).clamp(0, 1 / steps) / share


def _yardstick(subject: Subject, site: Site) -> Site:
    """The stream behind a site's layer; the site itself where it is a stream, or the model has none.

    Features are measured as units of the site under them are.
    """
    site = site.base
    stream = Site("resid_post", site.layer)
    if site.is_module or site.layer is None or site.point in _WHOLE or stream not in subject.known_sites():
        return site
    return stream
