"""How good a dictionary is on activity: sparsity, error, shrinkage. What it costs the model is in `splice`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.base import READING
from patchclamp.decompose.sae.feed import finite
from patchclamp.draw.cards import shown
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.recording.matrix import ActivityMatrix, Reading, matrix
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.units import Site

ENTRIES = 1 << 24  # of dense code at a time


@shown
@dataclass(frozen=True)
class Quality:
    """Figures of a dictionary on some activity.

    Attributes
    ----------
    n : int
        Samples.
    l0 : float
        Mean number of active features (not 0).
    unexplained : float
        sum |y - y^|^2 / sum |y - mean y|^2, sums over samples and units: 0 is perfect, 1 is the mean's. Multiplying
        activity by a number or adding a constant to it (and to the dictionary) changes nothing. It is no mean of
        ratios, and the mean is a vector: with the square of the mean of squares in its place, as in one public
        suite, the figure depends on scale.
    shrinkage : float
        E|y^ - b|^2 / E<y^ - b, y - b>, b what is decoded without any feature: 1 is unbiased, below 1 reconstructions
        are too small (y^ = c y gives c when b = 0). NaN where nothing is ever active.
    cosine : float
        Mean cosine of y^ and y (samples of length 0 left out).
    density : Tensor
        (feature,) share of the samples in which each feature is active.
    """

    n: int
    l0: float
    unexplained: float
    shrinkage: float
    cosine: float
    density: Float[Tensor, " feature"]

    @property
    def dead(self) -> float:
        """Share of features that are never active on these samples."""
        return float((self.density == 0).double().mean())

    def log_density(self) -> Float[Tensor, " feature"]:
        """log10 of the density; -inf for the dead."""
        return self.density.log10()

    def __str__(self) -> str:
        return (
            f"L0 {self.l0:.2f}, unexplained {self.unexplained:.3f}, shrinkage {self.shrinkage:.3f}, "
            f"dead {self.dead:.1%}, n={self.n:,}"
        )


def quality(
    dictionary: Dictionary,
    activity: Recording | Tensor,
    *,
    target: Recording | Tensor | None = None,
    **reading: Unpack[Reading],
) -> Quality:
    """Measure a dictionary on activity, in pieces, with sums in float64.

    Parameters
    ----------
    dictionary
        Any; for a transcoder both sites are compared, for a crosscoder pass the joined activity.
    activity
        A recording that holds `dictionary.site`, or a tensor (samples, units).
    target
        Where what a transcoder writes is to be found, if not in `activity`.
    reading
        As in `Decomposer.fit`.

    Raises
    ------
    PatchclampError
        For NaN or Inf, other widths, or activity that does not vary (then there is nothing to explain).

    Examples
    --------
    >>> from patchclamp.decompose.dictionaries import SparseDictionary
    >>> eye = torch.eye(2)
    >>> half = SparseDictionary("mlp_act.0", eye, None, eye / 2, None)
    >>> found = quality(half, torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    >>> found.l0, found.shrinkage, found.density.tolist()
    (1.0, 0.5, [0.5, 0.5])
    """
    offset = dictionary.offset.double().cpu()
    sums = torch.zeros(5, dtype=torch.float64)  # error, |y^-b|^2, <y^-b, y-b>, cosine, samples with a cosine
    fired = torch.zeros(dictionary.n_features, dtype=torch.float64)
    n, mean, spread = 0, torch.zeros_like(offset), 0.0
    for x, y in _pieces(dictionary, activity, target, reading):
        codes = dictionary.encode(x)
        made = _made(dictionary, codes, x).double().cpu()
        fired += (codes != 0).double().sum(0).cpu()
        exact = y.double().cpu()
        sums += _sums(exact, made, offset)
        n, mean, spread = _merge(n, mean, spread, exact)
    if not spread > 1e-24 * n * max(float(mean.square().sum()), 1e-300):
        raise PatchclampError(
            f"{dictionary.target}: the {n} samples do not vary, so there is nothing to explain"
        )
    error, size, along, cosine, counted = sums.tolist()
    return Quality(
        n,
        float(fired.sum()) / n,
        error / spread,
        size / along if along else float("nan"),
        cosine / counted if counted else float("nan"),
        fired / n,
    )


def _pieces(
    dictionary: Dictionary, activity: Any, target: Any, reading: Reading
) -> Iterator[tuple[Tensor, Tensor]]:
    """(what is read, what should be written), some samples at a time."""
    source = _source(activity, dictionary.site, reading)
    same = dictionary.target == dictionary.site
    if not same and target is None and not isinstance(activity, Recording):
        raise PatchclampError(f"{dictionary!r} writes {dictionary.target}; give its activity with target=")
    sink = source if same else _source(activity if target is None else target, dictionary.target, reading)
    if len(sink) != len(source) or not len(source):
        raise PatchclampError(
            f"{len(source)} samples of {dictionary.site} and {len(sink)} of {dictionary.target}; "
            "wanted as many, and at least one"
        )
    step = max(1, ENTRIES // dictionary.n_features)
    with torch.no_grad():
        for start in range(0, len(source), step):
            x = source[start : start + step].flatten(1).float()
            y = x if sink is source else sink[start : start + step].flatten(1).float()
            finite(y, str(dictionary.target), start)
            yield x, y


def _source(activity: Any, site: Site, reading: Reading) -> ActivityMatrix:
    """The rows of a site; those of z.L may be recorded as head.L."""
    if isinstance(activity, Recording) and site not in activity and site.point == "z":
        site = Site("head", site.layer)
    how: Reading = {**READING, **reading}
    return matrix(activity, site, **how)


def _made(dictionary: Dictionary, codes: Tensor, x: Tensor) -> Tensor:
    """The reconstruction; from the codes at hand where they suffice."""
    plain = getattr(dictionary, "normalize", "none") == "none"
    if not plain or getattr(dictionary, "W_skip", None) is not None:
        return dictionary.reconstruct(x)
    return dictionary.decode(codes)


def _sums(y: Tensor, made: Tensor, offset: Tensor) -> Tensor:
    a, b = made - offset, y - offset
    length = made.norm(dim=1) * y.norm(dim=1)
    cosine = (made * y).sum(1) / length.clamp_min(1e-300)
    return torch.stack(
        [
            (y - made).square().sum(),
            a.square().sum(),
            (a * b).sum(),
            cosine[length > 0].sum(),
            (length > 0).sum(),
        ]
    )


def _merge(n: int, mean: Tensor, spread: float, more: Tensor) -> tuple[int, Tensor, float]:
    """Add samples to a count, a mean and a sum of squares about it (Chan et al. 1979)."""
    m = len(more)
    shift = more.mean(0) - mean
    spread += float((more - more.mean(0)).square().sum()) + float(shift.square().sum()) * n * m / (n + m)
    return n + m, mean + shift * m / (n + m), spread
