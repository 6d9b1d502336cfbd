"""`SparseAutoencoder`: an architecture that is fitted to one site."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from patchclamp.base.progress import Progress
from patchclamp.decompose.sae.architecture import Architecture
from patchclamp.decompose.sae.training import Sides, train
from patchclamp.nouns.dictionary import StoredDictionary
from patchclamp.nouns.recording.matrix import ActivityMatrix


@dataclass(frozen=True)
class SparseAutoencoder(Architecture):
    """A dictionary of one site, trained to give its activity back from few features; parameters as in `Architecture`."""

    def fit_rows(
        self, rows: ActivityMatrix, progress: Progress | None, resume: str | Path | None
    ) -> StoredDictionary:
        """Train on the rows. A run's state is written every `save_every` steps and at the end.

        `meta` holds settings, data fingerprint, figures of the last tenth of the run (``unexplained``, ``l0``, ``dead``)
        and their history.
        """
        name = rows.site
        trained = train(self, Sides([rows], [name]), progress, resume)
        weights = self.weights(trained.params, trained.geometry, (trained.factors[0], trained.factors[0]))
        return self.build(name, name, weights, trained.meta)
