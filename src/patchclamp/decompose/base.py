"""What every decomposition shares: reading rows in blocks, held-out groups, checks, and resuming long fits."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.checkpoint import Checkpoint
from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.nouns.dictionary import Dictionary, StoredDictionary
from patchclamp.nouns.recording.recording import Recording, named
from patchclamp.nouns.units import Site

BLOCK = 2048  # rows of activity held at a time
STRETCH = 4096  # rows of the source read at a time
Source: TypeAlias = Recording | Tensor


class Activity:
    """Rows of one site in blocks of equal size, whatever the chunks on disk: a recording, or a tensor.

    Samples marked as no content (BOS, special tokens, padding) are left out, and those of held-out groups.
    Heads are joined: (samples, heads, d_head) is read as (samples, heads * d_head).

    Parameters
    ----------
    source
        A `Recording`, or a tensor or array (samples, units).
    site
        Which site of the recording; needed where it has several. The name of a tensor's site.
    keep
        Bool (samples,), or None for all content.
    """

    def __init__(self, source: Any, site: Site | str | None = None, keep: np.ndarray | None = None) -> None:
        self.source = source
        if isinstance(source, Recording):
            self.site = _site_of(source, site)
            missing = int((~source.present(self.site)).sum())
            if missing:
                raise PatchclampError(
                    f"{self.site}: {missing} units are missing in this recording; select those that are present"
                )
            shape = source[self.site].shape
            content = source.samples.content.numpy()
            self.groups = source.samples.group.numpy()
            self._values: Any = source[self.site]
        else:
            values = torch.as_tensor(source)
            if values.ndim < 2 or not values.is_floating_point():
                raise PatchclampError(
                    f"activity is {tuple(values.shape)} of {values.dtype}; wanted floating (samples, units)"
                )
            self.site = named(site or "activity")
            shape = tuple(values.shape)
            content = np.ones(shape[0], dtype=bool)
            self.groups = np.arange(shape[0])
            self._values = values
        self.keep = content if keep is None else content & keep
        self.width = int(np.prod(shape[1:]))
        self.n = int(self.keep.sum())
        if self.n < 2:
            raise PatchclampError(
                f"{self.site}: {self.n} samples of content; a decomposition takes at least 2"
            )

    def split(self, held_out: float, seed: int) -> tuple[Activity, Activity | None]:
        """(rows to fit, rows of held-out groups); None where `held_out` is 0. Groups are never cut.

        Raises
        ------
        PatchclampError
            Where there are fewer than two groups, or `held_out` is not in [0, 1).
        """
        if not 0 <= held_out < 1:
            raise PatchclampError(
                f"held_out={held_out}: a fraction of the groups, at least 0 and less than 1"
            )
        if held_out == 0:
            return self, None
        groups = np.unique(self.groups[self.keep])
        if len(groups) < 2:
            raise PatchclampError(f"{self.site}: one group of samples cannot be split; use held_out=0")
        n = min(len(groups) - 1, max(1, round(held_out * len(groups))))
        out = np.random.default_rng([seed, 11]).choice(groups, n, replace=False)
        mask = np.isin(self.groups, out)
        if (self.keep & ~mask).sum() < 2 or (self.keep & mask).sum() < 2:
            return self, None
        return (
            Activity(self.source, self.site, self.keep & ~mask),
            Activity(self.source, self.site, self.keep & mask),
        )

    def blocks(self, rows: int = BLOCK, start: int = 0) -> Iterator[Float[Tensor, "row unit"]]:
        """Blocks of `rows` rows (the last may be shorter) as float32, from block number `start` on.

        Raises
        ------
        PatchclampError
            For NaN or Inf, naming the unit and the sample.
        """
        places = np.flatnonzero(self.keep)
        for low in range(start * rows, len(places), rows):
            yield self.rows(places[low : low + rows])

    def rows(self, places: np.ndarray) -> Float[Tensor, "row unit"]:
        """Rows at ascending places of the source, as float32 with heads joined."""
        # A stretch of the source at a time: rows picked far apart would decode many chunks at once.
        cuts = np.flatnonzero(np.diff(places // STRETCH)) + 1
        values = torch.cat([self._stretch(part) for part in np.split(places, cuts)])
        block = values.flatten(1).float()
        if not bool(torch.isfinite(block).all()):
            row, unit = (int(i) for i in (~torch.isfinite(block)).nonzero()[0])
            raise PatchclampError(
                f"{self.site}[{unit}]: {float(block[row, unit])} at sample {int(places[row])}; leave the sample or "
                "the unit out"
            )
        return block

    def _stretch(self, places: np.ndarray) -> Tensor:
        first, last = int(places[0]), int(places[-1]) + 1
        values = self._values[first:last]
        return values if len(places) == last - first else values[torch.from_numpy(places - first)]

    def n_blocks(self, rows: int = BLOCK) -> int:
        """Number of blocks of `rows` rows."""
        return -(-self.n // rows)

    def sample(self, n: int, seed: int) -> Float[Tensor, "row unit"]:
        """At most `n` rows, drawn without replacement by `seed` and in order; the same for any chunks on disk."""
        places = np.flatnonzero(self.keep)
        if n < len(places):
            places = np.sort(np.random.default_rng([seed, 7]).choice(places, n, replace=False))
        return torch.cat([self.rows(part) for part in np.array_split(places, -(-len(places) // BLOCK))])

    def moments(self) -> PooledMoments:
        """Mean, total squares and pooled variance in one pass, in float64.

        Raises
        ------
        PatchclampError
            Where all activity is zero.
        """
        total = torch.zeros(self.width, dtype=torch.float64)
        squares = 0.0
        centre: Tensor | None = None
        for block in self.blocks():
            wide = block.double()
            # Shifted by the first row: the variance of nearly constant activity survives the subtraction.
            centre = wide[0].clone() if centre is None else centre
            total += (wide - centre).sum(0)
            squares += float(((wide - centre) ** 2).sum())
        assert centre is not None
        shift = total / self.n
        variance = max(0.0, squares - self.n * float((shift**2).sum()))
        mean = centre + shift
        energy = variance + self.n * float((mean**2).sum())
        if energy == 0:
            raise PatchclampError(
                f"{self.site}: the activity is zero everywhere; there is nothing to decompose"
            )
        return PooledMoments(self.n, mean, energy, variance)


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


def _site_of(recording: Recording, site: Site | str | None) -> Site:
    if site is not None:
        return recording.site(site)
    if len(recording.sites) != 1:
        names = ", ".join(map(str, recording.sites))
        raise PatchclampError(f"this recording has several sites; name one with site=: {names}")
    return recording.sites[0]


@dataclass(frozen=True)
class Decomposer(ABC):
    """An estimator: settings in the constructor, `fit` gives a `Dictionary`. Subclasses are frozen dataclasses.

    The signature of `fit` is the same for all: ``fit(source, site=None, progress=None, resume=None)``.

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

    @abstractmethod
    def fit(
        self,
        source: Source,
        site: Site | str | None = None,
        progress: Progress | None = None,
        resume: str | Path | None = None,
    ) -> StoredDictionary:
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
        """

    def settings(self) -> dict[str, Any]:
        """The estimator's settings, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def seeded(self, seed: int) -> Self:
        """The same estimator with another seed."""
        return replace(self, seed=seed)

    def described(self) -> dict[str, Any]:
        """The method's name and its settings, as they stand in a dictionary's `meta`."""
        return {"method": self.name, **self.settings()}


