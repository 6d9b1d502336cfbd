"""Greater-than: "The war lasted from the year 1743 to the year 17" -> a year that is not earlier.

The task of Hanna et al. 2023, for tokenizers that write years as single digits (the answer is the decade's digit) or
as two pairs of digits (the answer is the pair).
"""

from __future__ import annotations

import random
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.builtin import construction, word_lists
from patchclamp.nouns.tasks.builtin.construction import Draw, Text, Words
from patchclamp.nouns.tasks.encode import plain_ids
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.task import Task

TEMPLATES: dict[str, str] = {
    "lasted": "The {noun} lasted from the year {XX}{Y}{Z} to the year {again}",
    "went_on": "The {noun} went on from the year {XX}{Y}{Z} until the year {again}",
    "began": "The {noun} began in the year {XX}{Y}{Z} and ended in the year {again}",
}
CORRUPTIONS: dict[str, str] = {
    "year_01": "the first year becomes 01 of its century, so that no second year is too early",
    "earlier": "the first year becomes an earlier one of its century, in another decade",
}
_CENTURIES = ("11", "12", "13", "14", "15", "16", "17")
_CARRIER = "from the year "


def greater_than(tokenizer: Any, n: int = 256, seed: int = 0, corruption: str | None = None) -> Task:
    """End a period after its beginning: "The war lasted from the year 1743 to the year 17" -> "4".."9".

    Metric: summed probability of the digits (or pairs of digits) that make a later year, minus that of those that make
    an earlier one. With single digits the decade's own digit counts as later: 1743 to 174_ can still be. Roles: noun,
    XX, Y, Z (century, decade and last digit of the first year), end. Group: the noun; splits share no noun.

    Parameters
    ----------
    tokenizer
        Of the model; years must be single digits, or two pairs of digits.
    n, seed
        Number of items in all splits, and the seed of all choices.
    corruption
        One of `CORRUPTIONS`; ``"year_01"`` if None.
    """
    kind = construction.choose(corruption, CORRUPTIONS, "greater_than")
    words = Words(tokenizer, "greater_than")
    width = _digits(tokenizer)
    tails = {century: _tails(tokenizer, century, width) for century in _CENTURIES}
    years = [
        c + tail for c, own in tails.items() for tail in own if 20 <= int(tail) <= 88 and tail[1] not in "09"
    ]
    words.need(len(years), 20, "years of the 12th to 18th century can be written")
    nouns = construction.pools(words.single(word_lists.SPANS_OF_TIME, "nouns", 12), "greater_than", seed)
    # Decades in turn, so that every digit is the beginning equally often.
    decades = sorted({year[2] for year in years})

    def prepare(split: str, rng: random.Random) -> Draw:
        noun = construction.rounds(nouns[split], rng)

        def draw(index: int, rng: random.Random) -> Item:
            template = list(TEMPLATES)[index % len(TEMPLATES)]
            decade = decades[index // len(TEMPLATES) % len(decades)]
            year = rng.choice([y for y in years if y[2] == decade])
            return _item(template, noun(), year, tails[year[:2]], kind, width, rng)

        return draw

    return construction.assemble(
        "greater_than", n, seed, prepare, kind, "a period ends after it begins", metric="prob_diff"
    )


def _digits(tokenizer: Any) -> int:
    """Digits in a token of a year: 1 or 2."""
    century, year = plain_ids(tokenizer, [_CARRIER + "17", _CARRIER + "1743"])
    added = len(year) - len(century) if year[: len(century)] == century else 0
    if added not in (1, 2):
        raise PatchclampError(
            "task greater_than: this tokenizer cuts 1743 neither into single digits nor into 17 and 43; write items "
            "for this model in a JSONL file"
        )
    return 3 - added


def _tails(tokenizer: Any, century: str, width: int) -> list[str]:
    """Last two digits of the century's years whose tokens continue the century's own."""
    tails = [f"{tail:02d}" for tail in range(100)]
    start, *rest = plain_ids(tokenizer, [_CARRIER + century, *(_CARRIER + century + tail for tail in tails)])
    added = 3 - width
    kept = [
        tail
        for tail, ids in zip(tails, rest, strict=True)
        if ids[: len(start)] == start and len(ids) == len(start) + added
    ]
    return kept if "01" in kept else []


def _item(
    template: str, noun: str, year: str, tails: list[str], kind: str, width: int, rng: random.Random
) -> Item:
    century, tail = year[:2], year[2:]
    other = "01" if kind == "year_01" else rng.choice([t for t in tails if t[0] < tail[0]])
    options = tails if width == 2 else sorted({t[0] for t in tails})
    later = [t for t in options if (t > tail if width == 2 else t >= tail[0])]
    texts = [_text(template, noun, century, end) for end in (tail, other)]
    earlier = tuple(t for t in options if t not in later)
    meta = {"noun": noun, "year": int(year), "corrupted_year": int(century + other)}
    return construction.contrast(texts, tuple(later), earlier, template, noun, meta)


def _text(template: str, noun: str, century: str, tail: str) -> Text:
    slots = {"noun": noun, "XX": century, "Y": tail[0], "Z": tail[1], "again": century}
    text, spans = construction.fill(TEMPLATES[template], slots)
    del spans["again"]  # its last token is the end
    return text, spans
