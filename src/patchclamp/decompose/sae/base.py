"""`SparseAutoencoder`: an architecture that is fitted to one site."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from torch import Tensor

from patchclamp.decompose.base import Progress, activity
from patchclamp.decompose.sae.architecture import Architecture
from patchclamp.decompose.sae.training import Sides, train
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.recording.matrix import Reading
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.units import Site


@dataclass(frozen=True)
class SparseAutoencoder(Architecture):
    """A dictionary of one site, trained to give its activity back from few features; parameters as in `Architecture`."""

    def fit(
        self,
        source: Recording | Tensor,
        site: Site | str | None = None,
        progress: Progress | None = None,
        resume: str | Path | None = None,
        **reading: Unpack[Reading],
    ) -> Dictionary:
        """Train on the rows of `source`.

        Parameters
        ----------
        source
            A recording, read in pieces (samples that are content: no BOS, no padding), or a tensor (samples, units).
        site
            The site to decompose; may be left out where the recording has one. For a tensor, what to call it.
        progress
            Called with (steps done, steps in all).
        resume
            A folder for the run's state: written every `save_every` steps and at the end, and continued from where
            there is one. A run that was killed and continued gives the same bits as one that was not.
        reading
            As in `Decomposer.fit`.

        Returns
        -------
        Dictionary
            `meta` holds settings, data fingerprint, figures of the last tenth of the run (``unexplained``, ``l0``,
            ``dead``) and their history.

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
