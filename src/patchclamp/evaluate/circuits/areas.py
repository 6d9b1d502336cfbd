"""Areas under faithfulness curves: CPR and CMD on both axes of size, clipped and not, with bands, on held-out items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import draws_interval, n_groups, resamples
from patchclamp.draw.cards import shown
from patchclamp.evaluate.circuits.faithfulness import RANKED, Faithfulness, faithfulness, mean_height
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.held_out import check_held_out
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.subjects.clamp.bench import Bench, check_bench

Array = NDArray[np.float64]
AXES = ("linear", "log")


@shown
@dataclass(frozen=True)
class Areas:
    """Figures of a ranking over all sizes of circuit.

    Attributes
    ----------
    table : DataFrame
        Columns order, measure (``"cpr"``, ``"cmd"``), axis (``"linear"``, ``"log"``), clipped, value, low, high. The
        interval resamples items, the same for all sizes. A baseline's value is the mean of its orders' areas, its
        interval that of a single order.
    beats_model : bool
        Whether a circuit short of all candidates exceeds the whole model; then a large cpr is no virtue, and the
        clipped figures or cmd are the ones to read. `beats_model_clear`: whether the interval at some size does.
    rank_by, ablation : str
    curves : Faithfulness
    """

    table: pd.DataFrame
    beats_model: bool
    beats_model_clear: bool
    rank_by: str
    ablation: str
    curves: Faithfulness = field(repr=False)

    def value(self, measure: str = "cmd", axis: str = "linear", clipped: bool = False) -> Estimate:
        """One figure of the ranking."""
        t = self.table
        rows = t[
            (t["order"] == RANKED)
            & (t["measure"] == measure)
            & (t["axis"] == axis)
            & (t["clipped"] == clipped)
        ]
        if rows.empty:
            raise PatchclampError(
                f"{measure} on the {axis} axis: measures are cpr and cmd, axes {', '.join(AXES)}"
            )
        value, low, high = (float(rows[name].iloc[0]) for name in ("value", "low", "high"))
        return Estimate(value, low, high, self.curves.n)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "beats_model": self.beats_model,
            "beats_model_clear": self.beats_model_clear,
            "rank_by": self.rank_by,
            "ablation": self.ablation,
            "table": self.table.to_dict("records"),
        }


def areas(
    bench: Bench,
    ranking: Scores,
    chosen_on: TaskLike | None,
    sizes: Sequence[float] | None = None,
    *,
    points: Sequence[str] | None = None,
    rank_by: Literal["abs", "signed"] = "abs",
    baselines: Sequence[str] = ("random",),
    n_random: int = 5,
) -> Areas:
    """Measure CPR and CMD of a ranking on items that did not make it.

    With f(C_k) as in `faithfulness` and s_k the share of candidates kept, CPR = mean of f and CMD = mean of |1 - f| over
    s, by trapezoid from the smallest size to all (the plain integral on the linear axis is this times
    1 - smallest share). Clipped: f held to 0..1 first, so that sizes which beat the model cannot pay for sizes that
    fall short. One rule ranks for every figure (`rank_by`); CPR of a signed and CMD of an absolute ranking, as in MIB,
    are two calls.

    Parameters
    ----------
    bench, ranking, sizes, points, rank_by, baselines, n_random
        As for `faithfulness`.
    chosen_on
        The items that made the ranking. Those of the bench must be others, and of other groups.

    Raises
    ------
    PatchclampError
        When an item or a group is in both, and as `faithfulness`.

    Notes
    -----
    Mueller et al. 2025 (MIB) for CPR and CMD. Verified in closed form on linear networks.
    """
    check_bench(bench)
    check_held_out(bench.task, chosen_on)
    found = faithfulness(
        bench, ranking, sizes, points=points, rank_by=rank_by, baselines=baselines, n_random=n_random
    )
    table = area_table(found, bench.n_boot, bench.seed)
    kept = found.curve("kept")
    short = kept["size"] < found.candidates
    clear = bool((kept["low"][short] > 1).any())
    return Areas(table, found.beats_model, clear, found.rank_by, found.ablation, found)


def area_table(found: Faithfulness, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """CPR and CMD of all orders of a `Faithfulness`, with intervals; columns as in `Areas.table`."""
    weights = resamples(found.n, found.groups or None, n_boot, seed)
    even = np.ones((1, found.n))
    rng = numpy_rng([seed, 3])
    rows = []
    runs = found.runs[found.runs["curve"] == "kept"]
    for order in dict.fromkeys(runs["order"]):
        mine = runs[runs["order"] == order]
        draws = [part.sort_values("size").index.to_numpy() for _, part in mine.groupby("draw")]
        share = np.sort(mine["size"].unique()) / found.candidates
        gain = np.stack([found.per_item[places] for places in draws]) - found.empty_per_item
        point = np.concatenate([_shares(one[None], found, even) for one in gain])
        pick = rng.integers(len(draws), size=n_boot)
        boot = np.concatenate([_shares(gain[[draw]], found, weights[[b]]) for b, draw in enumerate(pick)])
        for measure in ("cpr", "cmd"):
            for axis in AXES:
                for clipped in (False, True):
                    x = share if axis == "linear" else np.log10(share)
                    one, many = (mean_height(x, _height(y, measure, clipped)) for y in (point, boot))
                    low, high = draws_interval(many, n_groups(found.groups, found.n), one.mean())
                    rows.append((order, measure, axis, clipped, float(one.mean()), float(low), float(high)))
    return pd.DataFrame(rows, columns=["order", "measure", "axis", "clipped", "value", "low", "high"])


def _shares(gain: Array, found: Faithfulness, weights: Array) -> Array:
    """(draw, size) values of the curve, as ratios of weighted means over items."""
    span = weights @ (found.full_per_item - found.empty_per_item)
    span = np.where(span != 0, span, np.nan)
    return np.asarray(np.einsum("dki,di->dk", gain, weights) / span[:, None])


def _height(y: Array, measure: str, clipped: bool) -> Array:
    y = np.clip(y, 0, 1) if clipped else y
    return y if measure == "cpr" else np.abs(1 - y)
