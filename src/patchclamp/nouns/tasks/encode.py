"""Items as token tensors: what a task refuses to hand to a model, it refuses here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.cards import shown

if TYPE_CHECKING:
    from patchclamp.nouns.tasks.item import Item


@shown
@dataclass(frozen=True)
class EncodedTask:
    """Items of a task as right-padded token tensors.

    Parameters
    ----------
    clean, corrupted
        (batch, pos) token ids; `corrupted` is None for a task without contrast. Both have the same lengths.
    mask
        (batch, pos), True at real tokens.
    last
        (batch,) index of the last real token: the logits there predict the answer.
    answers, foils
        (batch, k) token ids, padded with -1.
    roles
        Role -> (batch,) index of the last token of the role's span in the clean text, -1 where an item has no
        such role. ``"end"`` is always there and equals `last`.
    templates, groups
        Of each item; an item without a template has that of all such items of its length (`unnamed`).
    rows
        (batch,) place of each item in its task.
    """

    clean: Int[Tensor, "batch pos"]
    corrupted: Int[Tensor, "batch pos"] | None
    mask: Bool[Tensor, "batch pos"]
    last: Int[Tensor, " batch"]
    answers: Int[Tensor, "batch a"]
    foils: Int[Tensor, "batch f"]
    roles: dict[str, Int[Tensor, " batch"]]
    templates: tuple[str, ...]
    groups: tuple[str, ...]
    rows: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def take(self, places: Int[Tensor, " n"]) -> EncodedTask:
        """The items at these places of this object, without the padding that none of them needs."""
        width = int(self.last[places].max()) + 1
        chosen = places.tolist()
        return EncodedTask(
            self.clean[places, :width],
            None if self.corrupted is None else self.corrupted[places, :width],
            self.mask[places, :width],
            self.last[places],
            self.answers[places],
            self.foils[places],
            {name: index[places] for name, index in self.roles.items()},
            tuple(self.templates[i] for i in chosen),
            tuple(self.groups[i] for i in chosen),
            self.rows[places],
        )

    def batches(self, size: int) -> Iterator[EncodedTask]:
        """Batches of at most `size` items, shortest items first; `rows` puts results back in order."""
        if size < 1:
            raise PatchclampError(f"batch size {size}: must be at least 1")
        order = torch.argsort(self.last, stable=True)
        for first in range(0, len(self), size):
            yield self.take(order[first : first + size])

    def to(self, device: torch.device | str) -> EncodedTask:
        """The same items on another device."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("clean", "mask", "last", "answers", "foils", "rows")
        }
        corrupted = None if self.corrupted is None else self.corrupted.to(device)
        roles = {name: index.to(device) for name, index in self.roles.items()}
        return replace(self, **moved, corrupted=corrupted, roles=roles)


UNNAMED = "none named, length "


def unnamed(length: int) -> str:
    """The template of items that name none: only where they are equally long do their positions correspond."""
    return f"{UNNAMED}{length}"


def encode_items(
    items: Sequence[Item], tokenizer: Any, bos: bool | None, max_length: int | None, name: str
) -> EncodedTask:
    """Tokenise items; see `Task.encode`."""
    if tokenizer is None:
        raise PatchclampError(f"task {name}: there is no tokenizer to encode its texts with; pass one")
    texts = [item.clean for item in items]
    prefix = special_prefix(tokenizer, bos, texts[0])
    clean, offsets = _tokenise(tokenizer, texts)
    contrast = [item.corrupted for item in items if item.corrupted is not None]
    corrupted, corrupted_offsets = _tokenise(tokenizer, contrast) if contrast else (None, None)
    _check_lengths(items, clean, corrupted, len(prefix), max_length, name)
    if corrupted is not None:
        _check_alignment(items, tokenizer, offsets, corrupted_offsets, name)
    answers, foils = _answer_tokens(items, tokenizer, clean, name)
    full = padded(
        [prefix + ids for ids in clean], 0
    )  # token 0 exists in every vocabulary, and nothing reads it
    lengths = torch.tensor([len(prefix) + len(ids) for ids in clean])
    return EncodedTask(
        clean=full,
        corrupted=None if corrupted is None else padded([prefix + ids for ids in corrupted], 0),
        mask=torch.arange(full.shape[1])[None, :] < lengths[:, None],
        last=lengths - 1,
        answers=answers,
        foils=foils,
        roles=_roles(items, tokenizer, offsets, lengths - 1, len(prefix)),
        templates=tuple(
            item.template or unnamed(len(prefix) + len(ids)) for item, ids in zip(items, clean, strict=True)
        ),
        groups=tuple(item.group for item in items),
        rows=torch.arange(len(items)),
    )


def plain_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids without special tokens."""
    if not texts:
        return []
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def special_prefix(tokenizer: Any, bos: bool | None, text: str) -> list[int]:
    """Special tokens before a text: the tokenizer's own (None), none (False), or at least BOS (True).

    What a tokenizer puts after a text (an end or separator token) is left out: a task's text is continued.
    """
    if bos is False:
        return []
    full = list(tokenizer([text])["input_ids"][0])
    plain = plain_ids(tokenizer, [text])[0]
    start = next((i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain), None)
    if start is None:
        raise PatchclampError(
            f"the tokenizer changes the text {text!r} when it adds special tokens; encode with bos=False"
        )
    prefix = full[:start]
    first = getattr(tokenizer, "bos_token_id", None)
    if bos and first is None:
        raise PatchclampError("bos=True, but the tokenizer has no such token; leave bos to None")
    return [int(first), *prefix] if bos and first is not None and first not in prefix[:1] else prefix


Offsets = list[list[tuple[int, int]]] | None


def _tokenise(tokenizer: Any, texts: Sequence[str]) -> tuple[list[list[int]], Offsets]:
    """Token ids without special tokens, and their character offsets where the tokenizer knows them."""
    if not getattr(tokenizer, "is_fast", False):
        return plain_ids(tokenizer, texts), None
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    offsets = [[(int(a), int(b)) for a, b in row] for row in found["offset_mapping"]]
    return [list(ids) for ids in found["input_ids"]], offsets


def padded(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "row k"]:
    """Rows of whole numbers as one tensor, with `fill` behind the shorter ones."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=fill)


