"""Measures that need whole rows: a sample of fixed size, the same whatever the order in which rows arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import torch_rng
from patchclamp.base.shuffles import Shuffle
from patchclamp.base.statistics import permutation_p
from patchclamp.nouns.measure import Measure, State, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

Variable = tuple[tuple[str, ...], object]  # dimensions and values
_COLUMNS = ("rows", "doc", "position", "label", "group", "key")


class Kept(Measure):
    """Base of the measures that compare rows with each other: keeps at most `max_samples` rows.

    Every row has a key, a hash of (seed, document, position), and the rows with the smallest keys are kept. That
    is a uniform sample without replacement which does not depend on batches, shards or order, and merges
    exactly. Memory: `max_samples` x units values, whatever the length of the data. All sites keep the
    same rows, so that layers are compared on the same samples.

    A subclass that sets `balanced` keeps at most `max_samples` rows of each label, and none without a label.
    """

    fields = _COLUMNS
    balanced: ClassVar[bool] = False

    rows: Float[Tensor, "n units"]
    doc: Tensor
    position: Tensor
    label: Tensor
    group: Tensor
    key: Tensor

    def __init__(self, *, max_samples: int, n_permutations: int, seed: int) -> None:
        who = type(self).__name__
        require(max_samples >= 2, f"{who}: max_samples={max_samples}; at least 2 rows are compared")
        require(n_permutations >= 0, f"{who}: n_permutations={n_permutations} is negative")
        self.max_samples, self.n_permutations, self.seed = int(max_samples), int(n_permutations), int(seed)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        doc, position = samples.doc.cpu(), samples.position.cpu()
        key = hashed(doc, position, self.seed)
        wanted = torch.ones(len(key), dtype=torch.bool)
        if self.balanced:
            wanted = samples.label.cpu() >= 0
        elif self.n_samples and len(self.key) == self.max_samples:
            wanted = key <= self.key[-1]  # keys rise: all others lose to every row that is kept
        at = wanted.nonzero()[:, 0]
        part = {
            "rows": values[at.to(values.device)].cpu(),
            "doc": doc[at],
            "position": position[at],
            "label": samples.label.cpu()[at],
            "group": samples.group.cpu()[at],
            "key": key[at],
        }
        self._add(**part)

    def _add(self, **part: Tensor) -> None:
        """Join rows and keep those with the smallest keys, in order of the key."""
        part = self._behind(part)
        keys = [part[name].numpy() for name in ("position", "doc", "key")]
        order = torch.from_numpy(np.lexsort(keys))
        if self.balanced:
            order = order[_place_in_label(part["label"][order]) < self.max_samples]
        else:
            order = order[: self.max_samples]
        for name, column in part.items():
            setattr(self, name, column[order])

    def kept(self) -> Float[Tensor, "n units"]:
        """The rows kept, float64."""
        self._need_data()
        return self.rows.double()

    def labelled(
        self,
    ) -> tuple[Float[Tensor, "n units"], Int[Tensor, " n"], Int[Tensor, " labels"], Int[Tensor, " n"]]:
        """Rows that carry a label, their label numbered from 0, the labels' own numbers, groups."""
        self._need_data()
        known = self.label >= 0
        numbers, place = self.label[known].unique(return_inverse=True)
        return self.kept()[known], place, numbers, self.group[known]

    def tested(
        self,
        name: str,
        statistic: Callable[[Int[Tensor, " n"]], float],
        place: Int[Tensor, " n"],
        group: Int[Tensor, " n"],
        *,
        sign: int = 1,
        slack: float = 0.0,
    ) -> dict[str, Variable]:
        """A statistic of the labels, its mean under shuffled ones, and p = (1 + #{shuffles >= value}) / (1 + shuffles).

        With sign -1 small values are the extreme ones; a shuffle within `slack` of the value counts.
        """
        value = statistic(place)
        out: dict[str, Variable] = {name: ((), value)}
        if self.n_permutations:
            null = np.array([statistic(p) for p in self._shuffled(place, group)])
            out[f"{name}_null"] = ((), float(null.mean()))
            out[f"{name}_p"] = ((), permutation_p(sign * value - slack, sign * null))
        return out

    def _shuffled(self, place: Int[Tensor, " n"], group: Int[Tensor, " n"]) -> list[Tensor]:
        """Shuffles of the labels that respect groups (see `Selectivity`)."""
        member = place[None].double()
        try:
            shuffle = Shuffle.of(member, group)
        except PatchclampError as error:
            raise PatchclampError(str(error).replace("Selectivity", self._who)) from None
        generator = torch_rng(self.seed)
        return [shuffle(member, generator)[0].long() for _ in range(self.n_permutations)]


class Rows(Measure):
    """Base of the measures that keep all rows, as one table in order of document and position.

    What comes in waits in `_pending` until the table is needed; `_joined` may make one row of several.
    """

    _pending: Sequence[dict[str, Tensor]] = ()

    def _joined(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        return table

    def _settle(self) -> None:
        """Put what has come in into the table."""
        if not self._pending:
            return
        known: dict[str, Any] = {name: getattr(self, name, None) for name in self.fields}
        parts = self._pending if known[self.fields[0]] is None else [known, *self._pending]
        self._pending = ()
        table = {name: torch.cat([part[name] for part in parts]) for name in self.fields}
        for name, column in self._joined(in_order(table)).items():
            setattr(self, name, column)

    def _merge(self, other: Self) -> None:
        other._settle()
        self._settle()
        self._pending = [{name: getattr(other, name) for name in self.fields}]

    def state(self) -> State:
        """Settings and the table, for `from_state`."""
        self._settle()
        return super().state()


def in_order(table: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows by document, then by position."""
    order = torch.from_numpy(np.lexsort((table["position"].numpy(), table["doc"].numpy())))
    return {name: column[order] for name, column in table.items()}


def check_memory(measure: Any, needed: float, what: str, advice: str = "measure fewer of them") -> None:
    """Refuse what takes more than the measure's `memory_limit`; `what` and `advice` say of what and the way out."""
    limit = measure.memory_limit
    if needed > limit:
        raise PatchclampError(
            f"{measure._who}: {what} need {needed / 2**20:.0f} MiB, the limit is {limit / 2**20:.0f} MiB; "
            f"{advice}, or raise memory_limit"
        )


def hashed(doc: Int[Tensor, " n"], position: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """A 63-bit hash of (seed, document, position), as if drawn at random (the mixing function of splitmix64)."""
    start = np.uint64(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    mixed = _mix(_mix(doc.numpy().astype(np.uint64) ^ start) ^ position.numpy().astype(np.uint64))
    return torch.from_numpy((mixed >> np.uint64(1)).astype(np.int64))


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: np.ndarray = x ^ (x >> np.uint64(31))
    return out


def _place_in_label(label: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """For every row, how many rows of its label come before it."""
    order = label.argsort(stable=True)
    counts = label[order].unique_consecutive(return_counts=True)[1]
    place = torch.empty_like(label)
    place[order] = torch.arange(len(label)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return place
