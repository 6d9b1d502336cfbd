"""`Architecture`: the settings that all sparse autoencoders share, and what each defines for itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.base import Decomposer
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.decompose.sae.core import Geometry, Moment, Pass, Step, Tensors, init_weights
from patchclamp.decompose.sae.support import Support
from patchclamp.nouns.dictionary import StoredDictionary
from patchclamp.nouns.units import Site


@dataclass(frozen=True)
class Architecture(Decomposer[StoredDictionary]):
    """What every architecture takes.

    Parameters
    ----------
    n_features
        Number of features; four times the units where None.
    seed
        Of weights and of the order of rows. The same seed, data and settings give the same dictionary, bit for bit,
        on the same machine and number of threads.
    steps
        Batches; where None, ten passes over the data, and at least 2,000.
    batch_size
        Rows a step.
    lr
        Adam's rate; where None, 2e-4 (2**14 / n_features)**0.5 (Gao et al. 2024).
    betas
        Adam's.
    lr_warmup, lr_decay
        Share of the run over which the rate rises from 0, and, at its end, falls to 0, linearly.
    penalty_warmup
        Share of the run over which a sparsity penalty rises from 0.
    center
        Start of b_dec: ``"mean"``, ``"geometric_median"`` or ``"zero"``.
    scale
        Train on activity multiplied by one factor such that its variance, summed over units, is the number of units; so
        penalties mean the same at every site. The factor is folded into the weights afterwards.
    dead_after
        Rows without activity after which a feature counts as dead; where None, a tenth of the run, at most 10 million.
    revive
        Bring dead features back: by the auxiliary loss (TopK, BatchTopK, Matryoshka), or by starting them anew at
        badly reconstructed rows, seven times in the first half of the run (the others).
    clip
        Largest norm of the whole gradient; None: not clipped. On scaled activity most steps are clipped, so that batches
        count alike; the error came out a little lower for it (`benchmarks/sae.py`).
    buffer_rows
        Rows in memory, among which they are shuffled (see `Feed`).
    save_every
        Steps between two saved states, where `fit` is given a folder.
    products
        ``"auto"``; ``"sparse"`` or ``"dense"`` force one form of the products on codes (for tests and benchmarks).
    device
        Where training runs.
    """

    _: KW_ONLY
    steps: int | None = None
    batch_size: int = 2048
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    lr_warmup: float = 0.05
    lr_decay: float = 0.2
    penalty_warmup: float = 0.1
    center: str = "mean"
    scale: bool = True
    dead_after: int | None = None
    revive: bool = True
    clip: float | None = 1.0
    buffer_rows: int = 1 << 18
    save_every: int = 1000
    products: str = "auto"
    device: str = "cpu"

    name: ClassVar[str] = ""
    restarts: ClassVar[bool] = False

    # ---- what an architecture defines

    def init(self, geometry: Geometry, n_features: int, generator: torch.Generator) -> Tensors:
        """Parameters but for b_dec (and b_pre), which start at the data's centre."""
        encoder, decoder = init_weights(geometry, n_features, generator)
        return {"W_enc": encoder, "b_enc": torch.zeros(n_features), "W_dec": decoder}

    @abstractmethod
    def step(self, step: Pass, moment: Moment) -> Step:
        """Forward and backward of one batch."""

    @abstractmethod
    def codes(self, step: Pass) -> tuple[Support, Tensor]:
        """Support and values of the codes of a batch, as in training."""

    def unit_norm(self, geometry: Geometry) -> bool:
        """Whether decoder rows are held at length 1."""
        return True

    def settle(self, params: Tensors, passes: Callable[[int], Pass]) -> Tensors:
        """What is set once training is over (thresholds); `passes(i)` is batch i on its way through."""
        return {}

    @abstractmethod
    def weights(self, params: Tensors, geometry: Geometry, factors: tuple[float, float]) -> dict[str, Any]:
        """Arguments of `SparseDictionary` in the units of the data; `factors` multiplied what was read and written."""

    def build(
        self, site: Site, target: Site, weights: dict[str, Any], meta: dict[str, Any]
    ) -> StoredDictionary:
        """The dictionary with these weights."""
        return SparseDictionary(site, **weights, target=target, meta=meta)

    def check(self, n_features: int) -> None:
        """Refuse impossible settings."""
        k = getattr(self, "k", None)
        if k is not None and not 1 <= k <= n_features:
            raise PatchclampError(f"{self.name}: k={k}, but there are {n_features} features")
        for key in ("batch_size", "buffer_rows", "save_every", "steps"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise PatchclampError(f"{self.name}: {key}={value}; at least 1")
        if n_features < 1:
            raise PatchclampError(f"{self.name}: n_features={n_features}; at least 1")
        if self.lr is not None and not self.lr > 0:
            raise PatchclampError(f"{self.name}: lr={self.lr}; above 0")
        for key, options in (
            ("center", ("mean", "geometric_median", "zero")),
            ("products", ("auto", "sparse", "dense")),
        ):
            if getattr(self, key) not in options:
                raise PatchclampError(
                    f"{self.name}: {key}={getattr(self, key)!r} is none of {', '.join(options)}"
                )


def folded(params: Tensors, geometry: Geometry, factors: tuple[float, float]) -> dict[str, Any]:
    """Weights for activity that is not scaled, in SAELens' orientation.

    Trained on s x and t y; a feature's activity is then in units of y. W_enc s / t, biases / t, b_dec / t; for what is
    not tied, b_pre goes into b_enc
    (and through the skip path into b_dec): it has no place of its own in the file.
    """
    s, t = factors
    encoder = params["W_enc"] * (s / t)
    bias = params["b_enc"] / t if "b_enc" in params else torch.zeros(len(encoder))
    if not geometry.tied:
        bias = bias - encoder @ (params["b_pre"] / s)
    out: dict[str, Any] = {
        "W_enc": encoder.T.contiguous(),
        "b_enc": bias,
        "W_dec": params["W_dec"].clone(),
        "b_dec": params["b_dec"] / t,
        "apply_b_dec_to_input": geometry.tied,
    }
    if geometry.skip:
        out["W_skip"] = params["W_skip"] * (s / t)
        out["b_dec"] = out["b_dec"] - (params[geometry.pre_bias] / s) @ out["W_skip"]
    return {name: t.detach().cpu() if isinstance(t, Tensor) else t for name, t in out.items()}
