"""The 8 x 8 digits that come with scikit-learn: 1,797 images of 10 classes, no download."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor


@lru_cache(maxsize=1)
def digit_images() -> tuple[Float[Tensor, "image 8 8"], Int[Tensor, " image"]]:
    """Grey levels k / 16 below 1, in float64, and classes; shared, so never to be changed in place.

    Examples
    --------
    >>> digit_images()[0].shape
    torch.Size([1797, 8, 8])
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images).clamp(max=15) / 16, torch.tensor(data.target, dtype=torch.int64)
