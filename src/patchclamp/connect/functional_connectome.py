"""The dynamic functional connectome: which neurons move together, when, and in which animals.

Affinities of all pairs over time and animals -> non-negative tensor factorisation -> a block model of each component, all
of it again on surrogates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.connect._series import series
from patchclamp.connect.affinity import NULLS, Affinities, affinities, read_animals
from patchclamp.connect.blocks import Blocks, weighted_blocks
from patchclamp.connect.correlation import pearson
from patchclamp.connect.graph import Graph
from patchclamp.connect.tensor_factorisation import Factors, tensor_factorisation
from patchclamp.errors import PatchclampError

Array = NDArray[np.float64]
LIMITS = (
    "interaction or causation: a stimulus that drives many neurons looks the same (co-engagement), opposite changes are "
    "not seen (sign=-1 sees them), and pairs of one recording are not independent samples"
)
RANK_DRAWS = 3
COLUMNS = (
    "component",
    "start",
    "stop",
    "animals",
    "community",
    "size",
    "within",
    "between",
    "p_community",
    "p_motif",
    "stability",
)


@dataclass(frozen=True, eq=False)
class DynamicConnectome:
    """Components of a recording's functional connectivity, each held against a null.

    Parameters
    ----------
    factors
        Loadings on time, animals and pairs, error, stability over restarts.
    graphs
        One undirected graph a component: the affinity of each pair in it.
    blocks
        The block model of each graph.
    null
        ``name``, ``samples``; per draw ``error``, and ``structure`` and ``motif`` (largest over components); ``time`` is
        the 97.5 % quantile of time loadings.
    ranks
        rank, error, null_error, gain: by how much more a component lowers the error of the data than of the null.
    baseline
        Zero-lag correlation, mean over animals.
    animals
        Names.
    limits
        What it is not evidence for.
    params
        Settings.
    """

    factors: Factors
    graphs: tuple[Graph, ...]
    blocks: tuple[Blocks, ...]
    null: Mapping[str, Any]
    ranks: pd.DataFrame
    baseline: Graph
    animals: tuple[str, ...]
    limits: str
    params: Mapping[str, Any]

    @property
    def rank(self) -> int:
        """Number of components."""
        return len(self.graphs)

    def components(self) -> pd.DataFrame:
        """One row a component.

        Returns
        -------
        DataFrame
            component; share of energy; stability; blocks and their evidence gain over one block (nats); structure: the
            share of the tensor's energy in differences between blocks; modulation: 1 - sum(T)^2 / length, the share of
            the time loading that is not flat (0 .. 1); p_community, of the structure, and p_motif, of structure x
            modulation, both against the largest of each draw; motif (p_motif at most .05 and two blocks or more).
        """
        energy = (self.factors.pairs**2).sum(0)
        structure = np.array([one.structure for one in self.blocks]) / self.factors.energy
        modulation = _modulation(self.factors.time)
        p_motif = _above(structure * modulation, self.null["motif"])
        blocks = np.array([one.n for one in self.blocks])
        return pd.DataFrame(
            {
                "component": range(self.rank),
                "share": energy / energy.sum(),
                "stability": self.factors.stability,
                "blocks": blocks,
                "gain": [one.gain for one in self.blocks],
                "structure": structure,
                "modulation": modulation,
                "p_community": _above(structure, self.null["structure"]),
                "p_motif": p_motif,
                "motif": (p_motif <= 0.05) & (blocks > 1),
            }
        )

    @property
    def p_error(self) -> float:
        """Share of draws whose tensor is fitted as well at this rank: is there anything beyond the null at all?"""
        return float(_above(-np.array([self.factors.error]), -np.asarray(self.null["error"]))[0])

    def table(self, *, all_components: bool = False) -> pd.DataFrame:
        """Motifs: one row for each interval of each motif and each of its communities.

        Parameters
        ----------
        all_components
            Also components that are not beyond the null.

        Returns
        -------
        DataFrame
            component, start, stop (samples; active where the time loading exceeds the null band), animals,
            community (names of neurons), size, within and between (mean affinity), p_community, p_motif, stability.
        """
        facts = self.components()
        rows = []
        for k in range(self.rank):
            if not (all_components or facts["motif"][k]):
                continue
            for start, stop in self.intervals(k):
                found: list[int | None] = [*self.blocks[k].dense()]
                for block in found or [None]:
                    rows.append(self._row(k, start, stop, block, facts))
        columns = [*COLUMNS]
        return pd.DataFrame(rows, columns=columns)

    def _row(self, k: int, start: int, stop: int, block: int | None, facts: pd.DataFrame) -> list[Any]:
        names, model = np.array(self.graphs[k].nodes), self.blocks[k]
        inside = np.ones(len(names), bool) if block is None else model.labels == block
        within = self.graphs[k].weights[np.ix_(inside, inside)][~np.eye(int(inside.sum()), dtype=bool)]
        outside = self.graphs[k].weights[np.ix_(inside, ~inside)]
        between = float(np.nanmean(outside)) if outside.size else np.nan
        tail = [facts[name][k] for name in ("p_community", "p_motif", "stability")]
        members = tuple(names[inside].tolist())
        return [
            k,
            start,
            stop,
            self.engaged(k),
            members,
            len(members),
            float(np.nanmean(within)),
            between,
            *tail,
        ]

    def intervals(self, component: int) -> list[tuple[int, int]]:
        """(start, stop) of the stretches in which the time loading exceeds the null band, gaps of a smoothing closed."""
        width = max(1, round(self.params["smooth_affinity"]))
        loud = np.flatnonzero(self.factors.time[:, component] > self.null["time"])
        if not len(loud):
            return []
        cuts = np.flatnonzero(np.diff(loud) > width)
        starts, stops = loud[np.r_[0, cuts + 1]], loud[np.r_[cuts, len(loud) - 1]] + 1
        return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True) if b - a > width]

    def engaged(self, component: int, least: float = 0.25) -> tuple[str, ...]:
        """Animals whose loading is at least this share of the largest."""
        loading = self.factors.animals[:, component]
        return tuple(
            name for name, x in zip(self.animals, loading, strict=True) if x >= least * loading.max()
        )

    def plot(self) -> Any:
        """A matplotlib figure: a row a component with its time, animals, and pairs ordered by block."""
        from patchclamp.connect.pictures import plot_connectome

        return plot_connectome(self)

    def __str__(self) -> str:
        motifs = int(self.components()["motif"].sum())
        return (
            f"dynamic connectome: {self.rank} components, {motifs} beyond {self.null['name']} "
            f"({self.null['samples']} draws), error {self.factors.error:.3f} (null {np.mean(self.null['error']):.3f})"
        )

    __repr__ = __str__


def dynamic_connectome(
    data: Any,
    groups: Sequence[Any] | None = None,
    *,
    rank: int | None = None,
    max_rank: int = 8,
    least_gain: float = 0.01,
    null: Literal["neuron_shift", "animal_shift", "phase"] = "neuron_shift",
    null_samples: int = 19,
    restarts: int = 5,
    kind: Literal["geometric", "minimum"] = "geometric",
    sign: Literal[1, -1] = 1,
    smooth_trace: float = 2.0,
    smooth_affinity: float = 5.0,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> DynamicConnectome:
    """Find groups of neurons that move together at some times in some animals.

    Parameters
    ----------
    data, groups, kind, sign, smooth_trace, smooth_affinity
        As in `affinities`.
    rank
        Number of components; None adds one as long as it lowers the error by `least_gain` more than it does on the null
        (mean of three draws), up to `max_rank`.
    null
        What is broken. ``"neuron_shift"`` rolls every neuron of every animal on its own: *is there any common movement?*
        ``"animal_shift"`` rolls each animal as a whole: all coupling within an animal stays; *is it at the same time in
        different animals?* ``"phase"`` gives all neurons of an animal the same random phases: all (lagged) correlations
        stay; *is it more than stationary correlation?*
    null_samples
        Draws at the chosen rank; p can be no smaller than 1 / (draws + 1).
    restarts, tolerance, seed
        Of the factorisation.

    Returns
    -------
    DynamicConnectome

    Notes
    -----
    Card C6, after Dyballa et al. Independent neurons have positive affinity by chance, so one component is always a
    background: a flat time loading and one block. A rank of one too few mixes a motif with it.

    Examples
    --------
    >>> from patchclamp.truth import load_truth
    >>> found = dynamic_connectome(load_truth("motifs", 0).recording, rank=4, restarts=3)
    >>> found
    dynamic connectome: 4 components, 3 beyond neuron_shift (19 draws), error 0.509 (null 0.600)
    """
    if null not in NULLS:
        raise PatchclampError(f"null={null!r}: one of {', '.join(NULLS)}")
    if null_samples < 1 or max_rank < 1:
        raise PatchclampError(f"null_samples={null_samples}, max_rank={max_rank}: at least one of each")
    tensor = affinities(
        data, groups, kind=kind, sign=sign, smooth_trace=smooth_trace, smooth_affinity=smooth_affinity
    )
    fit: dict[str, Any] = {"tolerance": tolerance, "seed": seed}
    ranks = _ranks(tensor, rank, max_rank, least_gain, null, restarts, fit)
    chosen = rank or int(ranks["rank"][ranks["kept"]].max())
    factors = tensor_factorisation(tensor, chosen, restarts=restarts, **fit)
    draws = [_draw(tensor, chosen, null, [seed, 6301, k], fit) for k in range(null_samples)]
    blocks = tuple(weighted_blocks(_weights(tensor, factors, r), seed=seed) for r in range(chosen))
    facts = {
        "name": null,
        "samples": null_samples,
        "error": np.array([one.error for one, _ in draws]),
        "structure": np.array([max(b.structure for b in model) / one.energy for one, model in draws]),
        "motif": np.array([_motif(one, model) for one, model in draws]),
        "time": float(np.quantile(np.concatenate([one.time.ravel() for one, _ in draws]), 0.975)),
    }
    baseline = _baseline(data, groups, tensor)
    settings = {
        "rank": chosen,
        "smooth_trace": smooth_trace,
        "smooth_affinity": smooth_affinity,
        "kind": kind,
        "sign": sign,
        "restarts": restarts,
        "seed": seed,
    }
    pooled = np.sort(np.concatenate([one.pairs.ravel() for one, _ in draws]))
    graphs = tuple(
        _graph(tensor, factors, r, blocks[r], pooled, facts, baseline, settings) for r in range(chosen)
    )
    return DynamicConnectome(
        factors, graphs, blocks, facts, ranks, baseline, tensor.animals, LIMITS, settings
    )


def _ranks(
    tensor: Affinities,
    rank: int | None,
    max_rank: int,
    least_gain: float,
    null: str,
    restarts: int,
    fit: Mapping[str, Any],
) -> pd.DataFrame:
    """Errors by rank of the data and of three surrogates; all are None where the rank was given."""
    if rank is not None:
        return pd.DataFrame(
            {"rank": [rank], "error": np.nan, "null_error": np.nan, "gain": np.nan, "kept": True}
        )
    fakes = [tensor.shifted(null, np.random.default_rng([fit["seed"], 6301, k])) for k in range(RANK_DRAWS)]
    rows: list[dict[str, Any]] = []
    for r in range(1, max_rank + 1):
        error = tensor_factorisation(tensor, r, restarts=restarts, **fit).error
        others = float(np.mean([tensor_factorisation(one, r, restarts=1, **fit).error for one in fakes]))
        gain = others - error - (rows[-1]["null_error"] - rows[-1]["error"] if rows else -np.inf)
        kept = r == 1 or gain >= least_gain
        rows.append(
            {"rank": r, "error": error, "null_error": others, "gain": gain if r > 1 else np.nan, "kept": kept}
        )
        if not kept:
            break
    return pd.DataFrame(rows)


def _draw(
    tensor: Affinities, rank: int, null: str, seed: Sequence[int], fit: Mapping[str, Any]
) -> tuple[Factors, list[Blocks]]:
    fake = tensor.shifted(null, np.random.default_rng(seed))
    found = tensor_factorisation(fake, rank, restarts=1, **fit)
    return found, [weighted_blocks(_weights(fake, found, r), starts=3) for r in range(rank)]


def _weights(tensor: Affinities, factors: Factors, component: int) -> Array:
    """(neuron, neuron) affinities of a component; NaN for pairs hardly seen where it is active."""
    pairs = factors.pairs[:, component]
    if tensor.mask is not None:
        seen = (factors.animals[:, component] ** 2) @ tensor.mask.double().numpy()
        pairs = np.where(seen >= 0.1, pairs, np.nan)
    return tensor.square(pairs)


def _modulation(time: Array) -> Array:
    """Share of unit-norm columns that is not flat."""
    return np.maximum(1 - time.sum(0) ** 2 / len(time), 0)


def _motif(factors: Factors, blocks: Sequence[Blocks]) -> float:
    """Largest structure x modulation of the components."""
    structure = np.array([one.structure for one in blocks])
    return float((structure * _modulation(factors.time)).max() / factors.energy)


def _above(values: Array, draws: Array) -> Array:
    """p = (1 + #{draws >= value}) / (draws + 1) of each value."""
    return (1 + (np.asarray(draws) >= np.asarray(values)[:, None] - 1e-12).sum(1)) / (len(draws) + 1)


def _graph(
    tensor: Affinities,
    factors: Factors,
    component: int,
    blocks: Blocks,
    pooled: Array,
    facts: Mapping[str, Any],
    baseline: Graph,
    settings: Mapping[str, Any],
) -> Graph:
    """A component as a graph; p of a pair against the pair loadings of all surrogates' components together."""
    from patchclamp._statistics import benjamini_hochberg

    weights = _weights(tensor, factors, component)
    p = (1 + len(pooled) - np.searchsorted(pooled, weights, side="left")) / (len(pooled) + 1)
    p = np.where(np.isfinite(weights), p, np.nan)
    lower = np.tri(len(p), k=-1, dtype=bool) & np.isfinite(p)
    q = np.full_like(p, np.nan)
    q[lower] = benjamini_hochberg(p[lower])
    q.T[lower] = q[lower]
    low, high = np.quantile(pooled, (0.025, 0.975))
    null = {
        "name": f"{facts['name']}, pooled over pairs and components",
        "samples": facts["samples"],
        "correction": "bh",
        "low": np.full_like(p, low),
        "high": np.full_like(p, high),
        "p": p,
        "q": q,
    }
    table = pd.DataFrame({"block": blocks.labels})
    return Graph(
        tensor.names,
        weights,
        False,
        "dynamic_connectome",
        null,
        baseline,
        LIMITS,
        table,
        {**settings, "component": component},
    )


def _baseline(data: Any, groups: Sequence[Any] | None, tensor: Affinities) -> Graph:
    traces, names, _ = read_animals(data, groups)
    total, count = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)))
    for one in traces:
        here = np.flatnonzero(np.isfinite(one).all(0) & (np.ptp(np.nan_to_num(one), axis=0) > 0))
        cut = np.ix_(here, here)
        total[cut] += pearson(series(one[:, here]))
        count[cut] += 1
    weights = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return Graph(
        tensor.names,
        weights,
        False,
        "correlation, mean over animals",
        None,
        None,
        "direction, time, causation",
    )
