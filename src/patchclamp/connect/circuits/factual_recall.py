"""How a fact is recalled: what MLPs add at the subject, what the last token takes of the relation, and of the subject."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import ratio_interval
from patchclamp.draw.cards import shown
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair
from patchclamp.subjects.clamp.freeze import Unseen
from patchclamp.subjects.transformer import Transformer

STAGES = {
    "enrichment": "MLPs at the subject's tokens write what they write for the other subject",
    "relation": "the last token sees none of the tokens that both inputs share",
    "extraction": "the last token sees none of the subject's tokens",
}


@shown
@dataclass(frozen=True)
class FactualRecall:
    """Stages of recall by layers, each beside its control.

    Attributes
    ----------
    table : DataFrame
        stage, layers, lost, low, high, control, control_low, control_high, control_n: how much of m(clean) - m(corrupted) is
        lost; the control is of the `control_n` items in which it can change anything, and NaN where there is none.
    items : dict
        (stage, layers, ``"effect"`` or ``"control"``) -> metric of every item; NaN where the control can change nothing.
    clean, corrupted : array (item,)
    """

    table: pd.DataFrame
    items: dict[tuple[str, str, str], NDArray[np.float64]] = field(repr=False)
    clean: NDArray[np.float64] = field(repr=False)
    corrupted: NDArray[np.float64] = field(repr=False)


def factual_recall(
    subject: Subject,
    task: TaskLike,
    *,
    windows: int = 3,
    stages: Sequence[str] = tuple(STAGES),
    batch_size: int = 16,
    seed: int = 0,
) -> FactualRecall:
    """Measure three stages of recall by windows of layers.

    lost = sum (m(clean) - m(changed)) / sum (m(clean) - m(corrupted)), over items

    * enrichment: MLP outputs at the subject's tokens are those of the corrupted run. Control: the same layers at the
      other tokens behind the subject's first, without the last, on which the subject may have been written by then;
      before it both runs are the same, and nothing could change.
    * relation: the last token cannot attend to tokens that both inputs share. Control: the token before the last
      cannot.
    * extraction: the last token cannot attend to the subject's tokens. Control: as for the relation.

    An item has no control of enrichment without a token between the subject and the last one, and none of attention where
    the token before the last sees none of the keys but itself.

    The subject's tokens are those in which clean and corrupted inputs differ.

    Parameters
    ----------
    subject, task
        A transformer, and items whose corrupted input names another subject in as many tokens.
    windows
        Layers are cut into so many windows; ``"all"`` is the last row of a stage.
    stages
        Names in `STAGES`.

    Returns
    -------
    FactualRecall

    Raises
    ------
    PatchclampError
        For a task without corrupted inputs, items that do not differ or differ in the last token, a model that does not
        recall: the mean metric is no larger than on the corrupted inputs.

    Notes
    -----
    Stages after Geva et al. 2023 (dissecting recall of factual associations), whose windows slide and whose knock-outs are not
    held against others. Effects of windows do not add up to that of all layers.

    Examples
    --------
    >>> factual_recall(subject, load_task("capitals", subject.tokenizer)).table   # doctest: +SKIP
    """
    if not isinstance(subject, Transformer):
        raise PatchclampError(
            f"{subject.name}: attention is known for transformers of the anatomy table only"
        )
    unknown = [name for name in stages if name not in STAGES]
    if unknown or not 1 <= windows <= subject.n_layers:
        raise PatchclampError(
            f"stages={list(stages)}, windows={windows}: stages are {', '.join(STAGES)}, windows 1..{subject.n_layers}"
        )
    parts = [part.tolist() for part in np.array_split(np.arange(subject.n_layers), windows)]
    layers = {f"{part[0]}-{part[-1]}": part for part in parts} | {"all": list(range(subject.n_layers))}
    clean, corrupted = np.zeros(len(task)), np.zeros(len(task))
    items: dict[tuple[str, str, str], NDArray[np.float64]] = {}
    groups: list[str] = [""] * len(task)
    for pair in subject.pairs(task, batch_size):
        rows = pair.rows.cpu().numpy()
        for place, group in zip(rows.tolist(), pair.groups, strict=False):
            groups[place] = group
        named = _subject_tokens(pair)
        logits = subject.run(pair.clean, logits=pair.answer_position).logits
        clean[rows] = _values(pair, logits, logits)
        assert pair.corrupted is not None
        written = [Site("mlp_out", layer) for layer in range(subject.n_layers)]
        other = subject.run(pair.corrupted, read=written, logits=pair.answer_position)
        corrupted[rows] = _values(pair, other.logits, logits)
        for stage in stages:
            for name, chosen in layers.items():
                changed = _changed(
                    subject, pair, stage, chosen, named, {s: other.activity[s] for s in written}
                )
                for kind, out, can in changed:
                    found = items.setdefault((stage, name, kind), np.zeros(len(task)))
                    found[rows] = np.where(can.cpu().numpy(), _values(pair, out, logits), np.nan)
    if not (clean - corrupted).sum() > 0:
        raise PatchclampError(
            f"factual_recall: the metric is {clean.mean():.3g} on clean and {corrupted.mean():.3g} on corrupted inputs; there is no recall "
            "to take apart"
        )
    table = []
    for stage in stages:
        for name in layers:
            row: dict[str, object] = {"stage": stage, "layers": name}
            for kind, prefix in (("effect", ""), ("control", "control_")):
                there = ~np.isnan(items[stage, name, kind])
                lost, whole = (clean - items[stage, name, kind])[there], (clean - corrupted)[there]
                named_groups = [groups[i] for i in np.flatnonzero(there)] if any(groups) else None
                low = high = share = float("nan")
                if whole.sum() > 0:
                    low, high = ratio_interval(lost, whole, named_groups, seed=seed)
                    share = float(lost.sum() / whole.sum())
                row[{"effect": "lost", "control": "control"}[kind]] = share
                row[f"{prefix}low"], row[f"{prefix}high"] = low, high
                if kind == "control":
                    row["control_n"] = int(there.sum())
            table.append(row)
    return FactualRecall(pd.DataFrame(table), items, clean, corrupted)


def _values(pair: Pair, logits: Tensor | None, reference: Tensor | None) -> NDArray[np.float64]:
    assert logits is not None
    found: NDArray[np.float64] = pair.metric(logits, reference=reference).detach().double().cpu().numpy()
    return found


def _subject_tokens(pair: Pair) -> Bool[Tensor, "batch pos"]:
    """Where clean and corrupted inputs differ."""
    if pair.corrupted is None or pair.clean.tokens is None or pair.corrupted.tokens is None:
        raise PatchclampError(
            "factual_recall: the items have no corrupted inputs of tokens, which name another subject"
        )
    differ = (pair.clean.tokens != pair.corrupted.tokens) & pair.clean.mask
    at_end = differ.gather(1, pair.clean.last[:, None])[:, 0]
    for bad, what in ((~differ.any(1), "do not differ"), (at_end, "differ in the last token")):
        if bool(bad.any()):
            item = int(pair.rows[int(bad.nonzero()[0])])
            raise PatchclampError(
                f"item {item}: its clean and corrupted inputs {what}, so the subject is not known"
            )
    return differ


def _changed(
    subject: Transformer, pair: Pair, stage: str, layers: Sequence[int], named: Tensor, other: dict[Site, Tensor]
) -> Iterator[tuple[str, Tensor | None, Bool[Tensor, " batch"]]]:  # fmt: skip
    """Logits under the change of a stage, and under its control; and in which items it can change anything."""
    mask, end = pair.clean.mask, pair.clean.last
    steps = torch.arange(mask.shape[1], device=mask.device)
    last = steps == end[:, None]
    # Before the subject both runs are the same.
    behind = named.long().cumsum(1) > 0
    if stage == "enrichment":
        for kind, where in (("effect", named), ("control", behind & mask & ~named & ~last)):
            edits = [
                Edit(Site("mlp_out", layer), _put(other[Site("mlp_out", layer)], where)) for layer in layers
            ]
            out = subject.run(pair.clean, write=edits, logits=pair.answer_position).logits
            yield kind, out, where.any(1)
        return
    keys = named if stage == "extraction" else mask & ~named & ~last
    for kind, query in (("effect", last), ("control", steps == end[:, None] - 1)):
        # A query always sees itself.
        where = query[:, :, None] & keys[:, None, :] & (steps[:, None] > steps)
        with Unseen(subject, where, layers).active():
            probs = [Site("attn_probs", layers[0])]
            out = subject.run(pair.clean, read=probs, logits=pair.answer_position).logits
        yield kind, out, where.any((1, 2)) | (kind == "effect")


def _put(values: Tensor, where: Tensor) -> Callable[[Tensor, Batch], Tensor]:
    def act(activity: Tensor, batch: Batch) -> Tensor:
        return torch.where(where[..., None].to(activity.device), values, activity)

    return act
