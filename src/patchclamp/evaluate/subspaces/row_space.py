"""Is what a subspace patch moves read by anything? Its part in the row space of the site's read-out, and the rest.

A direction found by optimisation can change the output by way of a component that no input makes use of: it has one
part that the read-out reads but that hardly varies, and one that varies but is not read. Each is idle alone. This gives
the figures; what to call them is disputed, so there is no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import draws_interval, n_groups, resamples
from patchclamp.draw.cards import shown
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site, parse_site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.edits import positions as positions_of
from patchclamp.subjects.clamp.trial import run_trial

Array = NDArray[np.float64]
PARTS = ("full", "row", "null", "whole")
_TINY = 1e-6


@shown
@dataclass(frozen=True)
class RowSpace:
    """What patching along a subspace and along its parts transfers.

    Attributes
    ----------
    table : DataFrame
        One row a patch: part, norm, transferred, low, high, separation, spread. Parts: ``"full"`` the subspace given,
        ``"row"`` and ``"null"`` its parts inside and outside the read-out's row space, each made orthonormal again,
        ``"whole"`` the whole site, ``"random"`` subspaces of the same dimension (mean, and 2.5 to 97.5 percentile over
        them). `transferred` = (m(clean) - m(patched)) / (m(clean) - m(corrupted)); `norm` is the share of the
        subspace's squared norm in the part, as a root. For a single direction `spread` is the standard deviation of the
        activity along the part over clean items, `separation` the mean of clean minus corrupted in units of it.
    clean, corrupted : float
        The metric.
    rank, width : int
        Of the read-out, and of the site.
    n : int
        Items.
    gained : mapping
        Part -> (item,) m(clean) - m(patched), `random` among them as (set, item).
    span : array
        (item,) m(clean) - m(corrupted).
    groups : tuple of str
    """

    table: pd.DataFrame
    clean: float
    corrupted: float
    rank: int
    width: int
    n: int
    gained: Mapping[str, Array] = field(repr=False)
    span: Array = field(repr=False)
    groups: tuple[str, ...] = field(default=(), repr=False)

    def __getitem__(self, part: str) -> dict[str, float]:
        return {name: float(value) for name, value in self.table.set_index("part").loc[part].items()}


def row_space(
    subject: Subject,
    task: TaskLike,
    site: Site | str,
    vector: Any,
    *,
    readout: Any = None,
    positions: str | int | tuple[str | int, ...] = "all",
    n_random: int = 100,
    batch_size: int = 64,
    n_boot: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> RowSpace:
    """Patch a subspace of a site from the corrupted input, whole and split by the row space of what reads the site.

    With W (units, k) the read-out and Q an orthonormal basis of its columns, v_row = v Q Q^T and v_null = v - v_row; the
    read-out sees nothing of v_null. If v works and v_row alone does, what moves the output is what the read-out reads;
    if v works and v_row alone does not, the effect needs a part that is not read to be moved together with one that is.

    Parameters
    ----------
    subject, task
        Items with clean and corrupted inputs.
    site, vector
        One direction (units,) or several rows (k, units).
    readout
        (units, k) matrix through which the site acts; by default the down projection for ``mlp_act`` sites. For the
        stream, the concatenated read matrices of the heads that matter.
    positions
        As in `Intervention`.
    n_random
        Random subspaces of the same dimension.

    Raises
    ------
    PatchclampError
        For a read-out of rank 1 (every row part is then the same direction, so that the split says nothing), or one
        without a null space.

    Notes
    -----
    Verified on the three-unit example of its tests, where the answer is known. Reference: Makelov, Lange and Nanda,
    "Is This the Subspace You Are Looking for?" (2023); the reading of the null-space part is disputed.
    """
    site = parse_site(site) if isinstance(site, str) else site
    whole = _rows(vector)
    basis = _basis(subject, site, readout)
    if whole.shape[1] != len(basis):
        raise PatchclampError(f"{site}: the vector has {whole.shape[1]} numbers, the site {len(basis)} units")
    row = whole @ basis @ basis.T
    parts = {"full": whole, "row": row, "null": whole - row}
    rng = numpy_rng(seed)
    random = [rng.standard_normal(whole.shape) for _ in range(n_random)]
    size = np.linalg.norm(whole)
    there = {name: part for name, part in parts.items() if np.linalg.norm(part) > _TINY * size}
    patches = [
        *(_patch(site, positions, part) for part in there.values()),
        _patch(site, positions, None),
        *(_patch(site, positions, part) for part in random),
    ]
    trial = run_trial(subject, task, patches, batch_size=batch_size, progress=progress)
    corrupted, along = _other_side(subject, task, site, positions, there, batch_size)
    span = trial.baseline - corrupted
    if abs(span.mean()) < _TINY * max(1.0, abs(trial.baseline.mean())):
        raise PatchclampError(
            "the metric is the same on clean and corrupted inputs, so nothing is transferred"
        )
    weights = resamples(len(span), trial.groups or None, n_boot, seed)
    gains = dict(zip([*there, "whole"], trial.baseline - trial.changed, strict=False))
    gained = {name: gains.get(name, np.zeros_like(span)) for name in PARTS}
    rows = []
    for name, change in gained.items():
        share = change.mean() / span.mean()
        ends = draws_interval(weights @ change / (weights @ span), n_groups(trial.groups, len(span)), share)
        norm = 1.0 if name == "whole" else float(np.linalg.norm(parts[name]) / size)
        rows.append([name, norm, change.mean() / span.mean(), *ends, *along.get(name, (np.nan, np.nan))])
    gained["random"] = trial.baseline - trial.changed[len(there) + 1 :]
    if n_random:
        chance = gained["random"].mean(1) / span.mean()
        rows.append(["random", 1.0, chance.mean(), *np.quantile(chance, [0.025, 0.975]), np.nan, np.nan])
    columns = ["part", "norm", "transferred", "low", "high", "separation", "spread"]
    return RowSpace(
        pd.DataFrame(rows, columns=columns),
        float(trial.baseline.mean()),
        float(corrupted.mean()),
        basis.shape[1],
        len(basis),
        len(span),
        gained,
        span,
        trial.groups,
    )


def _rows(vector: Any) -> Array:
    rows = np.atleast_2d(as_array(vector))
    if not np.linalg.norm(rows) > 0:
        raise PatchclampError("the vector is zero, so it spans nothing")
    return rows


def _basis(subject: Subject, site: Site, readout: Any) -> Array:
    """Orthonormal columns that span what the read-out sees."""
    if readout is None:
        live: Any = subject
        if site.point != "mlp_act" or site.is_module:
            raise PatchclampError(f"{site}: has no output matrix of its own; give readout=, (units, k)")
        readout = live.output_matrix(site)
    matrix = as_array(readout)
    if matrix.ndim != 2 or len(matrix) != subject.width(site):
        raise PatchclampError(
            f"{site}: the read-out has shape {matrix.shape}; ({subject.width(site)}, k) is wanted"
        )
    left, sizes, _ = np.linalg.svd(matrix, full_matrices=False)
    rank = int((sizes > _TINY * sizes[0]).sum())
    if rank == 1:
        raise PatchclampError(
            f"{site}: the read-out has rank 1, so every row part is the same direction; give the full output matrix"
        )
    if rank == len(matrix):
        raise PatchclampError(f"{site}: the read-out reads all {rank} dimensions; there is no null space")
    return left[:, :rank]


def _patch(site: Site, positions: Any, rows: Array | None) -> Sequence[Intervention]:
    vector = None if rows is None else tuple(tuple(row) for row in rows.tolist())
    return [Intervention(str(site), "patch", positions, vector=vector)]  # type: ignore[arg-type]


def _other_side(
    subject: Subject, task: TaskLike, site: Site, positions: Any, parts: dict[str, Array], batch_size: int
) -> tuple[Array, dict[str, tuple[float, float]]]:
    """The metric on the corrupted inputs; for directions, how clean and corrupted activity lie along each."""
    metric = np.empty(len(task))
    lines = {name: torch.tensor(p[0] / np.linalg.norm(p[0])) for name, p in parts.items() if len(p) == 1}
    seen: dict[str, list[Tensor]] = {name: [] for name in (*lines, *(f"{name}'" for name in lines))}
    where = Intervention(str(site), "zero", positions)  # type: ignore[arg-type]
    for pair in subject.pairs(task, batch_size):
        if pair.corrupted is None:
            raise PatchclampError("the task's items have no corrupted inputs to patch from")
        clean = subject.run(pair.clean, read=[site], logits=pair.answer_position)
        other = subject.run(pair.corrupted, read=[site], logits=pair.answer_position)
        with torch.no_grad():
            score = pair.metric(other.logits, clean.logits)
        metric[pair.rows.cpu().numpy()] = score.double().cpu().numpy()
        mask = positions_of(where, pair, clean.activity[site])
        for mark, run in (("", clean), ("'", other)):
            values = run.activity[site][mask].double()
            for name, line in lines.items():
                seen[name + mark].append((values @ line.to(values.device)).cpu())
    found = {}
    for name in lines:
        one, two = torch.cat(seen[name]), torch.cat(seen[f"{name}'"])
        spread = float(one.std(correction=0))
        gap = float((one - two).mean())
        found[name] = (gap / spread if spread > _TINY * max(abs(gap), 1e-30) else float("inf") * gap, spread)
    return metric, found
