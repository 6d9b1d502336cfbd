"""Local interaction basis: coordinates in which layers act on each other through few directions.

With f (samples, units) the activity of a layer, centred, and J the Jacobian of the next layer's coordinates::

    G = E[f^T f] = U D U^T            R = U D^-1/2        (directions without variance are dropped)
    M = R^+ E[J^T J] R^+T = V L V^T                       (directions without effect are dropped)
    C = R V L^1/2                     f^ = f C            C^+ = L^-1/2 V^T R^+

so that E[f^T f^] = L and E[J^^T J^] = 1: a coordinate's variance is its importance for the next layer. From the last
layer, whose C is the identity (or its principal components), backwards. Eigen-work is done in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import torch_rng
from patchclamp.decompose.structure.flow import batches_of, chain, counted, probes, pulled_back
from patchclamp.draw.cards import shown
from patchclamp.nouns.dictionary import StoredDictionary
from patchclamp.nouns.units import Site, SitesLike
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Edit

Last = Literal["identity", "pca"]
NAME = "basis"


class LinearBasis(StoredDictionary):
    """f^ = (f - mean) C; f = f^ C^+ + mean, up to directions that were dropped.

    Parameters
    ----------
    site
        The layer.
    to_basis, from_basis
        C (units, directions) and its pseudo-inverse (directions, units), float64.
    importance
        (directions,) L: variance of each coordinate, in the order of the directions, largest first.
    mean
        (units,) subtracted first; zeros where the activity was not centred.
    """

    method: ClassVar[str] = "lib"
    kind: ClassVar[str] = "linear-basis"
    rows: ClassVar[str] = "from_basis"
    bias: ClassVar[str] = "mean"

    to_basis: Float[Tensor, "unit feature"]
    from_basis: Float[Tensor, "feature unit"]
    importance: Float[Tensor, " feature"]
    mean: Float[Tensor, " unit"]

    def __init__(
        self,
        site: Site | str,
        to_basis: Tensor,
        from_basis: Tensor,
        importance: Tensor,
        mean: Tensor,
        meta: dict[str, Any] | None = None,
    ) -> None:
        given = {"to_basis": to_basis, "from_basis": from_basis, "importance": importance, "mean": mean}
        super().__init__(site, {name: tensor.double() for name, tensor in given.items()}, meta=meta)
        if to_basis.shape != from_basis.T.shape or len(importance) != to_basis.shape[1]:
            raise PatchclampError(
                f"{site}: a basis of {tuple(to_basis.shape)} with an inverse of {tuple(from_basis.shape)} and "
                f"{len(importance)} importances does not fit together"
            )

    @property
    def rank(self) -> int:
        """Number of directions kept."""
        return len(self.importance)

    def _encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        """(f - mean) C, in float64."""
        return (activity.double() - self._on("mean", activity)) @ self._on("to_basis", activity)


@shown
@dataclass(frozen=True)
class Bases:
    """One basis a layer of a chain, first layer first.

    Attributes
    ----------
    by_site : dict
        Site -> `LinearBasis`.
    """

    by_site: Mapping[Site, LinearBasis]

    def __getitem__(self, site: Site | str) -> LinearBasis:
        names = {str(s): basis for s, basis in self.by_site.items()}
        if str(site) not in names:
            raise PatchclampError(f"{site}: has no basis; there are {', '.join(names)}")
        return names[str(site)]

    @property
    def sites(self) -> list[Site]:
        """The layers."""
        return list(self.by_site)

    @contextmanager
    def attached(self, subject: Subject, name: str = NAME) -> Iterator[list[Site]]:
        """Inside, the coordinates are units of the subject: ``SITE/basis[3]``."""
        with ExitStack() as stack:
            yield [stack.enter_context(subject.attach(name, basis)) for basis in self.by_site.values()]


@dataclass(frozen=True)
class LocalInteractionBasis:
    """Estimator of the local interaction basis of a chain of layers.

    Parameters
    ----------
    variance_tolerance
        Directions with less than this share of the largest eigenvalue of the covariance are dropped.
    effect_tolerance
        Directions with less than this share of the largest importance are dropped.
    centre
        Subtract the mean activity; the constant is kept apart and never mixed into a direction.
    last
        Basis of the last layer: the ``"identity"``, or its principal components (``"pca"``).
    n_probes
        None computes every row of the Jacobian; a number takes that many random probes (Hutchinson) in its place.
    seed
        Of the probes.

    Notes
    -----
    Bushnaq et al. 2024 (the local interaction basis). Its authors found sparser, more relevant features than principal
    components in modular addition and CIFAR-10, and no substantial gain in language models. Equal importances leave
    the rotation among their directions open. Sums of the Jacobian run over output positions, means over input positions.
    Layer norm is treated as part of the layer, its scale as any other activity (the paper leaves it unrotated).

    Examples
    --------
    >>> from patchclamp.subjects import TensorTask, TorchModule
    >>> net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(4, 4, bias=False)).double()
    >>> _ = net[1].weight.data.copy_(torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0])))
    >>> inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)).double()
    >>> net = TorchModule(net, inputs)
    >>> bases = LocalInteractionBasis().fit(net, TensorTask("x", inputs, None, lambda y: y[:, 0]), ["0.out", "1.out"])
    >>> bases["0.out"].rank
    3
    """

    name: ClassVar[str] = "lib"

    variance_tolerance: float = 1e-12
    effect_tolerance: float = 1e-12
    centre: bool = True
    last: Last = "identity"
    n_probes: int | None = None
    seed: int = 0

    def fit(self, subject: Subject, data: Any, sites: SitesLike, *, batch_size: int = 32) -> Bases:
        """Find the bases, the last layer's first.

        Parameters
        ----------
        subject
            Live; its own precision decides how exact the identities hold.
        data
            A task (its clean inputs), texts, or batches.
        sites
            The chain, at least two layers, each acting on the next.

        Raises
        ------
        PatchclampError
            For fewer than two sites, activity that is constant or not finite, a layer without effect on the next.
        """
        layers = chain(subject, sites)
        if len(layers) < 2:
            raise PatchclampError(
                f"{layers[0]}: a chain has at least two layers; give what it acts on as well"
            )
        batches = batches_of(subject, data, batch_size)
        stats = moments(subject, batches, layers)
        found = {layers[-1]: self._last(layers[-1], *stats[layers[-1]])}
        for layer, after in zip(layers[-2::-1], layers[:0:-1], strict=True):
            effect = self._effect(subject, batches, layer, found[after], layers[-1])
            found[layer] = self._basis(layer, *stats[layer], effect)
        return Bases({layer: found[layer] for layer in layers})

    def _last(self, site: Site, mean: Tensor, second: Tensor) -> LinearBasis:
        covariance, centre = self._covariance(mean, second)
        values, vectors = _eigen(
            covariance, 0.0 if self.last == "identity" else self.variance_tolerance, site
        )
        if self.last == "identity":
            vectors, values = torch.eye(len(mean), dtype=torch.float64), covariance.diagonal()
        return LinearBasis(site, vectors, vectors.T, values, centre, self._meta())

    def _basis(self, site: Site, mean: Tensor, second: Tensor, effect: Tensor) -> LinearBasis:
        covariance, centre = self._covariance(mean, second)
        to_basis, from_basis, importance = interaction_coordinates(
            covariance, effect, self.variance_tolerance, self.effect_tolerance, site
        )
        return LinearBasis(site, to_basis, from_basis, importance, centre, self._meta())

    def _covariance(self, mean: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        if not self.centre:
            return second, torch.zeros_like(mean)
        return second - torch.outer(mean, mean), mean

    def _effect(
        self, subject: Subject, batches: list[Batch], layer: Site, after: LinearBasis, last: Site
    ) -> Tensor:
        """E[J^T J] of what a layer acts on: the coordinates of the next one."""
        with subject.attach(NAME, after) as coordinates:
            return effects(subject, batches, layer, coordinates, self.n_probes, self.seed)

    def _meta(self) -> dict[str, Any]:
        return {"method": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}


def interaction_coordinates(
    covariance: Float[Tensor, "unit unit"],
    effect: Float[Tensor, "unit unit"],
    variance_tolerance: float = 1e-12,
    effect_tolerance: float = 1e-12,
    site: Site | str = "activity",
) -> tuple[Tensor, Tensor, Tensor]:
    """C, C^+ and the importances L from E[f^T f] and E[J^T J] (all float64); see the head of this file."""
    spread, axes = _eigen(covariance.double(), variance_tolerance, site)
    back = spread.sqrt()[:, None] * axes.T
    importance, turn = _eigen(back @ effect.double() @ back.T, effect_tolerance, f"{site}: effect")
    to_basis = axes / spread.sqrt() @ turn * importance.sqrt()
    return to_basis, (turn / importance.sqrt()).T @ back, importance


def _eigen(matrix: Tensor, tolerance: float, what: Any) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, and vectors with a fixed sign; those below tolerance * largest are dropped."""
    if not bool(torch.isfinite(matrix).all()):
        raise PatchclampError(f"{what}: the moments hold NaN or Inf")
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    values, vectors = values.flip(0), vectors.flip(1)
    if not float(values[0]) > 0:
        raise PatchclampError(f"{what}: is zero on all of the data, so it has no direction")
    kept = values > tolerance * values[0]
    values, vectors = values[kept], vectors[:, kept]
    largest = vectors.abs().argmax(0)
    return values, vectors * vectors[largest, torch.arange(len(values))].sign()


