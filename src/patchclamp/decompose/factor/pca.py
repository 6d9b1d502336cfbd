"""Principal components in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.base import (
    Checkpoint,
    Decomposer,
    Progress,
    activity,
    check_k,
    moments,
    unexplained_variance,
)
from patchclamp.decompose.dictionaries.linear import PCADictionary
from patchclamp.nouns.recording.matrix import ActivityMatrix, Reading
from patchclamp.nouns.units import Site

WIDEST = 8192  # units up to which the covariance (512 MB there) is kept


@dataclass(frozen=True)
class PCA(Decomposer):
    """The directions of most variance: eigenvectors of the covariance, signs as scikit-learn's.

    ``solver="covariance"`` adds up the covariance in float64 in one pass and decomposes it: exact, and the same for
    any order of the samples up to rounding. ``"incremental"`` is scikit-learn's `IncrementalPCA`, which never holds
    units x units numbers, is approximate, and depends on the order. ``"auto"`` takes the first up to 8,192 units.

    Parameters
    ----------
    k
        Components.
    seed, held_out
        Of the held-out groups, as in `SNMF`.
    solver
        ``"auto"``, ``"covariance"`` or ``"incremental"``.

    Examples
    --------
    >>> found = PCA(k=1).fit(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]))
    >>> [round(value, 3) for value in found.directions[0].tolist()], round(found.meta["explained"][0], 3)
    ([0.447, 0.894], 1.0)
    """

    name: ClassVar[str] = "pca"

    k: int = 50
    seed: int = 0
    held_out: float = 0.1
    solver: str = "auto"

    def fit(
        self,
        source: Any,
        site: Site | str | None = None,
        progress: Progress | None = None,
        resume: str | Path | None = None,
        **reading: Unpack[Reading],
    ) -> PCADictionary:
        """Find the `k` first components. `meta`: `explained` (fraction of variance, each), `unexplained` (held out).

        Raises
        ------
        PatchclampError
            For constant or all-zero activity, NaN, or more components than the activity's rank.
        """
        seen, held = activity(source, site, **reading).split(self.held_out, self.seed)
        mean, values, vectors = components(self, seen, progress, resume)
        meta = {
            **self.described(),
            "n_samples": seen.n,
            "reading": seen.about,
            "explained": (values / values.sum()).tolist()[: self.k],
        }
        directions = vectors[: self.k].float()
        found = PCADictionary(seen.site, directions.T, directions, mean.float(), meta)
        found.meta["unexplained"] = None if held is None else unexplained_variance(found, held)
        return found


def components(
    settings: Any, seen: ActivityMatrix, progress: Progress | None, resume: str | Path | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, variances in descending order, unit vectors as rows), in float64; at least ``settings.k`` vectors.

    With the covariance solver all variances are given, so that their sum is the total.
    """
    if settings.solver not in ("auto", "covariance", "incremental"):
        raise PatchclampError(f"solver={settings.solver!r}: one of auto, covariance, incremental")
    check_k(
        settings.k, seen, min(seen.n - 1, seen.width), "directions that this many samples and units can have"
    )
    total = moments(seen)
    if total.constant:
        raise PatchclampError(f"{seen.site}: the activity is constant; it has no direction of variance")
    wide = seen.width > WIDEST if settings.solver == "auto" else settings.solver == "incremental"
    if wide:
        values, vectors = _incremental(settings, seen, progress, resume)
        values = torch.cat([values, torch.tensor([total.variance / (seen.n - 1)]) - values.sum()])
    else:
        checkpoint = Checkpoint(resume, settings.described(), seen)
        values, vectors = _covariance(seen, total.mean, progress, checkpoint)
    rank = int((values[: settings.k + 1] > 1e-10 * values[0]).sum())
    if settings.k > rank:
        raise PatchclampError(
            f"{seen.site}: k={settings.k}, but the activity has rank {rank}; ask for at most that"
        )
    return total.mean, values, _signed(vectors)


def _covariance(
    seen: ActivityMatrix, mean: Tensor, progress: Progress | None, checkpoint: Checkpoint
) -> tuple[Tensor, Tensor]:
    total, done = torch.zeros(seen.width, seen.width, dtype=torch.float64), 0
    kept = checkpoint.load()
    if kept is not None:
        total, done = kept[0]["total"], kept[1]["done"]
    for block in seen.blocks(start=done):
        centred = block.double() - mean
        total += centred.T @ centred
        done += 1
        if done % 64 == 0 or done == seen.n_blocks():
            checkpoint.save({"total": total}, {"done": done})
        if progress is not None:
            progress(done, seen.n_blocks())
    values, vectors = torch.linalg.eigh(total / (seen.n - 1))
    return values.flip(0).clamp_min(0), vectors.T.flip(0)


def _incremental(
    settings: Any, seen: ActivityMatrix, progress: Progress | None, resume: str | Path | None
) -> tuple[Tensor, Tensor]:
    from sklearn.decomposition import IncrementalPCA

    if resume is not None:
        raise PatchclampError("solver=incremental cannot resume: it is one pass; leave resume out")
    model = IncrementalPCA(n_components=settings.k)
    rows = max(2048, 2 * settings.k)
    left: Tensor | None = None
    for done, block in enumerate(seen.blocks(rows), 1):
        if left is not None:
            model.partial_fit(left.numpy())
        left = block
        if progress is not None:
            progress(done, seen.n_blocks(rows))
    assert left is not None
    if len(left) >= settings.k or not hasattr(model, "components_"):
        model.partial_fit(
            left.numpy()
        )  # a last block of fewer rows than components is left out: it cannot take it
    return torch.from_numpy(model.explained_variance_).double(), torch.from_numpy(model.components_).double()


def _signed(vectors: Tensor) -> Tensor:
    """The entry of largest magnitude in each row is positive."""
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)
