"""What a network is compared with: for each region, activity on the stimuli or dissimilarities of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.compare.dissimilarity import as_vectors
from patchclamp.compare.inputs import Matrix, matrix, read
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.matrix import Reading
from patchclamp.nouns.recording.recording import Recording

RegionsLike: TypeAlias = Recording | Mapping[str, Any] | ArrayLike


@shown
@dataclass(frozen=True)
class Region:
    """One region.

    Attributes
    ----------
    vectors : (subject, pair) or None
        Dissimilarities.
    activity : (stimulus, unit) or None
        Mean over repeats.
    trials : (stimulus, repeat, unit) or None
        Single repeats, where every stimulus has at least two.
    """

    name: str
    vectors: Matrix | None = None
    activity: Matrix | None = None
    trials: Matrix | None = None


def regions_of(
    recording: RegionsLike, n: int, stimulus: Any = None, **reading: Unpack[Reading]
) -> list[Region]:
    """Read regions from a recording (its sites, or the column `region` of its units), a mapping or one array."""
    if isinstance(recording, Recording):
        found = _recorded(recording, n, stimulus, reading)
    elif isinstance(recording, Mapping):
        found = []
        for name, values in recording.items():
            if isinstance(values, Recording):
                parts = _recorded(values, n, stimulus, reading)
                found += [Region(_name(str(name), p, parts), None, p.activity, p.trials) for p in parts]
            else:
                found.append(_array(str(name), values, n))
    else:
        found = [_array("recording", recording, n)]
    if not found:
        raise PatchclampError("no region was given; pass a recording, or {name: activity or dissimilarities}")
    return found


def _name(name: str, part: Region, parts: list[Region]) -> str:
    return name if len(parts) == 1 else f"{name} {part.name}"


def _array(name: str, values: Any, n: int) -> Region:
    pairs = n * (n - 1) // 2
    if isinstance(values, (list, tuple)) and len(values) and np.ndim(values[0]) >= 1:
        parts = [_array(name, one, n) for one in values]
        if any(part.vectors is None for part in parts):
            raise PatchclampError(
                f"{name}: a list of arrays is read as the dissimilarities of subjects; for activity give one array "
                "(stimulus, unit) or (stimulus, repeat, unit)"
            )
        return Region(name, np.concatenate([part.vectors for part in parts if part.vectors is not None]))
    x = as_array(values, name)
    if not np.isfinite(x).all():
        raise PatchclampError(f"{name}: holds NaN or Inf; leave these stimuli or units out")
    vectors = as_vectors(x, n, name)
    if vectors is not None:
        return Region(name, vectors)
    if x.ndim in (1, 2) and len(x) == n:
        return Region(name, None, matrix(x, name))
    if x.ndim == 3 and len(x) == n:
        return Region(name, None, x.mean(1), x if x.shape[1] > 1 else None)
    raise PatchclampError(
        f"{name}: shape {x.shape} does not fit {n} stimuli: wanted ({n}, unit), ({n}, repeat, unit), ({pairs},) or "
        f"(subject, {pairs}) dissimilarities, or ({n}, {n})"
    )


def _recorded(recording: Recording, n: int, stimulus: Any, reading: Reading) -> list[Region]:
    regions = []
    for site in recording.sites:
        units = read(recording.select({site: None}), **reading)
        which, values, table = _stimuli(recording, units.places, n, stimulus), units.numpy(), units.units
        named = "region" in table.columns
        labels = table["region"].astype(str).to_numpy() if named else np.full(len(table), str(site))
        for label in dict.fromkeys(labels.tolist()):
            name = f"{site} {label}" if named and len(recording.sites) > 1 else label
            regions.append(_repeated(name, values[:, labels == label], which, n))
    return regions


def _repeated(name: str, values: Matrix, which: NDArray[np.int64], n: int) -> Region:
    """Mean over the samples of each stimulus, and as many single ones as all stimuli have."""
    count = np.bincount(which, minlength=n)
    if (count == 0).any():
        missing = int(np.flatnonzero(count == 0)[0])
        raise PatchclampError(f"{name}: stimulus {missing} was never shown; leave it out of the stimuli")
    mean = np.zeros((n, values.shape[1]))
    np.add.at(mean, which, values)
    mean /= count[:, None]
    least = int(count.min())
    trials = np.stack([values[np.flatnonzero(which == k)[:least]] for k in range(n)]) if least > 1 else None
    return Region(name, None, mean, trials)


def _stimuli(recording: Recording, places: NDArray[np.int64], n: int, stimulus: Any) -> NDArray[np.int64]:
    """Which stimulus each of the samples that are read shows."""
    columns = {name: column[places] for name, column in recording.samples.numpy().items()}
    if stimulus is None:
        if len(places) == n:
            return np.arange(n)
        stimulus = "doc"
    if isinstance(stimulus, str):
        if stimulus not in columns:
            raise PatchclampError(f"stimulus={stimulus!r}: the samples have the columns {', '.join(columns)}")
        which = np.asarray(columns[stimulus], np.int64)
    else:
        which = np.asarray(stimulus, np.int64)
        which = which[places] if len(which) == recording.n_samples else which
    if len(which) != len(places) or which.min() < 0 or which.max() >= n:
        raise PatchclampError(
            f"the recording has {len(places)} samples of stimuli {which.min()} to {which.max()}, and {n} stimuli "
            "were given; say which stimulus each sample shows: stimulus='label', or an array of 0, 1, 2 ..."
        )
    return which
