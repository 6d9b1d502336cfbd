"""A few words about each selected unit: what it writes, where it looks, where it is most active.

Heads are described on the task: where they act and attend, whether their own contribution favours the answer, and
which tokens their average contribution promotes. Neurons are described by their output weights and by the tokens of
running text at which they are most active. Descriptions are leads for a reader, not evidence: nothing is selected
or claimed by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.describe import decode_in, lm_head
from patchclamp.draw.cards import shown
from patchclamp.measure.activity.exemplars import Exemplars
from patchclamp.nouns.recording.contexts import contexts
from patchclamp.nouns.tasks.task import EncodedTask, Task
from patchclamp.nouns.units import Site, Unit, Units
from patchclamp.record import record
from patchclamp.subjects import Batch, LanguageModel

__all__ = ["UnitNotes", "decoded_tokens", "describe_heads", "describe_neurons"]


@shown
@dataclass
class UnitNotes:
    """What a study says about a unit besides its figures."""

    summary: str = ""
    promotes: list[dict[str, Any]] = field(default_factory=list)
    suppresses: list[dict[str, Any]] = field(default_factory=list)
    exemplars: list[dict[str, Any]] = field(default_factory=list)
    decoded: str = ""


def describe_heads(
    subject: LanguageModel,
    task: Task,
    heads: Sequence[Unit],
    roles: Mapping[Unit, str],
    top: int = 6,
    seed: int = 0,
) -> dict[Unit, UnitNotes]:
    """Describe heads by what they do on a task's items.

    Parameters
    ----------
    subject, task
        A language model and the items.
    heads
        Units of `head` sites.
    roles
        The role at which each acts most, by its scores.
    top, seed
        Tokens each way; seed of the null of the decoding.
    """
    if not heads:
        return {}
    encoded = task.encode(subject.tokenizer, bos=subject.bos, device=subject.device)
    seen = _head_activity(subject, encoded, heads, roles)
    mean = torch.stack([seen[h].contribution.mean(0) for h in heads])
    table = decode_in(subject, mean, [str(h) for h in heads], top=top, seed=seed)
    found = {}
    for head in heads:
        own = seen[head]
        looks, share = own.attends(encoded)
        text = f"Acts at {_role(roles[head])}, where it attends to {looks} ({share:.0%} of its attention)."
        ranks = _ranks(subject, own.contribution, encoded)
        if ranks is not None:
            text += f" Of its own output, what varies from item to item ranks the answer {ranks[0]:,.0f}"
            text += f" and the foil {ranks[1]:,.0f} of {ranks[2]:,} tokens (medians)."
        found[head] = UnitNotes(
            summary=text,
            promotes=decoded_tokens(table, head, "promotes"),
            suppresses=decoded_tokens(table, head, "suppresses"),
            decoded="Tokens: its output at that position, averaged over the test items, through the LM head.",
        )
    return found


@dataclass
class _HeadActivity:
    """One head at the position of its role: contribution (items, d_model) and attention (items, keys)."""

    contribution: Float[Tensor, "items d_model"]
    attention: Float[Tensor, "items keys"]

    def attends(self, encoded: EncodedTask) -> tuple[str, float]:
        """Return the role that receives most attention and its share, averaged over the items that have it."""
        found = {}
        for role, at in encoded.roles.items():
            here = at >= 0
            if bool(here.any()):
                rows = here.nonzero()[:, 0]
                found[_role(role)] = float(self.attention[rows, at[rows]].mean())
        found["the first token"] = float(self.attention[:, 0].mean())
        best = max(found, key=lambda name: found[name])
        return best, found[best]


def _head_activity(
    subject: LanguageModel, encoded: EncodedTask, heads: Sequence[Unit], roles: Mapping[Unit, str]
) -> dict[Unit, _HeadActivity]:
    batch = Batch(encoded.clean, encoded.mask, encoded.rows)
    layers = sorted({h.site.layer or 0 for h in heads})
    sites = [Site("head", layer) for layer in layers] + [Site("attn_probs", layer) for layer in layers]
    rows = torch.arange(len(encoded), device=encoded.clean.device)
    run = subject.run(batch, read=sites)
    found = {}
    for head in heads:
        layer = head.site.layer or 0
        at = encoded.roles.get(roles[head], encoded.last)
        at = torch.where(at >= 0, at, encoded.last)
        z = run.activity[Site("head", layer)][rows, at, head.index]
        probabilities = run.activity[Site("attn_probs", layer)][rows, head.index, at]
        written = z.float() @ subject.head_output_matrix(layer)[head.index].float()
        found[head] = _HeadActivity(written, probabilities.float())
    return found


def _ranks(
    subject: LanguageModel, contribution: Float[Tensor, "items d_model"], encoded: EncodedTask
) -> tuple[float, float, int] | None:
    """Median rank of the best answer and of the best foil when the LM head reads a contribution alone.

    The mean over items is taken out first: what a head writes on every item says nothing about the item. None for
    one item, or without foils.
    """
    if encoded.foils.shape[1] == 0 or len(contribution) < 2:
        return None
    weights, gain = subject.unembed()
    read = contribution - contribution.mean(0)
    if gain is not None:
        read = read * gain.float()
    logits = read @ weights.float().T

    def rank(tokens: Tensor) -> float:
        best = logits.gather(1, tokens.clamp(min=0)).masked_fill(tokens < 0, -torch.inf).amax(1)
        return float((1 + (logits > best[:, None]).sum(1)).float().median())

    return rank(encoded.answers), rank(encoded.foils), logits.shape[1]


def describe_neurons(
    subject: LanguageModel,
    neurons: Sequence[Unit],
    roles: Mapping[Unit, str],
    texts: Sequence[str],
    top: int = 6,
    n_exemplars: int = 3,
    seed: int = 0,
) -> dict[Unit, UnitNotes]:
    """Describe neurons by their output weights and by the tokens of running text that excite them most.

    Parameters
    ----------
    subject
        A language model.
    neurons
        Units of `mlp_act` sites.
    roles
        The role at which each acts most on the task.
    texts
        Running text for exemplars, read in one pass each; at most one exemplar from a text.
    top, n_exemplars, seed
        Tokens each way, exemplars, seed of the decoding's null.
    """
    if not neurons:
        return {}
    table = lm_head(subject, Units.parse(list(neurons)), top=top, seed=seed)
    exemplars = _exemplars(subject, neurons, texts, n_exemplars)
    found = {}
    for neuron in neurons:
        shown = exemplars[neuron]
        negative = bool(shown) and shown[0]["value"] < 0
        text = f"Acts at {_role(roles[neuron])}."
        if shown:
            text += f" In running text it is most active at {_listed(shown)}."
        if negative:
            text += " Its strongest activity is negative: there it works against what is listed first."
        found[neuron] = UnitNotes(
            summary=text,
            promotes=decoded_tokens(table, neuron, "promotes"),
            suppresses=decoded_tokens(table, neuron, "suppresses"),
            exemplars=shown,
            decoded="Tokens: its output weights through the LM head.",
        )
    return found


def _listed(exemplars: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(f"“{e['token'].strip() or e['token']}”" for e in exemplars))


def _exemplars(
    subject: LanguageModel, neurons: Sequence[Unit], texts: Sequence[str], n: int, longest: int = 96
) -> dict[Unit, list[dict[str, Any]]]:
    """The strongest tokens by |activity| of each neuron, one a text, with some tokens around each.

    Texts are cut to what the model reads and to `longest` tokens.
    """
    limit = min(longest, subject.max_length)
    shown: dict[Unit, list[dict[str, Any]]] = {neuron: [] for neuron in neurons}
    special = set(subject.tokenizer.all_special_ids)
    encoded = subject.tokenizer(list(texts), add_special_tokens=subject.bos is not False)["input_ids"]
    read = [
        (text, ids[:limit]) for text, ids in zip(texts, encoded, strict=True) if set(ids[1:limit]) - special
    ]
    if not read:
        return shown
    sites = sorted({neuron.site for neuron in neurons})
    found = record(
        subject,
        [text for text, _ in read],
        sites,
        measures=[Exemplars(k=n, by="abs", per_doc=True)],
        long="truncate",
        context=limit,
        progress=False,
    )
    decode = subject.tokenizer.decode
    for site in sites:
        own = [neuron.index for neuron in neurons if neuron.site == site]
        table = found[site]["exemplars"].result()
        for w in contexts(table, lambda doc: read[doc][1], own, before=12, after=4):
            shown[Unit(site, w.unit)].append(
                {
                    "value": w.value,
                    "before": decode(w.tokens[: w.offset]),
                    "token": decode([w.tokens[w.offset]]),
                    "after": decode(w.tokens[w.offset + 1 :]),
                }
            )
    return shown


def decoded_tokens(table: pd.DataFrame, unit: Unit, way: str) -> list[dict[str, Any]]:
    """The tokens that a unit promotes or suppresses, of a table of `patchclamp.describe`."""
    rows = table[(table.unit == str(unit)) & (table.way == way)]
    return [{"token": r.token, "z": float(r.z), "p": float(r.p)} for r in rows.itertuples()]


def _role(role: str) -> str:
    return {"end": "the last token", "other": "positions without a role"}.get(role, role)
