"""Regular expressions over tokens, words or the running text, and beginnings and endings of words."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.describe.predicates.base import Predicate, quoted
from patchclamp.describe.predicates.sets import ask_pieces, ask_words
from patchclamp.describe.tokens import Mask, Tokens

__all__ = ["Affix", "Regex"]


@dataclass(frozen=True)
class Regex(Predicate):
    """A regular expression is found: in the piece as written, in the word (lower case), or in the text.

    ``on="text"`` holds of the tokens that overlap a match in their document. An expression that backtracks without
    end is as slow here as anywhere: do not run one from a source you do not trust.

    Examples
    --------
    >>> Regex("^ [A-Z]").evaluate(Tokens.of([["The", " Cat"]])).tolist()
    [False, True]
    """

    kind = "regex"
    pattern: str
    on: str = "token"

    def __post_init__(self) -> None:
        check_choice("predicate regex: on", self.on, ("token", "word", "text"))
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise PatchclampError(
                f"predicate regex: {self.pattern!r} is no regular expression ({error})"
            ) from error

    def evaluate(self, tokens: Tokens) -> Mask:
        find = re.compile(self.pattern)
        if self.on == "text":
            return self._in_text(tokens, find)
        ask = ask_pieces if self.on == "token" else ask_words
        return ask(tokens, lambda text: find.search(text) is not None)

    def _in_text(self, tokens: Tokens, find: re.Pattern[str]) -> Mask:
        out = np.zeros(len(tokens), bool)
        for document, start in enumerate(tokens.starts):
            ends = np.cumsum([len(p) for p in tokens.pieces[start : tokens.stops[document]]])
            for match in find.finditer(tokens.text(document)):
                if match.end() > match.start():
                    low = start + np.searchsorted(ends, match.start(), side="right")
                    out[low : start + np.searchsorted(ends, match.end(), side="left") + 1] = True
        return out

    def plural(self) -> str:
        where = {"token": "tokens", "word": "words", "text": "text"}[self.on]
        return f"{where} matching the regular expression {quoted(self.pattern)}"


@dataclass(frozen=True)
class Affix(Predicate):
    """The word that the token is part of begins, or ends, with these letters (and has more).

    Examples
    --------
    >>> Affix("ing").evaluate(Tokens.of([[" walk", "ing", " ing"]])).tolist()
    [True, True, False]
    """

    kind = "affix"
    letters: str
    end: bool = True

    def __post_init__(self) -> None:
        if not self.letters:
            raise PatchclampError("predicate affix: letters is empty; give at least one letter")

    def evaluate(self, tokens: Tokens) -> Mask:
        part, n = self.letters.lower(), len(self.letters)
        meets = str.endswith if self.end else str.startswith
        return ask_words(tokens, lambda word: meets(word, part) and len(word) > n)

    def plural(self) -> str:
        return f"words {'ending' if self.end else 'beginning'} in {quoted(self.letters)}"

    def one(self) -> str:
        return self.plural().replace("words", "a word", 1)
