"""Activity is looked at while it is recorded: what is not finite, or does not fit the store, is named."""

from __future__ import annotations

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Samples
from patchclamp.nouns.units import Site


def check_activity(site: Site, values: Tensor, samples: Samples, dtype: torch.dtype | None) -> None:
    """Refuse NaN and Inf, and finite values that become Inf in the storage type.

    One pass over the values (their least and greatest) where all is well.

    Parameters
    ----------
    site
        Where the activity was read.
    values
        (samples, units) or (samples, heads, d_head).
    samples
        Their labels.
    dtype
        The storage type; None when nothing is stored.

    Raises
    ------
    PatchclampError
        Naming the unit, document and position, the value and the way out.
    """
    if not values.numel():
        return
    low, high = (float(bound) for bound in torch.aminmax(values))
    # A NaN anywhere makes both bounds NaN.
    if not (low > -torch.inf and high < torch.inf):
        raise PatchclampError(
            f"{_where(site, ~torch.isfinite(values), values, samples)}: not a finite number; the recording ends "
            "here. Run `patchclamp check` on the model, or use dtype='float32' for its weights"
        )
    if dtype is not None and torch.isinf(torch.tensor([low, high], dtype=torch.float64).to(dtype)).any():
        name = str(dtype).removeprefix("torch.")
        over = torch.isinf(values.to(dtype))
        raise PatchclampError(
            f"{_where(site, over, values, samples)}: too large for dtype={name!r} "
            f"(at most {torch.finfo(dtype).max:.4g}); use dtype='bfloat16' or 'float32'"
        )


def _where(site: Site, bad: Tensor, values: Tensor, samples: Samples) -> str:
    first = bad.nonzero()[0].tolist()
    row, unit = first[0], first[1]
    doc, position = int(samples.doc[row]), int(samples.position[row])
    return f"{site}[{unit}] in document {doc} at position {position}: {float(values[tuple(first)])}"
