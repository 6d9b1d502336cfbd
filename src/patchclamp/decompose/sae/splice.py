"""What a dictionary costs the model: its reconstruction put in the activity's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.statistics import bootstrap_statistic
from patchclamp.decompose.structure.flow import batches_of, counted
from patchclamp.draw.cards import shown
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Edit

# What is read (..., units) -> what is written (..., units of the target).
Change = Callable[[Tensor], Tensor]
# change (None: leave everything) -> logits (n, vocabulary), right tokens (n,), item of each (n,)
Forward = Callable[
    [Change | None],
    tuple[Float[Tensor, "n vocabulary"], Int[Tensor, " n"], Int[Tensor, " n"]],
]


@shown
@dataclass(frozen=True)
class Spliced:
    """Loss and divergence with a dictionary in the model.

    Attributes
    ----------
    ablation : str
        What the worst case is: ``"zero"`` or ``"mean"``.
    clean, spliced, ablated : float
        Mean cross-entropy a token (nats): of the model as it is, with the reconstruction, and with the ablation.
    kl, kl_ablated : float
        KL(clean || spliced) and KL(clean || ablated), mean over tokens (nats).
    recovered : Estimate
        (ablated - spliced) / (ablated - clean), a ratio of means; its interval resamples items. Where zeros are a
        catastrophe for the model, any dictionary recovers nearly all of it: read the mean ablation's figure too, and
        the KL. NaN, and said in words, where the ablation costs nothing.
    n : int
        Tokens.
    per_item : array
        (item, 4): sums of the three losses, and number of tokens.
    """

    ablation: str
    clean: float
    spliced: float
    ablated: float
    kl: float
    kl_ablated: float
    recovered: Estimate
    n: int
    per_item: NDArray[np.float64] = field(repr=False)

    @property
    def kl_recovered(self) -> float:
        """1 - kl / kl_ablated."""
        return 1 - self.kl / self.kl_ablated if self.kl_ablated else float("nan")

    def __str__(self) -> str:
        found = self.recovered
        share = (
            f"{found.value:.3f} {found.span()}"
            if np.isfinite(found.value)
            else "nothing, for nothing was lost,"
        )
        return (
            f"loss recovered {share} of {self.ablation} ablation "
            f"({self.clean:.3f} clean, {self.spliced:.3f} spliced, {self.ablated:.3f} ablated), KL {self.kl:.3f}"
        )


def splice(
    dictionary: Dictionary,
    subject: Subject | Forward,
    data: Any = None,
    *,
    ablation: str = "mean",
    mean: Float[Tensor, " unit"] | None = None,
    batch_size: int = 16,
    n_boot: int = 1000,
    seed: int = 0,
) -> Spliced:
    """Put a dictionary's reconstruction in place of what it reconstructs, without its error term.

    With a subject, the activity of positions that enter statistics is replaced: no padding, no BOS, no sink (so those
    keep their outsize activity, on which a dictionary is not trained); a transcoder's target is replaced by what it makes of the
    same pass's `site`. Loss is the next token's, over the same positions.

    Parameters
    ----------
    dictionary
        Over a site of the subject.
    subject
        A language model; or a function that runs whatever model you have with a change of the activity, and returns
        logits (n, vocabulary), the right tokens (n,), and the item (document) of each (n,).
    data
        Texts, a task, or batches; None with a function.
    ablation
        What recovery is measured against: ``"mean"`` or ``"zero"``.
    mean
        For the mean ablation; where None, taken over `data` in a pass of its own (with a function it must be given).
    n_boot, seed
        Of the interval, which resamples items.

    Raises
    ------
    PatchclampError
        For an unknown ablation, a missing mean, a subject without tokens, or no token to score.
    """
    if ablation not in ("mean", "zero"):
        raise PatchclampError(f"ablation={ablation!r}: 'mean' or 'zero'")
    forwards = _forwards(dictionary, subject, data, batch_size)
    if ablation == "mean" and mean is None:
        if not isinstance(subject, Subject):
            raise PatchclampError(
                "ablation='mean' of a function: give mean=, the mean of the target's activity"
            )
        mean = target_mean(subject, dictionary.target, data, batch_size)
    constant = torch.zeros(dictionary.directions.shape[1]) if mean is None or ablation == "zero" else mean

    def flat(activity: Tensor) -> Tensor:
        same = constant.to(activity.device, activity.dtype)
        return same.expand(*activity.shape[:-1], len(same))

    losses, divergences = [], []
    with torch.no_grad():
        for number, forward in enumerate(forwards):
            clean, right, item = forward(None)
            runs = [clean, forward(lambda x: reconstruction(dictionary, x))[0], forward(flat)[0]]
            logs = [logits.double().log_softmax(-1) for logits in runs]
            nll = torch.stack([-one.gather(1, right[:, None])[:, 0] for one in logs], 1)
            gaps = [(logs[0].exp() * (logs[0] - one)).sum(1) for one in logs[1:]]
            divergences.append(torch.stack(gaps, 1).cpu())
            losses.append((nll.cpu(), item.cpu() + (number << 32)))
    return _summary(ablation, losses, divergences, n_boot, seed)


def _summary(
    ablation: str, losses: list[tuple[Tensor, Tensor]], divergences: list[Tensor], n_boot: int, seed: int
) -> Spliced:
    nll = torch.cat([part for part, _ in losses]) if losses else torch.zeros(0, 3)
    if not len(nll):
        raise PatchclampError("splice: no token to score; texts need at least three tokens")
    item = torch.cat([part for _, part in losses]).unique(return_inverse=True)[1]
    table = torch.zeros(int(item.max()) + 1, 4, dtype=torch.float64)
    table.index_add_(0, item, torch.cat([nll, torch.ones(len(nll), 1, dtype=nll.dtype)], 1))
    per_item = table.numpy()

    def recovered(weights: NDArray[np.float64]) -> float:
        clean, spliced, ablated, _ = weights @ per_item
        return float((ablated - spliced) / (ablated - clean)) if ablated != clean else float("nan")

    n = len(per_item)
    low, high = bootstrap_statistic(recovered, n, n_boot=n_boot, seed=seed)
    clean, spliced, ablated = (float(v) for v in nll.mean(0))
    kl, worst = (float(v) for v in torch.cat(divergences).mean(0))
    value = recovered(np.full(n, 1 / n))
    share = Estimate(value, low, high, n, None, n)
    return Spliced(ablation, clean, spliced, ablated, kl, worst, share, len(nll), per_item)


def reconstruction(dictionary: Dictionary, activity: Float[Tensor, "*batch unit"]) -> Tensor:
    """What the dictionary makes of activity, in the activity's precision."""
    exact = activity.to(dictionary.directions.dtype)
    return dictionary.reconstruct(exact).to(activity.dtype)


