"""Indirect object identification: "Then, Mary and Tom went to the store. Tom gave a ring to" -> " Mary".

The task of Wang et al. 2023 (Interpretability in the wild); templates written anew after its description.
"""

from __future__ import annotations

import random
from typing import Any

from patchclamp.base.folds import CROSSED
from patchclamp.nouns.tasks.builtin import construction, word_lists
from patchclamp.nouns.tasks.builtin.construction import Draw, Text, Words
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task

TEMPLATES: dict[str, str] = {
    "went": "Then, {1} and {2} went to the {place}. {S2} gave a {gift} to",
    "after": "After {1} and {2} went to the {place}, {S2} gave a {gift} to",
    "argument": "Then, {1} and {2} had a long argument, and afterwards {S2} said to",
    "working": "While {1} and {2} were working at the {place}, {S2} gave a {gift} to",
    "fun": "Then, {1} and {2} had a lot of fun at the {place}. {S2} gave a {gift} to",
    "walked": "After the long day, {1} and {2} walked to the {place}, and {S2} offered a {gift} to",
}
CORRUPTIONS: dict[str, str] = {
    "abc": "three other names, all different: neither who is named twice nor who is the answer remains",
    "s2_io_flip": "the second mention of the subject becomes the indirect object: the answer flips",
    "random_s2": "the second mention of the subject becomes a third name",
    "name_swap": "the two names change places everywhere: the answer flips",
}


def ioi(tokenizer: Any, n: int = 256, seed: int = 0, corruption: str | None = None) -> Task:
    """Name the one who is not named twice: "Mary and Tom went to the store. Tom gave a ring to" -> " Mary".

    Metric: logit(indirect object) - logit(subject). Every template comes as ABBA (indirect object first) and BABA
    equally often. Roles: IO, S1, S1+1 (the token after S1), S2, end. Group: the two names, crossed (pairs share names, and
    intervals count the names); splits share no name.

    Parameters
    ----------
    tokenizer
        Of the model; names, places and gifts are its single tokens.
    n, seed
        Number of items in all splits, and the seed of all choices.
    corruption
        One of `CORRUPTIONS`; ``"abc"`` if None.
    """
    kind = construction.choose(corruption, CORRUPTIONS, "ioi")
    words = Words(tokenizer, "ioi")
    names = construction.pools(
        words.single((*word_lists.MEN, *word_lists.WOMEN), "first names", 24), "ioi", seed
    )
    places = words.single(word_lists.PLACES, "places", 3)
    gifts = words.single(word_lists.GIFTS, "gifts", 3)

    def prepare(split: str, rng: random.Random) -> Draw:
        pair = construction.rounds(construction.pairs(names[split]), rng)

        def draw(index: int, rng: random.Random) -> Item:
            template = list(TEMPLATES)[index // 2 % len(TEMPLATES)]
            scene = {"place": rng.choice(places), "gift": rng.choice(gifts)}
            return _item(template, ("ABBA", "BABA")[index % 2], pair(), scene, kind, names[split], rng)

        return draw

    return construction.assemble("ioi", n, seed, prepare, kind, "the name that is not repeated")


def _item(
    template: str,
    order: str,
    pair: tuple[str, str],
    scene: dict[str, str],
    kind: str,
    names: list[str],
    rng: random.Random,
) -> Item:
    io, subject = pair
    others = [name for name in names if name not in pair]
    first, second, third = {
        "abc": lambda: rng.sample(others, 3),
        "s2_io_flip": lambda: [io, subject, io],
        "random_s2": lambda: [io, subject, rng.choice(others)],
        "name_swap": lambda: [subject, io, io],
    }[kind]()
    texts = [_text(template, order, *who, scene) for who in ((io, subject, subject), (first, second, third))]
    meta = {"IO": io, "S": subject, **scene}
    about = (f"{template}/{order}", CROSSED.join(sorted(pair)))
    return construction.contrast(texts, (f" {io}",), (f" {subject}",), *about, meta)


def _text(template: str, order: str, io: str, first: str, second: str, scene: dict[str, str]) -> Text:
    slots = {"1": io, "2": first} if order == "ABBA" else {"1": first, "2": io}
    text, spans = construction.fill(TEMPLATES[template], {**slots, **scene, "S2": second})
    here = ("1", "2") if order == "ABBA" else ("2", "1")
    roles = {"IO": spans[here[0]], "S1": spans[here[1]], "S2": spans["S2"]}
    return text, roles | {"S1+1": construction.next_word(text, roles["S1"])}
