"""Numbers that a person hands over, as one tensor or array: of any library, type and device, real and finite to square."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 1e150  # the square of a larger double is infinite


def as_tensor(values: Any, what: str = "activity") -> Tensor:
    """The values as a tensor without history, in their own type where torch computes with it.

    A tensor stays on its device. Unsigned integers become int64, long doubles float64, and numbers of another byte order
    those of this machine; an array of negative strides is copied.

    Raises
    ------
    PatchclampError
        For complex numbers, text and what is no array.

    Examples
    --------
    >>> as_tensor(np.arange(3.0)[::-1]).tolist()
    [2.0, 1.0, 0.0]
    """
    import torch

    if isinstance(values, torch.Tensor):
        tensor = values.detach()
        if tensor.is_complex():
            raise PatchclampError(_complex(what))
        return tensor if tensor.layout == torch.strided else tensor.to_dense()
    if isinstance(values, (list, tuple)) and any(isinstance(one, torch.Tensor) for one in values):
        return torch.stack([as_tensor(one, what) for one in values])
    array = _real(values, what)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "u" and size > 1:
        array = array.astype(np.int64)
    elif kind == "f" and size > 8:
        array = array.astype(np.float64)
    with warnings.catch_warnings():
        # A memory-mapped file is not writable, and nothing here writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def as_array(values: Any, what: str = "activity") -> NDArray[np.float64]:
    """The values as an array in double precision; NaN and Inf pass, for their owner to name.

    Raises
    ------
    PatchclampError
        As `as_tensor`, and for numbers beyond 1e150, whose squares are infinite.

    Examples
    --------
    >>> as_array([1, 2]).dtype.name
    'float64'
    """
    torch = sys.modules.get("torch")  # without it nothing can be a tensor
    if torch is not None and isinstance(values, torch.Tensor):
        array = as_tensor(values, what).cpu().double().numpy()
    elif torch is not None and isinstance(values, (list, tuple)) and _holds(values, torch.Tensor):
        array = np.asarray([as_array(one, what) for one in values])
    else:
        array = np.asarray(_real(values, what), np.float64)
    large = np.abs(array) > LARGEST
    if large.any() and np.isfinite(array[large]).any():
        worst = float(np.abs(array[large & np.isfinite(array)]).max())
        raise PatchclampError(
            f"{what}: holds {worst:.3g}, whose square is beyond double precision; divide by a constant, or leave it out"
        )
    return array


def _holds(values: Any, kind: type) -> bool:
    return any(
        isinstance(one, kind) or (isinstance(one, (list, tuple)) and _holds(one, kind)) for one in values
    )


def _real(values: Any, what: str) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise PatchclampError(f"{what}: no array of numbers ({error})") from error
    kind = array.dtype.kind
    if kind == "c":
        raise PatchclampError(_complex(what))
    if kind in "US":
        raise PatchclampError(
            f"{what}: no array of numbers but text ({array.dtype}); convert it first, array.astype(float)"
        )
    if kind == "O":
        if any(isinstance(one, (str, bytes, complex)) for one in array.flat):
            raise PatchclampError(f"{what}: holds text or complex numbers; convert it to real numbers first")
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise PatchclampError(f"{what}: no array of numbers ({error})") from error
    if kind not in "biuf":
        raise PatchclampError(f"{what}: no array of numbers (type {array.dtype})")
    return array


def _complex(what: str) -> str:
    return f"{what}: complex numbers; pass the part that is meant, array.real or abs(array)"
