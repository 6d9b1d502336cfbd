"""Whether a measure over pieces of the data is the measure over the whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr

from patchclamp.measure import Measure
from patchclamp.nouns.recording.recording import Samples


def measured(make: Callable[[], Measure], x: torch.Tensor, samples: Samples, cuts: list[int]) -> Measure:
    """One measure over consecutive pieces."""
    measure = make()
    for start, end in zip([0, *cuts], [*cuts, len(x)], strict=True):
        measure.update(x[start:end], samples[start:end])
    return measure


def assert_same(a: xr.Dataset, b: xr.Dataset, exact: bool) -> None:
    assert set(a) == set(b) and a.attrs == b.attrs
    for name in a.data_vars:
        left, right = a[name].values, b[name].values
        if exact or left.dtype.kind in "ibU":
            np.testing.assert_array_equal(left, right, err_msg=str(name))
        elif name in ("kurtosis", "skewness", "mean") and "kurtosis" in a:
            # All are differences: a small part of what they are taken from (the fourth moment, the spread).
            scale = a["std"].values if name == "mean" else a["kurtosis"].values + 3
            assert np.array_equal(np.isnan(left), np.isnan(right)), name
            assert (np.abs(np.nan_to_num(left - right)) <= 2e-6 * np.nan_to_num(scale, nan=0)).all(), name
        else:
            np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-9, err_msg=str(name))