def _check_lengths(
    items: Sequence[Item],
    clean: list[list[int]],
    corrupted: list[list[int]] | None,
    extra: int,
    max_length: int | None,
    name: str,
) -> None:
    for index, item in enumerate(items):
        if not clean[index]:
            raise PatchclampError(f"task {name}, item {index}: the text {item.clean!r} has no token")
        length = extra + len(clean[index])
        if max_length is not None and length > max_length:
            raise PatchclampError(
                f"task {name}, item {index}: {length} tokens, and the context holds {max_length}; "
                f"shorten the text {item.clean[:60]!r}"
            )
        if corrupted is not None and len(corrupted[index]) != len(clean[index]):
            raise PatchclampError(
                f"task {name}, item {index}: clean has {len(clean[index])} tokens and corrupted "
                f"{len(corrupted[index])}, so positions do not correspond; clean {item.clean!r}, "
                f"corrupted {item.corrupted!r}: use words of equal token length"
            )


def _check_alignment(
    items: Sequence[Item], tokenizer: Any, clean: Offsets, corrupted: Offsets, name: str
) -> None:
    for index, item in enumerate(items):
        for role, span in item.corrupted_spans.items():
            assert item.corrupted is not None
            there = _token_at(tokenizer, item.corrupted, span, corrupted[index] if corrupted else None)
            here = _token_at(tokenizer, item.clean, item.spans[role], clean[index] if clean else None)
            if here != there:
                raise PatchclampError(
                    f"task {name}, item {index}: role {role} ends at token {here} in the clean text "
                    f"{item.clean!r} and at token {there} in the corrupted one {item.corrupted!r}"
                )


def _roles(
    items: Sequence[Item], tokenizer: Any, offsets: Offsets, last: Tensor, shift: int
) -> dict[str, Int[Tensor, " batch"]]:
    names = sorted({role for item in items for role in item.spans})
    roles = {role: torch.full((len(items),), -1, dtype=torch.int64) for role in names}
    for index, item in enumerate(items):
        for role, span in item.spans.items():
            own = offsets[index] if offsets else None
            roles[role][index] = shift + _token_at(tokenizer, item.clean, span, own)
    roles["end"] = last.clone()
    return roles


def _token_at(tokenizer: Any, text: str, span: tuple[int, int], offsets: list[tuple[int, int]] | None) -> int:
    """Index of the last token of a span of characters."""
    if offsets is not None:
        inside = [i for i, (a, b) in enumerate(offsets) if a < b and a < span[1] and b > span[0]]
        if not inside:
            raise PatchclampError(f"the span {span} ({text[slice(*span)]!r}) of {text!r} holds no token")
        return inside[-1]
    # No offsets: the text up to the span's end must be a run of whole tokens of the text.
    whole, part = plain_ids(tokenizer, [text, text[: span[1]]])
    if not part or whole[: len(part)] != part:
        raise PatchclampError(
            f"the span {span} ({text[slice(*span)]!r}) of {text!r} does not end at the end of a token; "
            "end it with a word, or use a tokenizer that gives offsets"
        )
    return len(part) - 1


def _answer_tokens(
    items: Sequence[Item], tokenizer: Any, clean: list[list[int]], name: str
) -> tuple[Int[Tensor, "batch a"], Int[Tensor, "batch f"]]:
    """Answers and foils as the one token by which each continues the clean text."""
    texts = [item.clean + word for item in items for word in (*item.answers, *item.foils)]
    continued = iter(plain_ids(tokenizer, texts))
    unknown = getattr(tokenizer, "unk_token_id", None)
    answers: list[list[int]] = []
    foils: list[list[int]] = []
    for index, item in enumerate(items):
        for kind, words, into in (("answer", item.answers, answers), ("foil", item.foils, foils)):
            row = []
            for word in words:
                ids = next(continued)
                if ids[:-1] != clean[index]:
                    _refuse_word(name, index, kind, word, item.clean, ids, clean[index])
                if ids[-1] == unknown:
                    raise PatchclampError(
                        f"task {name}, item {index}: the tokenizer does not know the {kind} {word!r}"
                    )
                row.append(ids[-1])
            into.append(row)
        both = set(answers[-1]) & set(foils[-1])
        if both:
            raise PatchclampError(
                f"task {name}, item {index}: token {min(both)} is an answer and a foil: answers "
                f"{item.answers}, foils {item.foils}"
            )
    return padded(answers, -1), padded(foils, -1)


def _refuse_word(
    name: str, index: int, kind: str, word: str, text: str, ids: list[int], clean: list[int]
) -> None:
    if ids[: len(clean)] == clean:
        found = f"is {len(ids) - len(clean)} tokens"
    else:
        found = "merges with the text before it"
    hint = "" if word[:1].isspace() else f"; did you mean {' ' + word!r} with a space?"
    raise PatchclampError(
        f"task {name}, item {index}: the {kind} {word!r} {found} after {text[-40:]!r}, and must be one "
        f"token{hint}"
    )
