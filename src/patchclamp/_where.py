"""Which samples a condition selects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp._samples import COLUMNS, Samples
from patchclamp.errors import PatchclampError, did_you_mean

Where = Callable[[Samples], Tensor] | Mapping[str, Any]
STEP = 65536


def matching(
    where: Where, read: Callable[[slice], Samples], n_samples: int, manifest: Mapping[str, Any]
) -> np.ndarray:
    """Indices of the samples for which `where` holds, looked at in pieces.

    Raises
    ------
    PatchclampError
        When none matches, a column or name does not exist, or a function does not return a mask.
    """
    test = where if callable(where) else _condition(where, manifest)
    found = []
    for start in range(0, n_samples, STEP):
        part = read(slice(start, start + STEP))
        mask = torch.as_tensor(test(part))
        if mask.shape != (len(part),) or mask.dtype != torch.bool:
            raise PatchclampError(
                f"where: the function returned {tuple(mask.shape)} of {mask.dtype}; "
                f"it must return one bool a sample, ({len(part)},)"
            )
        found.append(mask.nonzero()[:, 0].numpy() + start)
    chosen = np.concatenate(found) if found else np.zeros(0, np.int64)
    if not len(chosen):
        raise PatchclampError(f"where={where!r} matches none of the {n_samples} samples")
    return chosen


def _condition(where: Mapping[str, Any], manifest: Mapping[str, Any]) -> Callable[[Samples], Tensor]:
    for name in where:
        if name not in COLUMNS:
            raise PatchclampError(
                f"where: no column {name!r}; the columns are {', '.join(COLUMNS)}{did_you_mean(name, COLUMNS)}"
            )
    tests = {name: _codes(name, value, manifest) for name, value in where.items()}

    def test(samples: Samples) -> Tensor:
        mask = torch.ones(len(samples), dtype=torch.bool)
        for name, value in tests.items():
            mask &= _holds(getattr(samples, name), value)
        return mask

    return test


def _holds(column: Tensor, value: Any) -> Tensor:
    if isinstance(value, slice):
        top = torch.iinfo(torch.int64).max if value.stop is None else value.stop
        return (column >= (value.start or 0)) & (column < top)
    return torch.isin(column.long(), torch.tensor(value, dtype=torch.int64))


def _codes(name: str, value: Any, manifest: Mapping[str, Any]) -> Any:
    """Values of a column as integers; names of labels and groups are looked up in the manifest."""
    if isinstance(value, slice):
        if value.step is not None or any(isinstance(end, str) for end in (value.start, value.stop)):
            raise PatchclampError(f"where: {name}={value!r}; a slice is (from, up to) in whole numbers")
        return value
    if not isinstance(value, (str, int, np.integer, Iterable)):
        raise PatchclampError(f"where: {name}={value!r}; give a value, a list of values or a slice")
    values = [value] if isinstance(value, (str, int, np.integer)) else list(value)
    names = list(manifest.get(f"{name}_names") or [])
    lost = [v for v in values if isinstance(v, str) and v not in names]
    if lost:
        raise PatchclampError(
            f"where: no {name} {lost[0]!r}; there are {names[:20]}{did_you_mean(lost[0], names)}"
        )
    return [names.index(v) if isinstance(v, str) else int(v) for v in values]
