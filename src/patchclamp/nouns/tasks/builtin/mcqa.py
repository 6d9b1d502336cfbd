"""Multiple choice: copy the letter of the color that the text names."""

from __future__ import annotations

import random
from typing import Any

from patchclamp.nouns.tasks.builtin import construction, word_lists
from patchclamp.nouns.tasks.builtin.construction import Draw, Words
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task

EXAMPLE = (
    "The candle is white. What color is the candle?\nA. red\nB. white\nAnswer: B\n\n"
    "The hat is green. What color is the hat?\nA. green\nB. black\nAnswer: A\n\n"
    "The comb is pink. What color is the comb?\nA. blue\nB. pink\nAnswer: B\n\n"
)
QUERY = "The {object} is {color}. What color is the {query}?\n{L0}. {c0}\n{L1}. {c1}\nAnswer:"
LETTERS = tuple("ABCDEFGHJKLMNPQRSTUVWXYZ")
CORRUPTIONS: dict[str, str] = {
    "answer_position": "the two choices change places: the answer flips",
    "letters": "both letters become others: neither answer nor foil is among the choices",
    "color": "the text names the other color: the answer flips",
}


def mcqa(tokenizer: Any, n: int = 256, seed: int = 0, corruption: str | None = None) -> Task:
    """Copy the letter of a choice: "The box is brown. What color is the box? A. red B. brown Answer:" -> " B".

    After three worked examples. Metric: logit(its letter) - logit(the other letter). Letters A and B; the place of the
    right choice is balanced. Roles: object, color, choice (the right one), letter (of the right choice), end. Group: the
    object; splits share no object, and the examples' objects are not used.

    Parameters
    ----------
    tokenizer
        Of the model; objects, colors and letters are single tokens.
    n, seed
        Number of items in all splits, and the seed of all choices.
    corruption
        One of `CORRUPTIONS`; ``"answer_position"`` if None.
    """
    kind = construction.choose(corruption, CORRUPTIONS, "mcqa")
    words = Words(tokenizer, "mcqa")
    fresh = [thing for thing in word_lists.THINGS if f" {thing}" not in EXAMPLE]
    things = construction.pools(words.single(fresh, "things", 12), "mcqa", seed)
    colors = words.single(word_lists.COLORS, "colors", 4)
    letters = words.single(LETTERS, "letters", 4)

    def prepare(split: str, rng: random.Random) -> Draw:
        thing = construction.rounds(things[split], rng)

        def draw(index: int, rng: random.Random) -> Item:
            own = rng.sample([letter for letter in letters if letter not in "AB"], 2)
            return _item(thing(), rng.sample(colors, 2), index % 2, kind, sorted(own))

        return draw

    return construction.assemble(
        "mcqa",
        n,
        seed,
        prepare,
        metric="logit_diff",
        corruption=kind,
        min_accuracy=0.8,
        description="the letter of the right choice",
    )


def _item(thing: str, colors: list[str], at: int, kind: str, other_letters: list[str]) -> Item:
    color, wrong = colors
    choices = [color, wrong] if at == 0 else [wrong, color]
    letters = ["A", "B"]
    clean, spans = _text(thing, color, letters, choices)
    corrupted, other_spans = {
        "answer_position": lambda: _text(thing, color, letters, choices[::-1]),
        "letters": lambda: _text(thing, color, other_letters, choices),
        "color": lambda: _text(thing, wrong, letters, choices),
    }[kind]()
    return Item(
        clean=clean,
        corrupted=corrupted,
        answers=(f" {letters[at]}",),
        foils=(f" {letters[1 - at]}",),
        template=f"right choice {letters[at]}",
        group=thing,
        spans=_roles(spans, at),
        corrupted_spans=_roles(other_spans, at),
    )


def _roles(spans: dict[str, tuple[int, int]], at: int) -> dict[str, tuple[int, int]]:
    names = {"object": "object", "color": "color", "letter": f"L{at}", "choice": f"c{at}", "query": "query"}
    return {role: spans[slot] for role, slot in names.items()}


def _text(
    thing: str, color: str, letters: list[str], choices: list[str]
) -> tuple[str, dict[str, tuple[int, int]]]:
    slots = {"object": thing, "query": thing, "color": color}
    slots |= {f"L{i}": letter for i, letter in enumerate(letters)} | {
        f"c{i}": c for i, c in enumerate(choices)
    }
    return construction.fill(EXAMPLE + QUERY, slots)
