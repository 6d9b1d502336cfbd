"""WordNet's supersenses: 45 broad meanings of words, with 117,659 glosses, as labels for selectivity.

WordNet is not part of this package. It is read where it is installed: Debian's package ``wordnet-base``, or
any folder with the files of WordNet 3.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from patchclamp.base.errors import PatchclampError, check_choice, did_you_mean
from patchclamp.draw.cards import shown

# The order is WordNet's numbering of its lexicographer files.
SUPERSENSES: tuple[str, ...] = (
    "adj.all",
    "adj.pert",
    "adv.all",
    "noun.Tops",
    "noun.act",
    "noun.animal",
    "noun.artifact",
    "noun.attribute",
    "noun.body",
    "noun.cognition",
    "noun.communication",
    "noun.event",
    "noun.feeling",
    "noun.food",
    "noun.group",
    "noun.location",
    "noun.motive",
    "noun.object",
    "noun.person",
    "noun.phenomenon",
    "noun.plant",
    "noun.possession",
    "noun.process",
    "noun.quantity",
    "noun.relation",
    "noun.shape",
    "noun.state",
    "noun.substance",
    "noun.time",
    "verb.body",
    "verb.change",
    "verb.cognition",
    "verb.communication",
    "verb.competition",
    "verb.consumption",
    "verb.contact",
    "verb.creation",
    "verb.emotion",
    "verb.motion",
    "verb.perception",
    "verb.possession",
    "verb.social",
    "verb.stative",
    "verb.weather",
    "adj.ppl",
)
POS = ("noun", "verb", "adj", "adv")
_ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "verb": (
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}


@dataclass(frozen=True)
class Sense:
    """One synset: its words, the number of its supersense, its definition, the synset above it, all above it."""

    key: str
    words: tuple[str, ...]
    number: int
    gloss: str
    parent: str
    above: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name of the supersense."""
        return SUPERSENSES[self.number]


@shown
@dataclass(frozen=True)
class LabelledText:
    """A definition and the supersense of what it defines.

    `number` indexes `SUPERSENSES`. `group` is shared by what hangs under the same more general synset: such
    definitions are often near copies ("a city in ..."), so they are one unit of dependence.
    """

    text: str
    word: str
    label: str
    number: int
    group: int


