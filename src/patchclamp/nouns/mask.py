"""`Mask`: which of a network's units stay, as a choice among candidates; all others are changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.fields import Fields
from patchclamp.base.statistics import expected_jaccard
from patchclamp.draw.cards import shown
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import BySite, Site, Units, parse_site

MOST = 2**24
"""Units of a site that a file may speak of."""


@shown
@dataclass(frozen=True, eq=False)
class Mask:
    """A value between 0 (changed) and 1 (left alone) for every unit of some sites, and how many are kept.

    Parameters
    ----------
    values
        Site -> (unit,), all units of the site.
    size
        The so many largest are kept; ties are broken in the order of the pass.
    method, task
        Where it comes from.

    Examples
    --------
    >>> mask = Mask({Site("mlp_act", 0): np.array([0.9, 0.0, 0.2])}, size=1, method="by hand")
    >>> str(mask.kept), str(mask.removed)
    ('mlp_act.0[0]', 'mlp_act.0[1,2]')
    >>> print(mask.change("patch"))
    mlp_act.0[1,2] replaced by the value on corrupted, the item's corrupted (or clean) input, at all positions
    """

    values: Mapping[Site, NDArray[np.float64]]
    size: int
    method: str
    task: str = ""

    def __post_init__(self) -> None:
        found = BySite({site: np.asarray(v, np.float64) for site, v in self.values.items()})
        object.__setattr__(self, "values", BySite({site: found[site] for site in sorted(found)}))
        for site, value in self.values.items():
            if value.ndim != 1 or not np.isfinite(value).all() or value.min() < 0 or value.max() > 1:
                raise PatchclampError(f"mask of {site}: one number between 0 and 1 a unit is wanted")
        if not 1 <= self.size <= self.candidates:
            raise PatchclampError(f"size={self.size}: there are 1..{self.candidates} units to keep")

    @property
    def candidates(self) -> int:
        """Number of units among which it chooses."""
        return sum(len(value) for value in self.values.values())

    @cached_property
    def hard(self) -> Mapping[Site, NDArray[np.bool_]]:
        """Site -> (unit,), True where a unit is kept."""
        flat = np.concatenate(list(self.values.values()))
        kept = np.zeros(len(flat), dtype=bool)
        kept[np.argsort(-flat, kind="stable")[: self.size]] = True
        cuts = np.cumsum([len(value) for value in self.values.values()])[:-1]
        return BySite(dict(zip(self.values, np.split(kept, cuts), strict=True)))

    @property
    def kept(self) -> Units:
        """The units that stay."""
        return self._units(True)

    @property
    def removed(self) -> Units:
        """The units that are changed."""
        return self._units(False)

    def _units(self, stay: bool) -> Units:
        found = {site: np.flatnonzero(hard == stay).tolist() for site, hard in self.hard.items()}
        return Units({site: index for site, index in found.items() if index})

    def change(self, kind: str = "patch", **options: Any) -> Intervention:
        """The intervention that changes all that is not kept, for `effect`, `steer` or a `Bench`."""
        return Intervention(self.removed, kind, **options)

    def at(self, size: int) -> Mask:
        """The same values with another number kept."""
        return Mask(self.values, size, self.method, self.task)

    def overlap(self, other: Mask) -> tuple[float, float]:
        """Jaccard index of what two masks keep, and what chance gives: sets of these sizes drawn at random.

        Raises
        ------
        PatchclampError
            For masks over other sites.
        """
        widths = [{str(site): len(values) for site, values in mask.values.items()} for mask in (self, other)]
        if widths[0] != widths[1]:
            raise PatchclampError("overlap: the masks choose among other units")
        both = sum(int((self.hard[site] & other.hard[site]).sum()) for site in self.values)
        chance = expected_jaccard(self.candidates, self.size, other.size)
        return both / (self.size + other.size - both), chance

    def ranking(self) -> Scores:
        """Its values as `Scores` (one row for all items), so that curves of faithfulness take it."""
        values = {site: value[None].astype(np.float32) for site, value in self.values.items()}
        levels: Any = dict.fromkeys(values, "unit")
        return Scores(self.method, "denoising", "kept", self.task, values, levels)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; units whose value is 0 are left out."""
        return {"size": self.size, "method": self.method, "task": self.task, "sites": _sparse(self.values)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Mask:
        """Read what `to_json` wrote."""
        facts, values = Fields(data, "mask"), {}
        sites = facts.part("sites")
        for name in sites.data:
            part = sites.part(name)
            units, index, value = part.whole("units", 0) or 0, part.wholes("index"), part.data.get("value")
            if not 0 < units <= MOST or sorted(set(index)) != list(index) or not _numbers(value, len(index)):
                raise sites.refuse(name, f"1 to {MOST:,} units, and a finite value for each index, in order")
            if index and not 0 <= index[0] <= index[-1] < units:
                raise sites.refuse(name, f"indices of its {units} units")
            values[parse_site(name)] = np.zeros(units)
            values[parse_site(name)][list(index)] = value
        size = facts.whole("size", 0, low=1) or 0
        return cls(values, size, facts.need_text("method"), facts.need_text("task"))


def _numbers(value: Any, n: int) -> bool:
    """Whether this is a list of so many finite numbers."""
    kinds = isinstance(value, list) and len(value) == n and all(type(one) in (int, float) for one in value)
    return kinds and bool(np.isfinite(np.array(value, np.float64)).all())


def _sparse(values: Mapping[Site, NDArray[np.float64]]) -> dict[str, Any]:
    return {
        str(site): {
            "units": len(value),
            "index": np.flatnonzero(value).tolist(),
            "value": value[value != 0].tolist(),
        }
        for site, value in values.items()
    }
