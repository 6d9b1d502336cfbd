"""Independent components: streaming whitening, then scikit-learn's FastICA."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from patchclamp.base.progress import Progress
from patchclamp.base.seeds import check_seed
from patchclamp.decompose.dictionaries.linear import ICADictionary
from patchclamp.decompose.factor.pca import Whitened
from patchclamp.nouns.recording.matrix import ActivityMatrix


@dataclass(frozen=True)
class ICA(Whitened[ICADictionary]):
    """Directions whose codes are as far from Gaussian as can be, in the span of as many first principal components.

    Whitening streams over all samples (see `PCA`). FastICA needs the whitened samples at once and gets at most
    `samples` of them, drawn by the seed: samples x features numbers, however long the recording is.

    Parameters
    ----------
    n_features
        Components.
    seed
        Of the start, of the samples drawn, and of the held-out groups.
    held_out
        As in `Factorisation`.
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

    samples: int = 50_000
    iterations: int = 300

    def factor(
        self, seen: ActivityMatrix, progress: Progress | None, resume: str | Path | None
    ) -> ICADictionary:
        """Independent components; codes have variance 1, directions come in descending norm.

        Signs are free: the entry of largest magnitude of each direction is positive. `meta`: `converged`.
        """
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        mean, values, vectors = self.components(seen, progress, resume)
        scale, basis = values[: self.n_features].sqrt(), vectors[: self.n_features]
        white = (seen.sample(self.samples, self.seed).double() - mean) @ (basis / scale[:, None]).T
        model = FastICA(whiten=False, random_state=check_seed(self.seed, 2**32 - 1), max_iter=self.iterations)
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
        return ICADictionary(
            seen.site, encoder.float(), directions.float(), mean.float(), {"converged": converged}
        )
