"""Activity on other inputs of the same shape: what `patch` and `resample` put in place of a unit's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Pair
from patchclamp.subjects.clamp.reference import Reference

REPLAYED = ("patch", "resample")
Source = tuple[str, int, str]


class Replays:
    """Passes over the inputs that a batch's interventions take values from, each input run once for all sites.

    Parameters
    ----------
    subject, pair
        The batch of items.
    reference
        Where `resample` draws its items.
    interventions
        All that will be asked for; their sites are read together.
    """

    def __init__(
        self,
        subject: Subject,
        pair: Pair,
        reference: Reference | None,
        interventions: Iterable[Intervention] = (),
    ) -> None:
        self.subject, self.pair, self.reference = subject, pair, reference
        self._wanted: dict[Source, dict[Site, None]] = {}
        self._seen: dict[Source, dict[Site, Tensor]] = {}
        for change in interventions:
            self._want(change)

    def _want(self, change: Intervention) -> None:
        if change.kind in REPLAYED:
            self._wanted.setdefault(_source(change), {}).update(dict.fromkeys(change.units.sites))

    def values(self, change: Intervention) -> Mapping[Site, Tensor]:
        """Activity of the intervention's sites on its source."""
        self._want(change)
        source = _source(change)
        seen = self._seen.setdefault(source, {})
        missing = [site for site in self._wanted[source] if site not in seen]
        if missing:
            seen.update(self.subject.run(self._batch(change), read=missing).activity)
        return seen

    def _batch(self, change: Intervention) -> Batch:
        if change.kind == "resample":
            assert self.reference is not None
            return self.reference.donors(self.pair, change.seed, change.source)
        found = self.pair.clean if change.source == "clean" else self.pair.corrupted
        if found is None:
            raise PatchclampError(f"patch {change.units}: the items have no corrupted input to patch from")
        return found


def _source(change: Intervention) -> Source:
    return (change.kind, change.seed if change.kind == "resample" else 0, change.source)
