"""Does the circuit hold nothing idle? Each unit should matter in some part of it, more than a unit from outside would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.base.statistics import holm, permutation_p
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.bench import Ablations, as_units, chosen, halves, mean_interval, pool_of
from patchclamp.subjects.clamp.matching import UnitOrSite, collect, members

Array = NDArray[np.float64]


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
    null : array
        Sizes of the gains of units from outside.
    span : float
    held_out : bool
    n : int
        Items that verified.
    """

    table: pd.DataFrame
    threshold: float
    idle: tuple[str, ...]
    null: Array
    span: float
    held_out: bool
    n: int

    @property
    def minimal(self) -> bool:
        """Whether every unit is needed."""
        return not self.idle


def minimality(
    subject: Subject,
    task: Any,
    circuit: Any,
    candidates: Any,
    ablation: str = "mean",
    *,
    threshold: float = 0.01,
    n_sets: int = 10,
    n_control: int = 20,
    by: str = "template",
    source: str = "",
    reference: Any = None,
    batch_size: int = 64,
    n_boot: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Minimality:
    """Measure for each unit v of a circuit C the largest |F(C without K and v) - F(C without K)| over subsets K of C.

    K is the empty set (v is the only loss), all others (v works alone), or one of `n_sets` random subsets. Half of the
    items choose K, the others give the figure. A unit is needed where its gain is at least `threshold` of the span and
    its interval excludes zero. The control does the same with a unit from outside the circuit added to it.

    Parameters
    ----------
    subject, task, circuit, candidates, ablation, by, source, reference, n_boot
        As for `completeness`.
    threshold
        Share of F(M) - F(nothing).
    n_sets
        Random subsets K for each unit.
    n_control
        Units from outside; at most as many as there are.
    seed
        Of subsets, controls and halves.

    Raises
    ------
    PatchclampError
        For a circuit that is not among the candidates.

    Notes
    -----
    Wang et al. 2022 (IOI; 1 % of F(M) there); the control follows the inflated circuits of Shi et al. 2024. Verified on
    OR, AND and SUM gates with an idle unit.
    """
    units = as_units(subject, circuit)
    bench = Ablations(
        subject, task, pool_of(subject, candidates, units), ablation, by=by, source=source,
        reference=reference, batch_size=batch_size, seed=seed, progress=progress,
    )  # fmt: skip
    if not 0 <= threshold < 1:
        raise PatchclampError(f"threshold={threshold}: a share of the span is in 0..1")
    own, span = members(units), bench.span
    search, verify = halves(len(task), bench.groups, seed)
    rng = np.random.default_rng(seed)
    outside = [m for m in bench.candidates if m not in set(own)]
    picked = rng.permutation(len(outside))[:n_control]
    null = [
        abs(
            float(
                _gain(bench, [*own, outside[int(i)]], outside[int(i)], n_sets, rng, search)[0][verify].mean()
            )
        )
        for i in picked
    ]
    gains, sizes = zip(*(_gain(bench, own, v, n_sets, rng, search) for v in own), strict=True)
    low, high = mean_interval(np.stack(gains)[:, verify], chosen(bench.groups, verify), n_boot, seed)
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
            "p_adjusted": holm(p) if null else p,
        }
    ).sort_values("share", ascending=False, kind="stable", ignore_index=True)
    return Minimality(
        table,
        threshold,
        tuple(table["unit"][~table["needed"]]),
        np.array(null),
        span,
        bool((search != verify).any()),
        int(verify.sum()),
    )


def _gain(
    bench: Ablations,
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
    gains = bench.kept(kept) - bench.kept([one - {unit} for one in kept])
    best = int(np.abs(gains[:, search].mean(1)).argmax())
    return gains[best], len(sets[best])
