"""Connectivity read from a transformer's attention to spikes, always beside the regression it must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import blocked_folds
from patchclamp.base.seeds import numpy_rng
from patchclamp.connect.coupling.glm import glm_coupling
from patchclamp.connect.coupling.glm_basis import design, history_basis
from patchclamp.connect.coupling.glm_fit import family_of, fit_ridge
from patchclamp.connect.coupling.glm_fit import log_likelihood as glm_likelihood
from patchclamp.connect.coupling.spike_transformer import (
    SpikeTokens,
    SpikeTransformer,
    log_likelihood,
    rollout,
    tokens_of,
    train,
)
from patchclamp.connect.nulls import bands
from patchclamp.connect.series import Series, series
from patchclamp.connect.surrogates import circular_shift
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Missing

Array = NDArray[np.float64]
AttentionNull = Literal["circular_shift", "label_permutation"]
LIMITS = (
    "effects: attention says what a model looks at, not what it does with it (params['ablation'] has what removing the "
    "spikes does to the prediction), let alone synapses or causation; weights have no sign"
)


def attention_connectivity(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    window: int = 5,
    width: int = 32,
    heads: int = 2,
    layers: int = 2,
    dropout: float = 0.1,
    epochs: int = 10,
    batch: int = 512,
    rate: float = 5e-3,
    null: AttentionNull | None = "circular_shift",
    null_samples: int = 3,
    glm_null_samples: int = 100,
    seed: int = 0,
    content: bool = True,
    missing: Missing = "refuse",
) -> Graph:
    """Train a `SpikeTransformer` on the spikes and read whom each neuron attends to.

    w_ij = mean, over the spikes of j that precede a spike of i, of i's attention to that token (all layers, `rollout` of the
    largest head) minus what uniform attention would give it; 0 where that is below zero. Dividing by how often they go
    together is what makes this a map of attention: the sum alone follows rates.

    Parameters
    ----------
    data, groups
        Spikes in bins, as in `glm_coupling`; a bin counts as fired from one spike on.
    window
        Samples of past that a neuron sees.
    width, heads, layers, dropout, epochs, batch, rate
        Of the transformer and its training.
    null
        ``"circular_shift"`` of each neuron, or ``"label_permutation"``: in each group the neurons of the past are renamed at random. A
        transformer is trained on each.
    null_samples
        Few, since each is a training: p pools all pairs of all draws, q is Benjamini and Hochberg's. The least q of k edges is
        about 1 / (k x draws): for k edges to have q <= .05, more than 20 / k draws are needed.
    glm_null_samples
        Of the baseline.
    seed
        Of everything.
    content, missing
        As in `correlation`. `heads` are the transformer's: heads of a recording count by their norm, or as a
        ``matrix(recording, site, heads="join")`` says that is passed as data.

    Returns
    -------
    Graph
        The baseline is `glm_coupling` with the same window. `params`: ``excess`` (target, source) before it is cut at 0;
        ``raw``, the sum that is not divided;
        ``ablation`` (target, source), change of i's log-odds by j's spikes, mean over samples with one (with a sign);
        ``held_out``: nats a sample of ``transformer``, ``glm`` (ridge on every lag) and ``rate`` on the fifth of the groups that was
        not trained on.

    Notes
    -----
    After the analysis of Neuroformer (Antoniades et al. 2024), with a smaller network whose queries are neurons; its pretraining,
    stimulus and behaviour are not here. Not carried over: duplicate tokens dropped when attention is summed, a rollout that
    leaves out the first layer, attention read after dropout.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = rng.random(3000) < 0.1
    >>> b = rng.random(3000) < np.where(np.roll(a, 1), 0.6, 0.05)
    >>> found = attention_connectivity(np.stack([a, b], 1), window=2, epochs=3, null=None)
    >>> found.params["ablation"][1, 0] > 0
    np.True_
    """
    if null not in (None, "circular_shift", "label_permutation"):
        raise PatchclampError(f"null={null!r}: give circular_shift, label_permutation or None")
    units = series(data, groups, what="attention_connectivity", time=True, content=content, missing=missing)
    family_of(units.values, "poisson")
    label = units.group
    shape = {"width": width, "heads": heads, "layers": layers, "dropout": dropout}
    run = _AttentionFit(window, {**shape, "epochs": epochs, "batch": batch, "rate": rate, "seed": seed})
    tokens = tokens_of(units, window)
    seen, unseen = blocked_folds(label[tokens.rows], tokens.rows, 5, window)[seed % 5]
    model = run.trained(tokens.take(torch.from_numpy(seen)), units.n_units)
    excess, raw = attention_map(model, tokens)
    weights = np.maximum(excess, 0)
    settings = {
        **run.how,
        "window": window,
        "excess": excess,
        "raw": raw,
        "ablation": ablation(model, tokens),
        "held_out": _held_out(model, tokens, units, seen, unseen, window),
        "reading": units.about,
    }
    found = None
    if null is not None:
        found = bands(run.surrogates(units, null, null_samples), weights, "pooled", null)
    baseline = glm_coupling(
        data,
        groups,
        window=window,
        n_basis=min(3, window),
        null=None if null is None else "circular_shift",
        null_samples=glm_null_samples,
        seed=seed,
        content=content,
        missing=missing,
    )
    return Graph(
        units.names, weights, True, "attention_connectivity", found, baseline, LIMITS, units.table, settings
    )


def attention_map(model: SpikeTransformer, tokens: SpikeTokens, batch: int = 4096) -> tuple[Array, Array]:
    """Excess attention a token, and its plain sum: (target, source) each.

    Every token counts, also when a neuron has several in one row: sums go through `index_add`, since indexing with a list
    keeps only one of entries that share an index.
    """
    n = model.n_units
    excess, raw, times = (torch.zeros(n + 1, n, dtype=torch.float64) for _ in range(3))
    was_training = model.training
    model.eval()  # dropout of attention would be read as attention
    with torch.no_grad():
        for part in tokens.batches(batch):
            seen = rollout([a.amax(1) for a in model(part)[1]]).double()  # row, neuron, token
            there = part.unit >= 0
            uniform = 1 / there.sum(1, keepdim=True).double()
            source = torch.where(there, part.unit, n).flatten()
            fired = part.fired.double()[:, None]  # row, 1, neuron
            attention = seen.transpose(1, 2) * there[..., None]
            over = (attention - uniform[..., None]) * there[..., None] * fired
            excess.index_add_(0, source, over.flatten(0, 1))
            raw.index_add_(0, source, (attention * fired).flatten(0, 1))
            times.index_add_(0, source, (there[..., None] * fired).flatten(0, 1))
    model.train(was_training)
    mean = torch.where(times > 0, excess / times.clamp_min(1), torch.nan)
    return _without_rest(mean), _without_rest(raw)


def ablation(model: SpikeTransformer, tokens: SpikeTokens, batch: int = 4096) -> Array:
    """(target, source) mean change of the target's log-odds by the source's spikes, over rows that have one.

    Log-odds as they are, minus log-odds when nobody may attend to the source's tokens.
    """
    out = np.full((model.n_units, model.n_units), np.nan)
    with torch.no_grad():
        for source in range(model.n_units):
            rows = (tokens.unit == source).any(1).nonzero().flatten()
            if not len(rows):
                continue
            parts = [
                (model(part)[0] - model(part, hide=source)[0]).double()
                for part in tokens.batches(batch, rows)
            ]
            out[:, source] = torch.cat(parts).mean(0).numpy()
    np.fill_diagonal(out, 0)
    return out


def _without_rest(table: torch.Tensor) -> Array:
    """From (source and rest, target) to (target, source) with an empty diagonal."""
    out = table[:-1].T.numpy().copy()
    np.fill_diagonal(out, 0)
    return out


@dataclass(frozen=True)
class _AttentionFit:
    window: int
    how: dict[str, Any] = field(default_factory=dict)

    def trained(self, tokens: SpikeTokens, n: int) -> SpikeTransformer:
        return train(tokens, n, self.window, **self.how)

    def surrogates(self, units: Series, null: AttentionNull, samples: int) -> Array:
        """(draw, target, source): the same on data whose neurons have nothing to do with each other."""
        if samples < 1:
            raise PatchclampError(f"null_samples={samples}: at least one, or null=None")
        rng = numpy_rng([self.how["seed"], 6401])
        make: Callable[[Series, np.random.Generator], Series]
        make = circular_shift if null == "circular_shift" else renamed
        out = []
        for _ in range(samples):
            past = make(units, rng)
            tokens = tokens_of(past, self.window, past if null == "circular_shift" else units)
            out.append(np.nan_to_num(attention_map(self.trained(tokens, units.n_units), tokens)[0]).clip(0))
        return np.stack(out)


def renamed(units: Series, rng: np.random.Generator) -> Series:
    """Give the neurons' spikes to each other at random, anew in each segment."""
    values = units.values.copy()
    for part in units.segments:
        values[part] = values[part][:, rng.permutation(units.n_units)]
    return units.with_values(values)


def _held_out(
    model: SpikeTransformer,
    tokens: SpikeTokens,
    units: Series,
    seen: NDArray[np.int64],
    unseen: NDArray[np.int64],
    window: int,
) -> dict[str, float]:
    """Nats a sample, summed over neurons, of three models on samples that none was fitted to."""
    past, _ = design(units, history_basis("bins", window, window))
    fired = tokens.fired.double().numpy()
    fit = fit_ridge(past[seen], fired[seen], "bernoulli", np.ones(past.shape[1]))
    eta = fit.coefficients[0] + past[unseen] @ fit.coefficients[1:]
    mean = fired[seen].mean(0).clip(1e-6, 1 - 1e-6)
    alone = np.broadcast_to(np.log(mean / (1 - mean)), fired[unseen].shape)
    test = tokens.take(torch.from_numpy(unseen))
    return {
        "transformer": float(log_likelihood(model, test).mean()),
        "glm": float(glm_likelihood(eta, fired[unseen], "bernoulli").sum(1).mean()),
        "rate": float(glm_likelihood(alone, fired[unseen], "bernoulli").sum(1).mean()),
        "samples": float(len(unseen)),
    }
