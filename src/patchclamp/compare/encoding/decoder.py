"""From activity to the embedding of what was seen, scored by retrieval, with controls that see nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.compare.encoding.retrieval import retrieval
from patchclamp.compare.encoding.ridge import ALPHAS, Ridge, _both
from patchclamp.compare.inputs import Matrix, matrix
from patchclamp.draw.cards import shown


@shown
@dataclass
class Decoder:
    """Ridge from responses to embeddings, one penalty an embedding dimension; a fluent picture is no evidence, this is.

    Parameters
    ----------
    alphas, cv
        As in `Ridge`.
    seed
        Of the controls.

    Attributes
    ----------
    ridge_ : Ridge
    centre_ : (dimension,)
        Mean of the training embeddings, taken off predictions and targets before they are correlated.

    Notes
    -----
    Everything is fitted on the training items: some published decoders bring predictions to the mean and spread
    of the *test* targets, which uses the answers; centring by the training mean gains the same honestly.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> code = rng.normal(size=(200, 10))
    >>> voxels = code @ rng.normal(size=(10, 40)) + rng.normal(size=(200, 40))
    >>> decoder = Decoder().fit(voxels[:150], code[:150])
    >>> bool(decoder.score(voxels[150:], code[150:]) > 0.9)
    True
    """

    alphas: Sequence[float] = ALPHAS
    cv: Any = 5
    seed: int = 0

    def fit(self, X: Any, Y: Any, groups: Any = None) -> Decoder:
        """Fit on responses (item, unit) and embeddings (item, dimension)."""
        x, y = _both(X, Y)
        self.ridge_ = Ridge(self.alphas, self.cv).fit(x, y, groups)
        self.centre_ = y.mean(0)
        self.x_mean_, self.x_scale_ = x.mean(0), x.std(0)
        return self

    def predict(self, X: Any) -> Matrix:
        """Predicted embeddings (item, dimension)."""
        if not hasattr(self, "ridge_"):
            raise PatchclampError("this decoder is not fitted; call fit(responses, embeddings) first")
        return self.ridge_.predict(X)

    def score(self, X: Any, Y: Any) -> float:
        """Two-way identification, chance .5."""
        found = retrieval(self.predict(X), matrix(Y, "targets"), centre=self.centre_, k=(), n_boot=1)
        return float(found.loc["two-way", "value"])

    def evaluate(
        self,
        X: Any,
        Y: Any,
        *,
        k: Sequence[int] = (1, 5),
        candidates: int | None = None,
        groups: Sequence[str] | None = None,
        n_boot: int = 1000,
    ) -> pd.DataFrame:
        """Retrieval of held-out items, and of what the same decoder makes of inputs that know nothing.

        Returns
        -------
        DataFrame
            index (input, measure): input is ``responses``; ``noise``: normal noise with the training mean and
            spread of each unit; ``shuffled``: the responses of other items. Controls above chance mean that the
            measure, not the brain, finds the targets.
        """
        x, y = _both(X, Y)
        rng = numpy_rng(self.seed)
        inputs = {
            "responses": x,
            "noise": self.x_mean_ + self.x_scale_ * rng.normal(size=x.shape),
            "shuffled": x[_derangement(len(x), rng)],
        }
        tables = {
            name: retrieval(
                self.predict(part),
                y,
                centre=self.centre_,
                k=k,
                candidates=candidates,
                groups=groups,
                n_boot=n_boot,
                seed=self.seed,
            )
            for name, part in inputs.items()
        }
        return pd.concat(tables, names=["input"])


def _derangement(n: int, rng: np.random.Generator) -> Any:
    """A random order in which no item keeps its place: a random cycle."""
    order = rng.permutation(n)
    out = np.empty(n, np.int64)
    out[order] = np.roll(order, 1)
    return out
