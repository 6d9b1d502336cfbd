"""Independent components: streaming whitening, then scikit-learn's FastICA."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch

from patchclamp.decompose.base import Decomposer, Progress, activity, unexplained_variance
from patchclamp.decompose.dictionaries.linear import ICADictionary
from patchclamp.decompose.factor.pca import components
from patchclamp.nouns.recording.matrix import Reading
from patchclamp.nouns.units import Site


@dataclass(frozen=True)
class ICA(Decomposer):
    """k directions whose codes are as far from Gaussian as can be, in the span of the k first principal components.

    Whitening streams over all samples (see `PCA`). FastICA needs the whitened samples at once and gets at most
    `samples` of them, drawn by the seed: samples x k numbers, however long the recording is.

    Parameters
    ----------
    k
        Components.
    seed
        Of the start, of the samples drawn, and of the held-out groups.
    held_out
        As in `SNMF`.
    samples
        Samples at most for FastICA.
    iterations
        Of FastICA, at most; `meta` says whether it converged.
    solver
        Of the whitening, as in `PCA`.

    References
    ----------
    Hyvärinen and Oja, *Independent component analysis: algorithms and applications* (2000).
    """

    name: ClassVar[str] = "ica"

    k: int = 50
    seed: int = 0
    held_out: float = 0.1
    samples: int = 50_000
    iterations: int = 300
    solver: str = "auto"

    def fit(
        self,
        source: Any,
        site: Site | str | None = None,
        progress: Progress | None = None,
        resume: str | Path | None = None,
        **reading: Unpack[Reading],
    ) -> ICADictionary:
        """Find `k` independent components; codes have variance 1, directions come in descending norm.

        Signs are free: the entry of largest magnitude of each direction is positive. `meta`: `converged`,
        `unexplained` (held out).

        Raises
        ------
        PatchclampError
            As `PCA.fit`.
        """
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        seen, held = activity(source, site, **reading).split(self.held_out, self.seed)
        mean, values, vectors = components(self, seen, progress, resume)
        scale, basis = values[: self.k].sqrt(), vectors[: self.k]
        white = (seen.sample(self.samples, self.seed).double() - mean) @ (basis / scale[:, None]).T
        model = FastICA(whiten=False, random_state=self.seed, max_iter=self.iterations)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(white.numpy())
        turn = torch.from_numpy(model.components_).double()  # orthogonal: its inverse is its transpose
        directions = turn @ (basis * scale[:, None])
        order = directions.norm(dim=1).argsort(descending=True)
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
        directions, turn = (directions * largest)[order], (turn * largest)[order]
        encoder = (turn @ (basis / scale[:, None])).T
        converged = not any(issubclass(one.category, ConvergenceWarning) for one in caught)
        meta = {**self.described(), "n_samples": seen.n, "reading": seen.about, "converged": converged}
        found = ICADictionary(seen.site, encoder.float(), directions.float(), mean.float(), meta)
        found.meta["unexplained"] = None if held is None else unexplained_variance(found, held)
        return found
