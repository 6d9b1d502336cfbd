"""The dynamic functional connectome: which neurons move together, when, and in which animals.

Affinities of all pairs over time and animals -> non-negative tensor factorisation -> a block model of each component, all
of it again on surrogates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.connect.coupling.correlation import pearson
from patchclamp.connect.groups.affinity import NULLS, Affinities, affinities, read_animals
from patchclamp.connect.groups.blocks import Blocks, weighted_blocks
from patchclamp.connect.groups.connectome import DynamicConnectome, activity_of, motif_of
from patchclamp.connect.groups.tensor_factorisation import Factors, tensor_factorisation
from patchclamp.connect.series import series
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

Array = NDArray[np.float64]
LIMITS = (
    "interaction or causation: a stimulus that drives many neurons looks the same (co-engagement), opposite changes are "
    "not seen (sign=-1 sees them), and pairs of one recording are not independent samples"
)
RANK_DRAWS = 3


def dynamic_connectome(
    data: MatrixLike,
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
    names: Sequence[str] | None = None,
    animals: Sequence[str] | None = None,
    tolerance: float = 3e-5,
    seed: int = 0,
    **reading: Unpack[Reading],
) -> DynamicConnectome:
    """Find groups of neurons that move together at some times in some animals.

    Parameters
    ----------
    data, groups, kind, sign, smooth_trace, smooth_affinity, reading
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
        Draws at the chosen rank, from 19 on; p can be no smaller than 1 / (draws + 1).
    restarts, tolerance, seed
        Of the factorisation.
    names, animals
        Of neurons and animals, where the data is an array.

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
    >>> found = dynamic_connectome(load_truth("motifs", 0).recording, rank=4, restarts=2)
    >>> int(found.components()["motif"].sum()), sorted(found.table()["size"])
    (3, [10, 10, 10])
    """
    if null not in NULLS:
        raise PatchclampError(f"null={null!r}: one of {', '.join(NULLS)}")
    if max_rank < 1:
        raise PatchclampError(f"max_rank={max_rank}: at least one component")
    if null_samples < 19:
        raise PatchclampError(
            f"null_samples={null_samples}: no p could be below {1 / (max(null_samples, 0) + 1):.2f}, so nothing could be a "
            "motif; from 19 draws on"
        )
    tensor = affinities(
        data,
        groups,
        kind=kind,
        sign=sign,
        smooth_trace=smooth_trace,
        smooth_affinity=smooth_affinity,
        **reading,
    )
    _rename(tensor, names, animals)
    fit: dict[str, Any] = {"tolerance": tolerance, "seed": seed}
    ranks = errors_by_rank(tensor, rank, max_rank, least_gain, null, restarts, fit)
    chosen = rank or int(ranks["rank"][ranks["kept"]].max())
    factors = tensor_factorisation(tensor, chosen, restarts=restarts, **fit)
    draws = [_draw(tensor, chosen, null, [seed, 6301, k], fit) for k in range(null_samples)]
    blocks = tuple(weighted_blocks(_weights(tensor, factors, r), starts=2) for r in range(chosen))
    facts = {
        "name": null,
        "samples": null_samples,
        "error": np.array([one.error for one, _ in draws]),
        "structure": np.array([max(b.structure for b in model) / one.energy for one, model in draws]),
        "motif": np.array([motif_of(one, model) for one, model in draws]),
        "time": float(np.quantile(np.concatenate([activity_of(one).ravel() for one, _ in draws]), 0.95)),
    }
    baseline = _baseline(read_animals(data, groups, **reading)[0], tensor)
    settings = {
        "rank": chosen,
        "smooth_trace": smooth_trace,
        "smooth_affinity": smooth_affinity,
        "kind": kind,
        "sign": sign,
        "restarts": restarts,
        "seed": seed,
        "reading": tensor.about,
    }
    pooled = np.sort(np.concatenate([one.pairs.ravel() for one, _ in draws]))
    graphs = tuple(
        _graph(tensor, factors, r, blocks[r], pooled, facts, baseline, settings) for r in range(chosen)
    )
    return DynamicConnectome(
        factors, graphs, blocks, facts, ranks, baseline, tensor.animals, LIMITS, settings
    )


def _rename(tensor: Affinities, names: Sequence[str] | None, animals: Sequence[str] | None) -> None:
    for what, given in (("names", names), ("animals", animals)):
        if given is not None:
            if len(given) != len(getattr(tensor, what)):
                raise PatchclampError(
                    f"{what}: {len(given)} given, the data has {len(getattr(tensor, what))}"
                )
            setattr(tensor, what, tuple(given))


def errors_by_rank(
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
    fakes = [tensor.shifted(null, numpy_rng([fit["seed"], 6301, k])) for k in range(RANK_DRAWS)]
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
    fake = tensor.shifted(null, numpy_rng(seed))
    found = tensor_factorisation(fake, rank, restarts=1, **fit)
    return found, [weighted_blocks(_weights(fake, found, r), starts=2) for r in range(rank)]


def _weights(tensor: Affinities, factors: Factors, component: int) -> Array:
    """(neuron, neuron) affinities of a component; NaN for pairs hardly seen where it is active."""
    pairs = factors.pairs[:, component]
    if tensor.mask is not None:
        seen = (factors.animals[:, component] ** 2) @ tensor.mask.double().numpy()
        pairs = np.where(seen >= 0.1, pairs, np.nan)
    return tensor.square(pairs)


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
    from patchclamp.base.statistics import benjamini_hochberg

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


def _baseline(traces: Array, tensor: Affinities) -> Graph:
    n = len(tensor.names)
    total, count = np.zeros((n, n)), np.zeros((n, n))
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
