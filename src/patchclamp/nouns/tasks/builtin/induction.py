"""Induction: a list of random words begins a second time; the next word is the one that followed before."""

from __future__ import annotations

import random
import re
from typing import Any

from patchclamp.nouns.tasks.builtin import construction
from patchclamp.nouns.tasks.builtin.construction import Draw, Text, Words
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task

CORRUPTIONS: dict[str, str] = {
    "other_words": "the first copy becomes other random words: there is nothing to continue",
    "swap": "answer and foil change places in the first copy: the answer flips",
}
_LENGTH = 12
_WORD = re.compile(r"[a-z]{3,9}")
_MARKS = ("\u0120", "\u2581", " ")  # how vocabularies write a leading space
_POOL = 1200


def induction(tokenizer: Any, n: int = 256, seed: int = 0, corruption: str | None = None) -> Task:
    """Continue a repeated random list: "tree lamp cold ... tree" -> " lamp".

    Twelve different random words, then the first of them again up to a random place (2 to 9 words). Metric: logit of
    the word that followed in the first copy, minus that of another word of the list. Roles: A1 (first mention of the
    last word), B1 (what followed it), end. Group: the answer; splits share no word.

    Parameters
    ----------
    tokenizer
        Of the model; the words are drawn from its vocabulary.
    n, seed
        Number of items in all splits, and the seed of all choices.
    corruption
        One of `CORRUPTIONS`; ``"other_words"`` if None.
    """
    kind = construction.choose(corruption, CORRUPTIONS, "induction")
    words = construction.pools(_vocabulary(tokenizer, seed), "induction", seed)

    def prepare(split: str, rng: random.Random) -> Draw:
        def draw(index: int, rng: random.Random) -> Item:
            return _item(words[split], 2 + index % 8, kind, rng)

        return draw

    return construction.assemble(
        "induction", n, seed, prepare, kind, "a repeated list of random words goes on as before"
    )


def _vocabulary(tokenizer: Any, seed: int) -> list[str]:
    """Random words of a tokenizer's vocabulary: one token after a space, lower-case letters only."""
    known = sorted(tokenizer.get_vocab())
    marked = {token[1:] for token in known if token[:1] in _MARKS}
    found = sorted(word for word in marked or known if _WORD.fullmatch(word))
    construction.generator("induction", "vocabulary", seed).shuffle(found)
    return Words(tokenizer, "induction").single(found[:_POOL], "words of its vocabulary", 8 * _LENGTH)


def _item(pool: list[str], place: int, kind: str, rng: random.Random) -> Item:
    first = rng.sample(pool, _LENGTH)
    answer = first[place]
    foil = rng.choice([word for at, word in enumerate(first) if at not in (place, place - 1)])
    if kind == "swap":
        change = {answer: foil, foil: answer}
        other = [change.get(word, word) for word in first]
    else:
        other = rng.sample([word for word in pool if word not in first], _LENGTH)
    # The second copy never shows the foil's successor, so the end looks alike in both texts.
    again = first[:place]
    texts = [_text(words, again, place) for words in (first, other)]
    return construction.contrast(texts, (f" {answer}",), (f" {foil}",), f"{place} words again", answer)


def _text(first: list[str], again: list[str], place: int) -> Text:
    slots = {f"w{i}": word for i, word in enumerate(first)}
    text, spans = construction.fill("List: " + " ".join("{" + slot + "}" for slot in slots), slots)
    roles = {"A1": spans[f"w{place - 1}"], "B1": spans[f"w{place}"]}
    return text + "".join(f" {word}" for word in again), roles
