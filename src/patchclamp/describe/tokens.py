"""Tokenised texts, laid out so that a predicate can be asked about every token at once."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.wordnet import WordNet

__all__ = ["Embed", "Ints", "Mask", "Tokens", "token_pieces"]

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]
Embed = Callable[[Sequence[str]], ArrayLike]
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s|\n")


class Tokens:
    """Texts as tokens: one row a token, documents one after the other.

    Parameters
    ----------
    pieces
        The text of each token with its blanks, so that the pieces of a document joined are its text.
    doc
        (n,) the document of each token; the tokens of a document stand together, in order.
    groups
        The unit of dependence of each token, which splits never cut; default: its document.
    wordnet
        What `predicates.Hypernym` and `Supersense` look words up in; None where they are not used.
    embed
        Sentences -> (sentences, d) vectors, for `predicates.Centroid`; None where it is not used.

    Raises
    ------
    PatchclampError
        For no token, columns of unequal length, and a document that is cut by another.

    Examples
    --------
    >>> tokens = Tokens.of([["The", " cat", " sat"], ["A", " dog"]])
    >>> len(tokens), tokens.position.tolist(), tokens.text(1)
    (5, [0, 1, 2, 0, 1], 'A dog')
    """

    def __init__(
        self,
        pieces: Sequence[str],
        doc: ArrayLike,
        groups: Sequence[Any] | None = None,
        *,
        wordnet: WordNet | None = None,
        embed: Embed | None = None,
    ) -> None:
        numbers = np.asarray(doc)
        if not len(pieces) or len(pieces) != len(numbers) or len(groups or pieces) != len(pieces):
            raise PatchclampError(
                f"tokens: {len(pieces)} pieces, {len(numbers)} document numbers and "
                f"{len(groups or pieces)} groups; wanted as many of each, and at least one"
            )
        starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
        if len(np.unique(numbers)) != len(starts):
            raise PatchclampError("tokens: a document is cut by another one; sort samples by document first")
        self.pieces, self.wordnet, self.embed = list(pieces), wordnet, embed
        self.cache: dict[str, Any] = {}  # what predicates look up once for all of their kind
        self.starts: Ints = starts.astype(np.int64)
        self.stops: Ints = np.r_[starts[1:], len(numbers)].astype(np.int64)
        self.doc: Ints = np.repeat(np.arange(len(starts)), self.stops - self.starts)
        own = numbers if groups is None else groups
        self.groups = [str(own[int(start)]) for start in starts]

    @classmethod
    def of(
        cls, documents: Sequence[Sequence[str]], groups: Sequence[Any] | None = None, **more: Any
    ) -> Tokens:
        """Lay out documents given as lists of pieces; `groups` is one entry a document."""
        sizes = [len(document) for document in documents]
        doc = np.repeat(np.arange(len(sizes)), sizes)
        own = None if groups is None else [groups[int(i)] for i in doc]
        return cls([piece for document in documents for piece in document], doc, own, **more)

    @classmethod
    def from_texts(cls, tokenizer: Any, texts: Sequence[str], groups: Any = None, **more: Any) -> Tokens:
        """Tokenise texts without special tokens."""
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return cls.of([token_pieces(tokenizer, own) for own in ids], groups, **more)

    @classmethod
    def from_samples(cls, samples: Any, tokenizer: Any, **more: Any) -> Tokens:
        """The tokens of a recording's samples, row for row with its activity."""
        pieces = token_pieces(tokenizer, samples.token.tolist())
        return cls(pieces, samples.doc.numpy(), samples.group.tolist(), **more)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.starts)

    @cached_property
    def position(self) -> Ints:
        """Place of each token in its document, from 0."""
        return np.arange(len(self)) - self.starts[self.doc]

    @cached_property
    def fingerprints(self) -> list[str]:
        """One a document: what it says, hashed; the same text has the same one in any set of tokens."""
        return [
            hashlib.sha256(self.text(i).encode("utf-8", "surrogatepass")).hexdigest()[:16]
            for i in range(self.n_documents)
        ]

    def text(self, document: int) -> str:
        """The text of a document."""
        return "".join(self.pieces[self.starts[document] : self.stops[document]])

    def take(self, documents: Sequence[int]) -> Tokens:
        """Some of the documents, in the order given."""
        rows = self.rows(documents)
        groups = [self.groups[int(i)] for i in documents]
        sizes = [int(self.stops[i] - self.starts[i]) for i in documents]
        doc = np.repeat(np.arange(len(sizes)), sizes)
        own = [groups[i] for i in doc]
        return Tokens([self.pieces[i] for i in rows], doc, own, wordnet=self.wordnet, embed=self.embed)

    def rows(self, documents: Sequence[int]) -> Ints:
        """Rows of the tokens of some documents."""
        parts = [np.arange(self.starts[i], self.stops[i]) for i in documents]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    @cached_property
    def _types(self) -> tuple[list[str], Ints]:
        return _numbered(self.pieces)

    @property
    def piece_types(self) -> list[str]:
        """The different pieces, as they are written."""
        return self._types[0]

    @property
    def piece_of(self) -> Ints:
        """(n,) index into `piece_types`."""
        return self._types[1]

    @cached_property
    def _folded(self) -> tuple[list[str], Ints]:
        names, number = _numbered([fold(piece) for piece in self.piece_types])
        return names, number[self.piece_of]

    @property
    def folded_types(self) -> list[str]:
        """The different pieces without blanks around them, in lower case."""
        return self._folded[0]

    @cached_property
    def folded_index(self) -> dict[str, int]:
        """Where each of `folded_types` stands."""
        return {name: i for i, name in enumerate(self.folded_types)}

    @property
    def folded_of(self) -> Ints:
        """(n,) index into `folded_types`."""
        return self._folded[1]

    @cached_property
    def _words(self) -> tuple[list[str], Ints, Mask, Mask]:
        found = np.full(len(self), -1, np.int64)
        first, last = np.zeros(len(self), bool), np.zeros(len(self), bool)
        names: dict[str, int] = {}
        for document, start in enumerate(self.starts):
            text = self.text(document)
            ends = np.cumsum([len(p) for p in self.pieces[start : self.stops[document]]])
            for match in WORD.finditer(text):
                low = int(start + np.searchsorted(ends, match.start(), side="right"))
                high = int(start + np.searchsorted(ends, match.end(), side="left"))
                low += int(found[low] >= 0)  # one token that holds two words keeps the first
                if low <= high:
                    found[low : high + 1] = names.setdefault(match.group().lower(), len(names))
                    first[low] = last[high] = True
        return list(names), found, first, last

    @property
    def word_types(self) -> list[str]:
        """The different words, in lower case: runs of letters, apostrophes inside them included."""
        return self._words[0]

    @cached_property
    def word_index(self) -> dict[str, int]:
        """Where each of `word_types` stands."""
        return {name: i for i, name in enumerate(self.word_types)}

    @property
    def word_of(self) -> Ints:
        """(n,) index into `word_types` of the word that a token is a part of; -1 for a token without letters."""
        return self._words[1]

    @property
    def word_first(self) -> Mask:
        """(n,) whether a token is the first of its word."""
        return self._words[2]

    @property
    def word_last(self) -> Mask:
        """(n,) whether a token is the last of its word."""
        return self._words[3]

    @cached_property
    def _sentences(self) -> tuple[list[str], Ints]:
        number = np.zeros(len(self), np.int64)
        texts: list[str] = []
        for document, start in enumerate(self.starts):
            text = self.text(document)
            cuts = [0, *(m.end() for m in _SENTENCE_END.finditer(text) if m.end() < len(text)), len(text)]
            begins = np.cumsum([0] + [len(p) for p in self.pieces[start : self.stops[document] - 1]])
            inside = np.searchsorted(cuts, begins, side="right") - 1
            number[start : self.stops[document]] = len(texts) + np.clip(inside, 0, len(cuts) - 2)
            texts += [text[a:b].strip() for a, b in itertools.pairwise(cuts)]
        return texts, number

    @property
    def sentences(self) -> list[str]:
        """The sentences, cut at full stops, question and exclamation marks and line ends."""
        return self._sentences[0]

    @property
    def sentence_of(self) -> Ints:
        """(n,) index into `sentences` of the sentence in which a token begins."""
        return self._sentences[1]

    @cached_property
    def sentence_vectors(self) -> NDArray[np.float64]:
        """(sentences, d) vectors of length 1 from `embed`; all zeros where it gives a zero vector."""
        if self.embed is None:
            raise PatchclampError("tokens: no embedding of sentences; give Tokens(..., embed=function)")
        vectors = np.asarray(self.embed(self.sentences), dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(self.sentences) or not np.isfinite(vectors).all():
            raise PatchclampError(
                f"embed: gave shape {vectors.shape} for {len(self.sentences)} sentences; "
                "wanted (sentences, d), all finite"
            )
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))

    def lexicon(self) -> WordNet:
        """WordNet, or an error that says how to give it."""
        if self.wordnet is None:
            raise PatchclampError(
                "tokens: no WordNet to look words up in; give Tokens(..., wordnet=WordNet()) from patchclamp.measure"
            )
        return self.wordnet


def fold(piece: str) -> str:
    """A piece without blanks around it, in lower case; a piece of blanks stays as it is."""
    return piece.strip().lower() or piece


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token with the blank before it, which some tokenizers drop when they decode one token."""
    known: dict[int, str] = {}
    for number in dict.fromkeys(int(i) for i in ids):
        text = str(tokenizer.decode([number]))
        name = str(tokenizer.convert_ids_to_tokens(number))
        lost = name.startswith("\u2581") and not text.startswith(" ")
        known[number] = " " * (len(name) - len(name.lstrip("\u2581"))) + text.lstrip(" ") if lost else text
    return [known[int(i)] for i in ids]


def _numbered(values: Sequence[str]) -> tuple[list[str], Ints]:
    """The different values in the order of their first appearance, and the number of each."""
    names: dict[str, int] = {}
    number = np.fromiter((names.setdefault(v, len(names)) for v in values), np.int64, len(values))
    return list(names), number
