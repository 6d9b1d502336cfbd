"""Patterns of form: closed word classes, casing, punctuation, place in the word and the text, repetition."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.describe.predicates.base import Predicate
from patchclamp.describe.predicates.sets import ask_pieces, ask_words
from patchclamp.describe.tokens import Ints, Mask, Tokens

__all__ = ["CLOSED", "PATTERNS", "Pattern", "Position"]

_WORDS: dict[str, str] = {
    "determiner": "a an the this that these those my your his her its our their some any no every each either neither "
    "another both all",
    "article": "a an the",
    "possessive": "my your his her its our their whose",
    "demonstrative": "this that these those",
    "preposition": "about above across after against along among around at before behind below beneath beside between "
    "beyond by despite during except for from in inside into like near of off on onto out outside over past since "
    "through throughout to toward towards under until up upon with within without",
    "personal pronoun": "i me you he him she her it we us they them myself yourself himself herself itself ourselves "
    "themselves",
    "conjunction": "and or but nor so yet because although though while whereas if unless when since than that whether",
    "auxiliary verb": "am is are was were be been being have has had having do does did will would shall should can "
    "could may might must don't doesn't didn't won't can't isn't aren't wasn't weren't hasn't haven't hadn't",
    "form of to be": "am is are was were be been being",
    "question word": "who whom whose which what when where why how",
    "negation": "no not never none nothing nobody nowhere neither nor don't doesn't didn't won't can't cannot isn't "
    "aren't wasn't weren't hasn't haven't hadn't shouldn't wouldn't couldn't",
    "number word": "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred "
    "thousand million billion first second third",
    "quantifier": "all both some any many much few several most more less each every no none enough",
    "month or day": "january february march april may june july august september october november december monday "
    "tuesday wednesday thursday friday saturday sunday",
}
_CLASSES = {name: frozenset(words.split()) for name, words in _WORDS.items()}
CLOSED = frozenset().union(
    *(_CLASSES[name] for name in _CLASSES if name not in ("month or day", "number word"))
)
_PLURALS = {"form of to be": "forms of to be", "month or day": "months or days"}


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


@dataclass(frozen=True)
class _Form:
    """A pattern: English for many, English for one, and how to ask it of all tokens."""

    plural: str
    one: str
    ask: Callable[[Tokens], Mask]
    clause: bool = False


def _piece(test: Callable[[str], bool]) -> Callable[[Tokens], Mask]:
    """Ask the written piece without the blanks around it."""

    return _raw(lambda piece: test(piece.strip()))


def _raw(test: Callable[[str], bool]) -> Callable[[Tokens], Mask]:
    return lambda tokens: ask_pieces(tokens, test)


def _in_class(words: frozenset[str]) -> Callable[[Tokens], Mask]:
    return lambda tokens: ask_words(tokens, words.__contains__)


def _no_letters(text: str) -> bool:
    return bool(text) and not any(c.isalnum() for c in text)


def _sentence_first(tokens: Tokens) -> Mask:
    number = tokens.sentence_of
    return np.asarray(np.r_[True, number[1:] != number[:-1]])


def _seen_before(tokens: Tokens) -> Mask:
    return _again(tokens.doc * len(tokens.folded_types) + tokens.folded_of)


def _again(key: Ints) -> Mask:
    """Whether the same key stood further up."""
    out = np.ones(len(key), bool)
    out[np.unique(key, return_index=True)[1]] = False
    return out


def _induction(tokens: Tokens) -> Mask:
    """Whether the pair of the token before and this one occurred earlier in the document."""
    kinds = len(tokens.folded_types)
    # A document begins after a token of no kind: number `kinds`.
    before = np.where(tokens.position > 0, np.r_[0, tokens.folded_of[:-1]], kinds)
    key = (tokens.doc * (kinds + 1) + before) * kinds + tokens.folded_of
    return _again(key) & (tokens.position > 0)


def _inside(opens: str, closes: str) -> Callable[[Tokens], Mask]:
    """Whether a bracket is open in the same document, up to 64 tokens after it opened."""

    def ask(tokens: Tokens) -> Mask:
        change = _count(tokens, opens) - _count(tokens, closes)
        out = np.zeros(len(tokens), bool)
        for start, stop in zip(tokens.starts, tokens.stops, strict=True):
            depth, age = 0, 0
            for row in start + np.flatnonzero(_near(change[start:stop])):
                depth, age = max(0, depth + int(change[row])), 0 if change[row] > 0 else age + 1
                depth = 0 if age > 64 else depth
                out[row] = depth > 0
        return out

    return ask


def _near(change: np.ndarray) -> Mask:
    """Rows within 65 tokens after a bracket opened: the only ones that can be inside."""
    opened = np.flatnonzero(change > 0)
    edges = np.zeros(len(change) + 66, np.int64)
    np.add.at(edges, opened, 1)
    np.add.at(edges, opened + 66, -1)
    return np.cumsum(edges)[: len(change)] > 0


def _count(tokens: Tokens, marks: str) -> np.ndarray:
    types = tokens.piece_types
    return np.fromiter((sum(t.count(m) for m in marks) for t in types), np.int64, len(types))[tokens.piece_of]


_YEAR, _NUMBER = re.compile(r"(1[5-9]|20)\d\d"), re.compile(r"\d+([.,]\d+)*")
PATTERNS: dict[str, _Form] = {
    **{
        name: _Form(_PLURALS.get(name, name + "s"), _article(name), _in_class(words))
        for name, words in _CLASSES.items()
    },
    "function_word": _Form("function words", "a function word", _in_class(CLOSED)),
    "number": _Form("numbers", "a number", _piece(lambda t: bool(_NUMBER.fullmatch(t)))),
    "year": _Form("years", "a year", _piece(lambda t: bool(_YEAR.fullmatch(t)))),
    "has_digit": _Form(
        "tokens with a digit", "a token with a digit", _piece(lambda t: any(c.isdigit() for c in t))
    ),
    "punctuation": _Form("punctuation marks", "a punctuation mark", _piece(_no_letters)),
    "sentence_end": _Form(
        "full stops, question and exclamation marks",
        "the end of a sentence",
        _piece(lambda t: t[:1] in set(".!?")),
    ),
    "comma": _Form("commas", "a comma", _piece(lambda t: t == ",")),
    "colon": _Form("colons and semicolons", "a colon or semicolon", _piece(lambda t: t in (":", ";"))),
    "dash": _Form("dashes", "a dash", _piece(lambda t: bool(t) and not t.strip("-–—"))),
    "quote": _Form(
        "quotation marks", "a quotation mark", _piece(lambda t: bool(t) and not t.strip("\"'“”‘’`"))
    ),
    "apostrophe": _Form("tokens with an apostrophe", "an apostrophe", _piece(lambda t: "'" in t or "’" in t)),
    "bracket": _Form("brackets", "a bracket", _piece(lambda t: bool(t) and any(c in "()[]{}<>" for c in t))),
    "symbol": _Form(
        "mathematical signs",
        "a mathematical sign",
        _piece(lambda t: bool(t) and not t.strip("+=*/^%$#&|~<>@\\_")),
    ),
    "newline": _Form("line ends", "a line end", _raw(lambda t: "\n" in t)),
    "blank": _Form("blanks", "a blank", _raw(lambda t: not t.strip())),
    "capitalised": _Form("capitalised tokens", "a capitalised token", _piece(lambda t: t[:1].isupper())),
    "all_capitals": _Form(
        "tokens in capitals", "a token in capitals", _piece(lambda t: len(t) > 1 and t.isupper())
    ),
    "single_letter": _Form(
        "single letters", "a single letter", _piece(lambda t: len(t) == 1 and t.isalpha())
    ),
    "not_ascii": _Form(
        "tokens with letters beyond ASCII", "a token beyond ASCII", _raw(lambda t: not t.isascii())
    ),
    "without_blank": _Form(
        "joined to the token before",
        "a token joined to the one before",
        _raw(lambda t: not t[:1].isspace()),
        True,
    ),
    "word_first": _Form("that begin a word", "a token that begins a word", lambda t: t.word_first, True),
    "word_last": _Form("that end a word", "a token that ends a word", lambda t: t.word_last, True),
    "word_inner": _Form(
        "that continue a word",
        "a token that continues a word",
        lambda t: (t.word_of >= 0) & ~t.word_first,
        True,
    ),
    "sentence_first": _Form("that begin a sentence", "the first token of a sentence", _sentence_first, True),
    "seen_before": _Form("seen before in the text", "a token seen before in the text", _seen_before, True),
    "induction": _Form(
        "that follow the token before as they did earlier in the text",
        "a token of a repeated pair",
        _induction,
        True,
    ),
    "in_brackets": _Form("inside brackets", "a token inside brackets", _inside("([{", ")]}"), True),
}


@dataclass(frozen=True)
class Pattern(Predicate):
    """One of the forms of `PATTERNS`, by name.

    Examples
    --------
    >>> Pattern("determiner").evaluate(Tokens.of([["The", " cat"]])).tolist()
    [True, False]
    """

    kind = "pattern"
    name: str

    def __post_init__(self) -> None:
        check_choice("predicate pattern: name", self.name, PATTERNS)
        object.__setattr__(self, "clause", PATTERNS[self.name].clause)

    def evaluate(self, tokens: Tokens) -> Mask:
        return PATTERNS[self.name].ask(tokens)

    def plural(self) -> str:
        return PATTERNS[self.name].plural

    def one(self) -> str:
        return PATTERNS[self.name].one

    def negated(self) -> str:
        return f"except those {self.plural()}" if self.clause else super().negated()


@dataclass(frozen=True)
class Position(Predicate):
    """The place in the text lies in [first, last], from 0; `last` None = to its end.

    Examples
    --------
    >>> Position(0, 0).evaluate(Tokens.of([["a", "b"], ["c"]])).tolist()
    [True, False, True]
    """

    kind = "position"
    clause = True
    first: int
    last: int | None = None

    def __post_init__(self) -> None:
        if self.first < 0 or (self.last is not None and self.last < self.first):
            raise PatchclampError(
                f"predicate position: first={self.first}, last={self.last}; wanted 0 <= first <= last"
            )

    def evaluate(self, tokens: Tokens) -> Mask:
        held: Mask = tokens.position >= self.first
        return held if self.last is None else held & (tokens.position <= self.last)

    def plural(self) -> str:
        if self.last is None:
            return f"after the first {self.first} of a text"
        if self.last == self.first:
            return f"at place {self.first + 1} of a text"
        if self.first == 0:
            return f"among the first {self.last + 1} of a text"
        return f"at places {self.first + 1} to {self.last + 1} of a text"
