"""One recording, one matrix: how every verb reads samples x units.

The samples are the same for all verbs: those that are content, so that attention sinks, special tokens and bins that are
not full never enter. The units may differ by meaning, and each verb says which it takes: a head, whose activity is a
vector, is one unit by its norm (`measure`, `connect`), or its parts stand side by side as the population's vector
(`compare`, `decompose`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from patchclamp.base.arrays import LARGEST, as_tensor
from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.lazy import SiteArray
from patchclamp.nouns.recording.recording import Recording, named
from patchclamp.nouns.recording.samples import Samples
from patchclamp.nouns.units import Site

BLOCK = 2048  # rows of activity held at a time
STRETCH = 4096  # rows of the source read at a time
Heads = Literal["norm", "join"]
Missing = Literal["refuse", "drop"]


class Reading(TypedDict, total=False):
    """How activity becomes a matrix, as keywords of every verb; what is left out is the verb's default.

    Attributes
    ----------
    heads
        ``"norm"``: a head is one unit, the norm of its parts; ``"join"``: its parts stand side by side.
    content
        Leave out samples that are not content.
    missing
        Units marked as not present: ``"refuse"`` names them, ``"drop"`` leaves them out.
    """

    heads: Heads
    content: bool
    missing: Missing


@shown
@dataclass(frozen=True, eq=False)
class ActivityMatrix:
    """Samples x units of one site, read when asked for; made by `matrix`, and taken by every verb as it is.

    Attributes
    ----------
    site : Site
    values : SiteArray or Tensor
        (sample, unit) or (sample, head, part) of the source: all samples, and the units that are read.
    places : (sample,) int
        Which of them are read, in order.
    recording : Recording or None
        Where they come from.
    heads, content, missing
        As in `Reading`.
    """

    site: Site
    values: SiteArray | Tensor
    places: NDArray[np.int64]
    recording: Recording | None
    heads: Heads
    content: bool
    missing: Missing

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.places)

    @property
    def width(self) -> int:
        """Number of units."""
        shape = self.values.shape[1:]
        return int(shape[0] if self.heads == "norm" else np.prod(shape))

    @property
    def shape(self) -> tuple[int, int]:
        """(samples, units)."""
        return self.n, self.width

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values as they are kept."""
        dtype: torch.dtype = self.values.dtype
        return dtype

    @property
    def n_heads(self) -> int | None:
        """Number of heads, where activity is a vector for each."""
        return int(self.values.shape[1]) if self.values.ndim == 3 else None

    @property
    def group(self) -> NDArray[np.int64]:
        """(sample,) the group of each sample; of an array each sample is its own."""
        return self.places if self.recording is None else self.recording.samples.group.numpy()[self.places]

    @property
    def samples(self) -> Samples | None:
        """Labels of the samples; None for an array."""
        return None if self.recording is None else self.recording.samples[torch.from_numpy(self.places)]

    @property
    def units(self) -> pd.DataFrame:
        """One row a column: unit (address), site, index, the unit's labels, and `part` where parts are joined."""
        if self.recording is None:
            count = self.values.shape[1]
            table = pd.DataFrame({"unit": [f"{self.site}[{i}]" for i in range(count)], "index": range(count)})
        else:
            table = self.recording.units(self.site)
        if self.heads == "norm" or self.values.ndim == 2:
            return table
        parts = int(np.prod(self.values.shape[2:]))
        table = table.loc[table.index.repeat(parts)].reset_index(drop=True)
        part = np.tile(np.arange(parts), self.values.shape[1])
        return table.assign(unit=[f"{u}.{p}" for u, p in zip(table["unit"], part, strict=True)], part=part)

    @property
    def about(self) -> dict[str, Any]:
        """How it was read, as plain data; what a result keeps in its `meta`."""
        return {
            "site": str(self.site),
            "samples": self.n,
            "units": self.width,
            "heads": self.heads,
            "content": self.content,
            "missing": self.missing,
        }

    @property
    def whole(self) -> Tensor | ActivityMatrix:
        """The tensor itself where all of it is read as it is, else this matrix: for loops that index both alike."""
        values, plain = self.values, self.heads == "join" or self.values.ndim == 2
        return values.flatten(1) if isinstance(values, Tensor) and plain and self.n == len(values) else self

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: Any) -> Float[Tensor, "row unit"]:
        """Rows by slice, mask or indices, in the type in which they are kept."""
        return self._read(np.atleast_1d(self.places[key]))

    def rows(self, places: NDArray[np.int64]) -> Float[Tensor, "row unit"]:
        """Rows at places of the source, as float32.

        Raises
        ------
        PatchclampError
            For NaN or Inf, naming the unit and the sample.
        """
        return self._finite(self._read(places).float(), places)

    def blocks(self, rows: int = BLOCK, start: int = 0) -> Iterator[Float[Tensor, "row unit"]]:
        """Blocks of `rows` rows (the last may be shorter) as float32, from block number `start` on."""
        for low in range(start * rows, self.n, rows):
            yield self.rows(self.places[low : low + rows])

    def n_blocks(self, rows: int = BLOCK) -> int:
        """Number of blocks of `rows` rows."""
        return -(-self.n // rows)

    def sample(self, n: int, seed: int) -> Float[Tensor, "row unit"]:
        """At most `n` rows, drawn without replacement by `seed` and in order; the same for any chunks on disk."""
        places = self.places
        if n < len(places):
            places = np.sort(numpy_rng([seed, 7]).choice(places, n, replace=False))
        return torch.cat(
            [self.rows(part) for part in np.array_split(places, max(1, -(-len(places) // BLOCK)))]
        )

    def split(self, held_out: float, seed: int) -> tuple[ActivityMatrix, ActivityMatrix | None]:
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
        group = self.group
        groups = np.unique(group)
        if len(groups) < 2:
            raise PatchclampError(f"{self.site}: one group of samples cannot be split; use held_out=0")
        n = min(len(groups) - 1, max(1, round(held_out * len(groups))))
        out = np.isin(group, numpy_rng([seed, 11]).choice(groups, n, replace=False))
        if (~out).sum() < 2 or out.sum() < 2:
            return self, None
        return replace(self, places=self.places[~out]), replace(self, places=self.places[out])

    def numpy(self) -> NDArray[np.float64]:
        """All of it in memory, in float64 (of heads, norms taken there).

        Raises
        ------
        PatchclampError
            For NaN or Inf, naming the unit and the sample.
        """
        return self._finite(self._read(self.places, torch.float64), self.places).cpu().numpy()

    def _read(self, places: NDArray[np.int64], dtype: torch.dtype | None = None) -> Tensor:
        if not len(places) or places[-1] - places[0] + 1 == len(places):
            parts = [places]
        else:
            # A stretch of the source at a time: rows picked far apart would decode many chunks at once.
            parts = np.split(places, np.flatnonzero(np.diff(places // STRETCH)) + 1)
        read = [as_units(self._stretch(part), self.heads, dtype) for part in parts]
        return read[0] if len(read) == 1 else torch.cat(read)

    def _stretch(self, places: NDArray[np.int64]) -> Tensor:
        if not len(places):
            return self.values[0:0]
        if not (np.diff(places) > 0).all():
            return self.values[torch.from_numpy(places)]
        first, last = int(places[0]), int(places[-1]) + 1
        values = self.values[first:last]
        return values if len(places) == last - first else values[torch.from_numpy(places - first)]

    def _finite(self, values: Tensor, places: NDArray[np.int64]) -> Tensor:
        if not bool(torch.isfinite(values).all()):
            row, column = (int(i) for i in (~torch.isfinite(values)).nonzero()[0])
            raise PatchclampError(
                f"{self.units['unit'][column]}: {float(values[row, column])} at sample {int(places[row])} is not a "
                "finite number; leave the sample out, or mark the unit as not present"
            )
        if values.dtype == torch.float64 and bool((large := values.abs() > LARGEST).any()):
            row, column = (int(i) for i in large.nonzero()[0])
            raise PatchclampError(
                f"{self.units['unit'][column]}: {float(values[row, column]):.3g} at sample {int(places[row])}: its square "
                "is beyond double precision; divide the activity by a constant"
            )
        return values


MatrixLike: TypeAlias = Recording | ActivityMatrix | Tensor | ArrayLike  # what `matrix` reads


def matrix(
    source: Any,
    site: Site | str | None = None,
    heads: Heads = "norm",
    content: bool = True,
    missing: Missing = "refuse",
) -> ActivityMatrix:
    """Samples x units of one site, lazily: the one way in which verbs read activity.

    Parameters
    ----------
    source
        A `Recording` (larger than memory if need be), a tensor or array (samples, units) or (samples, heads, parts),
        or a matrix, which is returned as it is: so that whoever makes one decides how a verb reads.
    site
        Which site; needed where the recording has several. The name of a tensor's site.
    heads
        ``"norm"``: a head is one unit, the norm of its parts; ``"join"``: its parts stand side by side. No
        difference where activity is one number a unit.
    content
        Leave out samples that are not content (special tokens, attention sinks, bins that are not full).
    missing
        Units marked as not present: ``"refuse"`` names them, ``"drop"`` leaves them out.

    Returns
    -------
    ActivityMatrix

    Raises
    ------
    PatchclampError
        For a recording of several sites where none is named, units that are missing, another number of dimensions, or
        an option that does not exist.

    Examples
    --------
    >>> z = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[6.0, 8.0], [0.0, 2.0]]])
    >>> matrix(z, "head.0")[:].tolist(), matrix(z, "head.0", heads="join").shape
    ([[5.0, 1.0], [10.0, 2.0]], (2, 4))
    """
    if isinstance(source, ActivityMatrix):
        return source
    _check(heads, missing)
    if isinstance(source, Recording):
        where, samples = one_site(source, site), source.samples
        kept = present_units(source.select({where: None}), missing)
        keep = samples.content.numpy() if content else np.ones(len(samples), bool)
        values: SiteArray | Tensor = kept[where]
        return ActivityMatrix(where, values, np.flatnonzero(keep), kept, heads, content, missing)
    if isinstance(source, str) or not (
        isinstance(source, (Tensor, Sequence)) or hasattr(source, "__array__")
    ):
        raise PatchclampError(
            f"activity is a {type(source).__name__}; wanted a recording, a tensor or an array"
        )
    values = as_tensor(source)
    if values.ndim not in (2, 3):
        raise PatchclampError(f"activity is {tuple(values.shape)}; wanted samples x units")
    where = named("activity" if site is None else site)
    return ActivityMatrix(where, values, np.arange(len(values)), None, heads, content, missing)


def one_site(recording: Recording, site: Site | str | None) -> Site:
    """The site that is named, or the only one."""
    if site is not None:
        return recording.site(site)
    if len(recording.sites) != 1:
        names = ", ".join(map(str, recording.sites))
        raise PatchclampError(
            f"this recording has several sites, and one is read ({len(recording.sites)} sites: {names}); name it with "
            f"site=, or select({str(recording.sites[0])!r})"
        )
    return recording.sites[0]


def present_units(recording: Recording, missing: Missing = "refuse") -> Recording:
    """The recording without its units that are not present, or an error that names them.

    Raises
    ------
    PatchclampError
        For units that are missing, where ``missing="refuse"``; for a site without any other.
    """
    _check("norm", missing)
    gone = {site: ~recording.present(site).numpy() for site in recording.sites}
    if not any(mask.any() for mask in gone.values()):
        return recording
    index = {site: recording.unit_index(site) for site in gone}
    lost = [f"{site}[{i}]" for site, mask in gone.items() for i in index[site][mask]]
    if missing == "refuse":
        raise PatchclampError(
            f"{', '.join(lost[:5])}{' ...' if len(lost) > 5 else ''}: {len(lost)} missing in this recording (marked as "
            'not present); leave them out with missing="drop", or select the units that are present'
        )
    empty = next((site for site, mask in gone.items() if mask.all()), None)
    if empty is not None:
        raise PatchclampError(f"{empty}: none of its {len(gone[empty])} units is present; select other sites")
    return recording.select({site: index[site][~mask] if mask.any() else None for site, mask in gone.items()})


def as_units(values: Tensor, heads: Heads, dtype: torch.dtype | None = None) -> Float[Tensor, "sample unit"]:
    """(sample, unit) of activity that may be (sample, head, part): the norm of each head, or its parts side by side."""
    values = values if dtype is None else values.to(dtype)
    if values.ndim == 2:
        return values
    if heads == "join":
        return values.flatten(1)
    exact = values if values.dtype in (torch.float32, torch.float64) else values.float()
    norms: Tensor = exact.flatten(2).norm(dim=-1)
    return norms


def _check(heads: str, missing: str) -> None:
    if heads not in ("norm", "join") or missing not in ("refuse", "drop"):
        raise PatchclampError(
            f"heads={heads!r}, missing={missing!r}: give heads='norm' or 'join', missing='refuse' or 'drop'"
        )


def content_only(recording: Recording) -> Recording:
    """The recording without samples that are not content; a view."""
    return recording if bool(recording.samples.content.all()) else recording.select(where={"content": True})
