"""Causal discovery from data whose mechanisms change: CD-NOD, by causal-learn."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.optional import optional
from patchclamp.base.seeds import numpy_rng
from patchclamp.connect.nulls import bands
from patchclamp.connect.series import Series, series
from patchclamp.connect.surrogates import circular_shift
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

Array = NDArray[np.float64]
Test = Literal["kci", "fisherz"]
CONTEXT = "context"
ALIKE = 10  # stretches of about the same context in which units are rolled
LIMITS = (
    "causation where a common cause was not recorded and is not a function of the context, where there are cycles, or where "
    "samples depend on each other beyond the context (smooth recordings: take fewer samples); directions of edges marked "
    "undirected"
)


def cd_nod(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    context: Literal["time", "group"] | ArrayLike = "time",
    test: Test = "kci",
    alpha: float = 0.05,
    max_samples: int = 1000,
    null: Literal["circular_shift"] | None = "circular_shift",
    null_samples: int = 5,
    seed: int = 0,
    **reading: Unpack[Reading],
) -> Graph:
    """Which unit's mechanism depends on which others, and which mechanisms change with a context (time, session).

    The context joins the units as a variable that nothing can cause. Skeleton by conditional independence tests; what is adjacent to
    the context changes with it, and the arrow leaves the context; then colliders and Meek's rules.

    Parameters
    ----------
    data, groups
        A `Recording` or an array (samples, units), and one entry a sample.
    context
        ``"time"``: the sample's place, 0 to 1; ``"group"``: the group's number; or one value a sample.
    test
        ``"kci"``, a kernel test, which sees any dependence on the context and takes time that grows with the cube of the
        samples; ``"fisherz"``, linear and fast, which misses what is not linear in the context.
    alpha
        Level of each test. An edge has no size, so only how rarely the null has one tells: with few true edges take .01 or less.
    max_samples
        Of more samples every k-th is taken; ``params["step"]`` is k.
    null
        ``"circular_shift"``. Edges between units: each unit rolled on its own in each of 10 stretches of about the same context
        (each value of one with few), so that its drift stays. Edges from the context: its values permuted, the units left.
    null_samples
        Two runs each. p is how often pairs of the null have an edge as strong (all pairs pooled), q Benjamini and Hochberg's.
    seed
        Of the null.
    reading
        As in `correlation`.

    Returns
    -------
    Graph
        Nodes are the units and ``"context"``. A weight is 1 for j -> i, .5 in both directions for an edge whose
        direction is open; NaN into the context.
        `node_data`: ``changing``, whether the unit's mechanism depends on the context. `params["kinds"]`: a table of edges, source,
        target, kind (directed, undirected, bidirected). The baseline is the same with ``"fisherz"`` (for ``"fisherz"``: none).

    Raises
    ------
    PatchclampError
        Without causal-learn; for NaN, for which the package has a variant that draws the context's arrows the wrong way round.

    Notes
    -----
    Huang et al. 2020. causal-learn has the skeleton and the directions above; directions from independent changes of P(cause)
    and P(effect | cause), and the driving force itself, are not there.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> a = rng.normal(size=300)
    >>> b = a + np.linspace(-3, 3, 300) + 0.5 * rng.normal(size=300)
    >>> found = cd_nod(np.stack([a, b], 1), [0] * 300, test="fisherz", null=None)  # doctest: +SKIP
    >>> found.edges()[["source", "target"]].values.tolist()  # doctest: +SKIP
    [['unit[0]', 'unit[1]'], ['context', 'unit[1]']]
    """
    _check(test, alpha, null, null_samples)
    units = series(data, groups, what="cd_nod", time=True, **reading)
    if CONTEXT in units.names:
        raise PatchclampError(f"a unit is named {CONTEXT!r}, the name of the context's node; rename it")
    when = _context(context, units)
    step = -(-len(units.values) // max_samples)
    names = (*units.names, CONTEXT)
    marks = _run(units.values[::step], when[::step], alpha, test)
    weights = edge_weights(marks)
    found = None
    if null is not None:
        rng = numpy_rng([seed, 6501])
        drawn = np.stack([_surrogate(units, when, step, alpha, test, rng) for _ in range(null_samples)])
        found = bands(drawn, weights, "pooled", f"{null}; context permuted")
    baseline = None
    if test != "fisherz":
        baseline = cd_nod(
            data,
            groups,
            context=context,
            test="fisherz",
            alpha=alpha,
            max_samples=max_samples,
            null=null,
            null_samples=null_samples,
            seed=seed,
            **reading,
        )
    settings = {
        "test": test,
        "alpha": alpha,
        "step": step,
        "samples": len(units.values[::step]),
        "kinds": edge_kinds(marks, names),
        "seed": seed,
        "reading": units.about,
    }
    table = _table(units, weights[:-1, -1] > 0)
    return Graph(names, weights, True, f"cd_nod ({test})", found, baseline, LIMITS, table, settings)


def _check(test: str, alpha: float, null: str | None, null_samples: int) -> None:
    if test not in ("kci", "fisherz"):
        raise PatchclampError(f"test={test!r}: give kci or fisherz")
    if not 0 < alpha < 1:
        raise PatchclampError(f"alpha={alpha}: a level between 0 and 1")
    if null not in (None, "circular_shift") or (null and null_samples < 1):
        raise PatchclampError(
            f"null={null!r}, null_samples={null_samples}: circular_shift with one or more, or None"
        )


def _context(context: Any, units: Series) -> Array:
    n = len(units.values)
    if isinstance(context, str) and context == "time":
        return np.arange(n) / n
    if isinstance(context, str) and context == "group":
        label = units.group.astype(np.float64)
        if np.ptp(label) == 0:
            raise PatchclampError("context='group': all samples are of one group; take context='time'")
        return label
    values = np.asarray(context, np.float64)
    if values.shape != (n,) or not np.isfinite(values).all() or np.ptp(values) == 0:
        raise PatchclampError(
            f"context of shape {values.shape}: wanted {n} finite values that are not all the same"
        )
    return values


def _run(x: Array, when: Array, alpha: float, test: str) -> NDArray[np.int64]:
    """causal-learn's matrix: [j, i] = 1 and [i, j] = -1 for i -> j, both -1 without direction, both 1 for i <-> j."""
    cdnod = optional("causallearn.search.ConstraintBased.CDNOD", "cd_nod needs").cdnod
    x = (x - x.mean(0)) / x.std(0)
    when = (when - when.mean()) / when.std()
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that ignores show_progress
        found = cdnod(x, when[:, None], alpha, test, show_progress=False, verbose=False)
    marks = np.asarray(found.G.graph, np.int64).copy()
    # Nothing causes the context, whatever a rule has made of its edges.
    touched = (marks[-1, :-1] != 0) | (marks[:-1, -1] != 0)
    marks[:-1, -1], marks[-1, :-1] = np.where(touched, 1, 0), np.where(touched, -1, 0)
    return marks


