"""Partial gradients: each node's gradient averaged over that share of the path which the node itself makes up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.attribute._path import Path
from patchclamp.attribute._shared import (
    Collector,
    Direction,
    Positions,
    Sites,
    check_options,
    choose_sites,
)
from patchclamp.attribute.relevance_rules import RulePlan
from patchclamp.errors import PatchclampError
from patchclamp.scores import Scores
from patchclamp.subjects.base import Subject
from patchclamp.subjects.batch import Pair
from patchclamp.subjects.transformer import Transformer
from patchclamp.units import Site

# Points whose activity is written into the stream, so that their share of its difference can be computed.
_WRITERS = frozenset({"head", "mlp_act", "attn_out", "attn_out_post", "mlp_out", "mlp_out_post"})
REACH: Mapping[str, float] = {"head": 8.0, "mlp_act": 8.0}
_GOLDEN = 0.6180339887498949


def partial_gradients(
    subject: Subject,
    task: object,
    sites: Sites = None,
    *,
    direction: Direction = "denoising",
    positions: Positions = "sum",
    batch_size: int = 32,
    steps: int = 5,
    ln_rule: bool = True,
    reach: Mapping[str, float] = REACH,
) -> Scores:
    """Estimate the effect of patching each node from the gradients on its own stretch of the path between the runs.

    A patch moves the run that is patched only as far towards the other run as the node makes up of the difference
    between them. With share s of node u, score = (a_clean - a_corrupted) * (1 / s) * integral over alpha in [0, s]
    of dm/da at embeddings e + alpha (e' - e), from the run that is patched (e) to the other (e'). A node without
    weight gets the gradient at the patched run (attribution patching), one that is the whole difference the
    integral over the whole path (integrated gradients). Positive: the node raises the metric.

    s = min(1, reach * <w, D> / <D, D>), where w is the difference that the node writes into the stream and D that of
    the stream after its layer, over all tokens; for other sites the node's part of the squared difference there.

    Parameters
    ----------
    subject, task, sites, direction, positions, batch_size
        As for `attribution_patching`.
    steps
        Gradients along the path, beside the one at the patched run. The path is cut into `steps` cells; each item
        has its own place within the cells, spread evenly over items, so that the mean over n items sees n * steps
        points. Scores of one item are accordingly rougher than their mean.
    ln_rule
        Hold the scale of every norm fixed in the backward passes along the path.
    reach
        Point -> factor on the share; 1 where not named. That of heads was chosen on SmolLM2 (docs/attribute.md):
        most of the stream's difference lies where it does not matter to the answer, and what a head adds is taken
        up by later ones. That of neurons follows the heads and was not tuned.

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
    check_options(direction, positions)
    if steps < 1 or any(not factor > 0 for factor in reach.values()):
        raise PatchclampError(
            f"steps={steps}, reach={dict(reach)}: give at least one step and positive factors"
        )
    collector = Collector(
        subject, task, "partial_gradients", direction, positions, choose_sites(subject, sites), batch_size
    )
    collector.meta |= {"steps": steps, "ln_rule": ln_rule, "reach": dict(reach)}
    plans = RulePlan(subject, (), strict=False), RulePlan(subject, ("LN",) if ln_rule else (), strict=False)
    for pair in collector.pairs():
        _own_stretch(collector, pair, steps, plans, reach)
    return collector.scores(cost=f"two forward passes, and {steps + 1} forward and backward passes")


def _own_stretch(
    collector: Collector, pair: Pair, steps: int, plans: tuple[RulePlan, RulePlan], reach: Mapping[str, float]
) -> None:
    path = Path.between(collector, pair, also=_streams(collector))
    shares = {
        site: _share(collector, site, path.difference, reach.get(site.point, 1.0)) for site in collector.sites
    }
    total: dict[Site, Tensor] = {}
    offset = (0.5 + pair.rows.double().cpu() * _GOLDEN) % 1
    for cell in range(-1, steps):

        def gather(site: Site, scores: Tensor, cell: int = cell) -> None:
            weight = cell_weight(shares[site], cell, steps).to(scores.dtype)
            total[site] = weight * scores + total.get(site, torch.zeros_like(scores))

        alpha = torch.zeros(len(offset)) if cell < 0 else (cell + offset) / steps
        path.gradients(alpha, plans[cell >= 0], gather)
    for site, scores in total.items():
        collector.add(site, pair, scores)


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


def _streams(collector: Collector) -> list[Site]:
    known = set(collector.subject.known_sites())
    layers = {s.layer for s in collector.sites if s.point in _WRITERS}
    return [s for layer in layers if (s := Site("resid_post", layer)) in known]


def _share(
    collector: Collector, site: Site, difference: Mapping[Site, Tensor], reach: float
) -> Float[Tensor, "batch node group"]:
    own, stream = difference[site], difference.get(Site("resid_post", site.layer))
    if site.point in _WRITERS and stream is not None:
        toward = stream * collector.pair_mask[..., None]
        whole = toward.pow(2).sum((1, 2))
        part = collector.reduce(site, own * _seen_from(collector.subject, site, toward))
    else:
        squares = own.pow(2)
        part = collector.reduce(site, squares)
        if squares.shape[1] == collector.pair_mask.shape[1]:
            squares = squares * collector.pair_mask.view(*squares.shape[:2], *[1] * (squares.ndim - 2))
        whole = squares.flatten(1).sum(1)
    return (reach * part / whole.clamp(min=torch.finfo(whole.dtype).tiny)[:, None, None]).clamp(0, 1)


def _seen_from(subject: Subject, site: Site, stream: Float[Tensor, "batch pos d"]) -> Tensor:
    """The stream's difference in the coordinates in which a node is read: its output matrix applied backwards."""
    assert isinstance(subject, Transformer)
    if site.point == "head":
        matrix = subject.head_output_matrix(site.layer or 0).to(stream.dtype)
        return torch.einsum("btd,hkd->bthk", stream, matrix)
    if site.point == "mlp_act":
        return stream @ subject.output_matrix(site).to(stream.dtype).T
    return stream
