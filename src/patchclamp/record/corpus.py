"""A source of text, tokenised once: token ids on disk, a few numbers a document in memory."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import Any, Literal

import numpy as np

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.draw.cards import shown
from patchclamp.record.texts import Document, Names
from patchclamp.subjects.language import LanguageModel

Long = Literal["refuse", "split", "truncate"]
_IN_MEMORY = 32 << 20
_AT_ONCE = 256


@shown
@dataclass
class Corpus:
    """Pieces: runs of tokens that go through the model as one sequence, a document each unless it was split.

    Attributes
    ----------
    length, kept : int32 per piece
        Tokens, and tokens that are recorded.
    doc, offset, label, group : int64 per piece
        The document, the position of its first token in the document, the document's label and group.
    twin : int64 per piece
        The first piece with the same tokens; itself where there is none before it.
    """

    fingerprint: str
    length: np.ndarray
    kept: np.ndarray
    doc: np.ndarray
    offset: np.ndarray
    label: np.ndarray
    group: np.ndarray
    twin: np.ndarray
    label_names: list[str]
    group_names: list[str]
    skipped: list[int]
    _tokens: Any = field(repr=False, default=None)

    def __post_init__(self) -> None:
        self._start = np.concatenate([[0], np.cumsum(self.length, dtype=np.int64)])
        self.row = np.concatenate([[0], np.cumsum(self.kept, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.length)

    @property
    def n_documents(self) -> int:
        """Documents with at least one token."""
        return len(np.unique(self.doc))

    @property
    def n_samples(self) -> int:
        """Samples that will be recorded."""
        return int(self.row[-1])

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""
        return int(self._start[-1])

    def tokens(self, piece: int) -> list[int]:
        """Token ids of one piece."""
        self._tokens.seek(int(self._start[piece]) * 4)
        ids: list[int] = np.frombuffer(
            self._tokens.read(int(self.length[piece]) * 4), dtype=np.int32
        ).tolist()
        return ids

    def close(self) -> None:
        """Let go of the temporary file."""
        self._tokens.close()


def read_corpus(
    subject: LanguageModel,
    documents: Iterable[Document],
    *,
    content_only: bool = True,
    long: Long = "refuse",
    context: int | None = None,
    empty: Literal["refuse", "skip"] = "refuse",
) -> Corpus:
    """Tokenise all documents, count what will be recorded and take the fingerprint of the data.

    The token ids go to a temporary file once they are more than 32 MB, so that memory stays the same.

    Parameters
    ----------
    subject
        A language model.
    documents
        The texts.
    content_only
        Count content tokens only: no special token, no position 0.
    long
        What to do with a text longer than the context: refuse it, split it into pieces of the context's length
        (each begins anew, with a BOS token where the subject uses one; `position` goes on through the document),
        or keep its beginning.
    context
        Longest piece in tokens; the model's own limit where None.
    empty
        Refuse texts without tokens, or skip them.

    Raises
    ------
    PatchclampError
        Naming the document, for empty or too long texts, or when nothing is left to record.
    """
    check_choice("long", long, ("refuse", "split", "truncate"))
    limit = min(context or 1 << 60, int(getattr(subject, "max_length", 1 << 60)))
    reader = _Reader(subject, content_only, long, limit, empty)
    stream = iter(documents)
    while chunk := list(islice(stream, _AT_ONCE)):
        reader.add(chunk)
    return reader.corpus()


class _Reader:
    def __init__(
        self, subject: LanguageModel, content_only: bool, long: Long, limit: int, empty: str
    ) -> None:
        self.subject, self.content_only, self.long = subject, content_only, long
        self.limit, self.empty = limit, empty
        self.bos = [subject.tokenizer.bos_token_id] if subject.begins_with_bos else []
        self.columns = {
            name: array("q") for name in ("length", "kept", "doc", "offset", "label", "group", "twin")
        }
        self.labels, self.groups = Names("label"), Names("group")
        self.skipped: list[int] = []
        self.first: dict[bytes, int] = {}
        self.hash = hashlib.sha256()
        self.file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (the corpus closes it)
        self.number = 0

    def add(self, chunk: list[Document]) -> None:
        """Tokenise some documents and note their pieces."""
        ids = self.subject.tokenise([document.text for document in chunk])
        pieces: list[list[int]] = []
        for document, tokens in zip(chunk, ids, strict=True):
            if tokens:
                pieces += self._pieces(document, tokens)
            elif self.empty == "refuse":
                raise PatchclampError(
                    f"document {self.number} is empty ({document.text!r:.40}): it has no token to run on; "
                    "leave it out, or pass empty='skip' (--skip-empty)"
                )
            else:
                self.skipped.append(self.number)
            self.number += 1
        self._count(pieces)

    def _pieces(self, document: Document, tokens: list[int]) -> list[list[int]]:
        cut = self._cut(tokens)
        label = self.labels.code(document.label, -1)
        group = self.groups.code(document.group, self.number)
        offset = 0
        for piece in cut:
            entry = (len(piece), self.number, offset, label, group)
            for name, value in zip(("length", "doc", "offset", "label", "group"), entry, strict=True):
                self.columns[name].append(value)
            offset += len(piece) - len(self.bos)
        return cut

    def _cut(self, tokens: list[int]) -> list[list[int]]:
        if len(tokens) <= self.limit:
            return [tokens]
        if self.long == "refuse":
            raise PatchclampError(
                f"document {self.number} has {len(tokens)} tokens, and {self.subject.name} reads {self.limit}; "
                "pass long='split' or long='truncate', or shorten it"
            )
        if self.long == "truncate":
            return [tokens[: self.limit]]
        body, step = tokens[len(self.bos) :], self.limit - len(self.bos)
        if step < 1:
            raise PatchclampError(f"context={self.limit}: too short to split texts into")
        return [self.bos + body[start : start + step] for start in range(0, len(body), step)]

    def _count(self, pieces: list[list[int]]) -> None:
        if not pieces:
            return
        kept = [len(piece) for piece in pieces]
        if self.content_only:
            kept = self.subject.content_mask(self.subject.batch(pieces)).sum(1).tolist()
        self.columns["kept"].extend(kept)
        for piece in pieces:
            data = np.asarray(piece, dtype=np.int32).tobytes()
            key = hashlib.blake2b(data, digest_size=16).digest()
            self.columns["twin"].append(self.first.setdefault(key, len(self.columns["twin"])))
            self.hash.update(key)
            self.file.write(data)

    def corpus(self) -> Corpus:
        """Everything read."""
        columns = {name: np.frombuffer(column, dtype=np.int64) for name, column in self.columns.items()}
        if not self.number:
            raise PatchclampError("there is no text to record: the source is empty")
        if not len(columns["kept"]) or not columns["kept"].sum():
            raise PatchclampError(
                f"the {self.number} documents have no content token to record (position 0 and special tokens do "
                "not count); give longer texts, or pass content_only=False"
            )
        for name in ("doc", "offset", "label", "group"):
            self.hash.update(columns[name].tobytes())
        self.hash.update(json.dumps([list(self.labels.names), list(self.groups.names)]).encode())
        return Corpus(
            self.hash.hexdigest()[:16],
            **columns,
            label_names=list(self.labels.names),
            group_names=list(self.groups.names),
            skipped=self.skipped,
            _tokens=self.file,
        )


__all__ = ["Corpus", "read_corpus"]
