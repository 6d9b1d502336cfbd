"""The search for the predicate of one unit: the best simple ones, sets of tokens, and short combinations.

Every step needs counts alone. With rows r_i (1 where predicate i holds, 0 elsewhere) over all tokens and over the
active ones, the products R R' count how often two hold together; and, or, and-not follow from them:
|a and b|, |a| + |b| - |a and b|. Counts are whole numbers below 2^24, so float32 products are exact and the answer
does not depend on how units are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patchclamp.describe.predicates import After, And, Not, Or, Predicate, TokenSet, WordSet
from patchclamp.describe.search.candidates import Candidates
from patchclamp.describe.search.criteria import Criterion
from patchclamp.describe.tokens import Ints, Mask

__all__ = ["Found", "Search"]

Rows = NDArray[np.float32]
SETS = ("token", "word", "previous")


@dataclass(frozen=True)
class Atom:
    """A row of the pool: candidates joined by or, perhaps negated; or a predicate with a row of its own."""

    members: tuple[int, ...]
    predicate: Predicate
    row: Mask | None = None


@dataclass(frozen=True)
class Found:
    """What the search found for a unit: the predicate and its worth on the tokens that made it."""

    predicate: Predicate
    score: float
    penalised: float


@dataclass(frozen=True)
class Search:
    """How the search is done.

    Parameters
    ----------
    candidates
        Of the tokens that make descriptions.
    criterion
        Worth of counts.
    penalty
        What a part of a description costs.
    per_family
        Best candidates of each family that enter combinations.
    max_parts, beam, max_set
        Parts of a combination; combinations kept on the way; tokens in a set.
    """

    candidates: Candidates
    criterion: Criterion
    penalty: float
    per_family: int = 6
    max_parts: int = 3
    beam: int = 8
    max_set: int = 8
    lengths: NDArray[np.float64] = field(init=False)
    totals: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        own = self.candidates
        object.__setattr__(self, "lengths", np.array([p.length for p in own.predicates]))
        object.__setattr__(self, "totals", np.diff(own.matrix.indptr).astype(np.float64))

    def counts(self, held: Mask) -> NDArray[np.float64]:
        """(candidates, units) how often each candidate holds while each unit is active: one sparse product."""
        product: NDArray[np.float32] = self.candidates.matrix @ held.astype(np.float32)
        return product.astype(np.float64)

    def unit(self, hits: NDArray[np.float64], held: Mask, extra: Sequence[Atom] = ()) -> Found | None:
        """The best predicate for one unit; None for a unit that is never, or always, active."""
        p, n = float(held.sum()), float((~held).sum())
        if not p or not n:
            return None
        pool = self._pool(hits, p, n) + list(extra)
        rows = np.stack([self._row(atom) for atom in pool])
        state = _Beam(self, pool, rows, held)
        return state.run()

    def _pool(self, hits: NDArray[np.float64], p: float, n: float) -> list[Atom]:
        own = self.candidates
        worth = self.criterion(hits, self.totals - hits, p, n) - self.penalty * self.lengths
        against = self.criterion(p - hits, n - self.totals + hits, p, n) - self.penalty * (self.lengths + 0.5)
        atoms: list[Atom] = []
        for name, (first, last) in own.family.items():
            for i in _best(worth[first:last], self.per_family) + first:
                atoms.append(Atom((int(i),), own.predicates[i]))
            for i in _best(against[first:last], 2) + first:
                atoms.append(Atom((int(i),), Not(own.predicates[i])))
            if name in SETS and last > first:
                atoms += self._sets(hits, p, n, first, last)
        return _distinct(atoms, hits, self.totals)

    def _sets(self, hits: NDArray[np.float64], p: float, n: float, first: int, last: int) -> list[Atom]:
        """The best set of disjoint candidates: by gain tp / p - fp / n, and by precision among those that count.

        Under balanced accuracy a member is worth its gain whatever else is in the set, so the first order is the
        best there is.
        """
        tp, total = hits[first:last], self.totals[first:last]
        gain = tp / p - (total - tp) / n
        precise = np.where(tp >= np.maximum(3, 0.02 * p), tp / total, -1)
        atoms = []
        for order in (_best(gain, self.max_set), _best(precise, self.max_set)):
            order = order[(gain[order] > 0) & (precise[order] >= 0) | (gain[order] > 0.01)]
            if len(order) < 2:
                continue
            sums = np.cumsum(tp[order]), np.cumsum(total[order])
            cost = self.penalty * (1 + np.arange(len(order)) / 4)
            size = 1 + int(np.argmax(self.criterion(sums[0], sums[1] - sums[0], p, n) - cost))
            if size > 1:
                members = tuple(int(i) + first for i in order[:size])
                atoms.append(Atom(members, _joined([self.candidates.predicates[i] for i in members])))
        return atoms

    def _row(self, atom: Atom) -> Rows:
        matrix = self.candidates.matrix
        row = np.zeros(matrix.shape[1], np.float32)
        if atom.row is not None:
            row[atom.row] = 1
            return row
        for i in atom.members:
            row[matrix.indices[matrix.indptr[i] : matrix.indptr[i + 1]]] = 1
        return 1 - row if isinstance(atom.predicate, Not) else row


class _Beam:
    """Combinations of the pool's rows, one part longer at each step."""

    def __init__(self, search: Search, pool: list[Atom], rows: Rows, held: Mask) -> None:
        self.search, self.rows = search, rows
        self.predicates = [atom.predicate for atom in pool]
        self.active = np.ascontiguousarray(rows[:, held])
        self.p, self.n = float(held.sum()), float((~held).sum())
        self.held = held
        self.total, self.hits = _sums(rows), _sums(self.active)

    def worth(self, hits: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.search.criterion(hits, total - hits, self.p, self.n)

    def run(self) -> Found:
        search, single = self.search, self.worth(self.hits, self.total)
        lengths = np.array([p.length for p in self.predicates])
        cost = single - search.penalty * lengths
        top = int(np.argmax(cost))
        best = Found(self.predicates[top], float(single[top]), float(cost[top]))
        parents, rows, active = list(self.predicates), self.rows, self.active
        for _ in range(1, search.max_parts):
            step = self._extend(parents, rows, active, lengths)
            if not step:
                break
            parents = [found.predicate for found, _ in step]
            rows = np.stack([row for _, row in step])
            active = np.ascontiguousarray(rows[:, self.held])
            if step[0][0].penalised > best.penalised + 1e-12:
                best = step[0][0]
        return best

    def _extend(
        self, parents: list[Predicate], rows: Rows, active: Rows, lengths: NDArray[np.float64]
    ) -> list[tuple[Found, Rows]]:
        """The best combinations of a parent with a row of the pool that beat both by more than their length costs."""
        search = self.search
        both, both_active = (rows @ self.rows.T).astype(float), (active @ self.active.T).astype(float)
        total, hits = _sums(rows), _sums(active)
        own = np.array([p.length for p in parents])
        price = search.penalty * (own[:, None] + lengths)
        floor = np.maximum(
            (self.worth(hits, total) - search.penalty * own)[:, None],
            self.worth(self.hits, self.total) - search.penalty * lengths,
        )
        joined = self.worth(both_active, both)
        either = self.worth(hits[:, None] + self.hits - both_active, total[:, None] + self.total - both)
        found: list[tuple[float, int, int, int]] = []
        for kind, scores in enumerate((joined, either)):
            gain = np.where(scores - price > floor + 1e-12, scores - price, -np.inf).ravel()
            for at in _best(gain, 3 * search.beam):
                if np.isfinite(gain[at]):
                    found.append((float(gain[at]), kind, *divmod(int(at), scores.shape[1])))
        return self._kept(sorted(found, key=lambda f: (-f[0], *f[1:])), parents, rows, (joined, either))

    def _kept(
        self,
        found: Sequence[tuple[float, int, int, int]],
        parents: list[Predicate],
        rows: Rows,
        scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    ) -> list[tuple[Found, Rows]]:
        kept: list[tuple[Found, Rows]] = []
        for penalised, kind, i, j in found:
            predicate = combined(And if kind == 0 else Or, parents[i], self.predicates[j])
            row = rows[i] * self.rows[j] if kind == 0 else np.maximum(rows[i], self.rows[j])
            if predicate is None or any(np.array_equal(row, other) for _, other in kept):
                continue
            kept.append((Found(predicate, float(scores[kind][i, j]), penalised), row))
            if len(kept) == self.search.beam:
                break
        return kept


def combined(kind: type[And | Or], one: Predicate, other: Predicate) -> Predicate | None:
    """Join two predicates, flattening; None where one holds the other already."""
    mine = one.parts if isinstance(one, kind) else (one,)
    if other in mine:
        return None
    return kind((*mine, other))


def _sums(rows: Rows) -> NDArray[np.float64]:
    """Sums of rows of ones and zeros, exact below 2^24 columns; a product is faster than a sum."""
    return (rows @ np.ones(rows.shape[1], np.float32)).astype(np.float64)


def _joined(parts: Sequence[Predicate]) -> Predicate:
    """One set from sets of one."""
    first = parts[0]
    if isinstance(first, After):
        return After(_joined([part.part for part in parts if isinstance(part, After)]), first.by)
    if isinstance(first, TokenSet):
        return TokenSet(tuple(part.tokens[0] for part in parts if isinstance(part, TokenSet)))
    return WordSet(tuple(part.words[0] for part in parts if isinstance(part, WordSet)))


def _best(values: NDArray[np.float64], k: int) -> Ints:
    """Places of the k largest values, best first; among equal ones the first."""
    if k < len(values):
        cut = np.partition(values, len(values) - k)[len(values) - k]
        places = np.flatnonzero(values >= cut)
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")][:k].astype(np.int64)


def _distinct(atoms: list[Atom], hits: NDArray[np.float64], totals: NDArray[np.float64]) -> list[Atom]:
    """Of atoms that hold equally often, on active and on all tokens, the shortest: mostly they are the same tokens."""
    kept: dict[tuple[bool, float, float], Atom] = {}
    for atom in atoms:
        members = list(atom.members)
        key = (isinstance(atom.predicate, Not), float(hits[members].sum()), float(totals[members].sum()))
        if key not in kept or atom.predicate.length < kept[key].predicate.length:
            kept[key] = atom
    return list(kept.values())
