"""A small transformer over spikes: each neuron asks the spikes just past whether it will fire."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import check_seed
from patchclamp.connect.series import Series

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SpikeTokens:
    """Spikes of the `window` samples before each sample.

    Parameters
    ----------
    unit
        (row, token) int64, which neuron; the number of neurons for the rest token, which every row has first; -1 past the end.
    lag
        (row, token) int64, samples ago, 1 .. window; 0 for the rest token.
    fired
        (row, neuron) float32, 1 where the neuron has a spike now.
    rows
        (row,) sample of each row.
    """

    unit: Tensor
    lag: Tensor
    fired: Tensor
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.unit)

    def take(self, places: Tensor) -> SpikeTokens:
        """Some of the rows, without columns that none of them uses."""
        used = int((self.unit[places] >= 0).sum(1).max())
        at = places.numpy()
        return SpikeTokens(
            self.unit[places, :used], self.lag[places, :used], self.fired[places], self.rows[at]
        )

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[SpikeTokens]:
        """Rows `size` at a time."""
        places = torch.arange(len(self)) if order is None else order
        for part in places.split(size):
            yield self.take(part)


def tokens_of(units: Series, window: int, targets: Series | None = None) -> SpikeTokens:
    """Cut spikes into tokens; a neuron with two spikes in a sample has two.

    The past of a row ends with the sample before it and begins `window` samples before, in the same segment: the current
    sample is never among its own tokens, and samples without a whole past have no row.

    Parameters
    ----------
    units
        Whose spikes are the past.
    targets
        Whose are the present; the same where None.
    """
    now = (targets or units).values
    counts = np.round(units.values).astype(np.int64)
    rows = np.concatenate(
        [np.arange(s.start + window, max(s.start + window, s.stop)) for s in units.segments]
    )
    if not len(rows):
        raise PatchclampError(f"window={window}: no group has more samples than that")
    place, unit, lag = [], [], []
    for step in range(1, window + 1):
        before = counts[rows - step]
        at, who = np.nonzero(before)
        times = before[at, who]
        place.append(np.repeat(at, times))
        unit.append(np.repeat(who, times))
        lag.append(np.full(times.sum(), step))
    places = np.concatenate(place)
    order = np.argsort(places, kind="stable")  # latest first within a row
    places = places[order]
    first = np.searchsorted(places, places, side="left")
    column = 1 + np.arange(len(places)) - first
    width = int(column.max(initial=0)) + 1
    ids = np.full((len(rows), width), -1)
    lags = np.zeros((len(rows), width), np.int64)
    ids[:, 0] = units.n_units
    ids[places, column] = np.concatenate(unit)[order]
    lags[places, column] = np.concatenate(lag)[order]
    return SpikeTokens(
        torch.from_numpy(ids),
        torch.from_numpy(lags),
        torch.from_numpy((now[rows] > 0).astype(np.float32)),
        rows,
    )


class _Layer(nn.Module):
    """Attention from neurons to past spikes, then a feed-forward network, both on a residual stream."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor, past: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(row, neuron, width), (row, token, width), (row, token) True where hidden -> stream, attention (row, head, neuron, token)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(self.before(stream)), self.key(past), self.value(past))
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        attention = scores.masked_fill(hidden[:, None, None], -torch.inf).softmax(-1)
        # What is handed out is the attention itself, not what dropout left of it.
        mixed = (self.dropout(attention) @ v).transpose(1, 2).flatten(2)
        stream = stream + self.out(mixed)
        return stream + self.dropout(self.mlp(self.between(stream))), attention


class SpikeTransformer(nn.Module):
    """p(neuron i fires now | spikes of the last samples), by attention from i to those spikes.

    Tokens are (neuron, lag); queries are the neurons themselves, so that what neuron i attends to is about i. (In a decoder
    that predicts the next spike's identity, the query comes before the identity is known.) A rest token takes the
    attention when nothing matters.

    Parameters
    ----------
    n_units, window
        Number of neurons, and of lags.
    width, heads, layers, dropout
        Of the transformer.
    """

    def __init__(
        self,
        n_units: int,
        window: int,
        width: int = 32,
        heads: int = 2,
        layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.n_units = n_units
        self.unit = nn.Embedding(n_units + 1, width)
        self.lag = nn.Embedding(window + 1, width)
        self.asks = nn.Embedding(n_units, width)
        self.layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, 1)
        self.bias = nn.Parameter(torch.zeros(n_units))

    def forward(self, tokens: SpikeTokens, hide: int | None = None) -> tuple[Tensor, list[Tensor]]:
        """Log-odds (row, neuron) and the attention of each layer (row, head, neuron, token).

        Parameters
        ----------
        hide
            A neuron whose tokens nobody may attend to.
        """
        hidden = tokens.unit < 0
        if hide is not None:
            hidden = hidden | (tokens.unit == hide)
        past = self.unit(tokens.unit.clamp_min(0)) + self.lag(tokens.lag)
        stream = self.asks.weight.expand(len(tokens), -1, -1)
        seen = []
        for layer in self.layers:
            stream, attention = layer(stream, past, hidden)
            seen.append(attention)
        return self.read(self.norm(stream)).squeeze(-1) + self.bias, seen


def train(
    tokens: SpikeTokens,
    n_units: int,
    window: int,
    *,
    width: int = 32,
    heads: int = 2,
    layers: int = 2,
    dropout: float = 0.1,
    epochs: int = 10,
    batch: int = 512,
    rate: float = 5e-3,
    seed: int = 0,
) -> SpikeTransformer:
    """Minimise the Bernoulli loss with AdamW under a rate that warms up and falls to zero; returned in eval mode.

    The generator of the caller is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_seed(seed))
        model = SpikeTransformer(n_units, window, width, heads, layers, dropout)
        mean = tokens.fired.mean(0).clamp(1e-4, 1 - 1e-4)
        with torch.no_grad():
            model.bias.copy_(mean.logit())
        optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-2)
        steps = epochs * math.ceil(len(tokens) / batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
        model.train()
        for _ in range(epochs):
            for part in tokens.batches(batch, torch.randperm(len(tokens))):
                loss = nn.functional.binary_cross_entropy_with_logits(model(part)[0], part.fired)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
    return model.eval()


def log_likelihood(model: SpikeTransformer, tokens: SpikeTokens, batch: int = 4096) -> Array:
    """(row,) log p of who fires, summed over neurons, nats."""
    out = []
    with torch.no_grad():
        for part in tokens.batches(batch):
            loss = nn.functional.binary_cross_entropy_with_logits(
                model(part)[0], part.fired, reduction="none"
            )
            out.append(-loss.sum(1).double())
    return torch.cat(out).numpy()


def rollout(layers: Sequence[Tensor]) -> Tensor:
    """Attention (..., query, token) through all layers: of each, half passes by on the residual stream.

    The block from queries to tokens of the product over layers (the first included) of [[I, A_l], [0, 2 I]] / 2, with rows
    that sum to one: sum_l 2^-(L - l + 1) A_l, normalised.

    Raises
    ------
    PatchclampError
        If layers differ in shape, which a published rollout multiplies entry by entry.
    """
    shapes = {tuple(a.shape) for a in layers}
    if len(shapes) != 1:
        raise PatchclampError(f"attention of shapes {sorted(shapes)}: a rollout needs layers of one shape")
    out = torch.zeros_like(layers[0])
    for attention in layers:
        out = (out + attention) / 2
    return out / out.sum(-1, keepdim=True)
