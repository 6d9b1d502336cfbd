"""Subject and verb: "We know that the keys near the cabinet" -> " are", whatever the number of the noun in between."""

from __future__ import annotations

import random
from typing import Any

from patchclamp.nouns.tasks.builtin import construction, word_lists
from patchclamp.nouns.tasks.builtin.construction import Draw, Words
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task

PREPOSITIONS: tuple[str, ...] = ("near", "behind", "beside", "above", "below", "with")
VERBS: tuple[tuple[str, str], ...] = (("is", "are"), ("was", "were"), ("has", "have"))
FRAME = "We know that the {subject} {preposition} the {attractor}"
CORRUPTIONS: dict[str, str] = {
    "subject_number": "the subject changes its number: the answer flips",
    "attractor_number": "the noun next to the verb changes its number: the answer stays",
}


def agreement(tokenizer: Any, n: int = 256, seed: int = 0, corruption: str | None = None) -> Task:
    """Make the verb agree with the subject: "We know that the keys near the cabinet" -> " are", " were", " have".

    Metric: mean logit of the verbs in the subject's number, minus that of the same verbs in the other number. Subjects in
    singular and plural, attractors of the same and of the other number come equally often (named in the template).
    Roles: subject, preposition, attractor, end. Group: the subject; splits share no noun.

    Parameters
    ----------
    tokenizer
        Of the model; nouns are one token in both numbers.
    n, seed
        Number of items in all splits, and the seed of all choices.
    corruption
        One of `CORRUPTIONS`; ``"subject_number"`` if None.
    """
    kind = construction.choose(corruption, CORRUPTIONS, "agreement")
    words = Words(tokenizer, "agreement")
    one = set(words.single([noun for pair in word_lists.NOUNS for noun in pair], "forms of nouns", 24))
    whole = [pair for pair in word_lists.NOUNS if set(pair) <= one]
    words.need(len(whole), 12, "nouns are one token in both numbers")
    nouns = construction.pools(whole, "agreement", seed)
    prepositions = words.single(PREPOSITIONS, "prepositions", 2)
    forms = words.counts(form for verb in VERBS for form in verb)
    verbs = [verb for verb in VERBS if all(forms[form] == 1 for form in verb)]
    words.need(len(verbs), 1, "verbs are one token in both numbers")

    def prepare(split: str, rng: random.Random) -> Draw:
        pair = construction.rounds(construction.pairs(nouns[split]), rng)

        def draw(index: int, rng: random.Random) -> Item:
            number, near = index % 2, (index + index // 2) % 2
            return _item(pair(), rng.choice(prepositions), number, near, verbs, kind)

        return draw

    return construction.assemble(
        "agreement", n, seed, prepare, kind, "the verb agrees with its subject, not with the noun before it"
    )


def _item(
    pair: tuple[tuple[str, str], tuple[str, str]],
    preposition: str,
    number: int,
    near: int,
    verbs: list[tuple[str, str]],
    kind: str,
) -> Item:
    subject, attractor = pair
    changed = (1 - number, near) if kind == "subject_number" else (number, 1 - near)
    texts = [
        construction.fill(
            FRAME, {"subject": subject[one], "preposition": preposition, "attractor": attractor[other]}
        )
        for one, other in ((number, near), changed)
    ]
    names = ("singular", "plural")
    return construction.contrast(
        texts,
        answers=tuple(f" {verb[number]}" for verb in verbs),
        foils=tuple(f" {verb[1 - number]}" for verb in verbs),
        template=f"{names[number]} subject, {names[near]} attractor",
        group=subject[0],
    )
