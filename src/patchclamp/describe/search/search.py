"""Executable descriptions without a language model: the shortest predicate that predicts where a unit is active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.progress import Progress
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import permutation_p
from patchclamp.describe.description import Description
from patchclamp.describe.predicates import Centroid
from patchclamp.describe.search.beam import Atom, Search
from patchclamp.describe.search.candidates import candidates_of
from patchclamp.describe.search.criteria import CRITERIA, chance
from patchclamp.describe.search.heldout import held_out_rows
from patchclamp.describe.search.splitting import Split
from patchclamp.describe.search.targets import TokenActivity, active, check_threshold, threshold_of
from patchclamp.describe.tokens import Ints, Mask, Tokens
from patchclamp.draw.cards import shown

__all__ = ["NOTHING", "Described", "search_description"]

NOTHING = "no description found"
"""Said of a unit where the best predicate's score on held-out text does not differ from chance."""


@shown
@dataclass(frozen=True)
class Described:
    """Descriptions of units and how well each predicts its unit on documents that did not make it.

    Parameters
    ----------
    descriptions
        One a unit, in the order asked; its `predicate` is None for a unit that is never (or always) active, and where the
        interval of its held-out score includes chance: "no description found", with what was tried in ``facts["tried"]``.
    table
        One row a unit: unit, index, description, length, made (score in the making), score (held out), low, high
        (bootstrap over groups), shuffled (mean score of descriptions of other units), precision, recall, active
        (held-out tokens on which it is active), p (against units whose activity was shifted; NaN without null).
    null
        Held-out scores of descriptions found for shifted activity.
    """

    descriptions: list[Description]
    table: pd.DataFrame
    null: NDArray[np.float64]


def search_description(
    activity: Any,
    tokens: Tokens,
    split: Split,
    *,
    units: Sequence[int] | None = None,
    names: Sequence[str] | str = "unit",
    criterion: str = "balanced_accuracy",
    threshold: float | str = "auto",
    quantile: float = 0.99,
    penalty: float = 0.005,
    max_parts: int = 3,
    max_set: int = 8,
    beam: int = 8,
    families: Sequence[str] | None = None,
    min_count: int = 3,
    n_null: int = 0,
    n_boot: int = 500,
    seed: int = 0,
    batch: int = 128,
    progress: Progress | None = None,
) -> Described:
    """Find, for each unit, the short predicate that predicts best on which tokens the unit is active.

    Every simple predicate that occurs in the making texts (`FAMILIES`) is scored for every unit by one sparse
    product; the best of each family, their negations and sets of tokens are combined by and, or, not up to
    `max_parts`. Of all, the one with the largest

        criterion - penalty x length

    is taken, on the documents of `split.making` alone. `score` is the criterion on `split.held_out`.

    Parameters
    ----------
    activity
        (tokens, units): tensor, array or `SparseCodes`, rows as in `tokens`.
    tokens
        `Tokens`; give it a `wordnet` for the families that need one, an `embed` for centroids of sentences.
    split
        Which documents make descriptions and which score them.
    units
        Columns to describe; default: all.
    names
        Address of each, or a site to number them in.
    criterion
        ``"balanced_accuracy"`` or ``"average_precision"``.
    threshold, quantile
        Above which activity a unit counts as active; see `threshold_of`.
    penalty
        What a part of the description must win.
    max_parts, max_set, beam, families, min_count
        Size and breadth of the search.
    n_null
        Units (drawn at random) that are described again with their activity shifted against the text by at least a
        tenth of it: what the search finds where there is nothing to find.
    n_boot, seed
        Resamples of groups for the interval; seed of these, of the null and of the shuffled descriptions.
    batch
        Units at a time. The result does not depend on it.
    progress
        Told the units done and the units in all.

    Returns
    -------
    Described

    Raises
    ------
    PatchclampError
        For rows that do not match, NaN or Inf in the activity, and documents that the split does not know.

    Examples
    --------
    >>> text = [["the", " cat", " saw", " a", " dog"], ["a", " cat", " ran"], ["the", " cat"], ["no", " cat"]]
    >>> tokens = Tokens.of(text * 3, groups=range(12))
    >>> held = np.array([[piece == " cat"] for piece in tokens.pieces], float)
    >>> split = Split(frozenset(tokens.fingerprints[:2]), frozenset(tokens.fingerprints[2:4]))
    >>> found = search_description(held, tokens, split, n_boot=20, threshold=0.5)
    >>> found.descriptions[0].text, float(found.table.score[0])
    ('the token “cat”', 1.0)
    """
    source = TokenActivity.on(activity, tokens)
    chosen = list(range(source.shape[1])) if units is None else [int(u) for u in units]
    named = [f"{names}[{u}]" for u in chosen] if isinstance(names, str) else list(names)
    if len(named) != len(chosen) or any(not 0 <= u < source.shape[1] for u in chosen):
        raise PatchclampError(
            f"units: {len(named)} names for {len(chosen)} units of 0..{source.shape[1] - 1}; wanted one each"
        )
    check_threshold(threshold, quantile)
    check_choice("criterion", criterion, CRITERIA)
    made_rows, held_rows = split.rows(tokens)
    made, held = tokens.take(split.made(tokens)), tokens.take(split.held(tokens))
    search = Search(
        candidates_of(made, families, min_count),
        CRITERIA[criterion],
        penalty,
        max_parts=max_parts,
        beam=beam,
        max_set=max_set,
    )
    run = _BatchSearch(source, search, made, made_rows, (threshold, quantile), batch, progress)
    used = frozenset(made.fingerprints)
    facts = {"criterion": criterion, "penalty": penalty, "seed": seed, "tokens": len(made)}
    described, thresholds = run(chosen, named, used, facts)
    table = held_out_rows(
        described, source, chosen, thresholds, held, held_rows, search.criterion, n_boot, seed
    )
    if n_boot:
        described = [
            _kept(d, row, len(held), search) for d, row in zip(described, table.itertuples(), strict=True)
        ]
        table["description"] = [d.text for d in described]
    null = _null(run, source, chosen, held, held_rows, min(n_null, len(chosen)), seed, search)
    table["p"] = [permutation_p(s, null) if len(null) and np.isfinite(s) else np.nan for s in table["score"]]
    return Described(described, table, null)