def checkpoint(folder: str | Path | None, settings: dict[str, Any], activity: Activity) -> Checkpoint:
    """Where the state of a fit is kept: it depends on the settings and the activity."""
    data = {} if folder is None else {"activity": fingerprint(settings, activity)}
    return Checkpoint(folder, settings | data)


def fingerprint(settings: dict[str, Any], activity: Activity) -> str:
    """What a fit depends on: settings, manifest, shape, which rows, and a few rows themselves."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    manifest = activity.source.manifest if isinstance(activity.source, Recording) else {}
    digest.update(json.dumps(manifest, sort_keys=True, default=str).encode())
    digest.update(f"{activity.site} {activity.n} {activity.width}".encode())
    digest.update(np.packbits(activity.keep).tobytes())
    digest.update(activity.sample(16, 0).numpy().tobytes())
    return digest.hexdigest()


def unexplained_variance(
    dictionary: Dictionary, source: Source | Activity, site: Site | str | None = None, rows: int = BLOCK
) -> float:
    """Fraction of variance that a dictionary leaves: sum |x - x^|^2 / sum |x - mean|^2, both pooled over all samples.

    Parameters
    ----------
    dictionary
        Over the site that is read; not a transcoder.
    source
        `Recording`, `Activity`, or tensor (samples, units).

    Returns
    -------
    float
        0 for a perfect dictionary, 1 for one that always gives the mean; more for one that does worse than that.
        NaN where the activity is constant.
    """
    activity = source if isinstance(source, Activity) else Activity(source, site)
    moments = activity.moments()
    wrong = 0.0
    with torch.no_grad():
        for block in activity.blocks(rows):
            wrong += float(((block - dictionary.reconstruct(block)).double() ** 2).sum())
    return float("nan") if moments.constant else wrong / moments.variance
