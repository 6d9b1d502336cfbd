"""`SparseAutoencoder`: an architecture that is fitted to one site."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from patchclamp.base.progress import Progress
from patchclamp.decompose.base import Source, activity
from patchclamp.decompose.sae.architecture import Architecture
from patchclamp.decompose.sae.training import Sides, train
from patchclamp.nouns.dictionary import StoredDictionary
from patchclamp.nouns.recording.matrix import Reading
from patchclamp.nouns.units import Site


@dataclass(frozen=True)
class SparseAutoencoder(Architecture):
    """A dictionary of one site, trained to give its activity back from few features; parameters as in `Architecture`."""

    def fit(
        self,
        source: Source,
        site: Site | str | None = None,
        progress: Progress | None = None,
        resume: str | Path | None = None,
        **reading: Unpack[Reading],
    ) -> StoredDictionary:
        """Train on the rows of `source`; parameters as in `Decomposer.fit`.

        A resumed run's state is written every `save_every` steps and at the end. `meta` holds settings, data fingerprint,
        figures of the last tenth of the run (``unexplained``, ``l0``, ``dead``) and their history.

        Raises
        ------
        PatchclampError
            For NaN or Inf, fewer than two rows, constant activity, unknown sites, impossible settings, or a folder
            with another run.
        """
        rows = activity(source, site, **reading)
        name = rows.site
        trained = train(self, Sides([rows], [name]), progress, resume)
        weights = self.weights(trained.params, trained.geometry, (trained.factors[0], trained.factors[0]))
        return self.build(name, name, weights, trained.meta)
