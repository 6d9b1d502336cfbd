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
OWN: Source = ("patch", 0, "clean")  # as `patch` from the clean input reads it


class Replays:
    """Passes over the inputs that a batch's interventions take values from, each input run once for all sites.

    Parameters
    ----------
    subject, pair
        The batch of items.
    reference
        Where `resample` draws its items, and whether a mean needs the item's own values to leave them out.
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
        self._times: dict[tuple[str, str], list[int]] = {}
        for change in interventions:
            self._want(change)

    def _want(self, change: Intervention) -> None:
        if change.kind == "mean" and any(self.times(change)):
            self._wanted.setdefault(OWN, {}).update(dict.fromkeys(change.units.sites))
        if change.kind in REPLAYED:
            self._wanted.setdefault(_source(change), {}).update(dict.fromkeys(change.units.sites))

    def values(self, change: Intervention) -> Mapping[Site, Tensor]:
        """Activity of the intervention's sites on its source."""
        self._want(change)
        source = _source(change)
        missing = self._missing(source)
        if missing:
            self._seen[source].update(self.subject.run(self._batch(change), read=missing).activity)
        return self._seen[source]

    def times(self, change: Intervention) -> list[int]:
        """How often the mean that an item gets was taken over its own clean input; see `Reference.own`."""
        key = (change.by, change.source)
        if key not in self._times:
            none = [0] * len(self.pair.clean)
            self._times[key] = none if self.reference is None else self.reference.own(self.pair, *key)
        return self._times[key]

    def own(self, change: Intervention) -> Mapping[Site, Tensor]:
        """Activity of the intervention's sites on the items' own clean inputs."""
        self._want(change)
        missing = self._missing(OWN)
        if missing:
            self._seen[OWN].update(self.subject.run(self.pair.clean, read=missing).activity)
        return self._seen[OWN]

    def _missing(self, source: Source) -> list[Site]:
        seen = self._seen.setdefault(source, {})
        return [site for site in self._wanted[source] if site not in seen]

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