def moments(
    subject: Subject, batches: Sequence[Batch], sites: Sequence[Site]
) -> dict[Site, tuple[Tensor, Tensor]]:
    """Mean (units,) and second moment (units, units) of each site over counted positions, float64, in one pass."""
    sums: dict[Site, list[Any]] = {}
    for batch in batches:

        def add(site: Site, activity: Tensor, batch: Batch = batch) -> None:
            rows = activity[counted(subject, batch.to(activity.device), activity)].double().cpu()
            known = sums.setdefault(site, [0, torch.zeros(rows.shape[1]).double(), 0.0])
            known[0] += len(rows)
            known[1] = known[1] + rows.sum(0)
            known[2] = known[2] + rows.T @ rows

        subject.run(batch, read={site: lambda a, s=site: add(s, a) for site in sites})
    for site, (n, _, _) in sums.items():
        if n < 2:
            raise PatchclampError(f"{site}: {n} positions are too few; give more data")
    return {site: (total / n, second / n) for site, (n, total, second) in sums.items()}


def effects(
    subject: Subject, batches: Sequence[Batch], site: Site, output: Site, n_probes: int | None, seed: int
) -> Float[Tensor, "unit unit"]:
    """E over positions of `site` of the sum over units and positions of `output` of J^T J, float64."""
    generator = torch_rng(seed)
    total, n = torch.zeros(()).double(), 0
    for batch in batches:
        run = subject.run(batch, read=[site, output], grad=True)
        inputs, outputs = run.activity[site], run.activity[output]
        here = counted(subject, batch.to(inputs.device), inputs)
        there = counted(subject, batch.to(inputs.device), outputs)
        for gradient in pulled_back(outputs, inputs, probes(outputs, there, n_probes, generator)):
            rows = gradient[here].double().cpu()
            total = total + rows.T @ rows
        n += int(here.sum())
    return total / n