def _kept(one: Description, row: Any, n: int, search: Search) -> Description:
    """The description, or that there is none: its score on held-out text has to lie above chance with its whole interval."""
    if one.predicate is None or row.low > chance(search.criterion, row.active, n - row.active):
        return one
    return replace(one, text=NOTHING, predicate=None, facts={**one.facts, "tried": one.text})


@dataclass(frozen=True)
class _BatchSearch:
    """Describe units, a batch at a time."""

    source: TokenActivity
    search: Search
    made: Tokens
    rows: Ints
    level: tuple[float | str, float]
    batch: int
    progress: Progress | None

    def __call__(
        self, units: Sequence[int], names: Sequence[str], used: frozenset[str], facts: dict[str, Any]
    ) -> tuple[list[Description], list[float]]:
        out: list[Description] = []
        levels: list[float] = []
        for first in range(0, len(units), self.batch):
            part = list(units[first : first + self.batch])
            values = self.source.columns(part)[self.rows]
            own = [threshold_of(values[:, i], *self.level) for i in range(len(part))]
            held = values > np.asarray(own, np.float32)
            for i, found in enumerate(self.described(held)):
                more = facts | {"threshold": own[i], "active": int(held[:, i].sum())}
                name = names[first + i]
                if found is None:
                    text = "never active" if not held[:, i].any() else "always active"
                    out.append(Description(name, text, "search_description", None, used, more))
                else:
                    more |= {"made": found.score, "length": found.predicate.length}
                    text = str(found.predicate)
                    out.append(Description(name, text, "search_description", found.predicate, used, more))
            levels += own
            if self.progress is not None:
                self.progress("describing", len(out), len(units))
        return out, levels

    def described(self, held: Mask) -> list[Any]:
        """What the search finds for each column of `held`."""
        hits = self.search.counts(held)
        return [
            self.search.unit(hits[:, i], held[:, i], self._centroid(held[:, i])) for i in range(held.shape[1])
        ]

    def _centroid(self, held: Mask) -> list[Atom]:
        """Sentences near those in which the unit is active, where an embedding of sentences is given."""
        if self.made.embed is None or not held.any() or held.all():
            return []
        vectors, number = self.made.sentence_vectors, self.made.sentence_of
        size = np.bincount(number, minlength=len(vectors)).astype(float)
        hits = np.bincount(number, weights=held, minlength=len(vectors))
        centre = hits @ vectors / hits.sum() - (size - hits) @ vectors / (size - hits).sum()
        length = float(np.linalg.norm(centre))
        if length < 1e-9:
            return []
        near = vectors @ (centre / length)
        order = np.argsort(-near, kind="stable")
        tp, total = np.cumsum(hits[order]), np.cumsum(size[order])
        worth = self.search.criterion(tp, total - tp, hits.sum(), size.sum() - hits.sum())
        # A threshold lies between two different values only.
        worth[:-1][near[order][:-1] == near[order][1:]] = -np.inf
        cut = int(np.argmax(worth[:-1])) if len(order) > 1 else 0
        if len(order) < 2 or not np.isfinite(worth[cut]):
            return []
        level = float(near[order[cut]] + near[order[cut + 1]]) / 2
        vector = tuple(float(x) for x in centre / length)
        predicate = Centroid(vector, level, self.made.sentences[int(order[0])])
        return [Atom((), predicate, predicate.evaluate(self.made))]


def _null(
    run: _BatchSearch,
    source: TokenActivity,
    units: Sequence[int],
    held: Tokens,
    held_rows: Ints,
    n_null: int,
    seed: int,
    search: Search,
) -> NDArray[np.float64]:
    """Held-out scores of descriptions found after activity was shifted along the texts, in both halves."""
    rng = numpy_rng([seed, 1])
    picked = rng.permutation(len(units))[:n_null]
    out = []
    for place in picked:
        unit = [units[int(place)]]
        values = source.columns(unit)[run.rows]
        level = threshold_of(values[:, 0], *run.level)
        shift = rng.integers(len(values) // 10, len(values) - len(values) // 10)
        found = run.described(np.roll(values > np.float32(level), shift, axis=0))[0]
        if found is None:
            continue
        target = active(source, unit, held_rows, [level])[:, 0]
        target = np.roll(target, rng.integers(len(target) // 10, len(target) - len(target) // 10))
        said = found.predicate.evaluate(held)
        tp, fp = float((said & target).sum()), float((said & ~target).sum())
        out.append(float(search.criterion(tp, fp, target.sum(), (~target).sum())))
    scores = np.asarray(out, dtype=np.float64)
    return scores[np.isfinite(scores)]
