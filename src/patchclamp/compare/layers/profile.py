"""Which layer predicts which region: a table, its ceilings, paired differences and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.base.statistics import draws_interval
from patchclamp.compare.inputs import Matrix
from patchclamp.compare.result import Result
from patchclamp.draw.cards import shown
from patchclamp.draw.profiles import profile_figure


@shown
@dataclass(frozen=True)
class LayerProfile:
    """Scores of the layers of one network on the regions of a recording.

    Attributes
    ----------
    table : DataFrame
        One row a layer and region: layer, region, value, low, high (percentile interval over stimuli), control
        ("" for the network's own layers, else "pixels" or "untrained"), features (number used).
    ceilings : dict
        region -> (lower, upper) or None where the data cannot say.
    method, scale, n
        Method, what its number is, number of stimuli.
    draws : (draw, row of the table)
        Bootstrap values; the same stimuli are drawn for all rows, so that differences are paired.
    meta : dict
        Settings.
    floors : dict
        region -> interval over stimuli of its lower ceiling, or None where there is none.
    """

    table: pd.DataFrame
    ceilings: Mapping[str, tuple[float, float] | None]
    method: str
    scale: str
    n: int
    draws: Matrix
    level: float = 0.95
    meta: Mapping[str, Any] = field(default_factory=dict)
    floors: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)

    @property
    def regions(self) -> list[str]:
        """Names of the regions."""
        return list(dict.fromkeys(self.table["region"]))

    @property
    def layers(self) -> list[str]:
        """The network's own layers, in the order of its pass."""
        return list(dict.fromkeys(self.table.loc[self.table["control"] == "", "layer"]))

    def conclusive(self, region: str | None = None) -> bool:
        """Whether the region agrees with itself: its lower ceiling (or, where known, the interval's low end) is above 0.

        A region without repeats or subjects has no ceiling, and counts as conclusive.
        """
        region = self._region(region)
        ceiling, floor = self.ceilings[region], self.floors.get(region)
        return ceiling is None or (ceiling[0] > 0 and (floor is None or floor[0] > 0))

    def best(self) -> pd.DataFrame:
        """The best layer of each region, how sure that is, and what the best control reaches.

        Returns
        -------
        DataFrame
            index region; conclusive (as the method); layer, value, low, high; share (of draws in which this layer is the best); tied
            (layers whose paired difference from it has an interval that includes 0); control and control_value
            (the best control); gain, gain_low, gain_high (best layer less best control, paired). The best layer
            is chosen on the data that score it, which favours it a little; `share` and `tied` say how much the
            choice means.
        """
        rows = []
        for region in self.regions:
            own = self._rows(region, own=True)
            values = self.table["value"].to_numpy(float)
            top = int(own[np.nanargmax(values[own])])
            row: dict[str, Any] = {"region": region, "conclusive": self.conclusive(region)}
            row |= self.table.loc[top, ["layer", "value", "low", "high"]].to_dict()
            row |= self._certainty(top, own)
            controls = self._rows(region, own=False)
            if len(controls):
                rival = int(controls[np.nanargmax(values[controls])])
                row["control"] = self.table.loc[rival, "layer"]
                row["control_value"] = values[rival]
                row["gain"] = values[top] - values[rival]
                row["gain_low"], row["gain_high"] = self._interval(top, rival)
            rows.append(row)
        return pd.DataFrame(rows).set_index("region")

    def _certainty(self, top: int, own: Any) -> dict[str, Any]:
        if not len(self.draws):
            return {"share": np.nan, "tied": []}
        drawn = self.draws[:, own]
        share = float(np.mean(np.nanargmax(drawn, 1) == list(own).index(top)))
        tied = [
            str(self.table.loc[i, "layer"]) for i in own if i != top and self._interval(top, int(i))[0] <= 0
        ]
        return {"share": share, "tied": tied}

    def contrast(self, a: str, b: str, region: str | None = None) -> Result:
        """Score of layer `a` less that of layer `b` on one region, with the interval of the paired difference.

        Raises
        ------
        PatchclampError
            For a layer or region that is not in the table.
        """
        region = self._region(region)
        i, j = self._row(a, region), self._row(b, region)
        low, high = self._interval(i, j)
        values = self.table["value"].to_numpy(float)
        return Result(
            float(values[i] - values[j]),
            low,
            high,
            self.n,
            method=f"{a} - {b} on {region}",
            scale=f"difference of {self.scale}",
        )

    def _interval(self, i: int, j: int) -> tuple[float, float]:
        if not len(self.draws):
            return float("nan"), float("nan")
        values = self.table["value"].to_numpy(float)
        low, high = draws_interval(
            self.draws[:, i] - self.draws[:, j], self.n, values[i] - values[j], level=self.level
        )
        return float(low), float(high)

    def figure(self, ceilings: bool = True) -> Any:
        """A matplotlib figure, one panel a region; it is returned and never shown.

        Layers in the order of the pass with their intervals, controls as dashed lines (the untrained network at
        its best layer), the ceiling as a grey band.

        Raises
        ------
        PatchclampError
            If matplotlib is not installed.
        """
        return profile_figure(
            self.table,
            {region: self.ceilings[region] if ceilings else None for region in self.regions},
            f"{self.method.split(' ')[0]}: {self.scale}",
            self.n,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object, without the draws."""
        return {
            "method": self.method,
            "scale": self.scale,
            "n": self.n,
            "level": self.level,
            "ceilings": {k: None if v is None else list(v) for k, v in self.ceilings.items()},
            "floors": {k: None if v is None else list(v) for k, v in self.floors.items()},
            "table": self.table.to_dict("records"),
            "meta": dict(self.meta),
        }

    def __str__(self) -> str:
        lines = [f"{self.method} ({self.scale}), {len(self.layers)} layers, n={self.n}"]
        for region, row in self.best().iterrows():
            floor = self.floors.get(str(region))
            band = "" if floor is None else f" [{floor[0]:.3f}, {floor[1]:.3f}]"
            ceiling = self.ceilings[str(region)]
            if ceiling is not None and not row["conclusive"]:
                lines.append(
                    f"{region}: nothing can be concluded, the lower noise ceiling {ceiling[0]:.3f}{band} is not above 0"
                )
                continue
            text = f"{region}: {row['layer']} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            text += f", best in {row['share']:.0%} of draws"
            text += "" if ceiling is None else f"; ceiling {ceiling[0]:.3f}{band} to {ceiling[1]:.3f}"
            if "control" in row and isinstance(row["control"], str):
                text += f"; {row['control']} {row['control_value']:.3f}"
            lines.append(text)
        return "\n".join(lines)

    def _rows(self, region: str, own: bool) -> Any:
        table = self.table
        return np.flatnonzero((table["region"] == region) & ((table["control"] == "") == own))

    def _region(self, region: str | None) -> str:
        if region is None and len(self.regions) == 1:
            return self.regions[0]
        if region not in self.regions:
            raise PatchclampError(f"region={region!r}: give one of {', '.join(self.regions)}")
        return region

    def _row(self, layer: str, region: str) -> int:
        found = np.flatnonzero((self.table["layer"] == layer) & (self.table["region"] == region))
        if not len(found):
            known = list(dict.fromkeys(self.table["layer"]))
            raise PatchclampError(f"{layer}: not in this profile{did_you_mean(layer, known)}")
        return int(found[0])
