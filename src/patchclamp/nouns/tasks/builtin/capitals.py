"""Capitals: "Q: What is the capital of France?\\nA: The capital is" -> " Paris"."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from patchclamp.nouns.tasks.builtin import construction
from patchclamp.nouns.tasks.builtin.construction import Draw, Words
from patchclamp.nouns.tasks.builtin.countries import CAPITALS
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task

TEMPLATES: dict[str, str] = {
    "question": "Q: What is the capital of {country}?\nA: The capital of {again} is",
    "city": "Question: Which city is the capital of {country}?\nAnswer: The capital of {again} is",
    "trivia": "Let us talk about {country}. Its capital city is",
}
CORRUPTIONS: dict[str, str] = {
    "other_country": "the country becomes the one whose capital is the foil: the answer flips",
    "third_country": "the country becomes a third one: neither capital is right",
}


def capitals(tokenizer: Any, n: int = 256, seed: int = 0, corruption: str | None = None) -> Task:
    """Recall a fact: "Q: What is the capital of France? A: The capital of France is" -> " Paris".

    Metric: logit(capital) - logit(capital of another country whose name has as many tokens). Capitals that are one
    token, and do not repeat their country's name. Roles: country, end. Group: the country; splits share no country.

    Parameters
    ----------
    tokenizer
        Of the model.
    n, seed
        Number of items in all splits, and the seed of all choices.
    corruption
        One of `CORRUPTIONS`; ``"other_country"`` if None.
    """
    kind = construction.choose(corruption, CORRUPTIONS, "capitals")
    facts = _facts(Words(tokenizer, "capitals"))
    dealt = construction.pools(facts, "capitals", seed)

    def prepare(split: str, rng: random.Random) -> Draw:
        sizes = Counter(fact[2] for fact in dealt[split])
        least = 3 if kind == "third_country" else 2  # countries whose names have as many tokens
        own = [(a, b) for a, b in construction.pairs(dealt[split]) if a[2] == b[2] and sizes[a[2]] >= least]
        pair = construction.rounds(own, rng)

        def draw(index: int, rng: random.Random) -> Item:
            template = list(TEMPLATES)[index % len(TEMPLATES)]
            fact, other = pair()
            third = [f for f in dealt[split] if f[2] == fact[2] and f not in (fact, other)]
            return _item(template, fact, other, rng.choice(third) if kind == "third_country" else other)

        return draw

    return construction.assemble("capitals", n, seed, prepare, kind, "the capital of a country")


Fact = tuple[str, str, int]


def _facts(words: Words) -> list[Fact]:
    """Country, capital and number of the country's tokens, where the capital is one token."""
    given = {
        country: capital for country, capital in CAPITALS if not set(country.split()) & set(capital.split())
    }
    capital_of = set(words.single(given.values(), "capitals", 12))
    length = words.counts(given)
    return [(c, capital, length[c]) for c, capital in given.items() if capital in capital_of and length[c]]


def _item(template: str, fact: Fact, foil: Fact, other: Fact) -> Item:
    texts = [
        construction.fill(TEMPLATES[template].replace("{again}", country), {"country": country})
        for country in (fact[0], other[0])
    ]
    meta = {"country": fact[0], "corrupted_country": other[0]}
    return construction.contrast(texts, (f" {fact[1]}",), (f" {foil[1]}",), template, fact[0], meta)
