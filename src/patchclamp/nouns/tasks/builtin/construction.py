"""What the generators share: single-token words, filled templates with roles, pools for splits, assembly.

The items of a split draw all their words of one kind (names, facts, nouns) from a pool of its own, so that no two
splits share one. Everything random comes from `random.Random` seeded by the task's name, the seed and the
split: the same arguments give the same items, on every machine.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.nouns.tasks.encode import plain_ids
from patchclamp.nouns.tasks.item import Item, Span
from patchclamp.nouns.tasks.task import SPLITS, Task

T = TypeVar("T")
Text = tuple[str, dict[str, Span]]  # a filled template and the span of each role
_LEAST_ITEMS = 8
_TRIES = 300
_SOON = 30
_SLOT = re.compile(r"\{([^{}]+)\}")


class Words:
    """Words as a tokenizer cuts them.

    Parameters
    ----------
    tokenizer
        Any Hugging Face tokenizer object.
    task
        Name of the task, for messages.
    """

    def __init__(self, tokenizer: Any, task: str) -> None:
        if tokenizer is None:
            raise PatchclampError(f"task {task}: there is no tokenizer to choose its words for; pass one")
        self.tokenizer = tokenizer
        self.task = task

    def counts(self, words: Iterable[str], before: str = "the") -> dict[str, int]:
        """Number of tokens by which each word, after a space, continues `before`.

        0 where the word merges with what is before it, or holds a character that the tokenizer does not know.
        """
        chosen = list(dict.fromkeys(words))
        start, *rest = plain_ids(self.tokenizer, [before, *(f"{before} {word}" for word in chosen)])
        unknown = getattr(self.tokenizer, "unk_token_id", None)

        def added(ids: list[int]) -> int:
            new = ids[len(start) :]
            return len(new) if ids[: len(start)] == start and unknown not in new else 0

        return {word: added(ids) for word, ids in zip(chosen, rest, strict=True)}

    def single(self, words: Iterable[str], what: str, least: int) -> list[str]:
        """The words that are one token each; refused with the figure if they are fewer than `least`."""
        counts = self.counts(words)
        found = [word for word, count in counts.items() if count == 1]
        self.need(len(found), least, f"{what} of {len(counts)} are one token")
        return found

    def need(self, found: int, least: int, what: str) -> None:
        """Refuse a tokenizer that leaves too few words."""
        if found < least:
            raise PatchclampError(
                f"task {self.task}: with this tokenizer {found} {what}, and {least} are needed; "
                "write items for this model in a JSONL file"
            )


def choose(corruption: str | None, known: Mapping[str, str], task: str) -> str:
    """The named corruption, or the first of those known."""
    if corruption is None:
        return next(iter(known))
    if corruption not in known:
        raise PatchclampError(
            f"task {task}: no corruption {corruption!r}{did_you_mean(corruption, known)}; it has {', '.join(known)}"
        )
    return corruption


def fill(template: str, words: Mapping[str, str]) -> Text:
    """Put words into a template's slots; every slot becomes a role with the span of its word.

    Examples
    --------
    >>> fill("Then, {A} met {B}", {"A": "Tom", "B": "Ann"})
    ('Then, Tom met Ann', {'A': (6, 9), 'B': (14, 17)})
    """
    out, spans, done = "", {}, 0
    for slot in _SLOT.finditer(template):
        out += template[done : slot.start()]
        word = words[slot[1]]
        spans[slot[1]] = (len(out), len(out) + len(word))
        out += word
        done = slot.end()
    return out + template[done:], spans


def contrast(
    texts: Sequence[Text], answers: tuple[str, ...], foils: tuple[str, ...], template: str, group: str,
    meta: Mapping[str, Any] | None = None,
) -> Item:  # fmt: skip
    """The item of two filled templates, the clean and the corrupted one."""
    (clean, spans), (corrupted, others) = texts
    return Item(clean, answers, foils, corrupted, template, group, spans, others, meta or {})


def next_word(text: str, span: Span) -> Span:
    """Span of what follows a span: a word, or one sign of punctuation."""
    found = re.compile(r"\s*(\w+|[^\w\s])").match(text, span[1])
    assert found is not None, "a role is never the last word of a template"
    return found.span(1)


def generator(*parts: object) -> random.Random:
    """A generator seeded by text, so that it is the same on every machine and in every process."""
    return random.Random("/".join(map(str, parts)))


def pools(things: Sequence[T], *seed: object) -> dict[str, list[T]]:
    """Deal things to the splits, without overlap, in the splits' proportion."""
    order = list(things)
    generator("pools", *seed).shuffle(order)
    out, done, share = {}, 0, 0.0
    for name, fraction in SPLITS.items():
        share += fraction
        end = round(share * len(order))
        out[name], done = order[done:end], end
    return out


def rounds(things: Sequence[T], rng: random.Random) -> Callable[[], T]:
    """A function that gives each thing once in a random order, then each once again, and so on."""

    if not things:
        raise PatchclampError("nothing to draw from: this tokenizer leaves a split without fitting words")

    def forever() -> Iterable[T]:
        while True:
            order = list(things)
            rng.shuffle(order)
            yield from order

    source = iter(forever())
    return lambda: next(source)


def pairs(things: Sequence[T]) -> list[tuple[T, T]]:
    """All ordered pairs of two different things."""
    return list(itertools.permutations(things, 2))


Draw = Callable[[int, random.Random], Item]


def assemble(
    name: str,
    n: int,
    seed: int,
    draw: Callable[[str, random.Random], Draw],
    corruption: str,
    description: str,
    metric: str = "logit_diff",
) -> Task:
    """Draw the items of every split and make the task.

    Parameters
    ----------
    name, n, seed
        Of the task; `n` items in all.
    draw
        ``draw(split, rng)`` prepares a split and returns ``(index, rng) -> Item``. `index` counts from 0 in each
        split: taken modulo the number of conditions it balances them.
    corruption, description, metric
        As in `Task`.
    """
    if n < _LEAST_ITEMS:
        raise PatchclampError(
            f"task {name}: n={n} items cannot be split in three; ask for at least {_LEAST_ITEMS}"
        )
    items: list[Item] = []
    splits: dict[str, list[int]] = {}
    seen: set[tuple[str, str | None]] = set()
    for split, wanted in _sizes(n).items():
        rng = generator(name, seed, split)
        one = draw(split, rng)
        for index in range(wanted):
            item = _fresh(one, index, rng, seen)
            if item is None:
                raise PatchclampError(
                    f"task {name}: n={n} is too many; {len(items)} different items were found with this tokenizer"
                )
            seen |= {(item.clean, None), (item.clean, item.corrupted)}
            splits.setdefault(split, []).append(len(items))
            items.append(item)
    return Task(name, items, metric, splits, corruption, description=description)


def _fresh(one: Draw, index: int, rng: random.Random, seen: set[tuple[str, str | None]]) -> Item | None:
    """A new clean text if one turns up soon, otherwise a known one with a new contrast."""
    spare = None
    for attempt in range(_TRIES):
        item = one(index, rng)
        if (item.clean, None) not in seen:
            return item
        if spare is None and (item.clean, item.corrupted) not in seen:
            spare = item
        if spare is not None and attempt >= _SOON:
            break
    return spare


def _sizes(n: int) -> dict[str, int]:
    sizes = {name: round(n * fraction) for name, fraction in SPLITS.items()}
    first = next(iter(sizes))
    return sizes | {first: sizes[first] + n - sum(sizes.values())}
