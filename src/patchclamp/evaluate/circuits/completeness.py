"""Does the circuit hold all that matters? It should lose as the model loses when parts of it are taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.bench import Ablations, as_units, chosen, halves, mean_interval, pool_of
from patchclamp.subjects.clamp.matching import UnitOrSite, collect, members

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Completeness:
    """How far circuit and model part when the same units are taken from both.

    Attributes
    ----------
    table : DataFrame
        One row a set K: search (``"empty"``, ``"random"``, ``"greedy"``), size, units, circuit = F(C without K), model =
        F(M without K), difference = circuit - model with low and high, gap = |difference|, share = gap / |span|.
    worst : float
        Gap of the set that is worst on the half of the items that choose, measured on the other half; `worst_units`
        names it, `worst_share` is in units of the span.
    span : float
        F(M) - F(nothing).
    held_out : bool
        Whether other items verified than chose; False where there is one group only.
    n : int
        Items that verified.
    """

    table: pd.DataFrame
    worst: float
    worst_share: float
    worst_units: str
    span: float
    held_out: bool
    n: int

    def __str__(self) -> str:
        low, high = self.table.loc[self.table["units"] == self.worst_units, ["low", "high"]].iloc[0]
        return (
            f"incompleteness {self.worst:.3g} ({self.worst_share:.0%} of the span) without {self.worst_units or 'nothing'}; "
            f"circuit minus model [{low:+.3g}, {high:+.3g}], n={self.n}"
        )


def completeness(
    subject: Subject,
    task: Any,
    circuit: Any,
    candidates: Any,
    ablation: str = "mean",
    *,
    n_random: int = 20,
    n_greedy: int = 10,
    by: str = "template",
    source: str = "",
    reference: Any = None,
    batch_size: int = 64,
    n_boot: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Completeness:
    """Measure the incompleteness |F(C without K) - F(M without K)| over random and greedy subsets K of a circuit C.

    F is the mean metric; in C without K all candidates outside it are ablated, in M without K only K is. A faithful
    circuit that leaves out a back-up is found here: the model makes the loss of K good, and the circuit cannot.

    Parameters
    ----------
    subject, task
        What is measured.
    circuit, candidates
        Addresses (or `Units`) of the circuit, and of all that may be ablated; candidates may be `Scores`.
    ablation, by, source, reference
        As for `faithfulness`.
    n_random
        Subsets that hold each unit of C with probability one half.
    n_greedy
        Steps of the greedy search, each of which adds the unit that widens the gap most. 2 |C| passes a step.
    n_boot, seed
        Of the interval over items, and of the subsets.

    Raises
    ------
    PatchclampError
        For a circuit that is not among the candidates.

    Notes
    -----
    Wang et al. 2022 (IOI), whose greedy search looked at ten random units a step; all are looked at here, on one half of
    the items, and every figure is from the other half. Verified on OR, AND and BACKUP gates.
    """
    units = as_units(subject, circuit)
    bench = Ablations(
        subject, task, pool_of(subject, candidates, units), ablation, by=by, source=source,
        reference=reference, batch_size=batch_size, seed=seed, progress=progress,
    )  # fmt: skip
    own, span = members(units), bench.span
    if n_random < 0 or n_greedy < 0:
        raise PatchclampError(f"n_random={n_random}, n_greedy={n_greedy}: give numbers from 0 on")
    search, verify = halves(len(task), bench.groups, seed)
    rng = np.random.default_rng(seed)
    sets: list[tuple[str, tuple[UnitOrSite, ...]]] = [("empty", ())]
    for _ in range(n_random):
        keep = rng.random(len(own)) < 0.5
        sets.append(("random", tuple(m for m, here in zip(own, keep, strict=True) if here)))
    sets += [("greedy", path) for path in _greedy(bench, own, search, n_greedy)]
    sets = list(dict.fromkeys(sets))
    both = _both(bench, own, [k for _, k in sets])
    differences = both[0] - both[1]
    low, high = mean_interval(differences[:, verify], chosen(bench.groups, verify), n_boot, seed)
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
    row = table.iloc[worst]
    return Completeness(
        table,
        float(row["gap"]),
        float(row["share"]),
        str(row["units"]),
        span,
        bool((search != verify).any()),
        int(verify.sum()),
    )


def _both(bench: Ablations, own: list[UnitOrSite], sets: list[tuple[UnitOrSite, ...]]) -> Array:
    """(circuit or model, set, item) metric without each set."""
    circuit = bench.kept([set(own) - set(k) for k in sets])
    return np.stack([circuit, bench.without(sets)])


def _greedy(
    bench: Ablations, own: list[UnitOrSite], search: NDArray[np.bool_], steps: int
) -> list[tuple[UnitOrSite, ...]]:
    """The sets of a greedy widening of the gap on the items that choose."""
    path: list[tuple[UnitOrSite, ...]] = []
    current: tuple[UnitOrSite, ...] = ()
    for _ in range(min(steps, len(own))):
        nexts = [(*current, member) for member in own if member not in current]
        circuit, model = _both(bench, own, nexts)
        gap = np.abs((circuit - model)[:, search].mean(1))
        current = nexts[int(gap.argmax())]
        path.append(tuple(m for m in own if m in current))
    return path