def target_mean(subject: Subject, site: Site, data: Any, batch_size: int = 16) -> Float[Tensor, " unit"]:
    """Mean activity of a site over positions that enter statistics, in float64."""
    total: Tensor | None = None
    n = 0
    for batch in batches_of(subject, data, batch_size):
        activity: Tensor = subject.run(batch, [site]).activity[site].flatten(2)
        kept = activity[counted(subject, batch, activity)].double()
        total = kept.sum(0) if total is None else total + kept.sum(0)
        n += len(kept)
    if total is None or n == 0:
        raise PatchclampError(f"{site}: no position enters the mean; texts need at least two tokens")
    return total / n


def _forwards(
    dictionary: Dictionary, subject: Subject | Forward, data: Any, batch_size: int
) -> Iterator[Forward]:
    if not isinstance(subject, Subject):
        yield subject
        return
    for site in {dictionary.site, dictionary.target}:
        subject.place(site)
    for batch in batches_of(subject, data, batch_size):
        if batch.tokens is None:
            raise PatchclampError(
                f"{subject.name}: takes no tokens, so it has no next-token loss; pass a function"
            )
        yield _forward(dictionary, subject, batch)


def _forward(dictionary: Dictionary, subject: Subject, batch: Batch) -> Forward:
    """Passes over one batch: the logits at positions that enter statistics and have a next token."""
    assert batch.tokens is not None
    tokens, mask = batch.tokens, batch.mask
    content = counted(subject, batch, tokens[..., None])
    scored = content[:, :-1] & mask[:, 1:].to(content.device)
    right = tokens[:, 1:].to(content.device)[scored]
    item = batch.rows.to(content.device)[:, None].expand_as(scored)[scored]

    def forward(change: Change | None) -> tuple[Tensor, Tensor, Tensor]:
        edits = [] if change is None else _edits(dictionary, change, content)
        logits = subject.run(batch, write=edits, logits="all").logits
        assert logits is not None
        return logits[:, :-1][scored], right, item

    return forward


def _edits(dictionary: Dictionary, change: Change, content: Bool[Tensor, "batch pos"]) -> list[Edit]:
    """Write at the target what the change makes of the site's activity in the same pass."""
    seen: list[Tensor] = []

    def look(activity: Tensor, batch: Batch) -> Tensor:
        seen.append(activity)
        return activity

    def write(activity: Tensor, batch: Batch) -> Tensor:
        read = seen.pop() if seen else activity
        made = change(read.flatten(2))
        return torch.where(content[:, :, None], made, activity.flatten(2)).view_as(activity)

    own = [Edit(dictionary.target, write)]
    return own if dictionary.site == dictionary.target else [Edit(dictionary.site, look), *own]
