"""The experiments behind claims, each a function from units to a `Measured` share: a study runs them, `verify` runs them again.

All are interventions on the same items with the same reference for means, so that a claim and its verification
differ in nothing but the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null
from patchclamp.intervene import effects
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.scores import Effect
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site, Units
from patchclamp.study.share import Measured, sum_over_joint
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.bench import Bench
from patchclamp.subjects.clamp.controls import matched_sets
from patchclamp.subjects.clamp.matching import MATCHED_BY
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["ABLATIONS", "Experiments", "complement"]

ABLATIONS: Mapping[str, Mapping[str, str]] = {
    "mean, corrupted, by template": {"kind": "mean", "by": "template", "source": "corrupted"},
    "mean, clean, by template": {"kind": "mean", "by": "template", "source": "clean"},
    "mean, clean, by position": {"kind": "mean", "by": "position", "source": "clean"},
    "zero": {"kind": "zero"},
    "own corrupted input": {"kind": "patch", "source": "corrupted"},
}
"""The kinds of ablation that a study compares."""


class Experiments(Bench):
    """A `Bench` on which the experiments behind claims are run: a subject, items, an ablation, and where means come from.

    Parameters
    ----------
    subject, task, ablation, reference
        As in `Bench`; the reference (means, replacement values, typical activity) shares no item with the task.
    by, source, batch_size, n_boot, seed, progress
        As in `Bench`.
    """

    @classmethod
    def of(
        cls, subject: Subject, task: TaskLike, reference: Reference, change: Mapping[str, Any], seed: int
    ) -> Experiments:
        """On the ablation that a claim names: an intervention without units.

        Raises
        ------
        PatchclampError
            For what is no ablation at all positions, or one with draws of its own.
        """
        named = Intervention.from_json({"seed": seed, **change, "units": [str(subject.known_sites()[0])]})
        if named.positions != "all" or named.seed != seed:
            raise PatchclampError(
                f"a change at positions {named.positions!r} with seed {named.seed} is none that claims are measured by: "
                f"they ablate at 'all', with the claim's own seed ({seed})"
            )
        return cls(subject, task, named.kind, reference, by=named.by, source=named.source, seed=seed)

    @property
    def intervention(self) -> dict[str, Any]:
        """The ablation as a claim holds it, without units."""
        found: dict[str, Any] = {"kind": self.ablation, "positions": "all", "seed": self.seed}
        return found if self.ablation != "mean" else {**found, "by": self.by, "source": self.source}

    def prepare(self, sites: Sequence[Site]) -> None:
        """Take the means and typical activity of all units of some sites in one pass each.

        Otherwise every set with sites not met before would send the reference items through the model again.
        """
        self.reference.activity(sites)
        if self.ablation == "mean":
            self.reference.means(sites, self.by, self.source or "clean")

    def lost(self, units: Units, n_control: int = 0) -> Measured:
        """Return the share of the metric that ablating the units takes away, beside matched random sets."""
        return self._measured([units], "matched", n_control)[0]

    def each(self, units: Sequence[Units], n_control: int = 0) -> list[Measured]:
        """Return the share lost with each selection ablated alone, beside random ones matched to them in turn."""
        return self._measured(units, "shared", n_control)

    def _measured(
        self, units: Sequence[Units], control: Literal["matched", "shared"], n_control: int
    ) -> list[Measured]:
        return [Measured.lost(one) for one in self._effects(units, control, n_control)]

    def _effects(
        self, units: Sequence[Units], control: Literal["matched", "shared"], n_control: int
    ) -> list[Effect]:
        return effects(
            self.subject,
            self.task,
            [self.change(one) for one in units],
            control=control if n_control else None,
            n_control=n_control or None,
            seed=self.seed,
            reference=self.reference,
            batch_size=self.batch_size,
            n_boot=self.n_boot,
        )

    def shares(self, units: Sequence[Units]) -> list[float]:
        """Return the estimates of `each` without controls: what selection goes by, and nothing is concluded from."""
        return [one.estimate.value / one.baseline for one in self._effects(units, "shared", 0)]

    def recovered(self, units: Units, among: Sequence[str]) -> Measured:
        """Return the share of the metric that is left when everything among some sites but the units is ablated.

        Its control is the share that is left when the units are ablated too: where a kind is not needed at all, any of
        its units "recover" everything. The control's interval is that of the paired difference, laid around it, so
        that the share beats it when the difference is above zero.
        """
        lost = self.lost(complement(self.subject, units, among))
        floor = self.lost(complement(self.subject, Units({}), among))
        apart = Estimate.of_ratio(
            np.subtract(floor.effect.per_item, lost.effect.per_item),
            lost.effect.baseline_per_item,
            lost.effect.groups,
            seed=self.seed,
        )
        kept, (bottom, top), (low, high) = 1 - lost.share.value, lost.share.interval, apart.interval
        null = Null(1 - floor.share.value, kept - high, kept - low, 1, "none of the kind kept")
        share = Estimate(kept, 1 - top, 1 - bottom, lost.share.n, null, lost.share.groups)
        return Measured.of(lost.effect, share)

    def kept(self, units: Units, among: Sequence[str], n_control: int = 0) -> Measured:
        """Return what a circuit keeps of what all units among some sites carry, all but it ablated.

        f(C) = (m(C) - m(none)) / (m(all) - m(none)), m(none) with everything among the sites ablated. Its null: random
        sets matched to it one to one, each kept alone.
        """
        return self._circuit(units, among, n_control, removed=False)

    def removed(self, units: Units, among: Sequence[str], n_control: int = 0) -> Measured:
        """Return what ablating a circuit takes of what all units among some sites carry, 1 - f(all but it); as `kept`."""
        return self._circuit(units, among, n_control, removed=True)

    def _circuit(self, units: Units, among: Sequence[str], n_control: int, removed: bool) -> Measured:
        subject = self.subject
        drawn = matched_sets(units, subject, self.reference, n_control, self.seed) if n_control else []
        ablated = [one if removed else complement(subject, one, among) for one in (units, *drawn)]
        trial = self.trial([self.change(one) for one in (complement(subject, Units({}), among), *ablated)])
        full, empty, changed = trial.baseline, trial.changed[0], trial.changed[1:]
        gain = full - changed if removed else changed - empty
        shares = gain.mean(1) / (full - empty).mean()
        null = Null.of(shares[1:], MATCHED_BY, float(shares[0]), sides=1) if drawn else None
        what = f"what {self.task.metric_name} loses with everything among {', '.join(among)} ablated"
        share = Estimate.of_ratio(
            gain[0], full - empty, trial.groups, what=what, null=null, n_boot=self.n_boot, seed=self.seed
        )
        apart = full - changed[0]
        effect = Effect(
            units, (self.intervention,), self.task.name, self.task.metric_name, float(full.mean()),
            float(changed[0].mean()), Estimate.of_mean(apart, trial.groups, seed=self.seed), tuple(apart.tolist()),
            tuple(full.tolist()), self.seed, groups=trial.groups,
        )  # fmt: skip
        return Measured.of(effect, share)

    def ratio(
        self, units: Units, alone: Sequence[Measured] = (), together: Measured | None = None
    ) -> Measured:
        """Return the sum of the units' effects alone over their effect together; shares at hand are used."""
        together = together or self.lost(units)
        alone = alone or self.each(units.each())
        parts = [one.effect.per_item for one in alone]
        share = sum_over_joint(parts, together.effect.per_item, together.effect.groups, self.seed)
        return Measured.of(together.effect, share)

    def prepare_otherwise(self, sites: Sequence[Site]) -> None:
        """Take the means that `otherwise` needs at some sites in one pass for each kind of mean."""
        for how in ABLATIONS.values():
            if how["kind"] == "mean" and not self._lacks(how):
                self.reference.means(sites, how["by"], how["source"])

    def _lacks(self, how: Mapping[str, str]) -> bool:
        """Whether the reference does not hold every template that this kind of mean needs."""
        return how.get("by") == "template" and self.ablation == "mean" and self.by == "position"

    def otherwise(self, units: Units) -> dict[str, Measured]:
        """Return the share lost under every kind of ablation, the study's own included."""
        found = {}
        for name, how in ABLATIONS.items():
            if self._lacks(how):
                continue
            change = {"by": "template", "source": "", **how}
            found[name] = self.on(self.task, ablation=change.pop("kind"), **change).lost(units)
        return found


def complement(subject: Subject, units: Units, among: Sequence[str]) -> Units:
    """Return all units of some sites but these."""
    members: dict[Site, list[int]] = {}
    for site in subject.resolve(list(among)):
        kept = set(units[site] or ()) if site in units else set()
        members[site] = [i for i in range(subject.width(site)) if i not in kept]
    return Units({site: indices for site, indices in members.items() if indices})
