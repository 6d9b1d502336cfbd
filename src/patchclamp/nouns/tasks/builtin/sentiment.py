"""Sentiment: "Review: The film was wonderful ... Sentiment:" -> " positive"."""

from __future__ import annotations

import random
from typing import Any

from patchclamp.nouns.tasks.builtin import construction, word_lists
from patchclamp.nouns.tasks.builtin.construction import Draw, Words
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task

EXAMPLE = (
    "Review: The music was catchy and we stayed to the end.\nSentiment: positive\n\n"
    "Review: The plot was confusing and we left early.\nSentiment: negative\n\n"
)
TEMPLATES: dict[str, str] = {
    "was": "Review: The {thing} was {adjective}.\nSentiment:",
    "think": "Review: I think that the {thing} is {adjective}.\nSentiment:",
    "say": "Review: We saw it yesterday. All my friends say that the {thing} was {adjective}.\nSentiment:",
}
THINGS: tuple[str, ...] = (
    "film",
    "movie",
    "book",
    "show",
    "play",
    "story",
    "acting",
    "ending",
    "song",
    "concert",
    "game",
    "novel",
    "meal",
    "hotel",
)
CORRUPTIONS: dict[str, str] = {
    "valence": "the adjective becomes one of the other valence: the answer flips",
}


def sentiment(tokenizer: Any, n: int = 256, seed: int = 0, corruption: str | None = None) -> Task:
    """Label a review: "Review: The film was wonderful. Sentiment:" -> " positive".

    After a worked example of each label. Metric: logit(label) - logit(other label). Both labels come equally often in
    every template. Roles: thing, adjective, end. Group: the adjective; splits share no adjective, and the examples'
    adjectives are not used.

    Parameters
    ----------
    tokenizer
        Of the model; adjectives are single tokens.
    n, seed
        Number of items in all splits, and the seed of all choices.
    corruption
        One of `CORRUPTIONS`; ``"valence"`` if None.
    """
    kind = construction.choose(corruption, CORRUPTIONS, "sentiment")
    words = Words(tokenizer, "sentiment")
    good = construction.pools(words.single(word_lists.GOOD, "good adjectives", 8), "sentiment", "good", seed)
    bad = construction.pools(words.single(word_lists.BAD, "bad adjectives", 8), "sentiment", "bad", seed)
    things = words.single(THINGS, "things", 2)
    words.single(("positive", "negative"), "labels", 2)

    def prepare(split: str, rng: random.Random) -> Draw:
        plus, minus = construction.rounds(good[split], rng), construction.rounds(bad[split], rng)

        def draw(index: int, rng: random.Random) -> Item:
            template = list(TEMPLATES)[index // 2 % len(TEMPLATES)]
            return _item(template, rng.choice(things), plus(), minus(), index % 2)

        return draw

    return construction.assemble("sentiment", n, seed, prepare, kind, "the label of a short review")


def _item(template: str, thing: str, good: str, bad: str, negative: int) -> Item:
    sides = [(good, " positive"), (bad, " negative")]
    (adjective, answer), (other, foil) = reversed(sides) if negative else sides
    text = EXAMPLE + TEMPLATES[template]
    texts = [construction.fill(text, {"thing": thing, "adjective": word}) for word in (adjective, other)]
    about = (f"{template}/{answer.strip()}", adjective)
    return construction.contrast(texts, (answer,), (foil,), *about, {"corrupted_adjective": other})
