"""Exact patching: put one unit's activity of the other run in, and see what the metric does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchclamp.attribute._shared import (
    Collector,
    Direction,
    Level,
    Positions,
    Sites,
    as_selection,
    choose_sites,
    runs_of,
    units_of,
)
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair

EXACT_POINTS = ("head", "attn_out", "mlp_out", "resid_post")


def activation_patching(
    subject: Subject,
    task: TaskLike,
    sites: Sites = None,
    *,
    direction: Direction = "denoising",
    positions: Positions = "sum",
    batch_size: int = 32,
    nodes: Mapping[Site, Sequence[int]] | None = None,
    level: Level = "auto",
) -> Scores:
    """Measure the effect of each node by patching it: no estimate, one pass a node and item.

    Denoising runs the corrupted input with the node's clean activity: score = m(patched) - m(corrupted).
    Noising runs the clean input with the corrupted activity: score = m(clean) - m(patched). Positive always
    means that the node raises the metric. Nodes whose activity is equal in both runs have the score 0 and are
    not run; blocks before the node are not computed again.

    Parameters
    ----------
    subject, task
        What to attribute: a live model, and a task with corrupted inputs.
    sites
        Addresses; None for head.*, attn_out.*, mlp_out.*, resid_post.*. Neurons only when asked for.
    direction
        ``"denoising"`` (is it enough?) or ``"noising"`` (is it needed?).
    positions
        ``"sum"`` patches a node at all positions *together*, ``"roles"`` at each role and, together, at all other
        tokens, ``"each"`` at one token at a time.
    batch_size
        Rows in a pass; results do not depend on it (beyond rounding).
    nodes
        Site -> indices of the units to patch, for sites with many; the others are left out.
    level
        ``"site"`` scores each site as a whole, its units together, ``"unit"`` each of its units. ``"auto"``: heads,
        neurons, features and units of module paths one by one, other sites as a whole.

    Returns
    -------
    Scores
        In units of the metric. `meta["metric"]` holds both runs' metric per item, `meta["runs"]` the number of
        sequences run.

    Raises
    ------
    PatchclampError
        For a task without corrupted inputs, an unknown site, or an index past the end.

    Notes
    -----
    Vig et al. 2020 (causal mediation analysis); Zhang and Nanda 2024 on its conventions. One sequence a node, item
    and group of positions: for SmolLM2 some hundreds for one prompt.

    Examples
    --------
    >>> import torch
    >>> from patchclamp.subjects import TensorTask, TorchModule
    >>> net = TorchModule(torch.nn.Sequential(torch.nn.Identity(), torch.nn.Hardtanh(-1, 1)), torch.zeros(1, 2))
    >>> task = TensorTask("sum", torch.ones(1, 2), torch.zeros(1, 2), lambda out: out.sum(1))
    >>> activation_patching(net, task, "0.out").mean(net.resolve("0.out")[0]).tolist()
    [1.0, 1.0]
    """
    sites = as_selection(subject, sites)
    chosen = choose_sites(subject, sites, (*EXACT_POINTS, *{s.point for s in nodes or {}}))
    kept = units_of(sites, nodes)
    if nodes is not None and sites is None:
        chosen = [s for s in chosen if s.point in EXACT_POINTS or s in kept]
        chosen += [s for s in kept if s.dictionary is not None]
    _check_nodes(subject, kept)
    collector = Collector.of(
        subject, task, "activation_patching", chosen, direction, positions, batch_size, level, kept
    )
    runs = sum(_patch_pair(collector, pair) for pair in collector.pairs())
    return collector.scores(runs=runs, cost="one forward pass a node, item and group of positions")


def _check_nodes(subject: Subject, nodes: Mapping[Site, tuple[int, ...]]) -> None:
    for site, index in nodes.items():
        width = subject.width(site)
        if not index or index[0] < 0 or index[-1] >= width:
            raise PatchclampError(f"{site}: nodes must be units 0..{width - 1}; got {list(index)[:5]}")


@dataclass(frozen=True)
class _Jobs:
    """Patches at one site: row of the batch, place in the list of nodes, unit, group of positions."""

    row: Int[Tensor, " job"]
    node: Int[Tensor, " job"]
    unit: Int[Tensor, " job"]
    group: Int[Tensor, " job"]

    def cut(self, size: int) -> Iterator[_Jobs]:
        if not len(self.row):
            return
        parts = (t.split(size) for t in (self.row, self.node, self.unit, self.group))
        for row, node, unit, group in zip(*parts, strict=True):
            yield _Jobs(row, node, unit, group)


def _patch_pair(collector: Collector, pair: Pair) -> int:
    subject, sites = collector.subject, collector.sites
    patched, other = runs_of(pair, collector.direction, collector.method)
    entries = {s.layer: Site("resid_pre", s.layer) for s in sites if s.layer is not None}
    known = set(subject.known_sites())
    streams = [s for s in entries.values() if s in known]
    base = subject.run(patched, read=[*dict.fromkeys([*sites, *streams])], logits=pair.answer_position)
    source = subject.run(other, read=sites, logits=pair.answer_position)
    clean_logits = source.logits if collector.direction == "denoising" else base.logits
    start, end = (pair.metric(r.logits, reference=clean_logits) for r in (base, source))
    denoising = collector.direction == "denoising"
    collector.metric(pair, *((end, start) if denoising else (start, end)))
    runs = 0
    for site in sites:
        masks = _site_masks(collector, site, base.activity[site])
        jobs = _jobs(collector, site, source.activity[site] != base.activity[site], masks)
        scores = torch.zeros(len(pair.rows), collector.n_nodes(site), masks.shape[2], device=start.device)
        stream = base.activity.get(entries.get(site.layer))  # type: ignore[arg-type]
        for part in jobs.cut(collector.batch_size):
            edit = Edit(site, _writer(part, collector.level[site], source.activity[site], masks))
            metric = _run_patched(collector, pair, patched, part.row, edit, stream, clean_logits)
            change = metric - start[part.row]
            scores[part.row, part.node, part.group] = (change if denoising else -change).to(scores.dtype)
            runs += len(part.row)
        collector.add(site, pair, scores)
    return runs


def _site_masks(collector: Collector, site: Site, activity: Tensor) -> Bool[Tensor, "batch pos group"]:
    masks = collector.masks
    if activity.shape[1] == masks.shape[1]:
        return masks
    if collector.positions != "sum":
        raise PatchclampError(f"{site}: its positions are not the input's; use positions='sum'")
    return torch.ones(*activity.shape[:2], 1, dtype=torch.bool, device=masks.device)


def _jobs(
    collector: Collector,
    site: Site,
    differs: Bool[Tensor, "batch pos *unit"],
    masks: Bool[Tensor, "batch pos group"],
) -> _Jobs:
    """Patches that change anything: the node differs between the runs somewhere in the group of positions."""
    if differs.ndim == 4:
        differs = differs.any(3)
    if collector.level[site] == "site":
        differs = differs.any(2, keepdim=True)
    units = torch.tensor(
        collector.nodes.get(site, tuple(range(differs.shape[2]))), dtype=torch.int64, device=masks.device
    )
    live = torch.einsum("btn,btr->bnr", differs[:, :, units].float(), masks.float()) > 0
    row, node, group = live.nonzero(as_tuple=True)
    return _Jobs(row, node, units[node], group)


def _writer(
    jobs: _Jobs, level: str, source: Tensor, masks: Bool[Tensor, "batch pos group"]
) -> Callable[[Tensor, Batch], Tensor]:
    here = masks[jobs.row, :, jobs.group]
    new = source[jobs.row]

    def write(activity: Tensor, batch: Batch) -> Tensor:
        where = here[:, :, None]
        if level == "unit":
            steps = torch.arange(activity.shape[2], device=activity.device)
            where = where & (steps == jobs.unit[:, None])[:, None, :]
        return torch.where(where if activity.ndim == 3 else where[..., None], new, activity)

    return write


def _run_patched(
    collector: Collector,
    pair: Pair,
    batch: Batch,
    rows: Int[Tensor, " job"],
    edit: Edit,
    stream: Float[Tensor, "batch pos d"] | None,
    reference: Tensor | None,
) -> Float[Tensor, " job"]:
    """The metric of each patched sequence; it is a function of one item, so other rows are filled with any logits."""
    start = None if stream is None else (int(edit.site.layer or 0), stream[rows])
    run = collector.subject.run(
        batch.take(rows), write=[edit], logits=pair.answer_position[rows], start=start
    )
    assert run.logits is not None
    return _metric_of_rows(pair, run.logits, rows, reference)


def _metric_of_rows(
    pair: Pair, logits: Tensor, rows: Int[Tensor, " job"], reference: Tensor | None
) -> Float[Tensor, " job"]:
    """Apply the batch's metric, which knows its items by their row, to sequences of any rows, repeats included."""
    n = len(pair.rows)
    turn = torch.zeros_like(rows)
    for row in range(n):
        mine = (rows == row).nonzero()[:, 0]
        turn[mine] = torch.arange(len(mine), device=rows.device)
    out = torch.empty(len(rows), device=logits.device, dtype=logits.dtype)
    for t in range(int(turn.max()) + 1):
        mine = (turn == t).nonzero()[:, 0]
        full = (logits[:1].expand(n, *logits.shape[1:]) if reference is None else reference).clone()
        full[rows[mine]] = logits[mine]
        out[mine] = pair.metric(full, reference=reference)[rows[mine]].to(out.dtype)
    return out