def interaction_edges(
    subject: Subject,
    data: Any,
    bases: Bases,
    *,
    integration: Literal["gradient", "gauss-legendre"] = "gradient",
    steps: int = 5,
    batch_size: int = 32,
) -> dict[tuple[Site, Site], NDArray[np.float64]]:
    """How strongly each coordinate acts on each of the next layer.

    E_ij = E over items of the sum over output positions of (sum over input positions t of
    f^_j(t) * integral over a in [0, 1] of df^_i / df^_j(t) at a f^)^2.

    Parameters
    ----------
    bases
        Of a chain; what the bases leave out stays as it is.
    integration
        ``"gradient"`` takes the derivative at a = 1 alone, ``"gauss-legendre"`` at `steps` points.

    Returns
    -------
    dict
        (layer, next layer) -> (direction of the next layer, direction) squared edges.
    """
    batches = batches_of(subject, data, batch_size)
    points, weights = (1.0,), (1.0,)
    if integration == "gauss-legendre":
        x, w = np.polynomial.legendre.leggauss(steps)
        points, weights = tuple((x + 1) / 2), tuple(w / 2)
    found = {}
    with bases.attached(subject) as sites:
        for here, there in pairwise(sites):
            parts = [_edges(subject, batch, here, there, points, weights) for batch in batches]
            n = sum(len(batch) for batch in batches)
            found[here.base, there.base] = torch.stack(parts).sum(0).numpy() / n
    return found


def _edges(
    subject: Subject,
    batch: Batch,
    here: Site,
    there: Site,
    points: Sequence[float],
    weights: Sequence[float],
) -> Float[Tensor, "output input"]:
    """Sum over the items of a batch of squared edges between two layers."""
    plain = subject.run(batch, read=[here, there]).activity
    codes, shape = plain[here].double(), plain[there].shape
    counts = counted(subject, batch.to(codes.device), codes)[..., None]
    seen = counted(subject, batch.to(codes.device), plain[there])
    acts = torch.zeros(*shape, codes.shape[2], dtype=torch.float64)
    for point, weight in zip(points, weights, strict=True):
        edit = [] if point == 1 else [Edit(here, lambda z, b, a=point: a * z)]  # type: ignore[misc]
        run = subject.run(batch, read=[here, there], write=edit, grad=True).activity
        rows = pulled_back(run[there], run[here], probes(run[there], seen, None, torch.Generator()))
        for number, gradient in enumerate(rows):
            place, unit = divmod(number, shape[2])
            acts[:, place, unit] += weight * (gradient.double() * codes * counts).sum(1).cpu()
    return (acts**2).sum((0, 1))
