"""`Scores`: a number per unit and item; `Effect`: what an intervention did to a task. Both with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, require_nonzero
from patchclamp.base.fields import Fields
from patchclamp.base.files import read_json
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.base.tables import item_dataset, read_frame, write_table
from patchclamp.draw.cards import shown
from patchclamp.draw.charts import forest, heat_map
from patchclamp.draw.svg import Svg
from patchclamp.nouns.units import BySite, Site, SiteLike, Unit, Units, as_site, parse_site

SCHEMA = "patchclamp/scores-1"
Values = NDArray[np.float32]


@shown
@dataclass(frozen=True)
class Scores:
    """Scores of units on the items of a task; positive means that the unit raises the metric.

    Parameters
    ----------
    method
        Name in the verb's table.
    direction
        ``"denoising"`` (clean activity put into the corrupted run), ``"noising"`` (corrupted into the clean run), or
        ``"none"`` for methods that compare no two runs. The two are never mixed.
    metric, task
        What was measured on what.
    values
        Site -> (item, node) or (item, node, position), float32, in units of the metric. NaN marks positions that an
        item does not have.
    level
        Site -> ``"unit"`` (a node is a unit of the site) or ``"site"`` (one node: the whole vector).
    positions
        Labels of the position axis; None when positions are summed.
    groups
        The unit of dependence of each item; intervals resample these.
    nodes
        Site -> indices of the units scored, where not all were.
    meta
        What else the method reports: passes, rules applied, seconds.
    """

    method: str
    direction: Literal["denoising", "noising", "none"]
    metric: str
    task: str
    values: Mapping[Site, Values]
    level: Mapping[Site, Literal["unit", "site"]]
    positions: tuple[str, ...] | None = None
    groups: tuple[str, ...] = ()
    nodes: Mapping[Site, tuple[int, ...]] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values:
            raise PatchclampError(f"{self.method}: no site was scored")
        for name in ("values", "level", "nodes"):
            object.__setattr__(self, name, BySite(getattr(self, name)))
        want = 2 if self.positions is None else 3
        sizes = {len(v) for v in self.values.values()}
        if len(sizes) != 1 or any(v.ndim != want for v in self.values.values()):
            shapes = {str(s): v.shape for s, v in self.values.items()}
            raise PatchclampError(
                f"{self.method}: scores must be {want}-dimensional with equal items; got {shapes}"
            )

    @property
    def n(self) -> int:
        """Number of items."""
        return len(next(iter(self.values.values())))

    @property
    def sites(self) -> list[Site]:
        """Sites scored, in the order of the forward pass."""
        return sorted(self.values)

    def mean(self, site: SiteLike) -> NDArray[np.float64]:
        """Mean over items, (node,) or (node, position); positions that no item has are NaN."""
        values = self.values[as_site(site)].astype(np.float64)
        count = np.sum(~np.isnan(values), axis=0)
        total = np.nansum(values, axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def summed(self) -> Scores:
        """The same scores, summed over positions."""
        if self.positions is None:
            return self
        values = {s: np.nansum(v, axis=2).astype(np.float32) for s, v in self.values.items()}
        return self._with(values, positions=None)

    def select(self, sites: Sequence[SiteLike]) -> Scores:
        """Scores of some of the sites."""
        lost = [s for s in sites if s not in self.values]
        if lost or not sites:
            raise PatchclampError(
                f"{lost[0] if lost else 'nothing'}: was not scored; there are {', '.join(map(str, self.sites[:6]))} ..."
            )
        return self._with({s: self.values[s] for s in map(as_site, sites)}, positions=self.positions)

    def items(self, rows: Sequence[int]) -> Scores:
        """Scores on some of the items."""
        index = np.asarray(rows, dtype=int)
        groups = tuple(self.groups[i] for i in index) if self.groups else ()
        return replace(self, values={s: v[index] for s, v in self.values.items()}, groups=groups)

    def _with(self, values: Mapping[Site, Values], positions: tuple[str, ...] | None) -> Scores:
        level = {s: self.level[s] for s in values}
        nodes = {s: i for s, i in self.nodes.items() if s in values}
        return replace(self, values=values, positions=positions, level=level, nodes=nodes)

    def index(self, site: SiteLike) -> list[int | None]:
        """The unit that each node stands for; None for a whole site."""
        site = as_site(site)
        if self.level[site] == "site":
            return [None]
        return list(self.nodes.get(site, range(self.values[site].shape[1])))

    def table(self, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
        """One row a node (and position): its mean over items and the bootstrap interval of that mean.

        Returns
        -------
        DataFrame
            Columns unit, site, point, layer, index, position, score, low, high, best score first by size. With
            ``n_boot=0`` intervals are left out (NaN).
        """
        parts = [self._rows(site, n_boot, seed) for site in self.sites]
        table = pd.concat(parts, ignore_index=True)
        order = table["score"].abs().sort_values(ascending=False, kind="stable").index
        return table.loc[order].reset_index(drop=True)

    def _rows(self, site: Site, n_boot: int, seed: int) -> pd.DataFrame:
        index = self.index(site)
        names = [str(site) if i is None else str(Unit(site, i)) for i in index]
        labels = ("all",) if self.positions is None else self.positions
        mean = self.mean(site).reshape(len(index), len(labels))
        low = high = np.full(mean.shape, np.nan)
        if n_boot:
            bounds = bootstrap_interval(self.values[site], self.groups, n_boot=n_boot, seed=seed)
            low, high = (bound.reshape(mean.shape) for bound in bounds)
        each = len(labels)
        return pd.DataFrame(
            {
                "unit": np.repeat(names, each),
                "site": str(site),
                "point": site.point,
                "layer": -1 if site.layer is None else site.layer,
                "index": np.repeat([-1 if i is None else i for i in index], each),
                "position": np.tile(labels, len(index)),
                "score": mean.ravel(),
                "low": low.ravel(),
                "high": high.ravel(),
            }
        )

    def top(
        self, k: int, by: Literal["abs", "signed"] = "signed", points: Sequence[str] | None = None
    ) -> list[Units]:
        """The `k` nodes that raise the metric most, by their scores summed over positions, best first.

        Parameters
        ----------
        by
            ``"signed"`` puts units that lower the metric last; ``"abs"`` ranks by size, so that units which work against
            the behaviour are among the first.
        points
            Only sites of these points, such as ``["head"]``.
        """
        ranked = self.ranked(by, points)[:k]
        return [Units({site: None if index is None else (index,)}) for site, index in ranked]

    def ranked(
        self, by: Literal["abs", "signed"] = "signed", points: Sequence[str] | None = None
    ) -> list[tuple[Site, int | None]]:
        """All nodes as (site, index or None), ordered as in `top`; equal scores in the order of the pass.

        Raises
        ------
        PatchclampError
            When nothing was scored at these points, or a score is not finite.
        """
        if by not in ("abs", "signed"):
            raise PatchclampError(f"by={by!r}: rank by 'abs' or 'signed'")
        summed = self.summed()
        sites = [s for s in self.sites if points is None or s.point in points]
        nodes = [(site, index) for site in sites for index in self.index(site)]
        if not nodes:
            raise PatchclampError(
                f"{self.method}: no score at {', '.join(points or ())}; there are scores at "
                f"{', '.join(dict.fromkeys(s.point for s in self.sites))}"
            )
        values = np.concatenate([summed.mean(site) for site in sites])
        if not np.isfinite(values).all():
            site, index = nodes[int(np.flatnonzero(~np.isfinite(values))[0])]
            name = site if index is None else Unit(site, index)
            raise PatchclampError(f"{name}: its score is not finite, so units cannot be ranked")
        order = np.argsort(-np.abs(values) if by == "abs" else -values, kind="stable")
        return [nodes[int(place)] for place in order]

    def _card(self) -> dict[str, Any]:
        sites = self.sites
        span = str(sites[0]) if len(sites) == 1 else f"{len(sites)}, {sites[0]} to {sites[-1]}"
        nodes = sum(len(self.index(site)) for site in sites)
        return {
            **self._facts(), "items": self.n, "groups": len(set(self.groups)) or self.n, "sites": span, "nodes": nodes,
            "positions": self.positions or "summed",
        }  # fmt: skip

    def _picture(self) -> Svg | None:
        """Heads by layer, or sites by position: what fits a map."""
        summed = self.summed()
        heads = [site for site in self.sites if site.point == "head" and self.level[site] == "unit"]
        if len(heads) > 1 and len({self.values[site].shape[1] for site in heads}) == 1:
            columns = [str(i) for i in self.index(heads[0])]
            rows = [summed.mean(site).tolist() for site in heads]
            return heat_map(rows, columns, [str(site) for site in heads], "head", "", f"{self.method}: heads")
        points = {site.point for site in self.sites}
        if self.positions is not None and len(points) == 1 and len(self.sites) > 1:
            rows = [np.nansum(self.mean(site), 0).tolist() for site in self.sites]
            names = [str(site) for site in self.sites]
            return heat_map(rows, self.positions, names, "position", "", f"{self.method}: sites by position")
        return None

    def _preview(self) -> pd.DataFrame:
        table = self.table(n_boot=0).head(6)
        labels = list(self.positions or ("all",))
        columns = []
        for unit in table.itertuples():
            site = parse_site(unit.site)
            node = self.index(site).index(None if unit.index < 0 else unit.index)
            values = self.values[site][:, node]
            columns.append(values if self.positions is None else values[:, labels.index(unit.position)])
        low, high = bootstrap_interval(np.stack(columns, 1), self.groups)
        return table[["unit", "position", "score"]].assign(low=low, high=high)

    def to_xarray(self) -> xr.Dataset:
        """A dataset with one variable a site, dims item, unit and, where kept, pos."""
        return item_dataset({str(s): self.values[s] for s in self.sites}, self.positions, self._facts())

    def _facts(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("method", "direction", "metric", "task")}

    def save(self, path: str | Path) -> None:
        """Write `path` (Parquet: one row an item, one column a site, lists of numbers) and `path`.json beside it."""
        write_table(path, {str(s): v for s, v in self.values.items()}, self._written())

    def _written(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            **self._facts(),
            "positions": self.positions,
            "groups": self.groups,
            "level": {str(s): v for s, v in self.level.items()},
            "nodes": {str(s): v for s, v in self.nodes.items()},
            "shapes": {str(s): list(v.shape[1:]) for s, v in self.values.items()},
            "meta": dict(self.meta),
        }

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote."""
        path = Path(path)
        beside = path.with_name(path.name + ".json")
        if not path.exists() or not beside.exists():
            raise PatchclampError(
                f"{path}: scores are a Parquet file with a .json beside it; one of them is missing"
            )
        facts = Fields(read_json(beside), beside)
        schema = facts.text("schema")
        if schema != SCHEMA:
            raise PatchclampError(f"{beside}: schema is {schema!r}, this version reads {SCHEMA!r}")
        table = read_frame(path)
        shapes, positions = facts.part("shapes"), facts.words("positions")
        values = {}
        for name in shapes.data:
            shape = shapes.wholes(name)
            if name not in table:
                raise PatchclampError(f"{path}: has no column {name!r}, which {beside.name} names")
            try:
                rows = np.stack(list(table[name])).astype(np.float32)
                values[parse_site(name)] = rows.reshape(len(table), *shape)
            except (ValueError, TypeError) as error:
                raise PatchclampError(
                    f"{path}: column {name!r} is no table of {shape} numbers a row"
                ) from error
        facts.text("direction", choices=("denoising", "noising", "none"))
        level, nodes = facts.part("level"), facts.part("nodes")
        groups = facts.words("groups") or ()
        if not values or set(level.data) != set(shapes.data) or len(groups) not in (0, len(table)):
            raise PatchclampError(
                f"{beside}: names {len(shapes.data)} sites, {len(level.data)} levels and {len(groups)} groups, for {len(table)} "
                "rows of scores; they do not belong together"
            )
        for name in level.data:
            level.text(name, choices=("unit", "site"))
        for name in nodes.data:
            if name not in shapes.data or len(nodes.wholes(name)) != shapes.wholes(name)[0]:
                raise nodes.refuse(name, "the unit of each column of scores")
        if any((values[parse_site(n)].ndim == 3) != (positions is not None) for n in shapes.data) or any(
            positions is not None and values[parse_site(n)].shape[2] != len(positions) for n in shapes.data
        ):
            raise facts.refuse("positions", "the names of the positions that were scored")
        return cls(
            facts.need_text("method"),
            cast(Literal["denoising", "noising", "none"], facts.need_text("direction")),
            facts.need_text("metric"),
            facts.need_text("task"),
            values,
            {parse_site(s): v for s, v in level.data.items()},
            positions,
            groups,
            {parse_site(s): nodes.wholes(s) for s in nodes.data},
            facts.part("meta").data,
        )


