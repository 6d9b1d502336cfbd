"""Colored objects: three things with their colors, then the question for the color of one."""

from __future__ import annotations

import random
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.builtin import construction, word_lists
from patchclamp.nouns.tasks.builtin.construction import Draw, Text, Words
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task

EXAMPLE = (
    "Q: On the shelf, there is a white candle, a red box, and a green hat. What color is the hat?\nA: green\n\n"
    "Q: On the desk, I see a pink comb, a black key, and a blue coin. What color is the comb?\nA: pink\n\n"
)
STATEMENTS: dict[str, str] = {
    "have": "I have a {o0} that is {c0}, a {o1} that is {c1}, a {o2} that is {c2}. Now I take the {query} that is",
    "see": "On the {place} I see a {o0} which is {c0}, a {o1} which is {c1}, a {o2} which is {c2}. Now I take the "
    "{query} which is",
    "was": "There was a {o0} that was {c0}, a {o1} that was {c1}, a {o2} that was {c2}. She took the {query} that was",
}
QUESTIONS: dict[str, str] = {
    "there_is": EXAMPLE + "Q: On the {place}, there is a {c0} {o0}, a {c1} {o1}, and a {c2} {o2}. "
    "What color is the {query}?\nA:",
    "i_see": EXAMPLE + "Q: On the {place}, I see a {c0} {o0}, a {c1} {o1}, and a {c2} {o2}. "
    "What color is the {query}?\nA:",
}
FORMS: dict[str, dict[str, str]] = {"statement": STATEMENTS, "question": QUESTIONS}
PLACES: tuple[str, ...] = ("table", "desk", "floor", "shelf", "bed")
CORRUPTIONS: dict[str, str] = {
    "query": "the question is for another of the three: the answer flips",
    "colors": "the colors of the thing in question and of another change places: the answer flips",
}


def colored_objects(
    tokenizer: Any, n: int = 256, seed: int = 0, corruption: str | None = None, form: str = "statement"
) -> Task:
    """Find the color of one thing of three: "I have a pen that is red, ... Now I take the pen that is" -> " red".

    Metric: logit(its color) - logit(color of another of the three things). The place in the
    list of the thing in question is balanced. Roles: color (of the thing in question), object (its first mention), query,
    end. Group: the thing in question; splits share no thing, and the examples' things are not used.

    Parameters
    ----------
    tokenizer
        Of the model; things and colors are single tokens.
    n, seed
        Number of items in all splits, and the seed of all choices.
    corruption
        One of `CORRUPTIONS`; ``"query"`` if None.
    form
        ``"statement"``, or ``"question"``: two worked examples, "a blue pencil, ... What color is the pencil?"; the
        usual form, which models as small as SmolLM2-135M cannot do.
    """
    kind = construction.choose(corruption, CORRUPTIONS, "colored_objects")
    if form not in FORMS:
        raise PatchclampError(f"task colored_objects: no form {form!r}; it has {', '.join(FORMS)}")
    templates = FORMS[form]
    words = Words(tokenizer, "colored_objects")
    fresh = [thing for thing in word_lists.THINGS if f" {thing}" not in EXAMPLE]
    things = construction.pools(words.single(fresh, "things", 12), "colored_objects", seed)
    colors = words.single(word_lists.COLORS, "colors", 4)
    places = words.single(PLACES, "places", 1)

    def prepare(split: str, rng: random.Random) -> Draw:
        def draw(index: int, rng: random.Random) -> Item:
            template = list(templates)[index // 3 % len(templates)]
            scene = (rng.sample(things[split], 3), rng.sample(colors, 3))
            return _item(template, templates[template], rng.choice(places), scene, index % 3, kind, rng)

        return draw

    return construction.assemble(
        "colored_objects", n, seed, prepare, kind, "the color of one of three things"
    )


def _item(
    template: str,
    frame: str,
    place: str,
    scene: tuple[list[str], list[str]],
    at: int,
    kind: str,
    rng: random.Random,
) -> Item:
    things, colors = scene
    other = rng.choice([i for i in range(3) if i != at])
    swapped = list(colors)
    swapped[at], swapped[other] = colors[other], colors[at]
    clean = _text(frame, place, things, colors, at, at)
    changed = (colors, at, other) if kind == "query" else (swapped, at, at)
    corrupted = _text(frame, place, things, *changed)
    words = ((f" {colors[at]}",), (f" {colors[other]}",))
    return construction.contrast((clean, corrupted), *words, f"{template}/{at + 1}", things[at])


def _text(frame: str, place: str, things: list[str], colors: list[str], at: int, query: int) -> Text:
    slots = {f"o{i}": thing for i, thing in enumerate(things)} | {f"c{i}": c for i, c in enumerate(colors)}
    text, spans = construction.fill(frame, slots | {"place": place, "query": things[query]})
    return text, {"color": spans[f"c{at}"], "object": spans[f"o{at}"], "query": spans["query"]}
