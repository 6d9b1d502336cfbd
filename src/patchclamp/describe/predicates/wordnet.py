"""Parts of WordNet's hierarchy: words whose most frequent sense lies under a synset, or in a supersense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.describe.predicates.base import Predicate
from patchclamp.describe.predicates.patterns import CLOSED
from patchclamp.describe.predicates.sets import per_word
from patchclamp.describe.tokens import Mask, Tokens
from patchclamp.nouns.tasks.wordnet import POS, SUPERSENSES

__all__ = ["Hypernym", "Supersense", "senses_of"]

_PLURALS = {
    "person": "people",
    "child": "children",
    "man": "men",
    "woman": "women",
    "foot": "feet",
    "mouse": "mice",
}
_UNCOUNTED = (
    "food clothing furniture money music equipment information communication behavior matter substance knowledge "
    "language speech time motion change activity work"
)
_MASS = frozenset(_UNCOUNTED.split())


def senses_of(tokens: Tokens, pos: str) -> list[str | None]:
    """Key of the most frequent sense of each of `tokens.word_types` as this part of speech.

    None for words that WordNet does not have, for single letters, and for function words ("in" is no inch).
    """
    found = tokens.cache.get(f"senses of {pos}")
    if found is None:
        net = tokens.lexicon()
        found = [None if w in CLOSED or len(w) < 2 else net.first_sense(w, pos) for w in tokens.word_types]
        tokens.cache[f"senses of {pos}"] = found
    return list(found)


def _ask_senses(tokens: Tokens, pos: str, name: str, test: Callable[[str], bool]) -> Mask:
    """Ask the most frequent sense of each word; the answers are kept under `name`."""
    held = tokens.cache.get(name)
    if held is None:
        found = senses_of(tokens, pos)
        held = np.fromiter((key is not None and test(key) for key in found), bool, len(found))
        tokens.cache[name] = held
    return per_word(tokens, held)


@dataclass(frozen=True)
class Hypernym(Predicate):
    """The token is part of a word whose most frequent sense lies under a synset of WordNet.

    Parameters
    ----------
    synset
        Key of the synset, as in `WordNet.senses`: part of speech and offset of WordNet 3.
    name
        Its name in English; the description prints it, nothing is computed from it.
    """

    kind = "hypernym"
    synset: str
    name: str

    def __post_init__(self) -> None:
        if self.synset.split(":")[0] not in POS:
            raise PatchclampError(f"predicate hypernym: synset {self.synset!r}; wanted such as noun:00015388")

    def evaluate(self, tokens: Tokens) -> Mask:
        net, pos = tokens.lexicon(), self.synset.split(":")[0]
        if self.synset not in net.senses:
            raise PatchclampError(
                f"predicate hypernym: {self.synset} ({self.name}) is not in this WordNet ({net.folder})"
            )
        return _ask_senses(tokens, pos, f"under {self.synset}", lambda key: self.synset in net.ancestors(key))

    def plural(self) -> str:
        if self.synset.startswith("verb"):
            return f"verbs for ways to {self.name}"
        return f"words for {plural_of(self.name)}"

    def one(self) -> str:
        return "a " + self.plural().replace("words", "word", 1).replace("verbs", "verb", 1)


@dataclass(frozen=True)
class Supersense(Predicate):
    """The token is part of a word whose most frequent sense is in one of WordNet's 45 supersenses."""

    kind = "supersense"
    name: str

    def __post_init__(self) -> None:
        check_choice("predicate supersense: name", self.name, SUPERSENSES)

    def evaluate(self, tokens: Tokens) -> Mask:
        net, pos = tokens.lexicon(), self.name.split(".")[0]
        return _ask_senses(tokens, pos, f"in {self.name}", lambda key: net.senses[key].label == self.name)

    def plural(self) -> str:
        pos, field = self.name.split(".")
        full = {"noun": "nouns", "verb": "verbs", "adj": "adjectives", "adv": "adverbs"}[pos]
        if field in ("all", "Tops", "pert", "ppl"):
            return {"Tops": "nouns for broad kinds", "pert": "adjectives made from nouns"}.get(field, full)
        return f"{full} of {field}" if pos == "verb" else f"{full} for {plural_of(field)}"

    def one(self) -> str:
        text = (
            self.plural()
            .replace("nouns", "noun", 1)
            .replace("verbs", "verb", 1)
            .replace("adjectives", "adjective", 1)
        )
        return f"{'an' if text.startswith('ad') else 'a'} {text}"


def plural_of(name: str) -> str:
    """An English plural, good enough to be read.

    Examples
    --------
    >>> plural_of("animal"), plural_of("body"), plural_of("young person"), plural_of("food")
    ('animals', 'bodies', 'young people', 'food')
    """
    start, _, last = name.rpartition(" ")
    if last in _PLURALS:
        last = _PLURALS[last]
    elif last not in _MASS and not last.endswith("ing"):
        if last.endswith("y") and last[-2:-1] not in "aeiou":
            last = last[:-1] + "ies"
        else:
            last += "es" if last.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return f"{start} {last}".strip()
