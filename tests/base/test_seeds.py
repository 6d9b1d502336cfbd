"""A seed that is none is refused in a line, by whatever takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from patchclamp import PatchclampError, Recording
from patchclamp.base.seeds import check_seed, numpy_rng, torch_rng
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.compare import METHODS as COMPARE
from patchclamp.connect import METHODS as CONNECT
from patchclamp.decompose import METHODS as DECOMPOSE
from patchclamp.truth import load_truth

X = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")


def recording() -> Recording:
    return Recording.from_arrays({"lfp": X.reshape(20, 10, 6)})


CALLS: dict[str, Callable[[Any], Any]] = {
    "bootstrap": lambda seed: bootstrap_interval(X[:, 0], seed=seed),
    **{
        name: lambda seed, name=name: CONNECT[name](recording(), seed=seed)
        for name in ("correlation", "partial_correlation", "lagged_correlation")
    },
    **{
        name: lambda seed, name=name: DECOMPOSE[name](
            2, seed=seed, **({"k": 1} if name == "topk" else {})
        ).fit(recording())
        for name in ("pca", "ica", "snmf", "topk")
    },
    "rsa": lambda seed: COMPARE["rsa"](X[:20], X[20:40], n_boot=20, seed=seed),
    "truth": lambda seed: load_truth("planted-orthogonal", seed=seed),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("seed", [-1, 1.5])
def test_what_is_no_seed_is_refused(call: Callable[[Any], Any], seed: Any) -> None:
    """NumPy said "expected non-negative integer"; torch took -1 for another seed."""
    with pytest.raises(PatchclampError, match=f"seed {seed}: give a whole number from 0 to"):
        call(seed)


def test_the_numbers_are_those_of_numpy_and_torch() -> None:
    for seed in (0, np.int64(7), 2**40, [3, 5], None):
        if seed is not None:
            assert numpy_rng(seed).random() == np.random.default_rng(seed).random()
    same = np.random.default_rng(1)
    assert numpy_rng(same) is same
    assert torch.equal(
        torch.rand(3, generator=torch_rng(5)), torch.rand(3, generator=torch.Generator().manual_seed(5))
    )
    assert check_seed(np.uint32(3)) == 3
    with pytest.raises(PatchclampError, match="seed 4294967296: give a whole number from 0 to 4,294,967,295"):
        check_seed(2**32, 2**32 - 1)
