"""Attention readout: a region looks where the content tells it to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import check_seed
from patchclamp.compare.encoding.ridge import r2
from patchclamp.compare.inputs import Matrix, matrix
from patchclamp.draw.cards import shown


@shown
@dataclass
class AttentionReadout:
    """One cross-attention from a learned query a region to the tokens of a stimulus, then a linear map to its units.

    logits_{q,l} = q . (W_k x_l + p_l) / sqrt(d) for query q (one a region and head) and location l, with a
    learned position p_l; a = softmax over locations; y = b + sum over heads W_out (sum_l a_l W_v x_l). A
    factorised readout has one mask for all stimuli; here the mask depends on the stimulus.

    Parameters
    ----------
    width, heads
        Size of a key and value, and number of queries a region.
    epochs, batch_size, learning_rate, weight_decay
        Of AdamW with gradients clipped at 1; the rate falls to 0 along a cosine.
    seed
        Of weights and order of samples. The global random state is left as it was.
    device

    Attributes
    ----------
    losses_ : list of float
        Mean squared error of each epoch, targets at unit variance.

    Notes
    -----
    Adeli et al. 2025 (transformer brain encoder). Theirs is a whole decoder layer (feed-forward part, dropout,
    fixed sine positions); this is its attention with learned positions. Verified where a flag in the tokens
    says which location is read: attention finds it and no linear readout can.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> tokens = rng.normal(size=(64, 5, 3))                        # image, location, feature
    >>> model = AttentionReadout(epochs=2).fit(tokens, tokens[:, 2, :1])
    >>> model.attention(tokens).shape                               # image, region, location
    (64, 1, 5)
    """

    width: int = 16
    heads: int = 1
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    seed: int = 0
    device: str = "cpu"

    def fit(self, X: Any, Y: Any, regions: Any = None) -> AttentionReadout:
        """Fit on tokens (sample, location, feature) and responses (sample, unit); `regions` labels the units."""
        x, y = _tokens(X), matrix(Y, "targets")
        if len(x) != len(y):
            raise PatchclampError(
                f"{len(x)} samples of tokens and {len(y)} of targets: they must be the same"
            )
        names = np.zeros(y.shape[1]) if regions is None else np.asarray(regions)
        if len(names) != y.shape[1]:
            raise PatchclampError(f"{len(names)} region labels for {y.shape[1]} units")
        self.regions_, member = np.unique(names, return_inverse=True)
        self.x_mean_, self.x_scale_ = x.mean((0, 1)), _spread(x.std((0, 1)))
        self.y_mean_, self.y_scale_ = y.mean(0), _spread(y.std(0))
        inputs = self._inputs(x)
        targets = torch.as_tensor((y - self.y_mean_) / self.y_scale_, dtype=torch.float32, device=self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(check_seed(self.seed))
            self.module_ = _Attend(x.shape[1], x.shape[2], torch.as_tensor(member), self.width, self.heads)
            self.module_.to(self.device)
            self.losses_ = self._train(inputs, targets)
        return self

    def predict(self, X: Any) -> Matrix:
        """Predicted responses (sample, unit)."""
        out, _ = self._run(X)
        return np.asarray(out.double().cpu().numpy() * self.y_scale_ + self.y_mean_)

    def attention(self, X: Any) -> Matrix:
        """Weight of each location (sample, region, location), mean over heads; a region's, not a unit's. Sums to 1."""
        return np.asarray(self._run(X)[1].double().cpu().numpy())

    def score(self, X: Any, Y: Any) -> Matrix:
        """R^2 of every unit."""
        return r2(matrix(Y, "targets"), self.predict(X))

    def _run(self, X: Any) -> tuple[Tensor, Tensor]:
        if not hasattr(self, "module_"):
            raise PatchclampError("this readout is not fitted; call fit(tokens, responses) first")
        x = _tokens(X)
        if x.shape[1:] != (self.module_.position.shape[1], len(self.x_mean_)):
            raise PatchclampError(
                f"tokens of shape {x.shape}: fitted on {self.module_.position.shape[1]} locations x "
                f"{len(self.x_mean_)} features"
            )
        with torch.no_grad():
            parts = [self.module_(part) for part in self._inputs(x).split(self.batch_size)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _inputs(self, x: Matrix) -> Tensor:
        return torch.as_tensor((x - self.x_mean_) / self.x_scale_, dtype=torch.float32, device=self.device)

    def _train(self, x: Tensor, y: Tensor) -> list[float]:
        optimiser = torch.optim.AdamW(
            self.module_.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs)
        losses = []
        for _ in range(self.epochs):
            total = 0.0
            for rows in torch.randperm(len(x)).split(self.batch_size):
                out, _ = self.module_(x[rows])
                loss = ((out - y[rows]) ** 2).mean()
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.module_.parameters(), 1.0)
                optimiser.step()
                total += float(loss.detach()) * len(rows)
            schedule.step()
            losses.append(total / len(x))
        return losses


class _Attend(nn.Module):
    member: Tensor

    def __init__(self, places: int, features: int, member: Tensor, width: int, heads: int) -> None:
        super().__init__()
        regions, units = int(member.max()) + 1, len(member)
        self.key = nn.Linear(features, heads * width, bias=False)
        self.value = nn.Linear(features, heads * width, bias=False)
        self.position = nn.Parameter(0.02 * torch.randn(heads, places, width))
        self.query = nn.Parameter(torch.randn(regions, heads, width))
        self.weight = nn.Parameter(torch.randn(units, heads * width) / (heads * width) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(units))
        self.heads, self.width = heads, width
        self.register_buffer("member", member)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Responses (sample, unit) and attention (sample, region, location) of tokens (sample, location, feature)."""
        n, places, _ = x.shape
        key = self.key(x).view(n, places, self.heads, self.width) + self.position.transpose(0, 1)
        value = self.value(x).view(n, places, self.heads, self.width)
        logits = torch.einsum("rhd,nlhd->nrhl", self.query, key) / self.width**0.5
        attention = logits.softmax(-1)
        seen = torch.einsum("nrhl,nlhd->nrhd", attention, value).flatten(2)
        out = torch.einsum("nud,ud->nu", seen[:, self.member], self.weight) + self.bias
        return out, attention.mean(2)


def _tokens(X: Any) -> Matrix:
    x = as_array(X, "tokens")
    if x.ndim != 3:
        raise PatchclampError(f"tokens: wanted samples x locations x features, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise PatchclampError("tokens: hold NaN or Inf; leave these samples out")
    return x


def _spread(scale: Matrix) -> Matrix:
    return np.asarray(np.where(scale > 1e-12, scale, 1.0))
