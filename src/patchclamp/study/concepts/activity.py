"""One value for every text and unit: the mean or the maximum over its content tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.nouns.tasks.texts import TextTask
from patchclamp.nouns.units import Site, Unit
from patchclamp.subjects import LanguageModel

__all__ = ["pooled_activity"]

Pool = Literal["mean", "max"]


def pooled_activity(
    subject: LanguageModel,
    texts: TextTask,
    sites: Sequence[Site],
    pool: Pool = "mean",
    progress: Progress | None = None,
) -> tuple[Float[Tensor, "text unit"], list[Unit]]:
    """Pool the activity of all units of some sites over each text, in one pass.

    Padding, special tokens and the first position, where attention sinks sit, are left out. Heads are measured by
    the norm of their z.

    Returns
    -------
    values, units
        (text, unit) float32 in the order of the texts, and the unit of each column.
    """
    widths = [subject.width(site) for site in sites]
    values = torch.zeros(len(texts), sum(widths))
    starts = dict(zip(sites, [sum(widths[:i]) for i in range(len(sites))], strict=True))
    done = 0
    for pair in subject.pairs(texts, 32):
        content = subject.content_mask(pair.clean)
        if not bool(content.any(1).all()):
            row = int(pair.rows[~content.any(1)][0])
            raise PatchclampError(f"{texts.name}: text {row} has no token besides the first; leave it out")
        rows = pair.rows.cpu()

        def keep(activity: Tensor, site: Site, content: Tensor = content, rows: Tensor = rows) -> None:
            size = activity.norm(dim=-1) if activity.ndim == 4 else activity
            start = starts[site]
            values[rows, start : start + size.shape[2]] = _pooled(size.float(), content, pool).cpu()

        subject.run(pair.clean, read={site: partial(keep, site=site) for site in sites})
        done += len(rows)
        if progress is not None:
            progress(f"recording {texts.name}", done, len(texts))
    if not bool(torch.isfinite(values).all()):
        text, column = (int(i) for i in (~torch.isfinite(values)).nonzero()[0])
        raise PatchclampError(f"text {text}: the activity of column {column} is not a finite number")
    return values, [Unit(site, i) for site, width in zip(sites, widths, strict=True) for i in range(width)]


def _pooled(size: Float[Tensor, "batch pos unit"], content: Tensor, pool: str) -> Float[Tensor, "batch unit"]:
    if pool == "max":
        return size.masked_fill(~content[..., None], -torch.inf).amax(1)
    if pool == "mean":
        return (size * content[..., None]).sum(1) / content.sum(1, keepdim=True)
    raise PatchclampError(f"pool={pool!r}: give 'mean' or 'max'")
