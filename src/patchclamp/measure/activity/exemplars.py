"""The samples on which each unit is most active, and the text around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import did_you_mean
from patchclamp.nouns.measure import Measure, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

_KEYS: dict[str, Callable[[Tensor], Tensor]] = {"max": lambda a: a, "min": torch.neg, "abs": torch.abs}
_BLANK: dict[str, float] = {"key": -torch.inf, "value": torch.nan, "doc": -1, "position": -1, "token": -1}
_COLUMNS = tuple(_BLANK)


class Exemplars(Measure):
    """The k samples with the largest activity of each unit, exactly, whatever the order of the data.

    Ties go to the lower document, then the lower position. With `per_doc` every document counts once, with
    its best sample, which keeps one document from filling the list (an exact merge still).

    Parameters
    ----------
    k
        Samples a unit.
    by
        ``"max"``, ``"min"`` (most negative) or ``"abs"`` (largest size).
    per_doc
        At most one sample a document.

    Examples
    --------
    >>> from patchclamp.nouns.recording.recording import Samples
    >>> m = Exemplars(k=1)
    >>> m.update(torch.tensor([[0.0], [5.0]]), Samples.of(torch.zeros(2), torch.arange(2)))
    >>> m.result()["position"].values.tolist()
    [[1]]
    """

    name = "exemplars"
    fields = _COLUMNS

    # k x units each; empty places have key -inf and document -1
    key: Tensor
    value: Tensor
    doc: Tensor
    position: Tensor
    token: Tensor

    def __init__(self, *, k: int = 10, by: str = "max", per_doc: bool = False) -> None:
        require(k > 0, f"Exemplars: k={k}; keep at least one sample a unit")
        require(by in _KEYS, f"Exemplars: by={by!r}; one of {', '.join(_KEYS)}{did_you_mean(by, _KEYS)}")
        self.k, self.by, self.per_doc = int(k), by, bool(per_doc)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        self._prepare(values.shape[1])
        keys = _KEYS[self.by](values)
        level = self.key[-1].to(keys)
        above = keys >= level  # equal ones too: they may win by their place
        if bool(level.isfinite().all()) and int(above.sum(0).amax()) <= 4 * self.k:
            self._add_few(keys, values, above, samples)
        else:
            self._add_many(keys, values, above.any(0).nonzero()[:, 0], samples)

    def _add_few(self, keys: Tensor, values: Tensor, above: Tensor, samples: Samples) -> None:
        """Lists are full and few samples enter them, as in most batches: these alone are looked at."""
        rows, columns = (index.cpu() for index in above.nonzero(as_tuple=True))
        if not len(rows):
            return
        order = columns.argsort(stable=True)
        rows, columns = rows[order], columns[order]
        units, place, counts = columns.unique(return_inverse=True, return_counts=True)
        slot = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[place]
        shape = (int(counts.max()), len(units))
        entries = self._entries(keys[rows, columns], values[rows, columns], rows, samples)
        found = {name: torch.full(shape, _BLANK[name], dtype=entry.dtype) for name, entry in entries.items()}
        for name, entry in entries.items():
            found[name][slot, place] = entry
        self._join(units, found)

    def _add_many(self, keys: Tensor, values: Tensor, units: Tensor, samples: Samples) -> None:
        """The best samples of the batch for each of `units`."""
        order = torch.from_numpy(np.lexsort((samples.position.cpu().numpy(), samples.doc.cpu().numpy())))
        keys, values = keys.index_select(1, units), values.index_select(1, units)
        keys = keys[order.to(keys.device)]
        rows = _best_per_doc(keys, samples.doc.cpu()[order]) if self.per_doc else _best_rows(keys, self.k)
        original = order[rows.cpu()]
        picked = values.gather(0, original.to(values.device))
        self._join(units.cpu(), self._entries(keys.gather(0, rows), picked, original, samples))

    @staticmethod
    def _entries(keys: Tensor, values: Tensor, rows: Tensor, samples: Samples) -> dict[str, Tensor]:
        places = {name: getattr(samples, name).cpu()[rows] for name in ("doc", "position", "token")}
        return {"key": keys.cpu().double(), "value": values.cpu().double(), **places}

    def _merge(self, other: Self) -> None:
        self._join(torch.arange(other.key.shape[1]), {name: getattr(other, name) for name in _COLUMNS})

    def _prepare(self, units: int) -> None:
        if not hasattr(self, "key"):
            for name, blank in _BLANK.items():
                kind = torch.float64 if name in ("key", "value") else torch.int64
                setattr(self, name, torch.full((self.k, units), blank, dtype=kind))

    def _join(self, units: Int[Tensor, " u"], found: dict[str, Tensor]) -> None:
        table = {name: torch.cat([getattr(self, name)[:, units], found[name]]) for name in _COLUMNS}
        order = _ranked(table)
        if (
            self.per_doc
        ):  # at least k entries are no repeats: the k old places hold distinct documents or nothing
            order = order.gather(0, _first_of_doc(table["doc"].gather(0, order)))
        for name in _COLUMNS:
            getattr(self, name)[:, units] = table[name].gather(0, order[: self.k])

    def result(self) -> xr.Dataset:
        """Dataset over (unit, rank): value, doc, position, token; NaN and -1 for want of samples."""
        self._need_data()
        axes = ("unit", "rank")
        return self._dataset(
            {
                "value": (axes, self.value.T),
                "doc": (axes, self.doc.T),
                "position": (axes, self.position.T),
                "token": (axes, self.token.T),
            },
            {"rank": np.arange(self.k)},
            by=self.by,
        )


def _best_rows(keys: Float[Tensor, "n units"], k: int) -> Int[Tensor, "k units"]:
    """Rows of the k largest keys of each column; among equal keys the first rows."""
    k = min(k, len(keys))
    top, rows = keys.topk(k, dim=0)
    # Which of several equal keys topk gives is undefined: where the last one is shared, sort stably.
    tied = ((keys >= top[-1]).sum(0) > k).nonzero()[:, 0]
    if len(tied):
        rows[:, tied] = keys[:, tied].sort(dim=0, descending=True, stable=True).indices[:k]
    return rows


def _best_per_doc(keys: Float[Tensor, "n units"], doc: Int[Tensor, " n"]) -> Int[Tensor, "docs units"]:
    """Row of each document's largest key in each column (rows sorted by document; first of equals)."""
    _, counts = doc.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    return torch.stack(
        [
            keys[e - c : e].max(0).indices + (e - c)
            for e, c in zip(ends.tolist(), counts.tolist(), strict=True)
        ]
    )


def _ranked(table: dict[str, Tensor]) -> Int[Tensor, "m units"]:
    """Order of each column: largest key first, then lower document, then lower position."""
    order = table["position"].argsort(dim=0, stable=True)
    order = order.gather(0, table["doc"].gather(0, order).argsort(dim=0, stable=True))
    return order.gather(0, table["key"].gather(0, order).argsort(dim=0, descending=True, stable=True))


def _repeats(doc: Int[Tensor, "m units"]) -> Tensor:
    """True where a column has the same document (not -1) further up."""
    by_doc, order = doc.sort(dim=0, stable=True)
    again = torch.zeros_like(doc, dtype=torch.bool)
    again[1:] = (by_doc[1:] == by_doc[:-1]) & (by_doc[1:] >= 0)
    return torch.zeros_like(again).scatter_(0, order, again)


def _first_of_doc(doc: Int[Tensor, "m units"]) -> Int[Tensor, "m units"]:
    """Order that moves repeats of a document behind everything else."""
    return _repeats(doc).int().argsort(dim=0, stable=True)
