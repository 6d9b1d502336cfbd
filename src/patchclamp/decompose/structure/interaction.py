"""Interaction basis, degeneracy counts, and modules of the graph of interactions.

Where the local interaction basis asks what matters for the next layer, the interaction basis asks what matters for the
network's output; the arithmetic is the same (`patchclamp.decompose.structure.lib`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.structure.flow import batches_of, chain, counted
from patchclamp.decompose.structure.leiden import leiden, modularity
from patchclamp.decompose.structure.lib import LinearBasis, LocalInteractionBasis, effects, moments
from patchclamp.draw.cards import shown
from patchclamp.nouns.units import Site, SitesLike, Unit
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch


@dataclass(frozen=True)
class InteractionBasis(LocalInteractionBasis):
    """Estimator of the interaction basis: as `LocalInteractionBasis`, with gradients of the last site of the chain.

    Notes
    -----
    Bushnaq et al. 2024 (degeneracy in the loss landscape). Give the chain's last site as the output: ``logits`` for
    language models (then use `n_probes`), the last module of a plain one.

    Examples
    --------
    >>> InteractionBasis(n_probes=20).fit(subject, task, ["resid_post.1", "resid_post.2", "logits"])  # doctest: +SKIP
    """

    name: ClassVar[str] = "interaction_basis"

    def _effect(
        self, subject: Subject, batches: list[Batch], layer: Site, after: LinearBasis, last: Site
    ) -> Tensor:
        """E[J^T J] of what a layer acts on: the last one."""
        return effects(subject, batches, layer, last, self.n_probes, self.seed)


@shown
@dataclass(frozen=True)
class Degeneracy:
    """Directions of a layer's parameters that can be changed without consequence.

    Attributes
    ----------
    site : Site
    width : int
        Number of units.
    silent : int
        Directions without activity: units - rank E[f^T f].
    idle : int
        Directions without effect: units - rank E[g^T g], g the gradient of the outputs.
    synchronised : tuple of tuple of int
        Groups of two or more units that are on (> 0) and off together on all of the data; units that are always on, or
        never, are in `constant` and in no group.
    constant : tuple of int
    tolerance : float
        Eigenvalues below this share of the largest do not count towards a rank.
    """

    site: Site
    width: int
    silent: int
    idle: int
    synchronised: tuple[tuple[int, ...], ...]
    constant: tuple[int, ...]
    tolerance: float


def degeneracy(
    subject: Subject,
    data: Any,
    sites: SitesLike,
    output: Any,
    *,
    tolerance: float = 1e-10,
    n_probes: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> dict[Site, Degeneracy]:
    """Count what is degenerate at each site.

    Parameters
    ----------
    subject, data
        Live; a task (its clean inputs), texts or batches.
    sites
        Layers to look at: for `synchronised`, outputs of ReLUs.
    output
        The site whose gradients count.
    tolerance
        Of ranks; single-precision models need about 1e-6.
    n_probes, seed
        As for `LocalInteractionBasis`.

    Notes
    -----
    Bushnaq et al. 2024. A rank depends on its tolerance: it is stated in the result.
    """
    layers, (last,) = chain(subject, sites), chain(subject, output)
    batches = batches_of(subject, data, batch_size)
    stats = moments(subject, batches, layers)
    found = {}
    for site in layers:
        gradient = effects(subject, batches, site, last, n_probes, seed)
        groups, constant = _synchronised(subject, batches, site)
        width = len(gradient)
        silent, idle = (width - _rank(matrix, tolerance) for matrix in (stats[site][1], gradient))
        found[site] = Degeneracy(site, width, silent, idle, groups, constant, tolerance)
    return found


def _rank(matrix: Tensor, tolerance: float) -> int:
    values = torch.linalg.eigvalsh(matrix)
    return int((values > tolerance * values[-1].clamp(min=torch.finfo(torch.float64).tiny)).sum())


def _synchronised(
    subject: Subject, batches: Sequence[Batch], site: Site
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Groups of units with one pattern of on and off, found by two running random hashes of the pattern."""
    generator = torch.Generator().manual_seed(0)
    hashes: Tensor | None = None
    on, n = torch.zeros(0), 0
    for batch in batches:
        activity = subject.run(batch, read=[site]).activity[site]
        rows = (activity[counted(subject, batch.to(activity.device), activity)] > 0).cpu()
        keys = torch.randint(1 << 20, (2, len(rows)), generator=generator)
        part = keys @ rows.long()
        hashes = part if hashes is None else hashes + part
        on = rows.sum(0) if n == 0 else on + rows.sum(0)
        n += len(rows)
    assert hashes is not None
    constant = {int(u) for u in ((on == 0) | (on == n)).nonzero()[:, 0]}
    groups: dict[tuple[int, ...], list[int]] = {}
    for unit in range(hashes.shape[1]):
        if unit not in constant:
            groups.setdefault((int(on[unit]), *map(int, hashes[:, unit])), []).append(unit)
    together = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    return together, tuple(sorted(constant))


