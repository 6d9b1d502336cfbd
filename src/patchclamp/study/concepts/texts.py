"""Labelled texts: read, balanced, and split so that no group is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.draw.cards import shown
from patchclamp.nouns.tasks.texts import TextTask
from patchclamp.nouns.tasks.wordnet import WordNet
from patchclamp.record import documents

__all__ = ["LabelledTexts", "load_labelled"]

FEWEST = 8


@shown
@dataclass(frozen=True)
class LabelledTexts:
    """Texts of several labels in two parts that share no group.

    Parameters
    ----------
    name
        Of the file, or of the data.
    train, test
        The texts that choose units, and those that verify them.
    labels
        All labels, in the order of their names.
    source
        Path or name from which `load_labelled` reads them again; None for data in memory.
    """

    name: str
    train: TextTask
    test: TextTask
    labels: tuple[str, ...]
    source: str | None

    @property
    def fingerprint(self) -> str:
        """Hash of the texts and labels measured on."""
        joined = "\0".join(
            f"{t}\1{label}" for t, label in zip(self.test.texts, self.test.labels, strict=True)
        )
        return hashlib.sha256(joined.encode()).hexdigest()[:16]

    def counts(self) -> dict[str, Mapping[str, int]]:
        """Texts of each label in both parts."""
        return {
            part: {label: one.labels.count(label) for label in self.labels}
            for part, one in (("train", self.train), ("test", self.test))
        }


def load_labelled(
    source: Any, *, per_label: int = 60, max_tokens: int = 64, test_share: float = 0.4, seed: int = 0
) -> LabelledTexts:
    """Read labelled texts, as many of each label, and split them by group.

    Parameters
    ----------
    source
        ``"wordnet:noun.animal,noun.food"``: definitions of WordNet's supersenses (where WordNet is installed), grouped
        by what the words are a kind of. Or a ``.jsonl`` or ``.parquet`` file with the fields text, label and, where texts depend on each other (pages of a
        book, sentences of a person), group; a data set; a list of mappings.
    per_label
        At most as many texts of each label, drawn at random.
    max_tokens
        Longer texts are cut.
    test_share
        Share of the groups that verify.
    seed
        Of draws and split.

    Raises
    ------
    PatchclampError
        For fewer than two labels, or a label with fewer than 8 texts or 2 groups.
    """
    found = [d for d in documents(_definitions(source)) if d.label is not None and d.text.strip()]
    by_label: dict[str, list[int]] = {}
    for i, document in enumerate(found):
        by_label.setdefault(str(document.label), []).append(i)
    name = Path(source).stem if isinstance(source, (str, Path)) else "texts"
    name = "WordNet" if str(source).startswith("wordnet:") else name
    if len(by_label) < 2:
        raise PatchclampError(
            f"{name}: {len(by_label)} label in {len(found)} labelled texts; a concept study compares at least two"
        )
    rng = numpy_rng(seed)
    groups = _groups(found)
    train: list[int] = []
    test: list[int] = []
    for label in sorted(by_label):
        members = by_label[label]
        if len(members) < FEWEST:
            raise PatchclampError(f"{name}: label {label!r} has {len(members)} texts; give at least {FEWEST}")
        chosen = sorted(rng.permutation(len(members))[:per_label].tolist())
        _divide([members[i] for i in chosen], found, groups, label, test_share, rng, train, test)
    _refuse_shared(groups, train, test, name)
    whole = TextTask(
        name,
        tuple(d.text for d in found),
        tuple(groups),
        tuple(str(d.label) for d in found),
        max_tokens,
    )
    return LabelledTexts(
        name,
        whole.select(sorted(train)),
        whole.select(sorted(test)),
        tuple(sorted(by_label)),
        str(source) if isinstance(source, (str, Path)) else None,
    )


def _definitions(source: Any) -> Any:
    """Definitions as documents, where WordNet is asked for; any other source as it is."""
    if not isinstance(source, str) or not source.startswith("wordnet:"):
        return source
    wanted = [name.strip() for name in source.removeprefix("wordnet:").split(",") if name.strip()]
    return [
        {"text": one.text, "label": one.label, "group": f"kind {one.group}"}
        for one in WordNet().examples(wanted)
        if len(one.text.split()) > 4
    ]


def _groups(found: list[Any]) -> list[str]:
    """Group of each text; one that names none is a group with its copies."""
    first: dict[str, int] = {}
    return [
        f"text {first.setdefault(d.text, i)}" if d.group is None else str(d.group)
        for i, d in enumerate(found)
    ]


def _divide(
    members: list[int],
    found: list[Any],
    groups_of: list[str],
    label: str,
    share: float,
    rng: np.random.Generator,
    train: list[int],
    test: list[int],
) -> None:
    """Put whole groups of one label on either side, by a hash of the group, so that all labels agree on it."""
    groups: dict[str, list[int]] = {}
    for i in members:
        groups.setdefault(groups_of[i], []).append(i)
    if len(groups) < 2:
        raise PatchclampError(
            f"label {label!r}: all its texts are in one group, so none can verify; give more groups"
        )
    own = all(found[i].group is None for i in members)
    names = sorted(groups)
    if own:
        rng.shuffle(names)
    else:
        names.sort(key=lambda g: hashlib.sha256(g.encode()).hexdigest())
    limit = max(1, round(share * len(names)))
    for place, group in enumerate(names):
        (test if place < limit else train).extend(groups[group])


def _refuse_shared(groups: list[str], train: list[int], test: list[int], name: str) -> None:
    """A group with texts of several labels may fall on both sides; those texts leave the train part."""
    held = {groups[i] for i in test}
    train[:] = [i for i in train if groups[i] not in held]
    if not train:
        raise PatchclampError(f"{name}: no group is left to choose units on; give more groups")
