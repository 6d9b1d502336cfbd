"""What all methods share: which sites, how positions are grouped, where per-item scores are collected."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site, Unit, Units
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import OTHER, Batch, Pair
from patchclamp.subjects.clamp.bench import as_units
from patchclamp.subjects.survey import numbers_of_positions

Direction = Literal["denoising", "noising"]
Positions = Literal["sum", "roles", "each"]
Level = Literal["auto", "unit", "site"]
Sites = str | Site | Units | Sequence[str | Site] | None

DEFAULT_POINTS = ("head", "mlp_act", "attn_out", "mlp_out", "resid_post")
UNIT_POINTS = frozenset({"head", "mlp_act", "z", "mlp_pre", "router"})


def as_selection(subject: Subject, sites: Sites) -> Sites:
    """`Units` where an address names single units, so that no other is scored; all else as it was given."""
    parts = [sites] if isinstance(sites, str | Unit | Site) or sites is None else list(sites)
    if not any(isinstance(part, Unit) or (isinstance(part, str) and "[" in part) for part in parts):
        return sites
    return as_units(subject, ", ".join(map(str, parts)))


def choose_sites(subject: Subject, sites: Sites, points: Sequence[str] = DEFAULT_POINTS) -> list[Site]:
    """Resolve an address; None stands for the points given (all sites of a subject without named points).

    Raises
    ------
    PatchclampError
        For sites that are not (batch, pos, units).
    """
    if sites is None:
        known = subject.known_sites()
        chosen = [s for s in known if s.point in points] or [s for s in known if s.is_module]
    elif isinstance(sites, Units):
        subject.check_units(sites)
        chosen = list(sites.sites)
    else:
        chosen = subject.resolve(sites)
    for site in chosen:
        if site.point in ("attn_probs", "logits"):
            raise PatchclampError(
                f"{site}: has no score of its own; attribute head.{site.layer or 0} or final_norm instead"
            )
    if not chosen:
        raise PatchclampError(f"{subject.name}: no site to score; give sites=")
    return chosen


def level_of(site: Site) -> Literal["unit", "site"]:
    """Whether each unit of a site is scored, or its whole vector."""
    single = site.is_module or site.dictionary is not None or site.point in UNIT_POINTS
    return "unit" if single else "site"


def levels(sites: Sequence[Site], level: Level) -> dict[Site, Literal["unit", "site"]]:
    """The level of every site: as asked for, or with ``"auto"`` what is usual for its point."""
    check_choice("level", level, ("auto", "unit", "site"))
    return {site: level_of(site) if level == "auto" else level for site in sites}


def check_options(direction: str, positions: str) -> None:
    """Refuse unknown directions and position modes."""
    check_choice("direction", direction, ("denoising", "noising"))
    check_choice("positions", positions, ("sum", "roles", "each"))


def runs_of(pair: Pair, direction: str, method: str) -> tuple[Batch, Batch]:
    """The batch whose run is looked at (patched), and the batch that gives the other activity."""
    if pair.corrupted is None:
        raise PatchclampError(
            f"{method}: the task's items have no corrupted inputs, and this method compares two runs; give each one"
        )
    return (pair.corrupted, pair.clean) if direction == "denoising" else (pair.clean, pair.corrupted)


def position_masks(
    pair: Pair, positions: str, width: int, mask: Bool[Tensor, "batch pos"]
) -> Bool[Tensor, "batch pos group"]:
    """Which tokens each group of positions holds: one group, one a role and the rest, or one a token.

    A token that has several roles is counted at the first of them, so that groups add up to the sum.
    """
    if positions == "sum":
        return mask[:, :, None]
    if positions == "each":
        steps = torch.arange(mask.shape[1], device=mask.device)
        return (steps[:, None] == torch.arange(width, device=mask.device)) & mask[:, :, None]
    return pair.by_role(mask)


@dataclass
class Collector:
    """Per-item scores by site, put in the task's order, and the metric of both runs."""

    subject: Subject
    task: TaskLike
    method: str
    direction: Literal["denoising", "noising", "none"]
    positions: Positions
    sites: list[Site]
    batch_size: int
    level: dict[Site, Literal["unit", "site"]] = field(default_factory=dict)
    nodes: dict[Site, tuple[int, ...]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        subject: Subject,
        task: TaskLike,
        method: str,
        sites: Sites,
        direction: Direction,
        positions: Positions,
        batch_size: int,
        level: Level,
        nodes: Mapping[Site, tuple[int, ...]] | None = None,
    ) -> Collector:
        """Check and resolve what every method that compares two runs is given.

        Raises
        ------
        PatchclampError
            For an unknown site, direction, mode of positions or level, and for units of a site scored as a whole.
        """
        check_options(direction, positions)
        sites = as_selection(subject, sites)
        nodes = units_of(sites, nodes)
        lost = next(iter(nodes or {}), None) if level == "site" else None
        if nodes and lost is not None:
            raise PatchclampError(
                f"{lost}: units {list(nodes[lost])[:5]} are asked for, and level='site' scores the site as a whole; "
                "give the site without units, or leave out level"
            )
        chosen = choose_sites(subject, sites)
        unit: Literal["unit", "site"] = "unit"
        asked = levels(chosen, level) | dict.fromkeys(nodes, unit)
        return cls(
            subject,
            task,
            method,
            direction,
            positions,
            chosen,
            batch_size,
            level=asked,
            nodes=dict(nodes or {}),
        )

    def __post_init__(self) -> None:
        self.level = levels(self.sites, "auto") | self.level
        self._values: dict[Site, np.ndarray] = {}
        self._groups = [""] * len(self.task)
        self._metric = {name: np.full(len(self.task), np.nan) for name in ("clean", "corrupted")}
        self._labels: tuple[str, ...] = ()
        self._masks: Bool[Tensor, "batch pos group"] | None = None
        self._mask: Bool[Tensor, "batch pos"] | None = None
        self._began = time.perf_counter()

    def pairs(self) -> Iterator[Pair]:
        """The task's batches; positions are grouped anew for each."""
        found = list(self.subject.pairs(self.task, self.batch_size))
        if not found:
            raise PatchclampError(f"{self.method}: the task has no items")
        own = self._own_positions(found[0])
        width = own or max(pair.clean.mask.shape[1] for pair in found)
        roles = tuple(found[0].roles)
        self._labels = {
            "sum": ("all",),
            "roles": (*roles, OTHER),
            "each": tuple(str(p) for p in range(width)),
        }[self.positions]
        for pair in found:
            mask = pair.clean.mask
            self._mask = mask.new_ones(len(mask), own) if own else mask
            self._masks = position_masks(pair, self.positions, width, self._mask)
            for row, group in zip(pair.rows.tolist(), pair.groups, strict=False):
                self._groups[row] = group
            yield pair

    def _own_positions(self, pair: Pair) -> int:
        """How many positions the sites have, where positions are scored and are the sites' own, not tokens; else 0."""
        if self.positions == "sum" or pair.clean.tokens is not None:
            return 0
        counts = numbers_of_positions(self.subject, pair.clean, self.sites)
        there = pair.clean.mask.shape[1]
        if len(counts) > 1:
            (n, one), (m, other) = list(counts.items())[:2]
            raise PatchclampError(
                f"{one} has {n} positions and {other} {m}, so positions={self.positions!r} cannot score both in one call; "
                "score sites of equally many positions, or use positions='sum'"
            )
        (own,) = counts
        if own != there and self.positions == "roles":
            raise PatchclampError(
                f"{counts[own]}: has {own} positions and the input {there}, so roles say nothing of it; use positions='each' or "
                "'sum'"
            )
        return own if own != there else 0

    @property
    def masks(self) -> Bool[Tensor, "batch pos group"]:
        """Groups of positions of the batch at hand."""
        assert self._masks is not None
        return self._masks

    @property
    def pair_mask(self) -> Bool[Tensor, "batch pos"]:
        """Real tokens of the batch at hand."""
        assert self._mask is not None
        return self._mask

    def n_nodes(self, site: Site) -> int:
        """How many nodes of a site are scored."""
        if self.level[site] == "site":
            return 1
        return len(self.nodes.get(site, range(self.subject.width(site))))

    def reduce(
        self, site: Site, product: Float[Tensor, "batch pos *unit"]
    ) -> Float[Tensor, "batch node group"]:
        """Sum a product over a node's coordinates and over each group of positions."""
        if product.ndim == 4:
            product = product.sum(3)
        if self.level[site] == "site":
            product = product.sum(2, keepdim=True)
        if site in self.nodes:
            product = product[:, :, list(self.nodes[site])]
        masks = self.masks
        if product.shape[1] != masks.shape[1]:
            if self.positions != "sum":
                raise PatchclampError(
                    f"{site}: has {product.shape[1]} positions and the input {masks.shape[1]}; use positions='sum'"
                )
            return product.sum(1)[:, :, None]
        return torch.einsum("btn,btr->bnr", product, masks.to(product.dtype))

    def add(self, site: Site, pair: Pair, scores: Float[Tensor, "batch node group"]) -> None:
        """Add scores of a batch; NaN where an item has no such position."""
        if site not in self._values:
            shape = (len(self.task), scores.shape[1], len(self._labels))
            self._values[site] = np.zeros(shape, np.float32)
        if self.positions != "sum":
            absent = ~self.masks.any(1)
            scores = scores.masked_fill(absent[:, None, :], float("nan"))
        self._values[site][pair.rows.cpu().numpy()] += scores.detach().float().cpu().numpy()

    def metric(self, pair: Pair, clean: Tensor, corrupted: Tensor) -> None:
        """Note the metric of both runs, per item."""
        rows = pair.rows.cpu().numpy()
        self._metric["clean"][rows] = clean.detach().float().cpu().numpy()
        self._metric["corrupted"][rows] = corrupted.detach().float().cpu().numpy()

    def scores(self, **meta: Any) -> Scores:
        """The result. Sites that the metric does not depend on were never visited and score 0."""
        for site in self.sites:
            if site not in self._values:
                self._values[site] = np.zeros(
                    (len(self.task), self.n_nodes(site), len(self._labels)), np.float32
                )
        bad = [s for s, v in self._values.items() if np.isinf(v).any()] or [
            s for s, v in self._values.items() if self.positions == "sum" and np.isnan(v).any()
        ]
        if bad:
            raise PatchclampError(
                f"{self.method}: the scores at {bad[0]} are not finite; the model may overflow"
            )
        kept = {s: v[:, :, 0] if self.positions == "sum" else v for s, v in self._values.items()}
        facts = {name: values.tolist() for name, values in self._metric.items() if np.isfinite(values).any()}
        return Scores(
            self.method,
            self.direction,
            self.task.metric_name,
            self.task.name,
            {s: kept[s] for s in sorted(kept)},
            self.level,
            None if self.positions == "sum" else self._labels,
            tuple(self._groups) if any(self._groups) else (),
            self.nodes,
            {
                **self.meta,
                **meta,
                **({"training": note} if (note := self.subject.training_note) else {}),
                "metric": facts,
                "seconds": time.perf_counter() - self._began,
            },
        )


def units_of(sites: Sites, nodes: Mapping[Site, Sequence[int]] | None) -> dict[Site, tuple[int, ...]]:
    """Indices that a selection of units asks for, by site."""
    chosen = {site: tuple(sorted(set(index))) for site, index in (nodes or {}).items()}
    if isinstance(sites, Units):
        chosen |= {site: index for site, index in sites.items() if index is not None}
    return chosen
