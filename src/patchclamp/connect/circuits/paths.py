"""Causal path graphs: from a metric backwards, which units reach it through which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null, require_nonzero
from patchclamp.base.folds import group_codes
from patchclamp.base.progress import Progress
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import FEWEST_GROUPS, benjamini_hochberg, summed
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site, Units
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Edit
from patchclamp.subjects.clamp.bench import Bench
from patchclamp.subjects.clamp.edits import compile_interventions, put
from patchclamp.subjects.clamp.replay import Replays
from patchclamp.subjects.clamp.trial import item_scores

Array = NDArray[np.float64]
MEANS = "how much the metric loses when the source's path into the target is cut"
METRIC = "metric"
LIMITS = (
    "effects of units that act only together, for paths that go around the sites given, or for a unit's effect on other "
    "inputs than these"
)


def causal_path_graph(
    subject: Subject,
    task: TaskLike,
    sites: Sequence[str | Site],
    *,
    change: str = "zero",
    reference: TaskLike | None = None,
    level: float = 0.05,
    least: float = 0.05,
    inhibitory: bool = False,
    held_out: TaskLike | None = None,
    n_control: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> CircuitGraph:
    """Follow a metric back through a network: at each site, the units whose paths into the units found so far carry it.

    From the last site to the first, with E the units found at the site after it (for the last site, the metric):
    unit j is ablated, the values that E then takes are noted, and in a second pass only E is set to them. The effect of
    the path is d_i = m_i - m_i(path cut), item by item. For a weight matrix between two sites and ``change="zero"``
    this is the do-operation W[E, j] = 0: j's edges into E are cut, all its others stay. A unit is found if the mean of d
    differs from 0 (paired t-test over groups of items, Benjamini-Hochberg over the units of the site at `level`) and is
    at least `least` of what cutting the paths of *all* units of the site does. Edges: the same with a single unit of E.

    Parameters
    ----------
    subject, task
        A live system of any kind; for a classifier a task whose metric is the logit of a class, over items of that class.
        At least 8 independent groups.
    sites
        Addresses from input to output, each of which the next one reads, such as the modules of a chain.
    change, reference
        What cutting means: ``"zero"``, ``"mean"``, ``"resample"``, or ``"patch"`` from the corrupted input, and where
        the first three take their values.
    level, least
        See above.
    inhibitory
        Whether paths that lower the metric are followed, too. Their units are listed as ``"lowers"`` either way.
    held_out
        Items on which the graph is judged, by default those of the whole task that `task` was selected from; without
        any it is judged on the items that chose it, and the graph says so.
    n_control
        Random graphs with as many units a site.
    batch_size, seed, progress
        As everywhere; passes: two a unit, and two an edge.

    Returns
    -------
    CircuitGraph
        Nodes are units and ``metric``; an edge is the effect of the path from j to e on the metric, in its units, item by
        item; ``null`` has p and q of the paired test. `node_data`: node, layer (place of its site), effect (of its paths into all of E),
        low, high (95 %, t over groups), p, q, share (of the site's), role (``raises``, ``lowers`` or ``metric``).
        `params`: ``kept`` is an `Estimate` of the share of the metric (between all units of these sites ablated and none)
        that is left when only the graph's units are intact, beside random graphs of the same size; ``left`` the metric
        with all ablated, biases and what goes around the sites, which a graph can owe its look to; ``held_out`` whether
        it was judged on other items.

    Raises
    ------
    PatchclampError
        With fewer than 8 groups, an unknown site, or where the metric with all units ablated is not clearly another.

    Notes
    -----
    Path interventions after "Causal Analysis for Robust Interpretability of Neural Networks" (Ahmad, Liu and Zhu 2024, the
    `explainnn` package): there a path is cut in the weights of consecutive layers, units are chosen by a z-test that
    takes the same samples before and after the cut for independent ones (in effect a cut-off of 1.65 s sqrt(2/N)), and
    where none passes the lowest 5 % are taken. Here paths are cut in the activity, so that convolutions, normalisation
    and skip connections between two sites need no case of their own; the test is paired and corrected; where nothing passes,
    nothing is found; and the graph is compared with random ones and with what is left without it.

    Examples
    --------
    A network whose output is one hidden unit's:

    >>> import torch
    >>> from patchclamp.subjects import TensorTask, TorchModule
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 0]])), net[0].bias.fill_(0.1)
    ...     _ = net[2].weight.copy_(torch.tensor([[2.0, 0, 0]]))
    >>> inputs = torch.rand(16, 2, generator=torch.Generator().manual_seed(0))
    >>> task = TensorTask("output", inputs, None, lambda out: out[:, 0])
    >>> graph = causal_path_graph(TorchModule(net, inputs[:1]), task, ["1.out"])
    >>> graph.nodes
    ('1.out[0]', 'metric')
    """
    chosen = _sites(subject, sites)
    groups = tuple(task.groups)
    codes = group_codes(groups, len(task))
    if int(codes.max(initial=-1)) + 1 < FEWEST_GROUPS:
        raise PatchclampError(
            f"{task.name}: {int(codes.max(initial=-1)) + 1} independent groups of items; the test of a path needs at "
            f"least {FEWEST_GROUPS}"
        )
    bench = Bench(subject, task, change, reference, batch_size=batch_size, seed=seed, progress=progress)
    every = [(site, unit) for site in chosen for unit in range(subject.width(site))]
    trial = bench.trial([bench.change(every)])
    require_nonzero(
        trial.baseline - trial.changed[0], groups or None, f"what {len(every)} units do to {task.metric_name}"
    )
    levels: list[_Level] = []
    after: Units | None = None
    for site in reversed(chosen):
        found = _find(bench, site, after, codes, level, least)
        levels.append(found)
        after = Units({site: tuple(found.followed(inhibitory))})
        if not found.followed(inhibitory):
            break
    edges = _edges(bench, levels, codes, inhibitory)
    judged = held_out or task.others()
    proof = bench if judged is None else bench.on(judged)
    params = {
        "means": MEANS,
        "sites": [str(site) for site in chosen], "change": change, "level": level, "least": least,
        "inhibitory": inhibitory, "seed": seed, "task": task.name, "metric": task.metric_name,
        "held_out": judged is not None,
        **_judge(proof, levels, chosen, inhibitory, n_control),
    }  # fmt: skip
    return _graph(levels, edges, chosen, bench.task, params)


def _sites(subject: Subject, sites: Sequence[str | Site]) -> list[Site]:
    if isinstance(sites, str | Site):
        sites = [sites]
    found = [site for one in sites for site in subject.resolve(one)]
    if not found:
        raise PatchclampError("sites: none given; name at least one site, from input to output")
    if len(set(found)) < len(found):
        twice = next(site for site in found if found.count(site) > 1)
        raise PatchclampError(f"sites: {twice} is given twice; a path passes each site once")
    return found


@dataclass(frozen=True)
class _Level:
    """What was found at one site: effects (unit, item) of paths into the units after it, and the test of each."""

    site: Site
    after: Units | None
    effects: Array
    mean: Array
    half: Array
    p: Array
    q: Array
    whole: float
    raises: tuple[int, ...]
    lowers: tuple[int, ...]

    def followed(self, inhibitory: bool) -> tuple[int, ...]:
        return tuple(sorted((*self.raises, *self.lowers))) if inhibitory else self.raises

    def name(self, unit: int) -> str:
        return f"{self.site}[{unit}]"


def _find(
    bench: Bench, site: Site, after: Units | None, codes: NDArray[np.int64], level: float, least: float
) -> _Level:
    width = bench.subject.width(site)
    effects = _cut(bench, [Units({site: None}), *(Units({site: (u,)}) for u in range(width))], [after])[0]
    whole, effects = float(effects[0].mean()), effects[1:]
    if not np.any(effects):
        into = "the metric" if after is None else str(after)
        raise PatchclampError(
            f"{site}: cutting the paths of any of its {width} units into {into} changes nothing; is it read by what comes "
            "after it?"
        )
    mean, half, p = _paired(effects, codes)
    q = benjamini_hochberg(p)
    real = (q <= level) & (np.abs(mean) >= least * abs(whole))
    raises, lowers = (tuple(int(u) for u in np.flatnonzero(real & side)) for side in (mean > 0, mean < 0))
    return _Level(site, after, effects, mean, half, p, q, whole, raises, lowers)


def _paired(effects: Array, codes: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Mean over items, half of the 95 % interval, and p of a paired t-test; groups are the unit of dependence."""
    counts = np.bincount(codes)
    totals = summed(effects.T, codes).T
    k = len(counts)
    mean = effects.mean(1)
    spread = np.sqrt(((totals - counts * mean[:, None]) ** 2).sum(1) * k / (k - 1)) / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(spread > 0, mean / spread, np.where(mean == 0, 0.0, np.inf))
    return mean, stats.t.ppf(0.975, k - 1) * spread, 2 * stats.t.sf(np.abs(t), k - 1)


