"""Numbers of any library and type become one tensor or array, or are refused by what is wrong with them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchclamp.base.arrays import as_array, as_tensor
from patchclamp.base.errors import PatchclampError

PLAIN = torch.tensor([[0.5, -2.0], [3.0, 0.25], [1.0, 4.0]])
ALIKE: dict[str, Any] = {
    "float32": PLAIN,
    "bfloat16": PLAIN.bfloat16(),
    "half with history": PLAIN.half().requires_grad_(),
    "sparse": PLAIN.to_sparse(),
    "numpy": PLAIN.numpy(),
    "backwards": PLAIN.numpy()[::-1].copy()[::-1],
    "every other column": np.repeat(PLAIN.numpy(), 2, axis=1)[:, ::2],
    "other byte order": PLAIN.numpy().astype(">f4"),
    "long double": PLAIN.numpy().astype(np.longdouble),
    "lists": PLAIN.tolist(),
    "tensors in a list": list(PLAIN.bfloat16().requires_grad_()),
    "arrays in a list": list(PLAIN.numpy()),
    "objects": PLAIN.numpy().astype(object),
}


@pytest.mark.parametrize("name", ALIKE)
def test_the_same_numbers_come_out(name: str) -> None:
    np.testing.assert_array_equal(as_array(ALIKE[name]), PLAIN.double().numpy())
    tensor = as_tensor(ALIKE[name])
    assert not tensor.requires_grad
    assert torch.equal(tensor.double(), PLAIN.double())


def test_own_types_are_kept_where_torch_computes_with_them() -> None:
    assert as_tensor(PLAIN.bfloat16()).dtype == torch.bfloat16
    assert as_tensor(np.uint8([3])).dtype == torch.uint8
    assert as_tensor(np.uint16([65535])).tolist() == [65535]
    assert as_tensor(PLAIN).data_ptr() == PLAIN.data_ptr()


def test_a_file_that_is_mapped_is_neither_read_nor_complained_of(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PLAIN.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = as_tensor(mapped)
    assert tensor.data_ptr() == mapped.ctypes.data


WRONG: dict[str, tuple[Any, str]] = {
    "complex": (PLAIN.numpy() + 1j, "scan: complex numbers"),
    "complex tensor": (PLAIN.to(torch.complex64), "scan: complex numbers"),
    "text": (PLAIN.numpy().astype(str), "scan: no array of numbers but text"),
    "text in objects": (np.array([["1", 2.0]], dtype=object), "scan: holds text"),
    "ragged": ([[1.0], [2.0, 3.0]], "scan: no array of numbers"),
    "dates": (np.array(["2020-01-01"], "datetime64[D]"), "scan: no array of numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_real_number_is_refused(name: str) -> None:
    values, message = WRONG[name]
    for read in (as_array, as_tensor):
        with pytest.raises(PatchclampError, match=message):
            read(values, "scan")


def test_numbers_whose_squares_are_infinite_are_refused_and_nan_passes() -> None:
    with pytest.raises(PatchclampError, match=r"scan: holds 2e\+200"):
        as_array([1.0, 2e200], "scan")
    np.testing.assert_array_equal(as_array([np.nan, np.inf]), [np.nan, np.inf])
