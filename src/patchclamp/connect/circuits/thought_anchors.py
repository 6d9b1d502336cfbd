"""Which sentences of a text does what follows hang on? Three measures: by attention, by hiding, and by writing anew."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
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
from patchclamp.base.statistics import ranks
from patchclamp.draw.cards import shown
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import right_pad
from patchclamp.subjects.clamp.freeze import Unseen
from patchclamp.subjects.language import LanguageModel

Array = NDArray[np.float64]
# Added before the logarithm, so that what has no effect at all has a number.
FLOOR = 1e-9


@shown
@dataclass(frozen=True)
class ReceiverHeads:
    """Heads that narrow on few sentences, and the sentences on which they do.

    Attributes
    ----------
    table : DataFrame
        head, kurtosis (excess, of a sentence's received attention; mean over texts), even, odd (means of the 1st, 3rd, ... and
        of the 2nd, 4th, ... text; NaN where there is none), best first.
    broadcast : tuple of array
        For each text, (sentence,): mean received attention over the `top` heads; NaN for sentences too near the end.
    """

    table: pd.DataFrame
    broadcast: tuple[Array, ...] = field(repr=False)


def sentences(text: str, least: int = 10) -> list[str]:
    """A text cut after . ? ! before a space or a line's end, and at blank lines; pieces below `least` characters are joined on.

    Examples
    --------
    >>> sentences("We start with four apples. Ok. Then two are eaten! What is left")
    ['We start with four apples. Ok.', ' Then two are eaten!', ' What is left']
    """
    pieces = [piece for piece in re.split(r"(?<=[.?!])(?=\s)|(?<=\n\n)", text) if piece]
    found: list[str] = []
    for piece in pieces:
        if found and (len(piece.strip()) < least or len(found[-1].strip()) < least):
            found[-1] += piece
        else:
            found.append(piece)
    return found


def receiver_heads(
    subject: LanguageModel,
    texts: Sequence[Sequence[Sequence[int]]],
    *,
    top: int = 20,
    gap: int = 4,
    by_rank: bool = True,
    drop_first: bool = True,
) -> ReceiverHeads:
    """Score heads by how unevenly later sentences attend to earlier ones.

    received(j) = mean over i >= j + gap of mean attention from tokens of sentence i to tokens of sentence j;
    kurtosis = excess kurtosis of received over j

    Parameters
    ----------
    subject, texts
        For each text its sentences, as token ids; at least `gap` + 4 of them.
    top
        Heads whose received attention is averaged into `broadcast`.
    gap
        Nearer sentences do not count.
    by_rank
        Replace a row's attention by its ranks over the sentences it can see, divided by their number: uniform attention gives
        early sentences more by plain means, and all the same by ranks.
    drop_first
        Leave out sentence 0, on which attention sinks.

    Raises
    ------
    PatchclampError
        For texts with fewer sentences.

    Notes
    -----
    Bogdan et al. 2025 (thought anchors). Kurtosis depends on the number of sentences: compare heads on the same texts.
    Attention is no effect: hold it against `sentence_suppression`.

    Examples
    --------
    >>> receiver_heads(lm, [[lm.encode([s])[0] for s in sentences(text)]])       # doctest: +SKIP
    """
    if not texts:
        raise PatchclampError("give at least one text, as a list of sentences of token ids")
    names = [f"head.{layer}[{h}]" for layer in range(subject.n_layers) for h in range(subject.n_heads)]
    scores, received = [], []
    for number, parts in enumerate(texts):
        if len(parts) < gap + 4:
            raise PatchclampError(f"text {number}: has {len(parts)} sentences, and {gap + 4} are needed")
        sites = [Site("attn_probs", layer) for layer in range(subject.n_layers)]
        run = subject.run(right_pad([[t for part in parts for t in part]]), read=sites)
        patterns = torch.cat([run.activity[site][0] for site in sites])
        got = received_attention(sentence_matrix(patterns, [len(p) for p in parts]), gap, by_rank)
        if drop_first:
            got[:, 0] = np.nan
        received.append(got)
        scores.append(excess_kurtosis(got))
    score = np.stack(scores)
    mean = score.mean(0)
    order = np.argsort(-mean, kind="stable")
    table = pd.DataFrame({"head": names, "kurtosis": mean} | even_odd(score))
    return ReceiverHeads(
        table.iloc[order].reset_index(drop=True), tuple(got[order[:top]].mean(0) for got in received)
    )


def _require_tokens(lengths: Sequence[int]) -> None:
    for number, length in enumerate(lengths):
        if length < 1:
            raise PatchclampError(
                f"sentence {number}: has no tokens; leave it out, or join it to the one before"
            )


def sentence_matrix(
    patterns: Float[Tensor, "head query key"], lengths: Sequence[int]
) -> Float[Tensor, "head i j"]:
    """Mean attention from the tokens of one sentence to the tokens of another; an empty sentence is refused."""
    _require_tokens(lengths)
    member = torch.repeat_interleave(
        torch.eye(len(lengths)), torch.tensor(list(lengths)), 0
    )  # (token, sentence)
    if len(member) != patterns.shape[1]:
        raise PatchclampError(
            f"sentences of {len(member)} tokens together, and attention over {patterns.shape[1]}"
        )
    total = torch.einsum("ti,htk,kj->hij", member, patterns.float().cpu(), member)
    size = member.sum(0)
    return total / size[:, None] / size


def received_attention(matrix: Float[Tensor, "head i j"], gap: int = 4, by_rank: bool = False) -> Array:
    """(head, sentence) attention that each sentence gets from those at least `gap` behind it; NaN where there is none.

    Examples
    --------
    >>> received_attention(torch.ones(1, 4, 4).tril(), gap=2).tolist()
    [[1.0, 1.0, nan, nan]]
    """
    values = matrix.double().numpy().copy()
    n = values.shape[1]
    far = np.subtract.outer(np.arange(n), np.arange(n)) >= gap
    values[:, ~far] = np.nan
    if by_rank:
        for i in range(gap, n):
            seen = values[:, i, : i - gap + 1]
            values[:, i, : i - gap + 1] = np.stack([ranks(row) for row in seen]) / seen.shape[1]
    found = np.full(values.shape[::2], np.nan)
    some = far.any(0)
    found[:, some] = np.nanmean(values[:, :, some], 1)
    return found


def excess_kurtosis(values: Array) -> Array:
    """Over the last axis, without NaN; 0 for what does not vary.

    Examples
    --------
    >>> excess_kurtosis(np.eye(20)[:1]).round(2).tolist()
    [15.05]
    """
    centred = values - np.nanmean(values, -1, keepdims=True)
    second = np.nanmean(centred**2, -1)
    fourth = np.nanmean(centred**4, -1)
    flat = second <= 1e-24
    found: Array = np.where(flat, 0.0, fourth / np.where(flat, 1, second) ** 2 - 3)
    return found


def sentence_suppression(
    subject: LanguageModel, parts: Sequence[Sequence[int]], *, temperature: float = 1.0, centred: bool = True
) -> Array:
    """What hiding a sentence does to what is said in each later one.

    M[i, j] = mean over tokens t of sentence i of log(KL(p_t || p_t without sentence j) + 1e-9), i > j,
    with p_t the distribution of token t given all before it. The first token behind sentence j is said by a token of j,
    from which nothing is hidden, and is left out.

    Hidden: no token behind sentence j sees its tokens, in any layer or head; within it nothing changes.

    Parameters
    ----------
    subject, parts
        The sentences of a text, as token ids.
    temperature
        Of the distributions that are compared.
    centred
        Take each row's mean over j away, so that sentences which any loss disturbs do not stand out.

    Returns
    -------
    array (i, j)
        NaN for j >= i, and for a sentence of one token right behind j.

    Raises
    ------
    PatchclampError
        For fewer than 2 sentences, and empty ones.

    Notes
    -----
    Bogdan et al. 2025. Full distributions are compared: with nuclei a token that is missing from one counts for millions of nats.
    A sentence that is hidden also leaves what others said of it earlier in place.

    Examples
    --------
    >>> sentence_suppression(lm, [lm.encode([s])[0] for s in sentences(text)])   # doctest: +SKIP
    """
    if len(parts) < 2:
        raise PatchclampError(
            f"{len(parts)} sentences: at least 2 are needed, one to hide and one to look at"
        )
    _require_tokens([len(part) for part in parts])
    ids = [t for part in parts for t in part]
    ends = np.cumsum([len(part) for part in parts])
    batch = right_pad([ids]).to(subject.device)
    n, layers = len(ids), range(subject.n_layers)

    def said(hidden: Tensor) -> Tensor:
        with Unseen(subject, hidden, layers).active():
            out = subject.run(batch, read=[Site("attn_probs", 0)], logits="all").logits
        assert out is not None
        return (out[0].double() / temperature).log_softmax(1)

    base = said(torch.zeros(1, n, n, dtype=torch.bool))
    found = np.full((len(parts), len(parts)), np.nan)
    for j in range(len(parts) - 1):
        first, last = int(ends[j] - len(parts[j])), int(ends[j])
        hidden = torch.zeros(1, n, n, dtype=torch.bool)
        hidden[:, last:, first:last] = True
        moved = said(hidden)
        divergence = (base.exp() * (base - moved)).sum(1).clamp(min=0)
        effect = (divergence + FLOOR).log().cpu().numpy()
        for i in range(j + 1, len(parts)):
            # What a position says is the next token. The last of sentence j itself sees all as before.
            here = effect[max(int(ends[i]) - len(parts[i]) - 1, last) : ends[i] - 1]
            found[i, j] = here.mean() if len(here) else np.nan
    if centred:
        known = ~np.isnan(found)
        total = np.where(known, found, 0).sum(1, keepdims=True)
        found -= total / np.maximum(known.sum(1, keepdims=True), 1)
    return found


@dataclass(frozen=True)
class Rollout:
    """A text written on from before a sentence: the sentence that came instead, and the answer at the end."""

    sentence: str
    answer: str


def counterfactual_importance(
    original: Sequence[str],
    rollouts: Sequence[Sequence[Rollout]],
    right: str,
    *,
    alike: Callable[[str, str], float] | None = None,
    threshold: float = 0.8,
    fewest: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """What becomes of the answer where a sentence is written anew and comes out different.

    D: answers of rollouts from before sentence i whose sentence is unlike the original; K: answers where it was kept (the
    rollouts from before i + 1, and those of i whose sentence is alike).
    importance = share right in D - share right in K;  divergence = KL(D || K), with 1 added to every answer's count

    Parameters
    ----------
    original
        The text's sentences.
    rollouts
        For each sentence, and one more for what follows the last: texts written on from before it.
    right
        The right answer.
    alike
        Similarity of two sentences in 0..1; by default shared words over all words. Give a sentence embedding's cosine.
    threshold
        Below it a sentence is another one.
    fewest
        With fewer rollouts in D or K the row is NaN: undefined, and not 0. At least 1.
    seed
        Of the null's draws.

    Returns
    -------
    DataFrame
        sentence, importance, standard_error (of shares (right + 1) / (n + 2), so that it is not 0 where all are right or none),
        divergence, null_divergence (mean of KL where D and K are the same: what is pooled, dealt anew to sets of their
        sizes), different (share), different_n, kept_n.

    Raises
    ------
    PatchclampError
        For other numbers of rollouts than sentences and one, and `fewest` below 1.

    Notes
    -----
    Bogdan et al. 2025, method 1. Negative: with another sentence the answer is less often right.

    Examples
    --------
    >>> kept, other = [Rollout("a", "4")] * 20, [Rollout("b c", "5")] * 20
    >>> counterfactual_importance(["a"], [kept + other, kept], "4").loc[0, "importance"]
    -1.0
    """
    if len(rollouts) != len(original) + 1:
        raise PatchclampError(
            f"{len(rollouts)} sets of rollouts for {len(original)} sentences: give one for each, and one from behind the last"
        )
    if fewest < 1:
        raise PatchclampError(f"fewest={fewest}: a share of no rollout is none; give at least 1")
    like = alike or _shared_words
    rows = []
    for i, sentence in enumerate(original):
        same = [like(sentence, one.sentence) >= threshold for one in rollouts[i]]
        different = [one.answer for one, is_same in zip(rollouts[i], same, strict=True) if not is_same]
        kept = [one.answer for one, is_same in zip(rollouts[i], same, strict=True) if is_same]
        kept += [one.answer for one in rollouts[i + 1]]
        row: dict[str, object] = dict.fromkeys(
            ("importance", "standard_error", "divergence", "null_divergence"), math.nan
        )
        if min(len(different), len(kept)) >= fewest:
            p, q = (sum(a == right for a in some) / len(some) for some in (different, kept))
            row["importance"] = p - q
            row["standard_error"] = math.sqrt(
                sum(_variance(sum(a == right for a in some), len(some)) for some in (different, kept))
            )
            row["divergence"] = _divergence(different, kept)
            row["null_divergence"] = _null(different, kept, seed)
        rows.append(
            {"sentence": i, **row, "different": len(different) / max(1, len(same)), "different_n": len(different),
             "kept_n": len(kept)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _shared_words(a: str, b: str) -> float:
    first, second = (Counter(re.findall(r"\w+", text.lower())) for text in (a, b))
    whole = sum((first | second).values())
    return sum((first & second).values()) / whole if whole else 1.0


def _divergence(a: Sequence[str], b: Sequence[str]) -> float:
    answers = sorted({*a, *b})
    p, q = (
        np.array([some.count(x) + 1 for x in answers]) / (len(some) + len(answers))
        for some in (list(a), list(b))
    )
    return float((p * np.log(p / q)).sum())


def _variance(hits: int, n: int) -> float:
    share = (hits + 1) / (n + 2)
    return share * (1 - share) / n


def _null(a: Sequence[str], b: Sequence[str], seed: int, draws: int = 100) -> float:
    pool, rng = np.array([*a, *b], dtype=object), numpy_rng(seed)
    values = []
    for _ in range(draws):
        order = rng.permutation(len(pool))
        values.append(_divergence(pool[order[: len(a)]].tolist(), pool[order[len(a) :]].tolist()))
    return float(np.mean(values))
