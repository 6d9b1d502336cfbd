"""The illusion test of a subspace: does what works in it survive without the part that nothing reads?

Built on `row_space`, which gives the figures; here they are put together, by a rule that is printed with the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.statistics import FEWEST_GROUPS, draws_interval, n_groups, permutation_p, resamples
from patchclamp.draw.cards import shown
from patchclamp.evaluate.subspaces.row_space import RowSpace, row_space
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject

KEPT = 0.5
LEAST = 0.1
RULE = (
    f"works: the full subspace transfers at least {LEAST:.0%} of the span, and its interval excludes zero; flagged: "
    f"it works, and its row part alone transfers less than {KEPT:.0%} of what the full subspace does (interval)"
)


@shown
@dataclass(frozen=True)
class Illusion:
    """What a subspace transfers, and how much of it the read part alone does.

    Attributes
    ----------
    works : bool
        Whether the subspace transfers anything, by `RULE`.
    flagged : bool
        Whether the row part alone loses most of it.
    full, row, null, whole : float
        Shares of the metric's span transferred by the subspace, by its two parts, by the whole site.
    kept : Estimate or None
        row / full, with its interval, paired over items; None where the full subspace transfers nothing.
    p : float or None
        Of the full subspace among random ones of its dimension; None without any. In a site of few units random
        subspaces do well too, so it is no part of the rule.
    beyond_site : bool
        Whether the subspace transfers more than the whole site it lies in: further evidence of an illusion.
    idle_part_separates : float
        How far clean and corrupted activity lie apart along the null part, in units of its spread (NaN for
        subspaces of several dimensions). An illusion needs such a part; where it is near zero, nothing is moved by it.
    figures : RowSpace
    """

    works: bool
    flagged: bool
    full: float
    row: float
    null: float
    whole: float
    kept: Estimate | None
    p: float | None
    beyond_site: bool
    idle_part_separates: float
    figures: RowSpace = field(repr=False)

    @property
    def verdict(self) -> str:
        """``"illusion"``, ``"read"`` (the row part does it) or ``"no effect"``."""
        if not self.works:
            return "no effect"
        return "illusion" if self.flagged else "read"

    def __str__(self) -> str:
        return (
            f"{self.verdict}: full {self.full:.2f}, row part {self.row:.2f}, null part {self.null:.2f}, whole site "
            f"{self.whole:.2f}"
            + ("" if self.kept is None else f"; kept {self.kept.value:.2f} {self.kept.span('.2f')}")
            + ("" if self.p is None else f"; p among random subspaces {self.p:.3g}")
        )


def illusion(
    subject: Subject,
    task: TaskLike,
    site: Site | str,
    vector: Any,
    *,
    n_boot: int = 1000,
    seed: int = 0,
    **options: Any,
) -> Illusion:
    """Test whether a subspace works by way of a component that is not read.

    The subspace v, its part in the row space of the site's read-out and its part in the null space are patched from the
    corrupted input. Nothing reads the null part, so alone it transfers nothing; where the row part alone does not
    transfer what v does either, v works only by moving the two together.

    Parameters
    ----------
    subject, task, site, vector
        As for `row_space`.
    n_boot, seed
        Of the paired interval of row / full.
    options
        Further arguments of `row_space`: readout, positions, n_random, batch_size.

    Raises
    ------
    PatchclampError
        As `row_space`.

    Notes
    -----
    Makelov, Lange and Nanda 2023. That the null part disqualifies a finding is disputed (a distributed code may need
    both): the verdict says what `RULE` says and no more. Verified on the three-unit example.
    """
    found = row_space(subject, task, site, vector, n_boot=n_boot, seed=seed, **options)
    if n_boot < 1:
        raise PatchclampError(f"n_boot={n_boot}: the rule needs intervals")
    count = n_groups(found.groups, found.n)
    if count < FEWEST_GROUPS:
        raise PatchclampError(
            f"illusion: the items are in {count} independent groups, and the rule needs intervals, which need at least "
            f"{FEWEST_GROUPS}; give more items"
        )
    weights = resamples(found.n, found.groups or None, n_boot, seed)
    span = float(found.span.mean())
    full, row = found.gained["full"], found.gained["row"]
    p = None
    if len(found.gained["random"]):
        p = permutation_p(full.mean() / span, found.gained["random"].mean(1) / span)
    low = float(draws_interval(weights @ full / (weights @ found.span), count, full.mean() / span)[0])
    works = low > 0 and full.mean() / span >= LEAST
    kept = None
    if abs(full.mean()) > 1e-9 * abs(span):
        share = row.mean() / full.mean()
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = (weights @ row) / (weights @ full)
        low_end, high_end = draws_interval(np.where(np.isfinite(draws), draws, np.nan), count, share)
        kept = Estimate(float(share), float(low_end), float(high_end), found.n, None, count)
    full_share, whole_share = found["full"]["transferred"], found["whole"]["transferred"]
    return Illusion(
        works=works,
        flagged=bool(works and kept is not None and kept.high is not None and kept.high < KEPT),
        full=full_share,
        row=found["row"]["transferred"],
        null=found["null"]["transferred"],
        whole=whole_share,
        kept=kept,
        p=p,
        beyond_site=bool(abs(full_share) > abs(whole_share) + 1e-6),
        idle_part_separates=found["null"]["separation"],
        figures=found,
    )