def _cut(bench: Bench, cuts: Sequence[Units], after: Sequence[Units | None]) -> Array:
    """(after, cut, item) m - m(paths of the units cut into those after them cut); None: all that comes after."""
    subject = bench.subject
    found = np.empty((len(after), len(cuts), len(bench.task)))
    sites = list(dict.fromkeys(site for units in after if units is not None for site in units.sites))
    changes = [one for units in cuts for one in bench.change(units)]
    for pair in subject.pairs(bench.task, bench.batch_size):
        clean = subject.run(pair.clean, logits=pair.answer_position).logits
        before, rows = item_scores(pair, clean, clean), pair.rows.cpu().numpy()
        replays = Replays(subject, pair, bench.reference, changes)
        for number, change in enumerate(changes):
            edits = compile_interventions([change], subject, pair, bench.reference, replays)
            seen = subject.run(pair.clean, write=edits, read=sites).activity if sites else {}
            for place, units in enumerate(after):
                # only these take what they take under the cut; everything else is as it was
                own = edits if units is None else [Edit(s, put(seen[s], i)) for s, i in units.items()]
                out = subject.run(pair.clean, write=own, logits=pair.answer_position).logits
                found[place, number, rows] = before - item_scores(pair, out, clean)
    return found


@dataclass(frozen=True)
class _Edge:
    source: str
    target: str
    effects: Array
    p: float


