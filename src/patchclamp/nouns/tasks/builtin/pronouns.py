"""Pronouns: "Mary was tired, so" -> " she"."""

from __future__ import annotations

import random
from typing import Any

from patchclamp.nouns.tasks.builtin import construction, word_lists
from patchclamp.nouns.tasks.builtin.construction import Draw, Words
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task

TEMPLATES: dict[str, str] = {
    "tired": "Yesterday {name} was very tired, so",
    "store": "So {name} went to the store because",
    "letter": "When {name} had read the letter,",
    "teacher": "Everyone knows that {name} is a good teacher, isn't",
}
CORRUPTIONS: dict[str, str] = {
    "other_gender": "the name becomes one of the other gender: the answer flips",
}


def pronouns(tokenizer: Any, n: int = 256, seed: int = 0, corruption: str | None = None) -> Task:
    """Choose the pronoun by a first name: "Yesterday Mary was very tired, so" -> " she".

    Names are mostly given to one sex in the United States; the task tests that association and says nothing about
    persons. Metric: logit(pronoun) - logit(pronoun of the other gender). Both genders come equally often in every
    template. Roles: name, end. Group: the name; splits share no name.

    Parameters
    ----------
    tokenizer
        Of the model; names are single tokens.
    n, seed
        Number of items in all splits, and the seed of all choices.
    corruption
        One of `CORRUPTIONS`; ``"other_gender"`` if None.
    """
    kind = construction.choose(corruption, CORRUPTIONS, "pronouns")
    words = Words(tokenizer, "pronouns")
    men = construction.pools(words.single(word_lists.MEN, "men's names", 8), "pronouns", "men", seed)
    women = construction.pools(words.single(word_lists.WOMEN, "women's names", 8), "pronouns", "women", seed)
    words.single(("he", "she"), "pronouns", 2)

    def prepare(split: str, rng: random.Random) -> Draw:
        he, she = construction.rounds(men[split], rng), construction.rounds(women[split], rng)

        def draw(index: int, rng: random.Random) -> Item:
            template = list(TEMPLATES)[index // 2 % len(TEMPLATES)]
            return _item(template, he(), she(), index % 2)

        return draw

    return construction.assemble(
        "pronouns", n, seed, prepare, kind, "the pronoun that goes with a first name"
    )


def _item(template: str, man: str, woman: str, woman_first: int) -> Item:
    people = [(man, " he"), (woman, " she")]
    (name, answer), (other, foil) = reversed(people) if woman_first else people
    texts = [construction.fill(TEMPLATES[template], {"name": who}) for who in (name, other)]
    about = (f"{template}/{answer.strip()}", name)
    return construction.contrast(texts, (answer,), (foil,), *about, {"corrupted_name": other})
