"""Principal components in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from patchclamp.base.checkpoint import Checkpoint
from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.decompose.base import Found, checkpoint, moments
from patchclamp.decompose.dictionaries.linear import PCADictionary
from patchclamp.decompose.factor.base import Factorisation
from patchclamp.nouns.recording.matrix import ActivityMatrix

WIDEST = 8192  # units up to which the covariance (512 MB there) is kept


@dataclass(frozen=True)
class Whitened(Factorisation[Found]):
    """What begins with principal components.

    ``solver="covariance"`` adds up the covariance in float64 in one pass and decomposes it: exact, and the same for
    any order of the samples up to rounding. ``"incremental"`` is scikit-learn's `IncrementalPCA`, which never holds
    units x units numbers, is approximate, and depends on the order. ``"auto"`` takes the first up to 8,192 units.

    Parameters
    ----------
    solver
        ``"auto"``, ``"covariance"`` or ``"incremental"``.
    """

    solver: str = "auto"

    def resumes(self, width: int) -> bool:
        """Whether the covariance is kept; the incremental solver is one pass."""
        return not self._incremental(width)

    def _incremental(self, width: int) -> bool:
        return width > WIDEST if self.solver == "auto" else self.solver == "incremental"

    def components(
        self, seen: ActivityMatrix, progress: Progress | None, resume: str | Path | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(mean, variances in descending order, unit vectors as rows), in float64; at least `n_features` vectors.

        With the covariance solver all variances are given, so that their sum is the total.
        """
        n = self.n_features
        if self.solver not in ("auto", "covariance", "incremental"):
            raise PatchclampError(f"solver={self.solver!r}: one of auto, covariance, incremental")
        self.check_size(
            seen, min(seen.n - 1, seen.width), "directions that this many samples and units can have"
        )
        total = moments(seen)
        if total.constant:
            raise PatchclampError(f"{seen.site}: the activity is constant; it has no direction of variance")
        if self._incremental(seen.width):
            values, vectors = _incremental(n, seen, progress, resume)
            values = torch.cat([values, torch.tensor([total.variance / (seen.n - 1)]) - values.sum()])
        else:
            kept = checkpoint(resume, self.described(), seen)
            values, vectors = _covariance(seen, total.mean, progress, kept)
        rank = int((values[: n + 1] > 1e-10 * values[0]).sum())
        if n > rank:
            raise PatchclampError(
                f"{seen.site}: n_features={n}, but the activity has rank {rank}; ask for at most that"
            )
        return total.mean, values, _signed(vectors)


@dataclass(frozen=True)
class PCA(Whitened[PCADictionary]):
    """The directions of most variance: eigenvectors of the covariance, signs as scikit-learn's.

    Parameters
    ----------
    n_features
        Components.
    seed, held_out
        As in `Factorisation`.
    solver
        ``"auto"``, ``"covariance"`` or ``"incremental"``; see `Whitened`.

    Examples
    --------
    >>> found = PCA(n_features=1).fit(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]))
    >>> [round(value, 3) for value in found.directions[0].tolist()], round(found.meta["explained"][0], 3)
    ([0.447, 0.894], 1.0)
    """

    name: ClassVar[str] = "pca"

    def factor(
        self, seen: ActivityMatrix, progress: Progress | None, resume: str | Path | None
    ) -> PCADictionary:
        """The first components. `meta`: `explained` (fraction of variance, each)."""
        mean, values, vectors = self.components(seen, progress, resume)
        explained = (values / values.sum()).tolist()[: self.n_features]
        directions = vectors[: self.n_features].float()
        return PCADictionary(seen.site, directions.T, directions, mean.float(), {"explained": explained})


def _covariance(
    seen: ActivityMatrix, mean: Tensor, progress: Progress | None, state: Checkpoint
) -> tuple[Tensor, Tensor]:
    total, done = torch.zeros(seen.width, seen.width, dtype=torch.float64), 0
    kept = state.load()
    if kept is not None:
        total, done = kept[0]["total"], kept[1]["done"]
    for block in seen.blocks(start=done):
        centred = block.double() - mean
        total += centred.T @ centred
        done += 1
        if done % 64 == 0 or done == seen.n_blocks():
            state.save({"total": total}, {"done": done})
        if progress is not None:
            progress("covariance", done, seen.n_blocks())
    values, vectors = torch.linalg.eigh(total / (seen.n - 1))
    return values.flip(0).clamp_min(0), vectors.T.flip(0)


def _incremental(
    n: int, seen: ActivityMatrix, progress: Progress | None, resume: str | Path | None
) -> tuple[Tensor, Tensor]:
    from sklearn.decomposition import IncrementalPCA

    if resume is not None:
        raise PatchclampError("solver=incremental cannot resume: it is one pass; leave resume out")
    model = IncrementalPCA(n_components=n)
    rows = max(2048, 2 * n)
    left: Tensor | None = None
    for done, block in enumerate(seen.blocks(rows), 1):
        if left is not None:
            model.partial_fit(left.numpy())
        left = block
        if progress is not None:
            progress("components", done, seen.n_blocks(rows))
    assert left is not None
    if len(left) >= n or not hasattr(model, "components_"):
        model.partial_fit(
            left.numpy()
        )  # a last block of fewer rows than components is left out: it cannot take it
    return torch.from_numpy(model.explained_variance_).double(), torch.from_numpy(model.components_).double()


def _signed(vectors: Tensor) -> Tensor:
    """The entry of largest magnitude in each row is positive."""
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)
