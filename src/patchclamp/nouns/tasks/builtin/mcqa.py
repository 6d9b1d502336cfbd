"""Multiple choice: copy the letter of the color that the text names."""

from __future__ import annotations

import random
from typing import Any

from patchclamp.nouns.tasks.builtin import construction, word_lists
from patchclamp.nouns.tasks.builtin.construction import Draw, Text, Words
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

    return construction.assemble("mcqa", n, seed, prepare, kind, "the letter of the right choice")


def _item(thing: str, colors: list[str], at: int, kind: str, other_letters: list[str]) -> Item:
    color, wrong = colors
    choices = [color, wrong] if at == 0 else [wrong, color]
    letters = ["A", "B"]
    changed = {
        "answer_position": (color, letters, choices[::-1]),
        "letters": (color, other_letters, choices),
        "color": (wrong, letters, choices),
    }[kind]
    texts = [_text(thing, at, *one) for one in ((color, letters, choices), changed)]
    words = ((f" {letters[at]}",), (f" {letters[1 - at]}",))
    return construction.contrast(texts, *words, f"right choice {letters[at]}", thing)


def _text(thing: str, at: int, color: str, letters: list[str], choices: list[str]) -> Text:
    slots = {"object": thing, "query": thing, "color": color}
    slots |= {f"L{i}": letter for i, letter in enumerate(letters)} | {
        f"c{i}": c for i, c in enumerate(choices)
    }
    text, spans = construction.fill(EXAMPLE + QUERY, slots)
    names = {"object": "object", "color": "color", "letter": f"L{at}", "choice": f"c{at}", "query": "query"}
    return text, {role: spans[slot] for role, slot in names.items()}