def _edges(bench: Bench, levels: Sequence[_Level], codes: NDArray[np.int64], inhibitory: bool) -> list[_Edge]:
    found = []
    for one in levels:
        units = one.followed(inhibitory)
        if one.after is None:
            found += [_Edge(one.name(u), METRIC, one.effects[u], float(one.p[u])) for u in units]
            continue
        if not units:
            continue
        [(site, children)] = one.after.items()
        each = [Units({site: (child,)}) for child in children or ()]
        cut = _cut(bench, [Units({one.site: (u,)}) for u in units], each)
        for child, effects in zip(children or (), cut, strict=True):
            _, _, p = _paired(effects, codes)
            found += [
                _Edge(one.name(u), f"{site}[{child}]", items, float(at))
                for u, items, at in zip(units, effects, p, strict=True)
            ]
    return found


def _judge(
    bench: Bench, levels: Sequence[_Level], sites: Sequence[Site], inhibitory: bool, n_control: int
) -> dict[str, Any]:
    """What the graph's units keep of the metric when all others of the sites are ablated, beside random ones."""
    widths = {site: bench.subject.width(site) for site in sites}
    units = {one.site: one.followed(inhibitory) for one in levels}
    rng = numpy_rng(bench.seed)
    draws = [
        {site: tuple(rng.permutation(widths[site])[: len(units.get(site, ()))].tolist()) for site in sites}
        for _ in range(n_control)
    ]
    every = [(site, unit) for site in sites for unit in range(widths[site])]
    kept = [{(site, unit) for site, some in graph.items() for unit in some} for graph in (units, *draws)]
    trial = bench.trial(
        [bench.change(every), *(bench.change([m for m in every if m not in k]) for k in kept)]
    )
    left, graph, random = trial.changed[0], trial.changed[1], trial.changed[2:]
    span = trial.baseline - left
    share = Estimate.of_ratio(graph - left, span, trial.groups or None, what="the metric that the sites carry",
                              seed=bench.seed)  # fmt: skip
    if n_control:
        sizes = (random - left).mean(1) / span.mean()
        share = replace(share, null=Null.of(sizes, "random graphs with as many units a site", share.value))
    return {"kept": share, "left": Estimate.of_mean(left, trial.groups or None, seed=bench.seed)}


def _graph(
    levels: Sequence[_Level],
    edges: Sequence[_Edge],
    sites: Sequence[Site],
    task: TaskLike,
    params: dict[str, Any],
) -> CircuitGraph:
    rows = []
    for one in reversed(levels):
        for unit in sorted((*one.raises, *one.lowers)):
            rows.append(
                {
                    "node": one.name(unit), "layer": sites.index(one.site), "effect": one.mean[unit],
                    "low": one.mean[unit] - one.half[unit], "high": one.mean[unit] + one.half[unit],
                    "p": one.p[unit], "q": one.q[unit],
                    "share": one.mean[unit] / one.whole if one.whole else np.nan,
                    "role": "raises" if unit in one.raises else "lowers",
                }
            )  # fmt: skip
    rows.append({"node": METRIC, "layer": len(sites), "role": "metric"})
    table = pd.DataFrame(rows)
    place = {name: i for i, name in enumerate(table["node"])}
    n = len(place)
    p, q = np.ones((n, n)), np.ones((n, n))
    adjusted = benjamini_hochberg([edge.p for edge in edges]) if edges else np.zeros(0)
    ends = [(place[edge.target], place[edge.source]) for edge in edges]
    for edge, at, end in zip(edges, adjusted, ends, strict=True):
        p[end], q[end] = edge.p, at
    items = np.stack([edge.effects for edge in edges], 1) if edges else np.zeros((len(task), 0))
    found = CircuitGraph.of(
        tuple(table["node"]), ends, items, method="causal_path_graph", groups=task.groups, limits=LIMITS, node_data=table,
        params=params,
    )  # fmt: skip
    return replace(found, null={"name": "paired t-test over groups of items", "samples": 0, "p": p, "q": q})
