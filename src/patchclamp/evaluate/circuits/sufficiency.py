"""Is the circuit better than chance? It against random circuits of its size, which many a published circuit is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.estimate import Estimate, Null
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import permutation_p
from patchclamp.draw.cards import shown
from patchclamp.evaluate.circuits.draws import CONTROLS, draw_sets
from patchclamp.evaluate.circuits.paths import Edge, Node, path_connected
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import UnitsLike
from patchclamp.subjects.clamp.bench import Bench, check_bench
from patchclamp.subjects.clamp.matching import activity_of, strata

Array = NDArray[np.float64]


@shown
@dataclass(frozen=True)
class Sufficiency:
    """A circuit among random ones.

    Attributes
    ----------
    distance : Estimate
        |F(C) - F(M)| in units of the metric; for a test of necessity -|F(M without C) - F(M)|. Smaller is better. Its
        null is that of the random circuits: p = (1 + #{random at least as good}) / (R + 1), of the null that C is one
        of them.
    beats : float
        Share of random circuits that C is strictly better than.
    p_quantile : float
        Binomial, of the null "C beats at most `quantile` of random circuits" (Shi et al.).
    quantile : float
    size : int
        Units (edges) of the circuit, and `sizes` of the random ones.
    """

    distance: Estimate
    beats: float
    p_quantile: float
    quantile: float
    size: int
    sizes: tuple[int, ...] = field(repr=False)

    def __str__(self) -> str:
        null = self.distance.null
        assert null is not None
        return (
            f"|F(C) - F(M)| = {abs(self.distance.value):.3g}, better than {self.beats:.0%} of {null.n} {null.kind} "
            f"circuits of {self.size}: p={null.p:.3g}; p(beats at most {self.quantile:.0%})={self.p_quantile:.3g}"
        )


def sufficiency(
    bench: Bench,
    circuit: UnitsLike,
    candidates: Scores | UnitsLike,
    *,
    control: Literal["random", "matched"] = "matched",
    complement: bool = False,
    n_random: int = 199,
    quantile: float = 0.9,
) -> Sufficiency:
    """Test a circuit of units against random ones of the same size.

    Parameters
    ----------
    bench, circuit, candidates
        As for `completeness`; on items that chose the circuit it beats chance by choice alone.
    control
        ``"random"`` circuits of the whole pool, or ``"matched"`` ones with as many units of each site and stratum of mean
        |activity| x output norm. C itself may be drawn; where strata are so small that there are few such sets, p cannot
        be small.
    complement
        Test (partial) necessity instead: whether taking C out of the model changes more than taking a random set.
    n_random, quantile
        Number of random circuits, and share to be beaten.

    Notes
    -----
    Shi et al. 2024. p of a circuit that is itself drawn so is uniform (verified).
    """
    check_bench(bench)
    check_choice("control", control, CONTROLS)
    own, runs = bench.circuit(circuit, candidates)
    pool = runs.candidates
    keys = np.zeros(len(pool), dtype=np.int64)
    if control == "matched":
        keys = strata(pool, activity_of(pool, bench.subject, bench.reference))
    drawn = draw_sets(pool, own, keys, n_random, numpy_rng(bench.seed))
    run = runs.without if complement else runs.kept
    distance = np.abs((run([own, *drawn]) - runs.full).mean(1))
    scores = -distance if complement else distance
    return _result(scores[0], scores[1:], quantile, len(own), [len(own)] * n_random, control)


def path_sufficiency(
    measure: Callable[[Sequence[Edge]], ArrayLike],
    circuit: Iterable[Edge],
    edges: Iterable[Edge],
    *,
    inputs: Sequence[Node] = (),
    outputs: Sequence[Node] = (),
    n_random: int = 199,
    quantile: float = 0.9,
    seed: int = 0,
) -> Sufficiency:
    """Test a circuit of edges against random unions of paths from input to output with as many edges.

    Parameters
    ----------
    measure
        Edges kept -> the metric, a number or one an item; all others are ablated.
    circuit, edges
        (source, target) pairs; all edges of a graph without circles.
    inputs, outputs
        As for `path_connected`.
    n_random, quantile, seed
        As for `sufficiency`, and of the draw.

    Examples
    --------
    >>> edges = [("in", "a"), ("in", "b"), ("a", "out"), ("b", "out")]
    >>> metric = lambda kept: 1.0 * ({("in", "a"), ("a", "out")} <= set(kept))
    >>> path_sufficiency(metric, edges[::2], edges, n_random=19).distance.value
    0.0
    """
    listed, own = list(dict.fromkeys(edges)), list(dict.fromkeys(circuit))
    lost = [edge for edge in own if edge not in set(listed)]
    if lost or not own:
        raise PatchclampError(f"{lost[0] if lost else 'nothing'}: is in the circuit and not among the edges")
    rng = numpy_rng(seed)
    drawn = [path_connected(listed, len(own), rng, inputs=inputs, outputs=outputs) for _ in range(n_random)]
    full = np.asarray(measure(listed), dtype=np.float64)
    known: dict[tuple[Edge, ...], float] = {}

    def distance(one: Sequence[Edge]) -> float:
        key = tuple(edge for edge in listed if edge in set(one))
        if key not in known:
            known[key] = float(abs(np.mean(np.asarray(measure(list(key)), dtype=np.float64) - full)))
        return known[key]

    null = np.array([distance(one) for one in drawn])
    return _result(distance(own), null, quantile, len(own), [len(one) for one in drawn], "path-connected")


def _result(
    score: float, null: Array, quantile: float, size: int, sizes: Sequence[int], control: str
) -> Sufficiency:
    if not 0 < quantile < 1 or not len(null):
        raise PatchclampError(
            f"quantile={quantile}, {len(null)} random circuits: give a share in 0..1, and some circuits"
        )
    tie = 1e-9 * max(1.0, float(np.abs(null).max()))
    wins = int((null > score + tie).sum())
    p_quantile = float(binom.sf(wins - 1, len(null), quantile))
    p = permutation_p(-score, -null + tie)
    distance = Estimate(float(score), null=replace(Null.of(null, control), p=p))
    return Sufficiency(distance, wins / len(null), p_quantile, quantile, size, tuple(sizes))
