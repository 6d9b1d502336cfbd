"""From a program to the weights of a transformer that computes it, with every edge a module.

Every expression has a part of the stream to itself: one dimension a value, or one in all for numbers. BOS stands
first, and a constant one is written by the embedding. A selection becomes a head: scores are `COLDNESS` where the
predicate holds and 0 elsewhere, and half of it at BOS, which so catches rows that select nothing. A map becomes rectified
units, one for each value (or pair of values). A width becomes a head that attends evenly to BOS and to all selected
positions, so that BOS receives 1 / (1 + n), and steps that turn this number into n. Layers have heads, then an MLP;
an expression is computed as early as its inputs allow. No norm, no mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.truth.rasp import Aggregate, Expr, Indices, InputTokens, Map, Map2, Program, Value, Width
from patchclamp.truth.wiring import Head, Stream, Wiring, heads_and_mlps, linear

COLDNESS = 100.0
# How steep a step is; raised where neighbouring values of 1 / (1 + n) lie closer than its ramp.
STEEP = 100.0
TOLERANCE = 1e-6

Weights = Float[Tensor, "d_in d_out"]


@dataclass
class _StreamLayout:
    """Where in the stream each expression lives, and at which half-layer it is written: 2 l heads, 2 l + 1 MLP."""

    program: Program
    at: dict[Expr | str, slice] = field(default_factory=dict)
    slot: dict[Expr | str, int] = field(default_factory=dict)
    d: int = 0

    def __post_init__(self) -> None:
        self._room("bos", 1, -1)
        self._room("one", 1, -1)
        self._token = self._room("tokens", len(self.program.vocabulary), -1)
        self._index = self._room("indices", self.program.length, -1)
        self.place(self.program.output)

    def _room(self, key: Expr | str, size: int, slot: int) -> slice:
        self.at[key] = slice(self.d, self.d + size)
        self.slot[key] = slot
        self.d += size
        return self.at[key]

    def place(self, expression: Expr) -> None:
        """Give an expression, and first what it reads, room in the stream."""
        if expression in self.at:
            return
        if isinstance(expression, (InputTokens, Indices)):
            self.at[expression] = self._token if isinstance(expression, InputTokens) else self._index
            self.slot[expression] = -1
            return
        for source in expression.inputs:
            self.place(source)
            if source.numerical and not (isinstance(expression, Aggregate) and source is expression.values):
                raise PatchclampError(
                    f"{self.program.name}: {type(expression).__name__} reads numbers, and maps and selections are "
                    "compiled for one-hot values only; aggregate numbers last"
                )
        ready = max(self.slot[source] for source in expression.inputs) + 1
        heads = ready + ready % 2
        if isinstance(expression, Width):
            self._room(f"{id(expression)} share", 1, heads)
            self._room(expression, len(self.program.values(expression)), heads + 1)
        else:
            slot = heads if isinstance(expression, Aggregate) else ready + 1 - ready % 2
            size = 1 if expression.numerical else len(self.program.values(expression))
            self._room(expression, size, slot)

    def share(self, width: Width) -> slice:
        """Where the head of a width writes 1 / (1 + n)."""
        return self.at[f"{id(width)} share"]

    def cells(self, expression: Expr) -> dict[Value, int]:
        """Value -> dimension of a one-hot expression."""
        return {v: self.at[expression].start + i for i, v in enumerate(self.program.values(expression))}

    def at_slot(self, slot: int) -> list[Expr]:
        """Expressions that a half-layer works on: a width belongs to its head and to its MLP."""
        heads = [e for e in self.at if isinstance(e, Width) and self.slot[e] == slot + 1]
        return [*heads, *(e for e in self.at if isinstance(e, Expr) and self.slot[e] == slot and slot >= 0)]


class Compiled(nn.Module):
    """A transformer that computes a program; all edges are modules (`edges`), so are heads a0h0 and MLPs m0.

    Parameters
    ----------
    program
        What it computes.

    Examples
    --------
    >>> from patchclamp.truth.rasp import reverse
    >>> net = Compiled(reverse())
    >>> net.decode(net(net.encode([("1", "1", "2", "3", "3")])))
    [['3', '3', '2', '1', '1']]
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        layout = _StreamLayout(program)
        self._numerical = program.output.numerical
        n_layers = max(layout.slot.values()) // 2 + 1
        self.emb = linear(_embedding(layout))
        counts = []
        for layer in range(n_layers):
            found = layout.at_slot(2 * layer)
            heads = [_head(layout, e) for e in found if isinstance(e, (Width, Aggregate))] or [
                _idle_head(layout)
            ]
            for number, head in enumerate(heads):
                self.add_module(f"a{layer}h{number}", head)
            maps = [e for e in layout.at_slot(2 * layer + 1) if isinstance(e, (Width, Map, Map2))]
            self.add_module(f"m{layer}", _mlp(layout, maps))
            counts.append(len(heads))
        self.heads = tuple(counts)
        self.edges = Wiring(heads_and_mlps([(n, True) for n in counts], ["emb"]))
        read = torch.eye(layout.d, dtype=torch.float64)[:, layout.at[program.output]]
        self.out = linear(read)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of what writes into the stream, in the order of the pass."""
        return self.edges.sources["out"]

    def forward(self, inputs: Float[Tensor, "item pos one_hot"]) -> Float[Tensor, "item pos value"]:
        """One number a value (for numerical programs: the value) at each position after BOS."""
        written: dict[str, Stream] = {"emb": self.emb(inputs)}
        for layer, n_heads in enumerate(self.heads):
            for head in [f"a{layer}h{h}" for h in range(n_heads)]:
                parts = [self.edges.into(f"{head}_{part}", written) for part in "qkv"]
                written[head] = self.get_submodule(head)(*parts)
            written[f"m{layer}"] = self.get_submodule(f"m{layer}")(self.edges.into(f"m{layer}", written))
        out: Tensor = self.out(self.edges.into("out", written))[:, 1:]
        return out

    def encode(self, sequences: Sequence[Sequence[str]]) -> Float[Tensor, "item pos one_hot"]:
        """BOS and tokens, one-hot, beside positions, one-hot."""
        n, vocabulary = self.program.length, self.program.vocabulary
        ids = torch.tensor([[vocabulary.index(t) + 1 for t in tokens] for tokens in sequences])
        tokens = nn.functional.one_hot(nn.functional.pad(ids, (1, 0)), len(vocabulary) + 1)
        places = torch.eye(n + 1).expand(len(ids), n + 1, n + 1)
        return torch.cat([tokens, places], 2).double()

    def decode(self, output: Float[Tensor, "item pos value"]) -> list[list[Value]]:
        """Values of an output; numbers as they are, a position at which no value is above one half as None."""
        if self._numerical:
            return output[..., 0].tolist()
        values = self.program.values(self.program.output)
        best = output.max(2)
        return [
            [values[i] if top > 0.5 else None for i, top in zip(row, tops, strict=True)]
            for row, tops in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def target(self, sequences: Sequence[Sequence[str]]) -> Float[Tensor, "item pos value"]:
        """What `forward` must give, from running the program itself."""
        rows = [self.program.run(tokens) for tokens in sequences]
        if self._numerical:
            return torch.tensor(rows, dtype=torch.float64)[..., None]
        values = self.program.values(self.program.output)
        table: Mapping[Any, list[float]] = {v: [float(v == w) for w in values] for v in (*values, None)}
        return torch.tensor([[table[v] for v in row] for row in rows], dtype=torch.float64)


def _embedding(layout: _StreamLayout) -> Weights:
    """Token and position one-hots to their parts of the stream; every token, BOS too, writes the constant one."""
    n_tokens, n = len(layout.program.vocabulary), layout.program.length
    out = torch.zeros(n_tokens + 1 + n + 1, layout.d, dtype=torch.float64)
    out[: n_tokens + 1, layout.at["one"]] = 1
    out[0, layout.at["bos"]] = 1
    out[1 : n_tokens + 1, layout.at["tokens"]] = torch.eye(n_tokens, dtype=torch.float64)
    out[n_tokens + 2 :, layout.at["indices"]] = torch.eye(n, dtype=torch.float64)
    return out


def _head(layout: _StreamLayout, expression: Width | Aggregate) -> Head:
    """Scores from the predicate over pairs of values, and what BOS gets; values moved as they are."""
    select = expression.select
    keys, queries = layout.cells(select.keys), layout.cells(select.queries)
    query, key = (torch.zeros(layout.d, len(keys) + 1, dtype=torch.float64) for _ in range(2))
    for number, (k, at) in enumerate(keys.items()):
        key[at, number] = 1
        for q, place in queries.items():
            query[place, number] = COLDNESS * bool(select.predicate(k, q))
    key[layout.at["bos"], -1] = 1
    counts = isinstance(expression, Width)
    query[layout.at["one"], -1] = COLDNESS if counts else COLDNESS / 2
    value = torch.zeros(layout.d, layout.d, dtype=torch.float64)
    if isinstance(expression, Width):
        value[layout.at["bos"], layout.share(expression)] = 1
    else:
        source, target = layout.at[expression.values], layout.at[expression]
        value[source, target] = torch.eye(source.stop - source.start, dtype=torch.float64)
    return Head(query, key, value, causal=False)


def _idle_head(layout: _StreamLayout) -> Head:
    """A head that writes nothing, in layers whose attention the program does not need."""
    nothing = torch.zeros(layout.d, 1, dtype=torch.float64)
    return Head(nothing, nothing, torch.zeros(layout.d, layout.d, dtype=torch.float64), causal=False)


def _mlp(layout: _StreamLayout, maps: Sequence[Expr]) -> nn.Sequential:
    """All maps of a layer side by side; one idle unit where there is none."""
    units = [unit for expression in maps for unit in _units(layout, expression)] or [({}, {})]
    read, write = (torch.zeros(layout.d, len(units), dtype=torch.float64) for _ in range(2))
    for number, (reads, writes) in enumerate(units):
        for place, weight in reads.items():
            read[place, number] += weight
        for place, weight in writes.items():
            write[place, number] += weight
    return nn.Sequential(linear(read), nn.ReLU(), linear(write.T))


_Unit = tuple[dict[int, float], dict[int, float]]


def _units(layout: _StreamLayout, expression: Expr) -> list[_Unit]:
    """Rectified units of one map: (dimension -> weight) read, and the same written."""
    one = layout.at["one"].start
    if isinstance(expression, Map):
        pairs = [({at: 1.0}, expression.function(v)) for v, at in layout.cells(expression.source).items()]
    elif isinstance(expression, Map2):
        sides = [layout.cells(side).items() for side in expression.inputs]
        pairs = [
            (_added({a: 1.0}, {b: 1.0}, {one: -1.0}), expression.function(v, w))
            for (v, a), (w, b) in product(*sides)
        ]
    else:
        assert isinstance(expression, Width)
        return _steps(layout, expression)
    if expression.numerical:
        return [(reads, {layout.at[expression].start: float(value)}) for reads, value in pairs]
    cells = layout.cells(expression)
    return [(reads, {cells[value]: 1.0}) for reads, value in pairs]


def _steps(layout: _StreamLayout, width: Width) -> list[_Unit]:
    """Units that turn s = 1 / (1 + n) into n, one-hot: n is k where s is above the step below k, and not the next.

    A step at t is relu(L (s - t) + 1/2) - relu(L (s - t) - 1/2). At BOS itself nothing is written.
    """
    share, one, bos = layout.share(width).start, layout.at["one"].start, layout.at["bos"].start
    cells, n = layout.cells(width), layout.program.length
    shares = [1 / (1 + k) for k in range(n + 1)]
    steep = max(STEEP, 2 / (shares[-2] - shares[-1]))
    units: list[_Unit] = []
    for k in range(n + 1):
        # Below the smallest share lies nothing: the step of k = n is always on.
        middle = (shares[k] + shares[k + 1]) / 2 if k < n else 0.0
        for half, sign in ((0.5, 1.0), (-0.5, -1.0)):
            reads = {share: steep, one: half - steep * middle, bos: -2 * steep}
            writes = {cells[k]: sign} | ({cells[k + 1]: -sign} if k < n else {})
            units.append((reads, writes))
    return units


def _added(*parts: Mapping[int, float]) -> dict[int, float]:
    total: dict[int, float] = {}
    for part in parts:
        for place, weight in part.items():
            total[place] = total.get(place, 0.0) + weight
    return total
