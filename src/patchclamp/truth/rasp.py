"""A small language of sequence programs that attention and MLPs can carry out (after RASP), and its interpreter.

A program is an expression over the tokens and positions of a sequence: maps of values, position by position, and
selections, which say from which positions (keys) another position (query) reads. `rasp_compile` turns it into the
weights of a transformer that computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from patchclamp.base.errors import PatchclampError

Value = Any


@dataclass(frozen=True, eq=False)
class Expr:
    """One value a position. `numerical` values are numbers in one dimension, others are one-hot."""

    @property
    def numerical(self) -> bool:
        """Whether values are numbers in one dimension."""
        return False

    @property
    def inputs(self) -> tuple[Expr, ...]:
        """The expressions that it reads."""
        return ()


@dataclass(frozen=True, eq=False)
class InputTokens(Expr):
    """The token at each position."""


@dataclass(frozen=True, eq=False)
class Indices(Expr):
    """The position itself, from 0."""


@dataclass(frozen=True, eq=False)
class Map(Expr):
    """`function` of one expression; with `number` its values are numbers in one dimension."""

    function: Callable[[Value], Value]
    source: Expr
    number: bool = False

    @property
    def numerical(self) -> bool:
        """As asked for."""
        return self.number

    @property
    def inputs(self) -> tuple[Expr, ...]:
        """The one it reads."""
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Map2(Expr):
    """`function` of two expressions at the same position."""

    function: Callable[[Value, Value], Value]
    left: Expr
    right: Expr

    @property
    def inputs(self) -> tuple[Expr, ...]:
        """Both."""
        return (self.left, self.right)


@dataclass(frozen=True, eq=False)
class Select:
    """Pairs of positions: query i reads key j where `predicate` (key's value, query's value) is true."""

    keys: Expr
    queries: Expr
    predicate: Callable[[Value, Value], bool]


@dataclass(frozen=True, eq=False)
class Aggregate(Expr):
    """The mean of the selected positions' numbers (0 where none is), or their common value (None where none is)."""

    select: Select
    values: Expr

    @property
    def numerical(self) -> bool:
        """As its values."""
        return self.values.numerical

    @property
    def inputs(self) -> tuple[Expr, ...]:
        """Keys, queries and values."""
        return (self.select.keys, self.select.queries, self.values)


@dataclass(frozen=True, eq=False)
class Width(Expr):
    """How many positions are selected."""

    select: Select

    @property
    def inputs(self) -> tuple[Expr, ...]:
        """Keys and queries."""
        return (self.select.keys, self.select.queries)


@dataclass(frozen=True)
class Program:
    """An expression, and the inputs for which it is compiled.

    Parameters
    ----------
    name
        Printed in tables.
    output
        The expression whose values are the output.
    vocabulary
        Tokens that may occur.
    length
        Of all sequences.
    """

    name: str
    output: Expr
    vocabulary: tuple[str, ...]
    length: int

    def inputs(self) -> list[tuple[str, ...]]:
        """All sequences, in lexical order."""
        return list(product(self.vocabulary, repeat=self.length))

    def run(self, tokens: Sequence[str]) -> list[Value]:
        """What the program gives for a sequence.

        Raises
        ------
        PatchclampError
            For tokens that it does not know, another length, or a selection of positions whose values differ.

        Examples
        --------
        >>> reverse().run(("1", "1", "2", "3", "3"))
        ['3', '3', '2', '1', '1']
        """
        unknown = [t for t in tokens if t not in self.vocabulary]
        if unknown or len(tokens) != self.length:
            raise PatchclampError(
                f"{self.name}: takes {self.length} tokens of {', '.join(self.vocabulary)}; got {' '.join(tokens)}"
            )
        return _run(self.output, tuple(tokens))

    def values(self, expression: Expr) -> tuple[Value, ...]:
        """All values that a one-hot expression may take, in a fixed order; a superset is possible."""
        if isinstance(expression, InputTokens):
            return self.vocabulary
        if isinstance(expression, Indices):
            return tuple(range(self.length))
        if isinstance(expression, Map):
            return _distinct(expression.function(v) for v in self.values(expression.source))
        if isinstance(expression, Map2):
            pairs = product(self.values(expression.left), self.values(expression.right))
            return _distinct(expression.function(a, b) for a, b in pairs)
        if isinstance(expression, Aggregate):
            return self.values(expression.values)
        return tuple(range(self.length + 1))


def _distinct(values: Any) -> tuple[Value, ...]:
    return tuple(sorted(set(values)))


def _run(expression: Expr, tokens: tuple[str, ...]) -> list[Value]:
    if isinstance(expression, InputTokens):
        return list(tokens)
    if isinstance(expression, Indices):
        return list(range(len(tokens)))
    if isinstance(expression, Map):
        return [expression.function(v) for v in _run(expression.source, tokens)]
    if isinstance(expression, Map2):
        sides = (_run(side, tokens) for side in expression.inputs)
        return [expression.function(a, b) for a, b in zip(*sides, strict=True)]
    if isinstance(expression, Width):
        return [len(found) for found in _selected(expression.select, tokens)]
    assert isinstance(expression, Aggregate)
    values = _run(expression.values, tokens)
    return [
        _together([values[j] for j in found], expression) for found in _selected(expression.select, tokens)
    ]


def _selected(select: Select, tokens: tuple[str, ...]) -> list[list[int]]:
    keys = _run(select.keys, tokens)
    return [[j for j, k in enumerate(keys) if select.predicate(k, q)] for q in _run(select.queries, tokens)]


def _together(values: list[Value], expression: Aggregate) -> Value:
    if expression.numerical:
        return sum(values) / len(values) if values else 0.0
    if len(set(values)) > 1:
        raise PatchclampError(
            f"aggregate: the positions selected hold different values ({', '.join(map(str, sorted(set(values))))}), and "
            "one-hot values have no mean; make them numbers with Map(..., number=True)"
        )
    return values[0] if values else None


def reverse(vocabulary: tuple[str, ...] = ("1", "2", "3"), length: int = 5) -> Program:
    """The sequence backwards; its length is computed, not given."""
    tokens, indices = InputTokens(), Indices()
    total = Width(Select(tokens, tokens, lambda k, q: True))
    opposite = Map(lambda v: v - 1, Map2(lambda n, i: n - i, total, indices))
    return Program(
        "rasp-reverse", Aggregate(Select(indices, opposite, lambda k, q: k == q), tokens), vocabulary, length
    )


def fraction_of_previous(
    vocabulary: tuple[str, ...] = ("w", "x", "y", "z"), length: int = 5, token: str = "x"
) -> Program:
    """At each position, which share of the tokens up to it is `token`."""
    indices = Indices()
    is_token = Map(lambda t: float(t == token), InputTokens(), number=True)
    return Program(
        "rasp-fraction",
        Aggregate(Select(indices, indices, lambda k, q: k <= q), is_token),
        vocabulary,
        length,
    )


def histogram(vocabulary: tuple[str, ...] = ("a", "b", "c"), length: int = 5) -> Program:
    """At each position, how often its token occurs."""
    tokens = InputTokens()
    return Program("rasp-histogram", Width(Select(tokens, tokens, lambda k, q: k == q)), vocabulary, length)
