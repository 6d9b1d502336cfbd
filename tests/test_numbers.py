"""What a user of a GPU has in hand: half precision, gradients, views; and what is no number, in every verb."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from patchclamp import Recording
from patchclamp.base.errors import PatchclampError
from patchclamp.compare import METHODS as COMPARISONS
from patchclamp.connect.coupling.correlation import correlation
from patchclamp.decompose import SNMF
from patchclamp.measure.labels.discrimination import discrimination

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).bfloat16().float()
Y = (X @ torch.randn(6, 6, generator=torch.Generator().manual_seed(1))).bfloat16().float()
ALIKE = {
    "bfloat16": lambda t: t.bfloat16(),
    "with gradient": lambda t: t.clone().requires_grad_(),
    "both": lambda t: t.bfloat16().requires_grad_(),
    "backwards": lambda t: t.numpy()[::-1].copy()[::-1],
}
WRONG = {
    "complex numbers": lambda t: t.numpy() + 1j,
    "text": lambda t: t.numpy().astype(str),
    "double precision": lambda t: t.double().numpy() * 1e200,
}
CALLS: dict[str, Any] = {
    **{name: lambda a, b, m=method: m(a, b).value for name, method in COMPARISONS.items()},
    "correlation": lambda a, b: float(correlation(a, null_samples=19).weights.sum()),
    "snmf": lambda a, b: float(SNMF(2, sparsity=0.5).fit(a).directions.sum()),
    "discrimination": lambda a, b: discrimination(a, torch.arange(40) % 2),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", ALIKE)
def test_the_type_in_which_numbers_come_changes_nothing(name: str, kind: str) -> None:
    make = ALIKE[kind]
    assert CALLS[name](make(X), make(Y)) == pytest.approx(CALLS[name](X, Y), rel=1e-5)


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"snmf", "discrimination"}))
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_number_is_refused(name: str, kind: str) -> None:
    make = WRONG[kind]
    with pytest.raises(PatchclampError, match=kind):
        CALLS[name](make(X), make(Y))


@pytest.mark.parametrize("kind", ALIKE)
def test_recordings_of_arrays(kind: str) -> None:
    made = Recording.from_arrays({"v1": ALIKE[kind](X)})
    np.testing.assert_array_equal(made["v1"][:].float().numpy(), X.numpy())


@pytest.mark.parametrize("kind", ["complex numbers", "text"])
def test_recordings_of_what_is_no_number_are_refused(kind: str) -> None:
    with pytest.raises(PatchclampError, match=f"v1.*{kind}"):
        Recording.from_arrays({"v1": WRONG[kind](X)})