def edge_weights(marks: NDArray[np.int64]) -> Array:
    """1 for an arrow from row to column, 0.5 both ways where the direction is open; NaN into the context."""
    arrow = (marks == 1) & (marks.T == -1)
    either = (marks != 0) & (marks == marks.T)
    out: Array = arrow + 0.5 * either
    out[-1, :-1] = np.nan  # no arrow into the context is ever tested
    return out


def _surrogate(
    units: Series, when: Array, step: int, alpha: float, test: str, rng: np.random.Generator
) -> Array:
    rolled = shifted_where_alike(units, when, rng)[::step]
    out = edge_weights(_run(rolled, when[::step], alpha, test))
    apart = edge_weights(_run(units.values[::step], rng.permutation(when[::step]), alpha, test))
    out[:, -1], out[-1] = apart[:, -1], apart[-1]
    return out


def shifted_where_alike(units: Series, when: Array, rng: np.random.Generator) -> Array:
    """Each unit rolled on its own among samples of about the same context.

    What a unit has to do with the context stays, and so does autocorrelation where the context is time. Rolled over all of the
    recording, a drift would no longer be one of the context, and units that drift would be joined by it in every draw.
    """
    values, codes = np.unique(when, return_inverse=True)
    order = np.argsort(when, kind="stable")
    ends = np.cumsum(np.bincount(codes)) if len(values) <= ALIKE else np.linspace(0, len(when), ALIKE + 1)[1:]
    edges = [0, *np.rint(ends).astype(int).tolist()]
    segments = tuple(slice(a, b) for a, b in zip(edges, edges[1:], strict=False))
    sorted_ = replace(units, values=units.values[order], segments=segments)
    out = np.empty_like(units.values)
    out[order] = circular_shift(sorted_, rng).values
    return out


def edge_kinds(marks: NDArray[np.int64], names: Sequence[str]) -> pd.DataFrame:
    """Source, target and kind (directed, undirected, bidirected) of every edge in causal-learn's matrix."""
    rows = []
    for i in range(len(marks)):
        for j in range(len(marks)):
            if marks[i, j] == 1 and marks[j, i] == -1:
                rows.append((names[j], names[i], "directed"))
            elif i < j and marks[i, j] != 0 and marks[i, j] == marks[j, i]:
                rows.append((names[i], names[j], "undirected" if marks[i, j] == -1 else "bidirected"))
    return pd.DataFrame(rows, columns=["source", "target", "kind"])


def _table(units: Series, changing: NDArray[np.bool_]) -> pd.DataFrame:
    table = pd.DataFrame({"unit": units.names}) if units.table is None else units.table
    last = pd.DataFrame([{"unit": CONTEXT}])
    out = pd.concat([table, last], ignore_index=True)
    return out.assign(changing=[*changing.tolist(), False])
