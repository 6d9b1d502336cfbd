"""Retrieval heads: which heads look at the token of a needle in the moment in which the model copies it?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import even_odd
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.draw.cards import shown
from patchclamp.nouns.units import Site, Units
from patchclamp.subjects.clamp.batch import Batch, Edit, right_pad
from patchclamp.subjects.language import LanguageModel

Span = tuple[int, int]


@shown
@dataclass(frozen=True)
class RetrievalHeads:
    """Scores of heads, and what taking the best of them away does.

    Attributes
    ----------
    table : DataFrame
        head, score (mean over prompts of the share of needle tokens that it copied), low, high (95 % interval over prompts;
        NaN below 8), even, odd (means of the 1st, 3rd, ... and of the 2nd, 4th, ... prompt that counted); best first.
    items : array (prompt, head)
    heads : tuple of str
    recall : array (prompt,)
        Share of the needle's tokens that the model wrote; prompts at or below `least_recall` are left out.
    used : array (prompt,)
        Which prompts counted.
    check : DataFrame
        ablated (``"none"``, ``"retrieval"``, ``"random"``), draw, recall, prompts: heads set to zero while the model writes.
        With ``check`` the heads are the best of the even prompts, and recall is of the odd ones in all rows.
    """

    table: pd.DataFrame
    items: NDArray[np.float64] = field(repr=False)
    heads: tuple[str, ...] = field(repr=False)
    recall: NDArray[np.float64]
    used: NDArray[np.bool_] = field(repr=False)
    check: pd.DataFrame

    def chosen(self, above: float = 0.1) -> Units:
        """Heads with a score above a threshold.

        Raises
        ------
        PatchclampError
            Where no head is.
        """
        names = self.table.loc[self.table.score > above, "head"].tolist()
        if not names:
            raise PatchclampError(
                f"above={above}: the highest score is {self.table.score.iloc[0]:.3f}; no head is above"
            )
        return Units.parse(names)


def retrieval_heads(
    subject: LanguageModel,
    prompts: Sequence[Sequence[int]],
    needles: Sequence[Span],
    *,
    new_tokens: int | None = None,
    stop: Sequence[int] = (),
    least_recall: float = 0.5,
    check: int = 0,
    n_random: int = 5,
    seed: int = 0,
) -> RetrievalHeads:
    """Score heads by how much of a needle they copy while the model writes its answer.

    score(head) = |{i in needle: at some step the head's largest attention is on i, and token i is what is written}| /
    |needle|, a mean over prompts whose needle the model did write.

    Parameters
    ----------
    subject
        A language model; it writes greedily.
    prompts
        Token ids that end with the question.
    needles
        (first, last + 1) of the needle in each prompt; `span_of` finds it.
    new_tokens
        At most so many; by default the needle's length and 2.
    stop
        Ids that end the answer.
    least_recall
        A prompt counts where the model wrote more than this share of the needle's tokens.
    check, n_random
        Set the `check` best heads to zero, and as many random others `n_random` times, and let the model write again;
        0 leaves that out. Heads are chosen on every other prompt that counts and taken away on the rest; random ones are of
        the same layers where these have enough others, else of all.

    Raises
    ------
    PatchclampError
        For spans outside of their prompts, where the model retrieves nothing, and for `check` where it is more than half of
        the heads or fewer than 2 prompts count.

    Notes
    -----
    Wu et al. 2024. Their code adds 1 / |needle| at every step, which exceeds 1 for a head that copies one token
    again and again; the set counts each once. Their finder of needles takes permutations too; ours is exact.

    Examples
    --------
    >>> found = retrieval_heads(lm, [ids], [span_of(ids, needle)], check=5)      # doctest: +SKIP
    >>> found.chosen(0.1)
    """
    if not prompts or len(prompts) != len(needles):
        raise PatchclampError(f"{len(prompts)} prompts and {len(needles)} needles: give a needle a prompt")
    for number, (prompt, (first, last)) in enumerate(zip(prompts, needles, strict=True)):
        if not 0 <= first < last <= len(prompt):
            raise PatchclampError(
                f"needle {number}: ({first}, {last}) is not within its {len(prompt)} tokens"
            )
    heads = [(layer, h) for layer in range(subject.n_layers) for h in range(subject.n_heads)]
    if not 0 <= check <= len(heads) // 2:
        raise PatchclampError(f"check={check}: there are {len(heads)} heads; give at most half of them")
    names = tuple(f"head.{layer}[{h}]" for layer, h in heads)
    length = [new_tokens or last - first + 2 for first, last in needles]
    answers = [write(subject, p, n, stop) for p, n in zip(prompts, length, strict=True)]
    recall = np.array([_recall(p, s, a) for p, s, a in zip(prompts, needles, answers, strict=True)])
    used = recall > least_recall
    if not used.any():
        raise PatchclampError(
            f"retrieval_heads: the model wrote at most {recall.max():.0%} of a needle, and {least_recall:.0%} is asked; its heads "
            "cannot be told by what it does not do"
        )
    if check and used.sum() < 2:
        raise PatchclampError(
            f"check={check}: the model wrote the needle of {used.sum()} prompt; at least 2 are needed, one to choose heads on "
            "and another to take them away on"
        )
    items = np.full((len(prompts), len(heads)), np.nan)
    for number in np.flatnonzero(used).tolist():
        prompt, answer = list(prompts[number]), answers[number]
        run = subject.run(
            right_pad([prompt + answer[:-1]]), read=[Site("attn_probs", i) for i in range(subject.n_layers)]
        )
        steps = slice(len(prompt) - 1, None)
        patterns = torch.stack(
            [run.activity[Site("attn_probs", i)][0, :, steps] for i in range(subject.n_layers)], 1
        )  # (head, layer, step, key)
        by_head = patterns.permute(2, 1, 0, 3).flatten(1, 2)
        items[number] = copied(by_head, [*prompt, *answer], needles[number]).numpy()
    return RetrievalHeads(
        _summary(names, items[used], seed), items, names, recall, used,
        _check(subject, prompts, needles, length, stop, used, recall, heads, items, check, n_random, seed),
    )  # fmt: skip


def copied(
    patterns: Float[Tensor, "step head key"], tokens: Sequence[int], needle: Span
) -> Float[Tensor, " head"]:
    """Share of the needle's positions that each head copied: its largest attention there, and that token written.

    Parameters
    ----------
    patterns
        Attention of the query that writes, at each step.
    tokens
        Prompt and answer; the last `step` of them are what was written.
    needle
        (first, last + 1).

    Examples
    --------
    >>> looks = torch.eye(4)[[1, 2]][:, None]                  # one head, at tokens 1 and 2 of the prompt
    >>> copied(looks, [7, 8, 9, 7, 8, 5], (1, 3)).tolist()     # 8 was written when it looked at 8; then 5, not 9
    [0.5]
    """
    first, last = needle
    patterns = patterns.cpu()
    ids = torch.tensor(list(tokens))
    written = ids[len(ids) - len(patterns) :]
    best = patterns.argmax(2)  # (step, head)
    hit = (best >= first) & (best < last) & (ids[best] == written[:, None])
    seen = torch.zeros(patterns.shape[1], last - first, dtype=torch.bool)
    for step in range(len(patterns)):
        on = hit[step].nonzero()[:, 0]
        seen[on, best[step, on] - first] = True
    return seen.double().mean(1)


def span_of(prompt: Sequence[int], needle: Sequence[int]) -> Span:
    """Where a needle's tokens are in a prompt, exactly and once.

    Raises
    ------
    PatchclampError
        Where they are not, or more than once.

    Examples
    --------
    >>> span_of([5, 6, 7, 8], [6, 7])
    (1, 3)
    """
    n = len(needle)
    found = [i for i in range(len(prompt) - n + 1) if list(prompt[i : i + n]) == list(needle)]
    if not n or len(found) != 1:
        raise PatchclampError(
            f"needle of {n} tokens: is {len(found)} times in the prompt, and once is wanted; tokens of a text alone may "
            "differ from those within another (a space before it, say)"
        )
    return found[0], found[0] + n


def write(
    subject: LanguageModel, prompt: Sequence[int], n: int, stop: Sequence[int] = (), edits: Sequence[Edit] = ()
) -> list[int]:  # fmt: skip
    """The likeliest continuation of a prompt, token by token."""
    ids = list(prompt)
    for _ in range(n):
        logits = subject.run(right_pad([ids]), write=edits, logits="last").logits
        assert logits is not None
        ids.append(int(logits[0].argmax()))
        if ids[-1] in stop:
            break
    return ids[len(prompt) :]


def _recall(prompt: Sequence[int], needle: Span, answer: Sequence[int]) -> float:
    wanted = Counter(list(prompt)[needle[0] : needle[1]])
    return sum((wanted & Counter(answer)).values()) / sum(wanted.values())


def _summary(names: Sequence[str], items: NDArray[np.float64], seed: int) -> pd.DataFrame:
    low, high = bootstrap_interval(items, seed=seed)
    table = pd.DataFrame({"head": names, "score": items.mean(0), "low": low, "high": high} | even_odd(items))
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def _silent(heads: Sequence[tuple[int, int]]) -> list[Edit]:
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def zero(layer: int, chosen: list[int]) -> Edit:
        def act(z: Tensor, batch: Batch) -> Tensor:
            keep = torch.ones(z.shape[2], dtype=z.dtype, device=z.device)
            keep[chosen] = 0
            return z * keep[:, None]

        return Edit(Site("head", layer), act)

    return [zero(layer, chosen) for layer, chosen in by_layer.items()]


def _check(
    subject: LanguageModel, prompts: Sequence[Sequence[int]], needles: Sequence[Span], length: Sequence[int],
    stop: Sequence[int], used: NDArray[np.bool_], recall: NDArray[np.float64], heads: Sequence[tuple[int, int]],
    items: NDArray[np.float64], check: int, n_random: int, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Recall without the best heads, and without random others, on prompts that did not choose them."""
    rows = np.flatnonzero(used)
    verify = rows[1::2] if check else rows
    found = [{"ablated": "none", "draw": 0, "recall": float(recall[verify].mean()), "prompts": len(verify)}]
    if check:
        best = np.argsort(-items[rows[::2]].mean(0), kind="stable")[:check]
        others = np.setdiff1d(np.arange(len(heads)), best)
        layer = np.array([one for one, _ in heads])
        near = others[np.isin(layer[others], layer[best])]
        pool = near if len(near) >= check else others
        rng = numpy_rng(seed)
        sets = [("retrieval", 0, best)]
        sets += [("random", i, rng.choice(pool, check, replace=False)) for i in range(n_random)]
        for name, draw, chosen in sets:
            edits = _silent([heads[int(i)] for i in chosen])
            values = [
                _recall(prompts[i], needles[i], write(subject, prompts[i], length[i], stop, edits))
                for i in verify.tolist()
            ]
            found.append(
                {"ablated": name, "draw": draw, "recall": float(np.mean(values)), "prompts": len(verify)}
            )
    return pd.DataFrame(found)