class WordNet:
    """WordNet's files in a folder.

    Parameters
    ----------
    folder
        Folder with ``data.noun``, ``index.noun`` and the rest; None = the environment's ``WNSEARCHDIR``, else
        Debian's ``/usr/share/wordnet``.

    Examples
    --------
    >>> WordNet().supersenses("dogs", pos="noun")[0]
    'noun.animal'
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or os.environ.get("WNSEARCHDIR") or "/usr/share/wordnet")
        missing = [
            name
            for pos in POS
            for name in (f"data.{pos}", f"index.{pos}")
            if not (self.folder / name).is_file()
        ]
        if missing:
            raise PatchclampError(
                f"WordNet: {self.folder} has no {missing[0]}; install Debian's package wordnet-base "
                "(apt-get install wordnet-base), or give the folder with WordNet's data and index files"
            )

    @cached_property
    def senses(self) -> dict[str, Sense]:
        """All synsets by key (part of speech and offset), in the order of the files."""
        return {sense.key: sense for pos in POS for sense in _read_senses(self.folder / f"data.{pos}", pos)}

    @cached_property
    def _index(self) -> dict[str, dict[str, list[str]]]:
        """By part of speech: lemma -> keys of its synsets, most frequent first."""
        return {pos: dict(_read_index(self.folder / f"index.{pos}", pos)) for pos in POS}

    @cached_property
    def _irregular(self) -> dict[str, dict[str, list[str]]]:
        """By part of speech: irregular form -> base forms."""
        forms: dict[str, dict[str, list[str]]] = {pos: {} for pos in POS}
        for pos in POS:
            path = self.folder / f"{pos}.exc"
            for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
                form, *bases = line.split()
                forms[pos].setdefault(form, []).extend(bases)
        return forms

    def lemmas(self, word: str, pos: str) -> list[str]:
        """Base forms of a word that WordNet knows: the word itself, irregular forms, then endings taken
        off."""
        index = self._index[pos]
        form = word.lower().replace(" ", "_")
        tried = [form, *self._irregular[pos].get(form, ())]
        tried += [
            form.removesuffix(end) + new for end, new in _ENDINGS[pos] if form.endswith(end) and form != end
        ]
        return list(dict.fromkeys(lemma for lemma in tried if lemma in index))

    def supersenses(self, word: str, pos: str | None = None) -> tuple[str, ...]:
        """Supersenses of a word, without repeats: nouns, verbs, adjectives, adverbs, in each the frequent
        senses first.

        Empty for a word that WordNet does not have. The order says nothing across parts of speech: give `pos`
        where it is known.
        """
        if pos is not None:
            check_choice("WordNet: pos", pos, POS)
        names: dict[str, None] = {}
        for kind in POS if pos is None else (pos,):
            for lemma in self.lemmas(word, kind):
                names.update(dict.fromkeys(self.senses[key].label for key in self._index[kind][lemma]))
        return tuple(names)

    def first_sense(self, word: str, pos: str) -> str | None:
        """Key of the most frequent sense of a word (or of its base form); None for a word not known."""
        return next((self._index[pos][lemma][0] for lemma in self.lemmas(word, pos)), None)

    def ancestors(self, key: str) -> frozenset[str]:
        """The synset itself and all synsets above it, along every path.

        Examples
        --------
        >>> net = WordNet()
        >>> dog = net.first_sense("dog", "noun")
        >>> any("animal" in net.senses[key].words for key in net.ancestors(dog))
        True
        """
        known = self._ancestors.get(key)
        if known is None:
            found, left = {key}, [key]
            while left:
                new = [up for up in self.senses[left.pop()].above if up not in found]
                found.update(new)
                left.extend(new)
            known = self._ancestors[key] = frozenset(found)
        return known

    @cached_property
    def _ancestors(self) -> dict[str, frozenset[str]]:
        return {}

    def examples(
        self, labels: Sequence[str] | None = None, per_label: int | None = None, seed: int = 0
    ) -> list[LabelledText]:
        """Definitions with their supersenses, a random choice of `per_label` for each label (fewer where
        fewer exist).

        Text is the definition without its quoted examples and without the word itself. Definitions that occur
        under more than one of the wanted labels are left out, and every definition is given once.
        """
        wanted = SUPERSENSES if labels is None else tuple(labels)
        unknown = [name for name in wanted if name not in SUPERSENSES]
        if unknown or not wanted:
            hint = did_you_mean(unknown[0], SUPERSENSES) if unknown else ""
            raise PatchclampError(
                f"WordNet: {unknown or 'no label'}: supersenses are {', '.join(SUPERSENSES)}{hint}"
            )
        if per_label is not None and per_label < 1:
            raise PatchclampError(f"WordNet: per_label={per_label}; at least 1, or None for all")
        texts: dict[str, list[Sense]] = {}
        for sense in self.senses.values():
            if sense.label in wanted:
                texts.setdefault(sense.gloss, []).append(sense)
        clear = [senses[0] for senses in texts.values() if len({s.number for s in senses}) == 1]
        numbers = {key: i for i, key in enumerate(dict.fromkeys(s.parent for s in clear))}
        pick = random.Random(seed)
        by_label: dict[str, list[Sense]] = {}
        for sense in clear:
            by_label.setdefault(sense.label, []).append(sense)
        out = []
        for name in wanted:
            members = by_label.get(name, [])
            if per_label is not None and len(members) > per_label:
                members = pick.sample(members, per_label)
            out += [LabelledText(s.gloss, s.words[0], s.label, s.number, numbers[s.parent]) for s in members]
        return out


def _read_senses(path: Path, pos: str) -> Iterator[Sense]:
    """Parse a data file: offset, number of the lexicographer file, type, count of words (hex), words,
    pointers | gloss."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(" "):
                continue  # the licence
            head, _, gloss = line.partition(" | ")
            fields = head.split(" ")
            count = int(fields[3], 16)
            words = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(count))
            first = 4 + 2 * count
            pointers = [fields[first + 1 + 4 * i : first + 5 + 4 * i] for i in range(int(fields[first]))]
            key = f"{pos}:{fields[0]}"
            above = [f"{pos}:{pointer[1]}" for pointer in pointers if pointer[0] in ("@", "@i", "&")]
            parent = above[0] if above else key
            yield Sense(key, words, int(fields[1]), _definition(gloss), parent, tuple(above))


def _definition(gloss: str) -> str:
    """The definition without the quoted examples that follow it."""
    return gloss.split('; "', maxsplit=1)[0].strip().rstrip(";").strip()


def _read_index(path: Path, pos: str) -> Iterator[tuple[str, list[str]]]:
    """Parse an index file: lemma, part of speech, number of synsets, ..., their offsets at the end."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith(" "):
                fields = line.split()
                yield fields[0], [f"{pos}:{offset}" for offset in fields[-int(fields[2]) :]]