@shown
@dataclass(frozen=True)
class Modules:
    """Communities of coordinates over all layers.

    Attributes
    ----------
    members : tuple of tuple of Unit
        Coordinates (units of ``SITE/basis``) of each module, largest module first.
    modularity : float
        Newman's Q of the partition, on the weights that were clustered.
    span : tuple of int
        How many layers each module touches.
    resolution, iterations, floor : as given
    """

    members: tuple[tuple[Unit, ...], ...]
    modularity: float
    span: tuple[int, ...]
    resolution: float
    iterations: int
    floor: float


def modules(
    edges: Mapping[tuple[Site, Site], NDArray[np.float64]],
    *,
    floor: float = 1e-12,
    resolution: float = 1.0,
    iterations: int = 10,
    seed: int = 0,
    name: str = "basis",
) -> Modules:
    """Find modules of the graph of interactions.

    Weights are log10(E_ij / (floor * largest edge of the layer)), cut off at zero: raw edges span many orders of
    magnitude and would make one module of the largest.

    Parameters
    ----------
    edges
        What `interaction_edges` gave.
    floor
        Edges below this share of their layer's largest do not count.
    resolution, iterations, seed
        Of Leiden. The number of modules depends on the resolution: report it.

    Notes
    -----
    Traag et al. 2019 for Leiden. Coordinates without any edge above the floor are modules of their own.
    """
    nodes: list[Unit] = []
    places: dict[Site, int] = {}
    for (here, there), table in edges.items():
        for site, width in ((here, table.shape[1]), (there, table.shape[0])):
            if site not in places:
                places[site] = len(nodes)
                named = Site(site.point, site.layer, name, site.io)
                nodes.extend(named[i] for i in range(width))
    graph = np.zeros((len(nodes), len(nodes)))
    for (here, there), table in edges.items():
        if not np.isfinite(table).all():
            raise PatchclampError(f"{here} to {there}: the edges hold NaN or Inf")
        with np.errstate(divide="ignore"):
            weight = np.log10(table / (floor * max(table.max(), np.finfo(float).tiny))).clip(min=0)
        rows, columns = places[there], places[here]
        graph[rows : rows + table.shape[0], columns : columns + table.shape[1]] = weight
    graph = graph + graph.T
    labels = leiden(graph, resolution, iterations, seed)
    groups = [tuple(nodes[i] for i in np.flatnonzero(labels == c)) for c in range(int(labels.max()) + 1)]
    groups.sort(key=lambda group: -len(group))
    return Modules(
        tuple(groups),
        modularity(graph, labels, resolution),
        tuple(len({unit.site for unit in group}) for group in groups),
        resolution,
        iterations,
        floor,
    )


__all__ = ["Degeneracy", "InteractionBasis", "LinearBasis", "Modules", "degeneracy", "modules"]
