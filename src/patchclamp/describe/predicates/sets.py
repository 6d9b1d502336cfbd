"""Sets of tokens, sets of words, and n-grams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.describe.predicates.base import Predicate, quoted
from patchclamp.describe.tokens import Ints, Mask, Tokens, fold

__all__ = ["NGram", "TokenSet", "WordSet"]


class Listed(Predicate):
    """A predicate whose one field is a list of texts; every text after the first costs a quarter."""

    def __post_init__(self) -> None:
        name = fields(self)[0].name
        object.__setattr__(self, name, _strings(getattr(self, name), self.kind, name))

    @property
    def length(self) -> float:
        return 1 + (len(getattr(self, fields(self)[0].name)) - 1) / 4


@dataclass(frozen=True)
class TokenSet(Listed):
    """The token is one of these, blanks around it and case apart.

    Examples
    --------
    >>> TokenSet(("cat",)).evaluate(Tokens.of([["The", " Cat"]])).tolist()
    [False, True]
    """

    kind = "token"
    tokens: tuple[str, ...]

    def evaluate(self, tokens: Tokens) -> Mask:
        return _among(tokens.folded_index, [fold(t) for t in self.tokens])[tokens.folded_of]

    def plural(self) -> str:
        return f"the token{'s' * (len(self.tokens) > 1)} {_listed(self.tokens)}"

    def one(self) -> str:
        return _listed(self.tokens)


@dataclass(frozen=True)
class WordSet(Listed):
    """The token is part of one of these words, case apart.

    Examples
    --------
    >>> WordSet(("caterpillar",)).evaluate(Tokens.of([["A", " cater", "pillar"]])).tolist()
    [False, True, True]
    """

    kind = "word"
    words: tuple[str, ...]

    def evaluate(self, tokens: Tokens) -> Mask:
        return per_word(tokens, _among(tokens.word_index, [w.lower() for w in self.words]))

    def plural(self) -> str:
        return f"the word{'s' * (len(self.words) > 1)} {_listed(self.words)}"

    def one(self) -> str:
        return _listed(self.words)


@dataclass(frozen=True)
class NGram(Listed):
    """The token ends this run of tokens, blanks around each and case apart.

    Examples
    --------
    >>> NGram(("of", "the")).evaluate(Tokens.of([["Of", " the", " the"]])).tolist()
    [False, True, False]
    """

    kind = "ngram"
    tokens: tuple[str, ...]

    def evaluate(self, tokens: Tokens) -> Mask:
        out = np.ones(len(tokens), bool)
        for back, token in enumerate(reversed(self.tokens)):
            out &= shifted(
                tokens.folded_of == tokens.folded_index.get(fold(token), -1), tokens.position, back
            )
        return out

    def plural(self) -> str:
        *before, last = self.tokens
        context = f", after {quoted(' '.join(before))}" if before else ""
        return f"the token {quoted(last)}{context}"

    def one(self) -> str:
        return quoted(" ".join(self.tokens))


def per_word(tokens: Tokens, of_word: Mask) -> Mask:
    """Spread a yes or no for each word over its tokens; tokens without letters get no."""
    return np.append(of_word, False)[tokens.word_of]


def ask_words(tokens: Tokens, test: Callable[[str], bool]) -> Mask:
    """Ask each different word once, in lower case."""
    types = tokens.word_types
    return per_word(tokens, np.fromiter(map(test, types), bool, len(types)))


def ask_pieces(tokens: Tokens, test: Callable[[str], bool]) -> Mask:
    """Ask each different piece once, as it is written."""
    types = tokens.piece_types
    return np.fromiter(map(test, types), bool, len(types))[tokens.piece_of]


def shifted(mask: Mask, position: Ints, by: int) -> Mask:
    """Whether `mask` held `by` tokens before, in the same document."""
    if by == 0:
        return mask
    out = np.zeros_like(mask)
    out[by:] = mask[:-by]
    return out & (position >= by)


def _among(index: Mapping[str, int], wanted: Sequence[str]) -> Mask:
    out = np.zeros(len(index), bool)
    out[[index[name] for name in wanted if name in index]] = True
    return out


def _strings(values: Sequence[str], kind: str, field: str) -> tuple[str, ...]:
    if isinstance(values, str) or not len(values) or not all(isinstance(v, str) and v for v in values):
        raise PatchclampError(f"predicate {kind}: {field}={values!r:.60}; give a list of at least one text")
    return tuple(values)


def _listed(names: Sequence[str]) -> str:
    shown = [quoted(name) for name in names]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " or " + shown[-1]
