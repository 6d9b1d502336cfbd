"""Black-box functions with a description that is true: `patchclamp.describe.FUNCTIONS` as entries of the suite."""

from __future__ import annotations

from functools import partial
from typing import Any

from patchclamp.base.seeds import numpy_rng
from patchclamp.describe import FUNCTIONS
from patchclamp.describe.functions import HIGH, LOW, Function, Query, sentences
from patchclamp.truth.base import BlackBox, enter


def black_box(name: str, seed: int = 0) -> BlackBox:
    """Build one of `patchclamp.describe.FUNCTIONS` as something to be asked.

    `function` takes a number and gives one, or takes the tokens of a text and gives how many of them it holds of; both
    with the function's own noise, drawn from `seed`. `data["function"]` is the entry itself, for scoring.

    Examples
    --------
    >>> box = black_box("after_determiner")
    >>> box.function(["the", " dog", " saw", " a", " cat"])
    2.0
    """
    entry = FUNCTIONS[name]
    query = Query(entry, seed)

    def ask(given: Any) -> float:
        if entry.domain == "numeric":
            return float(query.numbers([given])[0])
        return float(query.tokens([given])[0].sum())

    return BlackBox(
        ask,
        entry.description,
        entry.domain,
        inputs=tuple(_inputs(entry, 64, seed + 1)),
        sample=lambda n, seed: _inputs(entry, n, seed),
        data={"function": entry},
    )


def _inputs(entry: Function, n: int, seed: int) -> list[Any]:
    if entry.domain == "numeric":
        return [float(x) for x in numpy_rng([seed, 7]).integers(LOW, HIGH, n)]
    return list(sentences(n, seed))


for _name, _entry in FUNCTIONS.items():
    _about = f"black box: {_entry.description}"
    enter(
        f"function-{_name}", "function", partial(black_box, _name), _about, "Schwettmann et al. 2023 (FIND)"
    )
