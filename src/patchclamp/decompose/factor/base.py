"""What the factorisations share: a number of features, groups held out, and the check of the result on them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.decompose.base import Decomposer, Found, unexplained_variance
from patchclamp.nouns.recording.matrix import ActivityMatrix


@dataclass(frozen=True)
class Factorisation(Decomposer[Found]):
    """A decomposition A = Z D by linear algebra; the `meta` of what it finds has the settings and these figures.

    ``n_samples`` that were fitted, and ``unexplained``: the variance, pooled over units, that is left of the held-out
    groups (None without any); each method adds its own.

    Parameters
    ----------
    n_features
        Number of features.
    seed
        Of the start and the held-out groups. The same seed gives the same bits.
    held_out
        Fraction of the groups that the fit never sees.
    """

    n_features: int = 50
    _: KW_ONLY
    held_out: float = 0.1

    def fit_rows(self, rows: ActivityMatrix, progress: Progress | None, resume: str | Path | None) -> Found:
        """Find `n_features` features of the groups that are not held out, and judge them on those that are."""
        seen, held = rows.split(self.held_out, self.seed)
        found = self.factor(seen, progress, resume)
        found.meta = {**self.described(), "n_samples": seen.n, "reading": seen.about, **found.meta}
        found.meta["unexplained"] = None if held is None else unexplained_variance(found, held)
        return found

    @abstractmethod
    def factor(self, seen: ActivityMatrix, progress: Progress | None, resume: str | Path | None) -> Found:
        """Find the features of the rows to fit; its `meta` holds the method's own figures."""

    def check_size(self, seen: ActivityMatrix, most: int | None = None, why: str = "samples") -> None:
        """Refuse a number of features below 1 or above `most` (by default the number of samples)."""
        most, n = seen.n if most is None else most, self.n_features
        if n < 1:
            raise PatchclampError(f"n_features={n}: a dictionary has at least one feature")
        if n > most:
            raise PatchclampError(
                f"{seen.site}: n_features={n}, but there are {most} {why}; ask for at most {most}"
            )
