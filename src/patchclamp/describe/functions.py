"""Black-box functions with known descriptions, and the score of a describer on them.

Each can be asked, not read: a function of a number, or of the tokens of a text that says yes or no to each. Some are
noisy, biased, or corrupted in a part of their domain. A describer returns English and something that runs; that is
compared with the function on inputs that were not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.describe.numeric import Formula, fit_formula
from patchclamp.describe.predicates import Affix, After, And, Not, Or, Pattern, Predicate, Regex, TokenSet
from patchclamp.describe.search.search import search_description
from patchclamp.describe.search.splitting import Split
from patchclamp.describe.tokens import Tokens

__all__ = ["FUNCTIONS", "Answer", "Function", "Query", "executable_describer", "score_describer", "sentences"]

Domain = Literal["numeric", "tokens"]
LOW, HIGH = -128, 128


@dataclass(frozen=True)
class Function:
    """A black box with the description that is true.

    Parameters
    ----------
    name, domain, description
        What it is called, ``"numeric"`` or ``"tokens"``, and what it does, in English.
    truth
        The function itself, as data: a `Formula` or a `Predicate`.
    noise
        Numeric: standard deviation of noise on what is asked, as a share of the function's own; tokens: share of the
        answers that are wrong. The score is taken without noise.
    corrupted
        Where something else holds: an interval, or a predicate; None where there is no such part.
    """

    name: str
    domain: Domain
    description: str
    truth: Formula | Predicate
    noise: float = 0.0
    corrupted: tuple[float, float] | Predicate | None = None


class Query:
    """What a describer may do with a function: ask. `asked` counts numbers or tokens."""

    def __init__(self, function: Function, seed: int = 0) -> None:
        self._function, self.domain, self.asked = function, function.domain, 0
        self._rng = numpy_rng([seed, len(function.name)])

    def numbers(self, x: Sequence[float]) -> NDArray[np.float64]:
        """Values at these points."""
        if not isinstance(self._function.truth, Formula):
            raise PatchclampError(f"{self._function.name}: takes tokens, not numbers")
        self.asked += len(x)
        clean = self._function.truth(x)
        spread = float(self._function.truth(np.arange(LOW, HIGH) + 0.5).std())
        return clean + self._rng.normal(size=len(clean)) * self._function.noise * spread

    def tokens(self, texts: Sequence[Sequence[str]]) -> list[NDArray[np.bool_]]:
        """A yes or no for each token of each text."""
        if not isinstance(self._function.truth, Predicate):
            raise PatchclampError(f"{self._function.name}: takes numbers, not tokens")
        self.asked += sum(map(len, texts))
        clean = _run(self._function.truth, texts)
        return [c ^ (self._rng.random(len(c)) < self._function.noise) for c in clean]


@dataclass(frozen=True)
class Answer:
    """What a describer says: English, and the same as something that runs; None where it could not say."""

    text: str
    runs: Formula | Predicate | None


Describer = Callable[[Query], Answer]


def score_describer(
    describer: Describer, functions: Mapping[str, Function] | None = None, seed: int = 0
) -> pd.DataFrame:
    """Ask a describer about each function and compare what it returns with the truth.

    Numeric: normalised squared error NMSE = sum (f - g)^2 / sum f^2 at x = i + 1/2 for i from -128 to 127, success
    below .1. A corrupted interval that holds little of sum f^2 passes unseen, so the error inside it is given by
    itself (`local_error`; for tokens the share of wrong answers there). Tokens: the share of 200 new
    texts, with words that did not occur before, on which every token's answer is right, success from .9.

    Parameters
    ----------
    describer
        Query -> `Answer`; it may ask as much as it likes, `asked` is reported.
    functions
        Default: `FUNCTIONS`.
    seed
        Of the noise and of the texts that score; a describer draws its own with another seed.

    Returns
    -------
    DataFrame
        Columns function, domain, success, nmse, local_error, exact, asked, failed (nothing that runs), said, truth.

    References
    ----------
    Schwettmann et al. (2023), FIND: a function description benchmark for evaluating interpretability methods.
    """
    rows = []
    for name, function in (FUNCTIONS if functions is None else functions).items():
        query = Query(function, seed)
        answer = describer(query)
        row = {"function": name, "domain": function.domain, **_compared(function, answer, seed)}
        rows.append(row | {"asked": query.asked, "failed": answer.runs is None, "said": answer.text})
        rows[-1]["truth"] = function.description
    return pd.DataFrame(rows)


def _compared(function: Function, answer: Answer, seed: int) -> dict[str, Any]:
    none = {"success": False, "nmse": np.nan, "local_error": np.nan, "exact": np.nan}
    if isinstance(function.truth, Formula):
        if not isinstance(answer.runs, Formula):
            return none
        x = np.arange(LOW, HIGH) + 0.5
        nmse = _nmse(function.truth(x), answer.runs(x))
        part = np.nan
        if isinstance(function.corrupted, tuple):
            there = (x >= function.corrupted[0]) & (x <= function.corrupted[1])
            part = _nmse(function.truth(x[there]), answer.runs(x[there]))
        return none | {"success": nmse < 0.1, "nmse": nmse, "local_error": part}
    if not isinstance(answer.runs, Predicate):
        return none
    texts = sentences(200, seed=10_000 + seed, new_words=True)
    truth, said = _run(function.truth, texts), _run(answer.runs, texts)
    exact = float(np.mean([bool((a == b).all()) for a, b in zip(truth, said, strict=True)]))
    part = np.nan
    if isinstance(function.corrupted, Predicate):
        there = np.concatenate(_run(function.corrupted, texts))
        part = float((np.concatenate(truth) != np.concatenate(said))[there].mean())
    return none | {"success": exact >= 0.9, "exact": exact, "local_error": part}


def _nmse(truth: NDArray[np.float64], said: NDArray[np.float64]) -> float:
    return float(np.sum((truth - said) ** 2) / max(float(np.sum(truth**2)), 1e-12))


def _run(predicate: Predicate, texts: Sequence[Sequence[str]]) -> list[NDArray[np.bool_]]:
    tokens = Tokens.of(texts)
    held = predicate.evaluate(tokens)
    return [held[a:b] for a, b in zip(tokens.starts, tokens.stops, strict=True)]


def executable_describer(query: Query, n_texts: int = 600, seed: int = 0) -> Answer:
    """Describe a function without a language model: `fit_formula` for numbers, `search_description` for tokens.

    Examples
    --------
    >>> executable_describer(Query(FUNCTIONS["line"])).text
    'f(x) = 3 x + 7'
    """
    if query.domain == "numeric":
        points = np.arange(LOW, HIGH + 1).astype(float)
        formula = fit_formula(points, query.numbers(points.tolist()))
        return Answer(str(formula), formula)
    texts = sentences(n_texts, seed=seed)
    activity = np.concatenate(query.tokens(texts)).astype(np.float32)[:, None]
    tokens = Tokens.of(texts)
    split = Split.of(tokens, held_out=0.2, seed=seed)
    found = search_description(activity, tokens, split, threshold=0.5, penalty=0.002, n_boot=0, max_set=12)
    return Answer(found.descriptions[0].text, found.descriptions[0].predicate)


_WORDS = {
    "determiner": "a the this that every some his her",
    "adjective": "old small green quiet Roman broken early heavy clever French round empty",
    "noun": "dog cat garden river teacher window lawyer engine paper city doctor boat letter singer bridge farmer "
    "candle painter valley bottle",
    "name": "Anna Paul Maria Rome Paris Peter London Berlin",
    "verb": "sees finds paints opens follows carries holds moves brings builds crossed wanted kept left watching leaving "
    "moving holding painting carrying bringing keeping finding",
    "preposition": "near under behind with without before",
    "number": "3 12 1987 40 2004 7",
    "end": ". ! ?",
}
_NEW_WORDS = {
    "adjective": "tall wet German narrow",
    "noun": "horse kitchen sailor hammer mountain violin",
    "name": "Eva Madrid Oliver",
    "verb": "takes throws cleaned running lifting throwing repairs",
    "number": "15 1805 99",
}
_LEXICON = {kind: words.split() for kind, words in _WORDS.items()}
_WIDER = {kind: words + _NEW_WORDS.get(kind, "").split() * 2 for kind, words in _LEXICON.items()}
_FRAMES = (
    "determiner noun verb determiner adjective noun end",
    "name verb determiner noun preposition name end",
    "determiner adjective adjective noun verb , name verb number noun end",
    "number noun verb preposition determiner noun end",
    "name , determiner noun , verb preposition determiner adjective noun end",
    "preposition determiner noun , determiner noun verb name end",
)


def sentences(n: int, seed: int = 0, new_words: bool = False) -> list[list[str]]:
    """Random sentences from a small grammar, as pieces; the first word is capitalised.

    With `new_words` about a third of the open words are ones that never occur without: a description that lists the
    words it saw is found out.

    Examples
    --------
    >>> "".join(sentences(1, seed=1)[0]).count(" ") > 3
    True
    """
    rng = numpy_rng([seed, 7])
    out, lexicon = [], _WIDER if new_words else _LEXICON
    for _ in range(n):
        kinds = _FRAMES[int(rng.integers(len(_FRAMES)))].split()
        words = [kind if kind == "," else str(rng.choice(lexicon[kind])) for kind in kinds]
        pieces = [w if w in ",.!?" else f" {w}" for w in words]
        out.append([words[0][:1].upper() + words[0][1:], *pieces[1:]])
    return out


def _suite() -> dict[str, Function]:
    number: Domain = "numeric"
    sine = Formula("sine", (0.0, 10.0, 0.0, 0.1))
    line, bowl = Formula("linear", (7.0, 3.0)), Formula("quadratic", (-20.0, 0.0, 0.05))
    broken = (20.0, 44.0)
    hole = Formula("linear", (7.0, 3.0), broken, Formula("constant", (-400.0,)))
    wave = Formula("sine", (0.0, 10.0, 0.0, 0.1), (-60.0, -40.0), Formula("constant", (50.0,)))
    small = Formula("linear", (7.0, 3.0), (-6.0, 2.0), Formula("constant", (30.0,)))
    return {
        f.name: f
        for f in (
            Function("constant", "numeric", "always 5", Formula("constant", (5.0,))),
            Function("line", number, "3 x + 7", line),
            Function("line_noise", number, "3 x + 7, with noise", line, noise=0.1),
            Function("bowl", number, "0.05 x² - 20", bowl),
            Function("bowl_bias", number, "0.05 x² - 320", Formula("quadratic", (-320.0, 0.0, 0.05))),
            Function("distance", number, "the distance from -30", Formula("absolute", (0.0, 1.0, -30.0))),
            Function("rectifier", number, "4 times what is above 16", Formula("rectified", (0.0, 4.0, 16.0))),
            Function("step", number, "-2 up to 10, 6 above", Formula("step", (-2.0, 8.0, 10.0))),
            Function("sine", number, "10 sin(x / 10)", sine),
            Function("sine_noise", number, "10 sin(x / 10), with noise", sine, noise=0.15),
            Function(
                "two_lines",
                number,
                "x up to 0, 5 - 2 x above",
                Formula("two_lines", (0.0, 1.0, 5.0, -2.0, 0.0)),
            ),
            Function(
                "composition",
                number,
                "5 sin(|x - 10|^1.5 / 40)",
                Formula("sine_of_distance", (0.0, 5.0, 10.0, 0.025)),
            ),
            Function("growing_wave", number, "x sin(x / 9)", Formula("growing_wave", (0.0, 1.0, 1 / 9))),
            Function("network", number, "a random network of 64 rectifiers", Formula("network", (1.0, 3.0))),
            Function("line_corrupted", number, "3 x + 7, but -400 from 20 to 44", hole, corrupted=broken),
            Function("line_scratched", number, "3 x + 7, but 30 from -6 to 2", small, corrupted=(-6.0, 2.0)),
            Function(
                "sine_corrupted",
                number,
                "10 sin(x / 10), but 50 from -60 to -40",
                wave,
                corrupted=(-60.0, -40.0),
            ),
            Function("animals", "tokens", "cat or dog", TokenSet(("cat", "dog"))),
            Function("digits", "tokens", "numbers", Pattern("number")),
            Function("ing", "tokens", "words ending in ing", Affix("ing")),
            Function("after_determiner", "tokens", "after a determiner", After(Pattern("determiner"))),
            Function(
                "names",
                "tokens",
                "capitalised, not at the start",
                And((Pattern("capitalised"), Not(Pattern("sentence_first")))),
            ),
            Function("names_noise", "tokens", "capitalised, 2 % wrong", Pattern("capitalised"), noise=0.02),
            Function("endings", "tokens", "words in -s or -ing", Or((Affix("s"), Affix("ing")))),
            Function("long", "tokens", "tokens of seven or more letters", Regex(r"^\W*\w{7,}$")),
            Function(
                "nouns_corrupted",
                "tokens",
                "after a determiner, but never a letter or a boat",
                And((After(Pattern("determiner")), Not(TokenSet(("letter", "boat"))))),
                corrupted=TokenSet(("letter", "boat")),
            ),
        )
    }


FUNCTIONS: dict[str, Function] = _suite()
