"""Lenses: what the stream of a layer would say if the rest of the network acted on it as a linear map.

With h_l the stream after layer l, a lens reads softmax(head(norm(A_l h_l + b_l))), where head and norm are the model's own:

* ``logit``: A = I, b = 0
* ``jacobian``: A_l = mean over texts and positions t of sum over t' >= t of d h_last[t'] / d h_l[t], b = 0
* ``ridge``: A and b fitted so that A h_l[t] + b is h_last[t]

The first asks what is written so far, the second what it does, the third what can be told from it. How far each is from what
the model then says is measured on texts that made none of them (`lens_errors`); an early layer that a lens reads well
need not use what is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import torch_rng
from patchclamp.draw.cards import shown
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Batch, Edit
from patchclamp.subjects.language import LanguageModel

Texts = Sequence[str] | Sequence[Sequence[int]]
# Rows of gradients in one backward pass.
CHUNK = 32


@shown
@dataclass(frozen=True)
class Lens:
    """Linear maps from streams of layers to the last one.

    Attributes
    ----------
    kind : str
        ``"logit"``, ``"jacobian"`` or ``"ridge"``.
    maps : dict
        Layer -> (d_model, d_model): last = map @ stream; streams are captured at ``resid_post.L``.
    shifts : dict
        Layer -> (d_model,), where there is one.
    errors : DataFrame
        layer, half_error: |A_even - A_odd| / |A_even + A_odd| of maps from two halves of the texts, which is about the
        relative error of their mean.
    texts : int
        That it was made from.
    """

    kind: str
    maps: Mapping[int, Float[Tensor, "d d"]] = field(repr=False)
    shifts: Mapping[int, Float[Tensor, " d"]] = field(default_factory=dict, repr=False)
    errors: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    texts: int = 0

    def carried(self, stream: Float[Tensor, "... d"], layer: int) -> Float[Tensor, "... d"]:
        """A stream of a layer as the last one."""
        if layer not in self.maps:
            raise PatchclampError(f"layer {layer}: this lens has layers {', '.join(map(str, self.maps))}")
        moved = stream @ self.maps[layer].T.to(stream)
        return moved + self.shifts[layer].to(stream) if layer in self.shifts else moved

    def direction(self, subject: LanguageModel, token: int, layer: int) -> Float[Tensor, " d"]:
        """The direction of a layer's stream along which a token's logit grows: A' (gain * w_token), of length 1.

        For ``add`` or ``project_out`` at ``resid_post.layer``.
        """
        weights, gain = subject.unembed()
        row = weights[token].float() * (1 if gain is None else gain.float())
        found = self.carried(torch.eye(len(row), device=row.device), layer).float()
        found = (found - self.shifts[layer].to(found) if layer in self.shifts else found) @ row
        unit: Tensor = found / found.norm()
        return unit


def logit_lens(subject: LanguageModel, layers: Sequence[int] | None = None) -> Lens:
    """The lens that leaves the stream as it is."""
    eye = torch.eye(subject.d_model)
    return Lens("logit", dict.fromkeys(_layers(subject, layers), eye))


def jacobian_lens(
    subject: LanguageModel,
    texts: Texts,
    layers: Sequence[int] | None = None,
    *,
    max_tokens: int = 32,
    skip: int = 4,
    probes: int | None = None,
    batch_size: int = 4,
    seed: int = 0,
) -> Lens:
    """Average Jacobians of the last stream by those of layers.

    J_l = mean over texts and t of sum over t' >= t of d h_last[t'] / d h_l[t], t and t' from `skip` to the last but one

    Parameters
    ----------
    subject
        A language model.
    texts
        Texts, or token ids; cut to `max_tokens`.
    layers
        By default all but the last.
    skip
        Positions at the beginning that are left out: sinks have Jacobians of their own.
    probes
        Rows of gradients a batch: by default all `d_model` of them, exact for these texts; fewer are random
        orthonormal directions, other ones in each batch, an unbiased estimate whose error `errors` shows.
    batch_size, seed

    Returns
    -------
    Lens
        `errors` has half_error a layer.

    Raises
    ------
    PatchclampError
        For texts of which none is longer than `skip` + 1 tokens.

    Notes
    -----
    Anthropic 2026 (verbalizable workspace). The sum over later positions mixes in what heads carry on. Exact where the network
    is linear; elsewhere an average, whose worth `lens_errors` measures.

    Examples
    --------
    >>> lens = jacobian_lens(lm, texts, layers=[10, 20], probes=64)              # doctest: +SKIP
    >>> lens_errors(lm, held_out, [lens, logit_lens(lm, [10, 20])])
    """
    chosen, d = _layers(subject, layers), subject.d_model
    if probes is not None and not 1 <= probes <= d:
        raise PatchclampError(f"probes={probes}: give 1..{d}, or None for all")
    last = Site("resid_post", subject.n_layers - 1)
    sites = {layer: Site("resid_post", layer) for layer in chosen}
    sums = torch.zeros(2, len(chosen), d, d, dtype=torch.float64)
    counts = torch.zeros(2, dtype=torch.float64)
    draw = torch_rng(seed)
    number = 0
    for batch, valid in _batches(subject, texts, max_tokens, skip, batch_size):
        reads: dict[Site, Any] = {site: lambda t: t for site in [*sites.values(), last]}
        # The form of attention whose gradients can be batched.
        reads |= {Site("attn_probs", layer): lambda t: None for layer in range(subject.n_layers)}
        run = subject.run(batch, read=reads, grad=True, stop=False)
        end, starts = run.activity[last], [run.activity[site] for site in sites.values()]
        rows = (
            torch.eye(d) if probes is None else torch.linalg.qr(torch.randn(d, probes, generator=draw))[0].T
        )
        for first in range(0, len(rows), CHUNK):
            some = rows[first : first + CHUNK]
            seeds = some.to(end)[:, None, None] * valid[..., None].to(end)
            found = torch.autograd.grad(end, starts, seeds, retain_graph=True, is_grads_batched=True)
            for place, gradient in enumerate(found):
                by_text = (gradient * valid[..., None]).sum(2).double().cpu()  # (row, text, d)
                for half in (0, 1):
                    here = by_text[:, [i for i in range(len(valid)) if (number + i) % 2 == half]].sum(1)
                    sums[half, place] += (d / len(rows)) * some.double().T @ here
        for half in (0, 1):
            mine = [i for i in range(len(valid)) if (number + i) % 2 == half]
            counts[half] += float(valid[mine].sum())
        number += len(valid)
    if float(counts.sum()) == 0:
        raise PatchclampError(_short(skip, max_tokens))
    halves = sums / counts.clamp(min=1)[:, None, None, None]
    errors = pd.DataFrame({"layer": chosen, "half_error": _half_error(halves, counts)})
    mean = (sums.sum(0) / counts.sum()).float()
    return Lens("jacobian", dict(zip(chosen, mean, strict=True)), {}, errors, number)


def ridge_lens(
    subject: LanguageModel,
    texts: Texts,
    layers: Sequence[int] | None = None,
    *,
    alpha: float = 1e-3,
    max_tokens: int = 32,
    skip: int = 4,
    batch_size: int = 16,
) -> Lens:
    """Regress the last stream at a position on that of a layer: what the tuned lens fits, in closed form.

    A, b = argmin mean |A h_l + b - h_last|^2 + alpha s^2 |A|^2, s^2 the mean variance of h_l's coordinates

    Parameters
    ----------
    subject, texts, layers, max_tokens, skip, batch_size
        As in `jacobian_lens`.
    alpha
        Strength of the penalty.

    Notes
    -----
    After Belrose et al. 2023, who minimise the divergence of the logits by steps of gradient. No gradient of the model is
    needed here. A regression uses whatever correlates with what comes, whether or not the model does.
    """
    chosen, d = _layers(subject, layers), subject.d_model
    last = Site("resid_post", subject.n_layers - 1)
    moments = torch.zeros(2, len(chosen), d + 1, d + 1, dtype=torch.float64)
    cross = torch.zeros(2, len(chosen), d + 1, d, dtype=torch.float64)
    number = 0
    for batch, valid in _batches(subject, texts, max_tokens, skip, batch_size):
        run = subject.run(batch, read=[*(Site("resid_post", layer) for layer in chosen), last])
        for half in (0, 1):
            mine = torch.tensor([(number + i) % 2 == half for i in range(len(valid))], device=valid.device)
            keep = valid & mine[:, None]
            y = run.activity[last][keep].double().cpu()
            for place, layer in enumerate(chosen):
                x = run.activity[Site("resid_post", layer)][keep].double().cpu()
                x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
                moments[half, place] += x.T @ x
                cross[half, place] += x.T @ y
        number += len(valid)
    counts = moments[:, 0, -1, -1]
    if float(counts.sum()) == 0:
        raise PatchclampError(_short(skip, max_tokens))
    whole = [_solve(moments.sum(0)[i], cross.sum(0)[i], alpha) for i in range(len(chosen))]
    halves = torch.stack(
        [
            torch.stack([_solve(moments[h, i], cross[h, i], alpha)[:-1].T for i in range(len(chosen))])
            for h in (0, 1)
            if counts[h] > 0
        ]
    )
    errors = pd.DataFrame({"layer": chosen, "half_error": _half_error(halves, counts)})
    maps = {layer: found[:-1].T.float() for layer, found in zip(chosen, whole, strict=True)}
    shifts = {layer: found[-1].float() for layer, found in zip(chosen, whole, strict=True)}
    return Lens("ridge", maps, shifts, errors, number)


def lens_errors(
    subject: LanguageModel,
    texts: Texts,
    lenses: Sequence[Lens],
    *,
    max_tokens: int = 32,
    skip: int = 4,
    batch_size: int = 8,
) -> pd.DataFrame:
    """How far what lenses read is from what the model then says, on texts that made none of them.

    Parameters
    ----------
    subject, texts, max_tokens, skip, batch_size
        As in `jacobian_lens`; other texts.
    lenses
        Any number.

    Returns
    -------
    DataFrame
        lens, layer, kl (nats from the model's prediction to the lens', mean over positions), first (share of positions
        where the likeliest token is the same), positions.
    """
    total: dict[tuple[int, str, int], list[float]] = {}
    last = subject.n_layers - 1
    for batch, valid in _batches(subject, texts, max_tokens, skip, batch_size):
        layers = sorted({layer for lens in lenses for layer in lens.maps})
        sites = [Site("resid_post", layer) for layer in layers]
        run = subject.run(batch, read=[Site("resid_pre", last), *sites], logits="all")
        assert run.logits is not None
        model = run.logits[valid].float().log_softmax(1)
        begin = (last, run.activity[Site("resid_pre", last)])
        for number, lens in enumerate(lenses):
            for layer in lens.maps:
                moved = lens.carried(run.activity[Site("resid_post", layer)], layer)
                edit = Edit(Site("resid_post", last), lambda t, b, moved=moved: moved)  # type: ignore[misc]
                out = subject.run(batch, write=[edit], logits="all", start=begin).logits
                assert out is not None
                read = out[valid].float().log_softmax(1)
                found = total.setdefault((number, lens.kind, layer), [0.0, 0.0, 0.0])
                found[0] += float((model.exp() * (model - read)).sum(1).double().sum())
                found[1] += float((model.argmax(1) == read.argmax(1)).sum())
                found[2] += len(read)
    if not total or not next(iter(total.values()))[2]:
        raise PatchclampError(_short(skip, max_tokens))
    rows = [(kind, layer, kl / n, same / n, int(n)) for (_, kind, layer), (kl, same, n) in total.items()]
    return pd.DataFrame(rows, columns=["lens", "layer", "kl", "first", "positions"])


def _layers(subject: LanguageModel, layers: Sequence[int] | None) -> list[int]:
    found = list(range(subject.n_layers - 1)) if layers is None else [int(layer) for layer in layers]
    if not found or min(found) < 0 or max(found) >= subject.n_layers or len(set(found)) < len(found):
        raise PatchclampError(f"layers={layers}: this model has layers 0..{subject.n_layers - 1}")
    return found


def _batches(
    subject: LanguageModel, texts: Texts, max_tokens: int, skip: int, size: int
) -> Iterator[tuple[Batch, Bool[Tensor, "batch pos"]]]:
    """Batches and the positions that count: from `skip` on, without the last of each text."""
    if not texts or isinstance(texts, str):
        raise PatchclampError("give a list of texts, or of token ids")
    words = [text for text in texts if isinstance(text, str)]
    whole = subject.encode(words) if words else [[int(i) for i in text] for text in texts]
    if words and len(words) < len(texts):
        raise PatchclampError("give texts or token ids, not both")
    ids = [row[:max_tokens] for row in whole]
    for first in range(0, len(ids), size):
        part = ids[first : first + size]
        batch = subject.batch(part, list(range(first, first + len(part)))).to(subject.device)
        steps = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        yield batch, (steps >= skip) & (steps < batch.lengths[:, None] - 1)


def _half_error(halves: Tensor, counts: Tensor) -> list[float]:
    if len(halves) < 2 or float(counts.min()) == 0:
        return [float("nan")] * halves.shape[1]
    apart = (halves[0] - halves[1]).flatten(1).norm(dim=1)
    together = (halves[0] + halves[1]).flatten(1).norm(dim=1)
    return [float(x) for x in np.asarray(apart / together)]


def _solve(moments: Tensor, cross: Tensor, alpha: float) -> Tensor:
    """Ridge with a constant that is not penalised, from sums of products."""
    n = moments[-1, -1]
    mean = moments[-1, :-1] / n
    spread = (moments.diagonal()[:-1] / n - mean**2).mean()
    penalty = torch.eye(len(moments), dtype=moments.dtype) * (alpha * spread * n)
    penalty[-1, -1] = 0
    found: Tensor = torch.linalg.lstsq(moments + penalty, cross, driver="gelsd").solution
    return found


def _short(skip: int, max_tokens: int) -> str:
    return (
        f"no text has a position from {skip} on before its last within {max_tokens} tokens; give longer ones"
    )


# (subject, ...) -> Lens
LENSES = {"logit": logit_lens, "jacobian": jacobian_lens, "ridge": ridge_lens}
