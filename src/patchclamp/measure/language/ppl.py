"""PPL-p % sparsity: how many neurons can be left out before the perplexity rises by p per cent."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.cards import shown
from patchclamp.nouns.measure import require
from patchclamp.subjects.language import LanguageModel

if TYPE_CHECKING:
    from patchclamp.nouns.units import Site

Key = TypeVar("Key", bound=Hashable)
Runner = Callable[[Mapping[Key, float]], "tuple[float, float]"]


@shown
@dataclass(frozen=True)
class PPLSparsity:
    """What `ppl_sparsity` found.

    Parameters
    ----------
    p
        Wanted rise of the perplexity, per cent.
    cett
        CETT at which it is reached.
    thresholds
        Threshold of each layer at that CETT.
    sparsity
        1 - mean fraction of active neurons, at those thresholds.
    dense_loss, loss
        Mean loss (nats a token) without and with thresholds.
    runs
        Passes over the evaluation text.
    reached
        False if leaving every neuron out raises the perplexity by less than p.
    """

    p: float
    cett: float
    thresholds: dict[Any, float]
    sparsity: float
    dense_loss: float
    loss: float
    runs: int
    reached: bool

    @property
    def rise(self) -> float:
        """Rise of the perplexity that was measured, per cent."""
        return 100 * math.expm1(self.loss - self.dense_loss)


def ppl_sparsity(
    run: Callable[[Mapping[Key, float]], tuple[float, float]],
    thresholds_at: Callable[[float], Mapping[Key, float]],
    p: float = 1.0,
    tolerance: float = 1e-4,
) -> PPLSparsity:
    """Largest CETT whose thresholds raise the perplexity by at most p per cent, by bisection.

    exp(loss(c) - loss(dense)) <= 1 + p / 100. The loss need not rise steadily with c: the crossing that
    bisection ends at is given, with its measured rise, and the returned thresholds always satisfy the bound.

    Parameters
    ----------
    run
        Runs the model with a threshold a layer (neurons with m <= threshold set to zero; an empty mapping =
        dense) and gives its mean loss and the mean fraction of active neurons. `threshold_runner` makes one
        for a subject.
    thresholds_at
        Thresholds for a CETT: ``lambda c: {site: m.threshold(c, interpolate=True) for site, m in
        measured.items()}`` with a `CETT` measured on *other* text.
    p
        Rise of the perplexity in per cent; 1 is the usual headline.
    tolerance
        Width of CETT at which the bisection stops.
    """
    require(p >= 0, f"ppl_sparsity: p = {p}; a rise of the perplexity in per cent, not negative")
    dense = run({})[0]
    bound = dense + math.log1p(p / 100)

    def at(c: float) -> tuple[float, float]:
        loss, active = run(thresholds_at(c))
        # A rounding difference between two exact passes is no rise.
        return (dense, active) if math.isclose(loss, dense, rel_tol=1e-7) else (loss, active)

    low, high, runs = 0.0, 1.0, 3
    best, top = at(0.0), at(1.0)
    if best[0] > bound:
        raise PatchclampError(
            f"ppl_sparsity: thresholds for CETT 0 already raise the loss from {dense:.6f} to {best[0]:.6f}; "
            "thresholds_at(0) must leave the output as it is"
        )
    reached = top[0] > bound
    if not reached:
        low, best = 1.0, top
    while reached and high - low > tolerance:
        middle = (low + high) / 2
        found = at(middle)
        runs += 1
        if found[0] <= bound:
            low, best = middle, found
        else:
            high = middle
    return PPLSparsity(p, low, dict(thresholds_at(low)), 1 - best[1], dense, best[0], runs, reached)


def threshold_runner(
    subject: LanguageModel, tokens: Sequence[list[int]], sites: Sequence[Site], batch_size: int = 8
) -> Runner[Site]:
    """The function that `ppl_sparsity` needs, for a language model: mean next-token loss over texts under
    thresholds.

    A neuron with |a| |W_out row| <= threshold is set to zero at every position; the change propagates through
    the later layers (CETT's own thresholds are measured on dense activity). Active neurons are counted over
    real tokens.

    Parameters
    ----------
    subject
        A `LanguageModel`.
    tokens
        Encoded texts, each of at least two tokens.
    sites
        Sites of ``mlp_act`` to put thresholds on.
    """
    from patchclamp.subjects import Edit

    short = [i for i, ids in enumerate(tokens) if len(ids) < 2]
    require(bool(tokens) and not short, f"threshold_runner: texts {short[:5]} have no next token to predict")
    norms = {site: subject.output_norms(site).detach() for site in sites}
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    cuts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    batches = [subject.batch([tokens[i] for i in cut]).to(subject.device) for cut in cuts]

    def run(thresholds: Mapping[Site, float]) -> tuple[float, float]:
        total, predicted, active, seen = 0.0, 0, 0, 0

        def edit(site: Site, level: float) -> Edit:
            def cut(activity: Tensor, batch: Any) -> Tensor:
                nonlocal active, seen
                kept = activity.abs() * norms[site].to(activity) > level
                real = kept[batch.mask]
                active, seen = active + int(real.sum()), seen + real.numel()
                return activity.masked_fill(~kept, 0)

            return Edit(site, cut)

        for batch in batches:
            edits = [edit(site, level) for site, level in thresholds.items()]
            logits = subject.run(batch, read=[], write=edits, logits="all").logits
            assert logits is not None and batch.tokens is not None
            loss, count = _next_token_loss(logits, batch.tokens, batch.mask)
            total, predicted = total + loss, predicted + count
        return total / predicted, active / seen if seen else 1.0

    return run


def _next_token_loss(logits: Tensor, tokens: Tensor, mask: Tensor) -> tuple[float, int]:
    """Summed cross entropy of real next tokens, and their number."""
    real = mask[:, 1:] & mask[:, :-1]
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1][real].float(), tokens[:, 1:][real], reduction="sum"
    )
    return float(loss), int(real.sum())
