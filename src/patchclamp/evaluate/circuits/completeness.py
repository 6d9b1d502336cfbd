"""Does the circuit hold all that matters? It should lose as the model loses when parts of it are taken away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.seeds import numpy_rng
from patchclamp.draw.cards import shown
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import UnitsLike
from patchclamp.subjects.clamp.bench import Ablations, Bench, check_bench, chosen, halves, mean_interval
from patchclamp.subjects.clamp.matching import UnitOrSite, collect

Array = NDArray[np.float64]


@shown
@dataclass(frozen=True)
class Completeness:
    """How far circuit and model part when the same units are taken from both.

    Attributes
    ----------
    table : DataFrame
        One row a set K: search (``"empty"``, ``"random"``, ``"greedy"``), size, units, circuit = F(C without K), model =
        F(M without K), difference = circuit - model with low and high, gap = |difference|, share = gap / |span|.
    difference : Estimate
        Circuit minus model without the set that is worst on the half of the items that choose, measured on the other
        half, whose number is n; `worst_units` names the set.
    span : float
        F(M) - F(nothing).
    held_out : bool
        Whether other items verified than chose; False where there is one group only.
    """

    table: pd.DataFrame
    difference: Estimate
    worst_units: str
    span: float
    held_out: bool

    @property
    def worst(self) -> float:
        """The largest gap, |difference|."""
        return abs(self.difference.value)

    @property
    def worst_share(self) -> float:
        """The largest gap in units of the span."""
        return abs(self.difference.value / self.span)

    def __str__(self) -> str:
        d = self.difference
        return (
            f"incompleteness {self.worst:.3g} ({self.worst_share:.0%} of the span) without {self.worst_units or 'nothing'}; "
            f"circuit minus model {d.span('+.3g')}, n={d.n}"
        )


def completeness(
    bench: Bench,
    circuit: UnitsLike,
    candidates: Scores | UnitsLike,
    *,
    n_random: int = 20,
    n_greedy: int = 10,
) -> Completeness:
    """Measure the incompleteness |F(C without K) - F(M without K)| over random and greedy subsets K of a circuit C.

    F is the mean metric; in C without K all candidates outside it are ablated, in M without K only K is. A faithful
    circuit that leaves out a back-up is found here: the model makes the loss of K good, and the circuit cannot.

    Parameters
    ----------
    bench
        Subject, items that did not choose the circuit, ablation and reference.
    circuit, candidates
        Addresses (or `Units`) of the circuit, and of all that may be ablated; candidates may be `Scores`.
    n_random
        Subsets that hold each unit of C with probability one half.
    n_greedy
        Steps of the greedy search, each of which adds the unit that widens the gap most. 2 |C| passes a step.

    Raises
    ------
    PatchclampError
        For a circuit that is not among the candidates.

    Notes
    -----
    Wang et al. 2022 (IOI), whose greedy search looked at ten random units a step; all are looked at here, on one half of
    the items, and every figure is from the other half. Verified on OR, AND and BACKUP gates.
    """
    check_bench(bench)
    own, runs = bench.circuit(circuit, candidates)
    span = runs.span
    if n_random < 0 or n_greedy < 0:
        raise PatchclampError(f"n_random={n_random}, n_greedy={n_greedy}: give numbers from 0 on")
    search, verify = halves(len(bench.task), runs.groups, bench.seed)
    rng = numpy_rng(bench.seed)
    sets: list[tuple[str, tuple[UnitOrSite, ...]]] = [("empty", ())]
    for _ in range(n_random):
        keep = rng.random(len(own)) < 0.5
        sets.append(("random", tuple(m for m, here in zip(own, keep, strict=True) if here)))
    sets += [("greedy", path) for path in _greedy(runs, own, search, n_greedy)]
    sets = list(dict.fromkeys(sets))
    both = _both(runs, own, [k for _, k in sets])
    differences = both[0] - both[1]
    low, high = mean_interval(differences[:, verify], chosen(runs.groups, verify), bench.n_boot, bench.seed)
    means = both[:, :, verify].mean(2)
    table = pd.DataFrame(
        {
            "search": [name for name, _ in sets],
            "size": [len(k) for _, k in sets],
            "units": [str(collect(k)) if k else "" for _, k in sets],
            "circuit": means[0],
            "model": means[1],
            "difference": means[0] - means[1],
            "low": low,
            "high": high,
            "gap": np.abs(means[0] - means[1]),
            "share": np.abs((means[0] - means[1]) / span),
        }
    )
    worst = int(np.abs(differences[:, search].mean(1)).argmax())
    return Completeness(
        table,
        Estimate.of_mean(
            differences[worst, verify], chosen(runs.groups, verify), n_boot=bench.n_boot, seed=bench.seed
        ),
        str(table["units"].iloc[worst]),
        span,
        bool((search != verify).any()),
    )


def _both(runs: Ablations, own: list[UnitOrSite], sets: list[tuple[UnitOrSite, ...]]) -> Array:
    """(circuit or model, set, item) metric without each set."""
    circuit = runs.kept([set(own) - set(k) for k in sets])
    return np.stack([circuit, runs.without(sets)])


def _greedy(
    runs: Ablations, own: list[UnitOrSite], search: NDArray[np.bool_], steps: int
) -> list[tuple[UnitOrSite, ...]]:
    """The sets of a greedy widening of the gap on the items that choose."""
    path: list[tuple[UnitOrSite, ...]] = []
    current: tuple[UnitOrSite, ...] = ()
    for _ in range(min(steps, len(own))):
        nexts = [(*current, member) for member in own if member not in current]
        circuit, model = _both(runs, own, nexts)
        gap = np.abs((circuit - model)[:, search].mean(1))
        current = nexts[int(gap.argmax())]
        path.append(tuple(m for m in own if m in current))
    return path
