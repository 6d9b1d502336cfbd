"""The simple predicates that occur in some texts, as one sparse matrix: candidates x tokens.

One product of this matrix with the tokens on which units are active counts, for every candidate and every unit at
once, how often both hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.describe.predicates import (
    PATTERNS,
    Affix,
    After,
    Hypernym,
    Near,
    NGram,
    Pattern,
    Position,
    Predicate,
    Supersense,
    TokenSet,
    WordSet,
)
from patchclamp.describe.predicates.patterns import CLOSED
from patchclamp.describe.predicates.wordnet import senses_of
from patchclamp.describe.tokens import Ints, Tokens

__all__ = ["FAMILIES", "Candidates", "candidates_of"]

Rows = tuple[list[Predicate], sparse.csr_matrix]


@dataclass(frozen=True)
class Candidates:
    """Predicates, family by family, and the tokens of which each holds.

    `matrix` is (candidates, tokens), float32 ones; `family` name -> (first, last + 1) of its rows.
    """

    predicates: list[Predicate]
    matrix: sparse.csr_matrix
    family: dict[str, tuple[int, int]]

    def __len__(self) -> int:
        return len(self.predicates)


def candidates_of(tokens: Tokens, families: Sequence[str] | None = None, min_count: int = 3) -> Candidates:
    """All simple predicates that hold of at least `min_count` tokens and do not hold of one.

    Parameters
    ----------
    tokens
        The texts that make descriptions.
    families
        Of `FAMILIES`; default: all, those of WordNet only where `tokens.wordnet` is given.
    """
    wanted = (
        families if families is not None else [f for f in FAMILIES if tokens.wordnet or f not in _LEXICAL]
    )
    unknown = [name for name in wanted if name not in FAMILIES]
    if unknown or not wanted:
        hint = did_you_mean(unknown[0], FAMILIES) if unknown else ""
        raise PatchclampError(f"families={list(wanted)}: there are {', '.join(FAMILIES)}{hint}")
    predicates: list[Predicate] = []
    parts, family = [], {}
    for name in wanted:
        own, rows = FAMILIES[name](tokens, min_count)
        size = np.diff(rows.indptr)
        keep = np.flatnonzero((size >= min_count) & (size < len(tokens)))
        family[name] = (len(predicates), len(predicates) + len(keep))
        predicates += [own[i] for i in keep]
        parts.append(rows[keep])
    matrix = sparse.vstack(parts, format="csr", dtype=np.float32)
    return Candidates(predicates, matrix, family)


def _by_number(number: Ints, wanted: Ints, n: int) -> sparse.csr_matrix:
    """Row i holds where `number` is wanted[i]; numbers below zero belong to none."""
    place = np.full(max(int(number.max(initial=0)), int(wanted.max(initial=0))) + 1, -1, np.int64)
    place[wanted] = np.arange(len(wanted))
    rows = np.where(number >= 0, place[number], -1)
    columns = np.flatnonzero(rows >= 0)
    ones = np.ones(len(columns), np.float32)
    return sparse.csr_matrix((ones, (rows[columns], columns)), shape=(len(wanted), n))


def _evaluated(tokens: Tokens, predicates: Iterable[Predicate]) -> Rows:
    """Rows of predicates that are asked one by one."""
    own = list(predicates)
    held = [np.flatnonzero(p.evaluate(tokens)) for p in own]
    indptr = np.cumsum([0] + [len(h) for h in held])
    columns = np.concatenate(held) if held else np.zeros(0, np.int64)
    ones = np.ones(len(columns), np.float32)
    return own, sparse.csr_matrix((ones, columns, indptr), shape=(len(own), len(tokens)))


def _frequent(number: Ints, least: int, most: int) -> Ints:
    """Numbers that occur at least `least` times, the `most` frequent of them, in rising order."""
    count = np.bincount(number[number >= 0])
    order = np.argsort(-count, kind="stable")[:most]
    return np.sort(order[count[order] >= least]).astype(np.int64)


def _tokens(tokens: Tokens, min_count: int) -> Rows:
    kept = _frequent(tokens.folded_of, min_count, 30_000)
    kept = np.array([i for i in kept if tokens.folded_types[i]], np.int64)
    own: list[Predicate] = [TokenSet((tokens.folded_types[i],)) for i in kept]
    return own, _by_number(tokens.folded_of, kept, len(tokens))


def _words(tokens: Tokens, min_count: int) -> Rows:
    """Words of several tokens; the others are tokens."""
    several = np.unique(tokens.word_of[(tokens.word_of >= 0) & ~(tokens.word_first & tokens.word_last)])
    kept = np.intersect1d(_frequent(tokens.word_of, min_count, 30_000), several)
    own: list[Predicate] = [WordSet((tokens.word_types[i],)) for i in kept]
    return own, _by_number(tokens.word_of, kept, len(tokens))


def _before(tokens: Tokens) -> Ints:
    """Number of the token before, -1 at the start of a document."""
    return np.where(tokens.position > 0, np.r_[-1, tokens.folded_of[:-1]], -1)


def _previous(tokens: Tokens, min_count: int) -> Rows:
    before = _before(tokens)
    kept = _frequent(before, min_count, 10_000)
    kept = np.array([i for i in kept if tokens.folded_types[i]], np.int64)
    own: list[Predicate] = [After(TokenSet((tokens.folded_types[i],))) for i in kept]
    return own, _by_number(before, kept, len(tokens))


def _ngrams(tokens: Tokens, min_count: int) -> Rows:
    before, types = _before(tokens), tokens.folded_types
    pair = np.where(before >= 0, before * len(types) + tokens.folded_of, -1)
    keys, number = np.unique(pair, return_inverse=True)
    number = np.where(pair >= 0, number, -1).astype(np.int64)
    kept = _frequent(number, max(min_count, 4), 5_000)
    named = [(types[int(keys[i]) // len(types)], types[int(keys[i]) % len(types)]) for i in kept]
    kept = np.array([i for i, pair in zip(kept, named, strict=True) if all(pair)], np.int64)
    own: list[Predicate] = [NGram(pair) for pair in named if all(pair)]
    return own, _by_number(number, kept, len(tokens))


def _patterns(tokens: Tokens, min_count: int) -> Rows:
    places = [Position(0, last) for last in (0, 1, 3, 7, 15, 31)] + [Position(64), Position(256)]
    return _evaluated(tokens, [*(Pattern(name) for name in PATTERNS), *places])


def _after_patterns(tokens: Tokens, min_count: int) -> Rows:
    return _evaluated(tokens, [After(Pattern(name)) for name in PATTERNS])


def _affixes(tokens: Tokens, min_count: int) -> Rows:
    """Beginnings and endings shared by at least eight words, those that hold of most tokens."""
    size = np.bincount(tokens.word_of[tokens.word_of >= 0], minlength=len(tokens.word_types))
    found: dict[tuple[str, bool], list[int]] = {}
    for number, word in enumerate(tokens.word_types):
        for n in range(1, min(5, len(word))):
            found.setdefault((word[-n:], True), []).append(number)
            found.setdefault((word[:n], False), []).append(number)
    kept = [(key, words) for key, words in found.items() if len(words) >= 8]
    kept = sorted(kept, key=lambda pair: (-int(size[pair[1]].sum()), pair[0]))[:800]
    return [Affix(*key) for key, _ in kept], _of_words(tokens, [words for _, words in kept])


def _of_words(tokens: Tokens, words: Sequence[Sequence[int]]) -> sparse.csr_matrix:
    """Rows over tokens from lists of words."""
    indptr = np.cumsum([0] + [len(w) for w in words])
    columns = np.concatenate([np.asarray(w, np.int64) for w in words]) if words else np.zeros(0, np.int64)
    by_word = sparse.csr_matrix(
        (np.ones(len(columns), np.float32), columns, indptr), shape=(len(words), len(tokens.word_types))
    )
    return (by_word @ _by_number(tokens.word_of, np.arange(len(tokens.word_types)), len(tokens))).tocsr()


def _hypernyms(tokens: Tokens, min_count: int) -> Rows:
    """Synsets above at least three of the words; of several above the same words the lowest."""
    net = tokens.lexicon()
    members: dict[str, list[int]] = {}
    for pos in ("noun", "verb"):
        for number, key in enumerate(senses_of(tokens, pos)):
            for up in sorted(net.ancestors(key)) if key else ():
                members.setdefault(up, []).append(number)
    lowest: dict[tuple[int, ...], str] = {}
    for key in sorted(members, key=lambda k: (-len(net.ancestors(k)), k)):
        if len(members[key]) >= 3:
            lowest.setdefault((int(key.startswith("verb")), *members[key]), key)
    own: list[Predicate] = [Hypernym(key, net.senses[key].words[0]) for key in lowest.values()]
    return own, _of_words(tokens, [words[1:] for words in lowest])


def _supersenses(tokens: Tokens, min_count: int) -> Rows:
    net = tokens.lexicon()
    members: dict[str, list[int]] = {}
    for pos in ("noun", "verb", "adj", "adv"):
        for number, key in enumerate(senses_of(tokens, pos)):
            if key:
                members.setdefault(net.senses[key].label, []).append(number)
    own: list[Predicate] = [Supersense(name) for name in members]
    return own, _of_words(tokens, list(members.values()))


def _after_supersenses(tokens: Tokens, min_count: int) -> Rows:
    return _evaluated(tokens, [After(part) for part in _supersenses(tokens, min_count)[0]])


def _near_words(tokens: Tokens, min_count: int) -> Rows:
    """The most frequent words that carry content: what a passage is about."""
    number = np.where(tokens.word_last, tokens.word_of, -1)
    kept = _frequent(number, max(min_count, 6), 400)
    names = [tokens.word_types[i] for i in kept if len(tokens.word_types[i]) > 2]
    return _evaluated(tokens, [Near(WordSet((name,))) for name in names if name not in CLOSED][:200])


FAMILIES: dict[str, Callable[[Tokens, int], Rows]] = {
    "token": _tokens,
    "word": _words,
    "pattern": _patterns,
    "affix": _affixes,
    "supersense": _supersenses,
    "hypernym": _hypernyms,
    "previous": _previous,
    "after_pattern": _after_patterns,
    "after_supersense": _after_supersenses,
    "ngram": _ngrams,
    "near": _near_words,
}
_LEXICAL = ("supersense", "hypernym", "after_supersense")
