"""What every decomposition shares: reading rows in blocks, held-out groups, checks, and resuming long fits."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeAlias, TypeVar, Unpack

import torch
from torch import Tensor

from patchclamp.base.checkpoint import Checkpoint
from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.nouns.dictionary import Dictionary, StoredDictionary
from patchclamp.nouns.recording.matrix import BLOCK, ActivityMatrix, Reading, matrix
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.units import Site

READING: Reading = {"heads": "join", "content": True, "missing": "refuse"}  # this verb's defaults
Source: TypeAlias = Recording | Tensor
Found = TypeVar("Found", bound=StoredDictionary)


def activity(
    source: Source | ActivityMatrix, site: Site | str | None = None, **reading: Unpack[Reading]
) -> ActivityMatrix:
    """The matrix that a decomposition reads: one site, by default heads joined and content only.

    Raises
    ------
    PatchclampError
        For activity that is not floating, fewer than two samples, and as `matrix`.
    """
    how: Reading = {**READING, **reading}
    found = matrix(source, site, **how)
    if not found.dtype.is_floating_point:
        raise PatchclampError(
            f"{found.site}: activity is {found.shape} of {found.dtype}; wanted floating (samples, units)"
        )
    if found.n < 2:
        raise PatchclampError(
            f"{found.site}: {found.n} samples of content; a decomposition takes at least 2, in which they differ"
        )
    return found


def moments(activity: ActivityMatrix) -> PooledMoments:
    """Mean, total squares and pooled variance in one pass, in float64.

    Raises
    ------
    PatchclampError
        Where all activity is zero.
    """
    total = torch.zeros(activity.width, dtype=torch.float64)
    squares = 0.0
    centre: Tensor | None = None
    for block in activity.blocks():
        wide = block.double()
        # Shifted by the first row: the variance of nearly constant activity survives the subtraction.
        centre = wide[0].clone() if centre is None else centre
        total += (wide - centre).sum(0)
        squares += float(((wide - centre) ** 2).sum())
    assert centre is not None
    shift = total / activity.n
    variance = max(0.0, squares - activity.n * float((shift**2).sum()))
    mean = centre + shift
    energy = variance + activity.n * float((mean**2).sum())
    if energy == 0:
        raise PatchclampError(
            f"{activity.site}: the activity is zero everywhere; there is nothing to decompose"
        )
    return PooledMoments(activity.n, mean, energy, variance)


@dataclass(frozen=True)
class PooledMoments:
    """n rows; mean (units,); sum of squares; sum of squares about the mean, pooled over units."""

    n: int
    mean: Tensor
    energy: float
    variance: float

    @property
    def constant(self) -> bool:
        """Whether all rows are the same (to rounding)."""
        return self.variance <= 1e-12 * self.energy


@dataclass(frozen=True)
class Decomposer(ABC, Generic[Found]):
    """An estimator: settings in the constructor, `fit` gives a `Dictionary`. Subclasses are frozen dataclasses.

    The signature of `fit` is the same for all: ``fit(source, site=None, progress=None, resume=None, **reading)``.

    Parameters
    ----------
    n_features
        Number of features; where None, the method chooses.
    seed
        Of all that is drawn.
    """

    name: ClassVar[str] = ""

    n_features: int | None = None
    _: KW_ONLY
    seed: int = 0

    def resumes(self, width: int) -> bool:
        """Whether a fit on this many units can keep its state and go on from it."""
        return True

    def fit(
        self,
        source: Source,
        site: Site | str | None = None,
        progress: Progress | None = None,
        resume: str | Path | None = None,
        **reading: Unpack[Reading],
    ) -> Found:
        """Find features of one site.

        Parameters
        ----------
        source
            A `Recording` (larger than memory if need be), or a tensor (samples, units).
        site
            Which site; needed where the recording has several.
        progress
            Told how many blocks are done, and how many there are.
        resume
            Folder for the state of a long fit. A fit that was killed goes on from there and gives the same bits as
            one that was not; a folder with the state of another fit is refused.
        reading
            How a recording is read (see `matrix`), kept in ``meta["reading"]``: ``heads="join"`` (default: the parts
            of heads side by side, the population's vector) or ``"norm"``; ``content=True``; ``missing="refuse"``
            (default) or ``"drop"``: then the dictionary is over the units that are present.

        Raises
        ------
        PatchclampError
            For NaN or Inf, fewer than two samples, activity in which there is nothing to find (zero everywhere; for
            autoencoders constant), unknown sites, impossible settings (such as more features than the method can find),
            or a folder with another fit.
        """
        rows = activity(source, site, **reading)
        found = self.fit_rows(rows, progress, resume)
        bos = None if rows.recording is None else rows.recording.manifest.get("bos")
        if bos is not None:  # as the recording's manifest has it
            found.meta["prepend_bos"] = bos in ("always", "tokenizer: with")
        return found

    @abstractmethod
    def fit_rows(self, rows: ActivityMatrix, progress: Progress | None, resume: str | Path | None) -> Found:
        """Find features of the rows of a matrix; see `fit`."""

    def settings(self) -> dict[str, Any]:
        """The estimator's settings, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def seeded(self, seed: int) -> Self:
        """The same estimator with another seed."""
        return replace(self, seed=seed)

    def described(self) -> dict[str, Any]:
        """The method's name and its settings, as they stand in a dictionary's `meta`."""
        return {"method": self.name, **self.settings()}


def checkpoint(folder: str | Path | None, settings: dict[str, Any], activity: ActivityMatrix) -> Checkpoint:
    """Where the state of a fit is kept: it depends on the settings and the activity."""
    data = {} if folder is None else {"activity": fingerprint(settings, activity)}
    return Checkpoint(folder, settings | data)


def fingerprint(settings: dict[str, Any], activity: ActivityMatrix) -> str:
    """What a fit depends on: settings, manifest, shape, which rows, and a few rows themselves."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    manifest = {} if activity.recording is None else activity.recording.manifest
    digest.update(json.dumps(manifest, sort_keys=True, default=str).encode())
    digest.update(f"{activity.site} {activity.n} {activity.width} {activity.heads}".encode())
    digest.update(activity.places.tobytes())
    digest.update(activity.sample(16, 0).numpy().tobytes())
    return digest.hexdigest()


def unexplained_variance(
    dictionary: Dictionary,
    source: Source | ActivityMatrix,
    site: Site | str | None = None,
    rows: int = BLOCK,
    **reading: Unpack[Reading],
) -> float:
    """Fraction of variance that a dictionary leaves: sum |x - x^|^2 / sum |x - mean|^2, both pooled over all samples.

    Parameters
    ----------
    dictionary
        Over the site that is read; not a transcoder.
    source
        `Recording`, `matrix` of one, or tensor (samples, units).

    Returns
    -------
    float
        0 for a perfect dictionary, 1 for one that always gives the mean; more for one that does worse than that.
        NaN where the activity is constant.
    """
    units = activity(source, site, **reading)
    spread = moments(units)
    wrong = 0.0
    with torch.no_grad():
        for block in units.blocks(rows):
            wrong += float(((block - dictionary.reconstruct(block)).double() ** 2).sum())
    return float("nan") if spread.constant else wrong / spread.variance
