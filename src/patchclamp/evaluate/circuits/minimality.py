"""Does the circuit hold nothing idle? Each unit should matter in some part of it, more than a unit from outside would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Null
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import FEWEST_GROUPS, enough_sets, holm, n_groups, permutation_p
from patchclamp.draw.cards import shown
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import UnitsLike
from patchclamp.subjects.clamp.bench import Ablations, Bench, check_bench, chosen, halves, mean_interval
from patchclamp.subjects.clamp.matching import UnitOrSite, collect

Array = NDArray[np.float64]


@shown
@dataclass(frozen=True)
class Minimality:
    """What each unit of a circuit adds where it adds most.

    Attributes
    ----------
    table : DataFrame
        One row a unit, the largest first: unit, gain = F(C without K) - F(C without K and it) at the K where it is
        largest, low, high, share = |gain| / |span|, without = size of that K, needed, p and p_adjusted (Holm) against
        units from outside added to the circuit (NaN where there are none).
    threshold : float
        Share of the span that a needed unit must add.
    idle : tuple of str
        Units that are not needed.
    null : Null
        Sizes of the gains of units from outside; None where there are none.
    span : float
    held_out : bool
    n : int
        Items that verified.
    """

    table: pd.DataFrame
    threshold: float
    idle: tuple[str, ...]
    null: Null | None
    span: float
    held_out: bool
    n: int

    @property
    def minimal(self) -> bool:
        """Whether every unit is needed."""
        return not self.idle


def minimality(
    bench: Bench,
    circuit: UnitsLike,
    candidates: Scores | UnitsLike,
    *,
    threshold: float = 0.01,
    n_sets: int = 10,
    n_control: int = 20,
) -> Minimality:
    """Measure for each unit v of a circuit C the largest |F(C without K and v) - F(C without K)| over subsets K of C.

    K is the empty set (v is the only loss), all others (v works alone), or one of `n_sets` random subsets. Half of the
    items choose K, the others give the figure. A unit is needed where its gain is at least `threshold` of the span and
    its interval excludes zero. The control does the same with a unit from outside the circuit added to it.

    Parameters
    ----------
    bench, circuit, candidates
        As for `completeness`.
    threshold
        Share of F(M) - F(nothing).
    n_sets
        Random subsets K for each unit.
    n_control
        Units from outside; at most as many as there are. With fewer than 20 for each unit of the circuit, less one, no
        p corrected over them can reach .05, and none is given (NaN).

    Raises
    ------
    PatchclampError
        For a circuit that is not among the candidates.

    Notes
    -----
    Wang et al. 2022 (IOI; 1 % of F(M) there); the control follows the inflated circuits of Shi et al. 2024. Verified on
    OR, AND and SUM gates with an idle unit.
    """
    check_bench(bench)
    if not 0 <= threshold < 1:
        raise PatchclampError(f"threshold={threshold}: a share of the span is in 0..1")
    own, runs = bench.circuit(circuit, candidates)
    span = runs.span
    search, verify = halves(len(bench.task), runs.groups, bench.seed)
    rng = numpy_rng(bench.seed)
    outside = [m for m in runs.candidates if m not in set(own)]
    picked = rng.permutation(len(outside))[:n_control]
    null = [
        abs(
            float(
                _gain(runs, [*own, outside[int(i)]], outside[int(i)], n_sets, rng, search)[0][verify].mean()
            )
        )
        for i in picked
    ]
    gains, sizes = zip(*(_gain(runs, own, v, n_sets, rng, search) for v in own), strict=True)
    count = n_groups(chosen(runs.groups, verify), int(verify.sum()))
    if count < FEWEST_GROUPS:
        raise PatchclampError(
            f"minimality: the items that verify are in {count} independent groups, and at least {FEWEST_GROUPS} are needed to say "
            "which units are needed; give twice as many items (half of them search)"
        )
    low, high = mean_interval(
        np.stack(gains)[:, verify], chosen(runs.groups, verify), bench.n_boot, bench.seed
    )
    gain = np.stack(gains)[:, verify].mean(1)
    p = np.array([permutation_p(abs(one), null) if null else np.nan for one in gain])
    table = pd.DataFrame(
        {
            "unit": [str(collect([v])) for v in own],
            "gain": gain,
            "low": low,
            "high": high,
            "share": np.abs(gain / span),
            "without": sizes,
            "needed": (np.abs(gain / span) >= threshold) & ((low > 0) | (high < 0)),
            "p": p,
            "p_adjusted": holm(p) if len(null) >= enough_sets(len(own)) else np.full(len(own), np.nan),
        }
    ).sort_values("share", ascending=False, kind="stable", ignore_index=True)
    return Minimality(
        table,
        threshold,
        tuple(table["unit"][~table["needed"]]),
        Null.of(null, "units from outside the circuit") if null else None,
        span,
        bool((search != verify).any()),
        int(verify.sum()),
    )


def _gain(
    runs: Ablations,
    circuit: Sequence[UnitOrSite],
    unit: UnitOrSite,
    n_sets: int,
    rng: np.random.Generator,
    search: NDArray[np.bool_],
) -> tuple[Array, int]:
    """What a unit adds per item at the K that is best for it on the items that choose, and the size of K."""
    others = [m for m in circuit if m != unit]
    sets: list[set[UnitOrSite]] = [set(), set(others)]
    sets += [{m for m in others if rng.random() < 0.5} for _ in range(n_sets)]
    kept = [set(circuit) - k for k in sets]
    gains = runs.kept(kept) - runs.kept([one - {unit} for one in kept])
    best = int(np.abs(gains[:, search].mean(1)).argmax())
    return gains[best], len(sets[best])