def metric_name(metric: Any) -> str:
    """The name of a task's metric, be it a string, a `Metric` or a user's function.

    Examples
    --------
    >>> metric_name("logit_diff")
    'logit_diff'
    """
    if isinstance(metric, str):
        return metric
    return str(getattr(metric, "name", None) or getattr(metric, "__name__", None) or type(metric).__name__)


@shown
@dataclass(frozen=True)
class Effect:
    """What an intervention did to a task's metric.

    Parameters
    ----------
    units, intervention
        What was changed, and how, as plain data.
    task, metric
        Where it was measured.
    baseline, changed
        Mean metric without and with the change.
    estimate
        Baseline minus changed: positive means that the units as they were raised the metric. Its interval is a paired
        bootstrap-t over groups of items; its null are random sets of units changed alike, with p on the size and, where several
        sets were measured together, Holm's correction.
    per_item, baseline_per_item
        The difference and the unchanged metric of every item.
    seed
        Of bootstrap and random sets.
    training
        Which modules were in training mode on purpose (``open_subject(..., training="as it is")``); else empty.
    groups
        The unit of dependence of each item.
    idle
        The units were 0 on all items where they were changed, and stayed so: there was nothing to take away.
    """

    units: Units
    intervention: tuple[Mapping[str, Any], ...]
    task: str
    metric: str
    baseline: float
    changed: float
    estimate: Estimate
    per_item: tuple[float, ...]
    baseline_per_item: tuple[float, ...]
    seed: int
    training: str = ""
    groups: tuple[str, ...] = ()
    idle: bool = False

    @property
    def share(self) -> float:
        """The estimate as a share of the baseline.

        Raises
        ------
        PatchclampError
            Where the baseline is not different from 0.
        """
        require_nonzero(self.baseline_per_item, self.groups, f"the unchanged {self.metric} on {self.task}")
        return self.estimate.value / self.baseline

    @property
    def stated_share(self) -> float | None:
        """The share, or None where the baseline is not different from 0."""
        try:
            return self.share
        except PatchclampError:
            return None

    def _picture(self) -> Svg:
        e, null = self.estimate, self.estimate.null
        low, high = (float("nan") if end is None else end for end in (e.low, e.high))
        row: dict[str, float | str] = {"name": "effect", "estimate": e.value, "low": low, "high": high}
        if null is not None:
            row |= {"control": null.mean, "control_low": null.low, "control_high": null.high}
        return forest([row], f"{self.metric}, baseline less changed", str(self), share=False)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; the estimate as `flat` writes it."""
        return asdict(self) | {
            "units": self.units.to_json(),
            **flat(self.estimate, draws=True),
            "intervention": [dict(change) for change in self.intervention],
            "share": self.stated_share,
        }

    def __str__(self) -> str:
        e, share = self.estimate, self.stated_share
        of = "the baseline is not different from 0" if share is None else f"{share:.0%} of the baseline"
        text = (
            f"{self.metric} {self.baseline:+.3f} -> {self.changed:+.3f}: effect {e.value:+.3f} {e.span('+.3f')}, "
            f"{of}, {e.size}"
        ) + (f" ({self.training})" if self.training else "")
        if self.idle:
            text += f" ({self.units} {'was' if self.units.count == 1 else 'were'} 0 on all items)"
        if e.null is None:
            return text
        c = e.null
        return (
            f"{text}; {c.n} control sets {c.mean:+.3f} [{c.low:+.3f}, {c.high:+.3f}], p={c.p:.3g}; "
            f"controls by {c.kind}"
        )


def flat(estimate: Estimate, *, draws: bool = False) -> dict[str, Any]:
    """An estimate of an effect as files and reports hold it; with `draws`, each random set's effect too.

    Examples
    --------
    >>> flat(Estimate(0.5, 0.4, 0.6, 20))
    {'estimate': 0.5, 'low': 0.4, 'high': 0.6, 'n': 20, 'groups': 0, 'control': None, 'p': None, 'p_adjusted': None}
    """
    null = estimate.null
    control: dict[str, Any] | None = None
    if null is not None:
        control = {"mean": null.mean, "low": null.low, "high": null.high, "n_sets": null.n}
        control |= {"matched_by": null.kind} | ({"per_set": null.draws} if draws else {})
    return {
        "estimate": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "groups": estimate.groups,
        "control": control,
        "p": None if null is None else null.p,
        "p_adjusted": None if null is None else null.p_adjusted,
    }
