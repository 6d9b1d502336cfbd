"""Reference items: where the means, the replacement values and the typical activity of units come from."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.nouns.tasks.encode import UNNAMED
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Pair


def from_end(activity: Tensor, batch: Batch) -> Tensor:
    """(batch, pos) distance of each position from the last real one; negative at padding."""
    n = activity.shape[1]
    steps = torch.arange(n, device=activity.device)
    last = (
        batch.last if batch.mask.shape[1] == n else torch.full((len(batch),), n - 1, device=activity.device)
    )
    return last[:, None] - steps


Key = tuple[Site, str, str]


@dataclass(frozen=True)
class Sums:
    """Sum and number of the values at each position from the end: (position, units...), (position, 1...), float64."""

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """Their mean; 0 where there is none."""
        return self.total / self.count.clamp(min=1)

    def without(self, own: Tensor, place: Tensor, times: int) -> Sums:
        """The sums without an item's own values, (pos, units...) at `place`, which were counted `times` times."""
        real = place >= 0
        at = place[real].to(self.total.device)
        values = own[real].to(self.total.device).double()
        ones = torch.ones((len(at), *self.count.shape[1:]), dtype=torch.float64, device=self.count.device)
        return Sums(
            self.total.index_add(0, at, values, alpha=-times), self.count.index_add(0, at, ones, alpha=-times)
        )


class Reference:
    """A task's items as reference for interventions; means and norms are taken in streaming passes.

    Parameters
    ----------
    subject, task
        The items (by habit the training split: what selects or calibrates never verifies).
    batch_size
        Items a pass.
    """

    def __init__(self, subject: Subject, task: TaskLike, batch_size: int = 64) -> None:
        self.subject = subject
        self.task = task
        self.batch_size = batch_size
        self._sums: dict[Key, dict[str, Sums]] = {}
        self._activity: dict[Site, Tensor] = {}
        self._items: dict[str, list[tuple[str, int, Batch]]] = {}
        self._inputs: dict[str, Counter[tuple[str, bytes]]] = {}

    @classmethod
    def of(
        cls,
        subject: Subject,
        source: TaskLike | Reference | None,
        items: TaskLike | None = None,
        batch_size: int = 64,
    ) -> Reference:
        """What was given as a reference: itself, or a task's items.

        By default other items than those under test: the rest of the task that these were selected from, or, where there is
        none, the items themselves, of which each is then replaced by the mean over the others.
        """
        if isinstance(source, Reference):
            return source
        if source is None:
            if items is None:
                raise PatchclampError("there are no reference items; pass reference=")
            source = items.others() or items
        return cls(subject, source, batch_size)

    def means(
        self, sites: Sequence[Site], by: str, source: str = "clean"
    ) -> Mapping[Site, Mapping[str, Tensor]]:
        """Means over the items' inputs: site -> template -> (position from the end, units...); see `MEANS`."""
        return {
            site: {name: one.mean for name, one in found.items()}
            for site, found in self.sums(sites, by, source).items()
        }

    def sums(
        self, sites: Sequence[Site], by: str, source: str = "clean"
    ) -> Mapping[Site, Mapping[str, Sums]]:
        """What `means` divides, so that an item can be left out of its own mean."""
        wanted = [site for site in sites if (site, by, source) not in self._sums]
        if wanted:
            self._sums.update(self._accumulate(wanted, by, source))
        return {site: self._sums[site, by, source] for site in sites}

    def own(self, pair: Pair, by: str, source: str = "clean") -> list[int]:
        """How many of the inputs that an item's mean is taken over are the clean input of the item itself.

        Such an input would put a part of the unit's own value back, and the whole of it where there is no other.
        """
        if source not in self._inputs:
            self._inputs[source] = Counter(
                (pair.templates[i], key)
                for pair in self.subject.pairs(self.task, self.batch_size)
                for i, key in enumerate(_keys(self._input(pair, source)))
            )
        known = self._inputs[source]
        if by != "template":
            known = Counter()
            for (_, key), count in self._inputs[source].items():
                known["", key] += count
        names = pair.templates if by == "template" else ("",) * len(pair.clean)
        return [known[name, key] for name, key in zip(names, _keys(pair.clean), strict=True)]

    def _input(self, pair: Pair, source: str) -> Batch:
        found = pair.clean if source == "clean" else pair.corrupted
        if found is None:
            raise PatchclampError(f"reference items of {self.task.name}: they have no corrupted inputs")
        return found

    def _accumulate(self, sites: Sequence[Site], by: str, source: str) -> dict[Key, dict[str, Sums]]:
        sums: dict[Key, dict[str, Tensor]] = {(site, by, source): {} for site in sites}
        counts: dict[Key, dict[str, Tensor]] = {(site, by, source): {} for site in sites}
        for pair in self.subject.pairs(self.task, self.batch_size):

            def add(site: Site, activity: Tensor, pair: Pair = pair) -> None:
                place = from_end(activity, pair.clean)
                if by == "data":
                    place = torch.where(place >= 0, 0, -1)
                names = pair.templates if by == "template" else ("",) * len(pair.clean)
                for name in dict.fromkeys(names):
                    rows = torch.tensor([n == name for n in names], device=activity.device)
                    key = (site, by, source)
                    _scatter(sums[key], counts[key], name, activity[rows], place[rows])

            self.subject.run(self._input(pair, source), read={s: partial(add, s) for s in sites})
        _say_lengths(self.task.name, {name for key in sums for name in sums[key]})
        return {
            key: {name: Sums(total, counts[key][name]) for name, total in entry.items()}
            for key, entry in sums.items()
        }

    def activity(self, sites: Sequence[Site]) -> Mapping[Site, Float[Tensor, " units"]]:
        """Mean size of each unit's activity over items and positions, times the norm of what it writes."""
        wanted = [site for site in sites if site not in self._activity]
        totals: dict[Site, Tensor] = {}
        counts: dict[Site, Tensor] = {}
        for pair in self.subject.pairs(self.task, self.batch_size) if wanted else ():

            def add(site: Site, activity: Tensor, pair: Pair = pair) -> None:
                real = from_end(activity, pair.clean) >= 0
                size = activity.float().norm(dim=-1) if activity.ndim == 4 else activity.float().abs()
                summed = (size * real[..., None]).sum((0, 1), dtype=torch.float64)
                totals[site] = totals.get(site, torch.zeros_like(summed)) + summed
                counts[site] = counts.get(site, torch.zeros_like(real.sum())) + real.sum()

            self.subject.run(pair.clean, read={s: partial(add, s) for s in wanted})
        live: Any = self.subject
        for site, total in totals.items():
            norms = live.output_norms(site).to(total.device)
            self._activity[site] = (total / counts[site] * norms).cpu()
        return {site: self._activity[site] for site in sites}

    def donors(self, pair: Pair, seed: int, source: str = "clean") -> Batch:
        """For every item another, random reference item of the same template and length.

        The choice depends on the seed and the item's place in its task alone, not on the batch.
        """
        if source not in self._items:
            found = [
                (
                    pair.templates[i],
                    int(pair.clean.lengths[i]),
                    self._input(pair, source).take(torch.tensor([i])),
                )
                for pair in self.subject.pairs(self.task, self.batch_size)
                for i in range(len(pair.clean))
            ]
            self._items[source] = sorted(found, key=lambda item: int(item[2].rows))
        chosen = []
        for i, row in enumerate(pair.rows.tolist()):
            key = (pair.templates[i], int(pair.clean.lengths[i]))
            own = pair.clean.take(torch.tensor([i]))
            pool = [b for t, n, b in self._items[source] if (t, n) == key and not _same_input(b, own)]
            if not pool:
                raise PatchclampError(
                    f"resample: no other reference item has template {key[0]!r} and {key[1]} tokens; "
                    "give more reference items"
                )
            generator = torch_rng(check_seed(seed) * 1_000_003 + row)
            chosen.append(pool[int(torch.randint(len(pool), (1,), generator=generator))])
        return _stack(chosen, pair.clean)


def _say_lengths(task: str, names: set[str]) -> None:
    """Say it where "by template" becomes by length."""
    lengths = sorted(int(name.removeprefix(UNNAMED)) for name in names if name.startswith(UNNAMED))
    if len(lengths) > 1:
        warnings.warn(
            f"mean by template: items of {task} name no template and have {lengths[0]} to {lengths[-1]} tokens; each "
            "is replaced by the mean over reference items of its own length",
            UserWarning,
            stacklevel=2,
        )


def _scatter(
    sums: dict[str, Tensor], counts: dict[str, Tensor], name: str, activity: Tensor, place: Tensor
) -> None:
    size = int(place.max()) + 1
    shape = (size, *activity.shape[2:])
    real = place >= 0
    total = torch.zeros(shape, dtype=torch.float64, device=activity.device)
    total.index_add_(0, place[real], activity[real].double())
    count = torch.zeros((size, *[1] * (activity.ndim - 2)), dtype=torch.float64, device=activity.device)
    ones = torch.ones((int(real.sum()), *count.shape[1:]), dtype=torch.float64, device=activity.device)
    count.index_add_(0, place[real], ones)
    sums[name] = _grow_add(sums.get(name), total)
    counts[name] = _grow_add(counts.get(name), count)


def _grow_add(old: Tensor | None, new: Tensor) -> Tensor:
    if old is None:
        return new
    small, large = sorted((old, new), key=len)
    result = large.clone()
    result[: len(small)] += small
    return result


def _keys(batch: Batch) -> list[bytes]:
    """What the inputs of a batch are, padding aside: equal for equal ones."""

    def plain(tensor: Tensor) -> bytes:
        return tensor.reshape(-1).contiguous().view(torch.uint8).cpu().numpy().tobytes()

    if batch.tokens is not None:
        tokens, mask = batch.tokens.cpu(), batch.mask.cpu()
        return [plain(tokens[i, mask[i]]) for i in range(len(batch))]
    rows = ([tensor[i] for tensor in batch.tensors.values()] for i in range(len(batch)))
    return [hashlib.sha256(b"".join(map(plain, row))).digest() for row in rows]


def _same_input(a: Batch, b: Batch) -> bool:
    if a.tokens is not None and b.tokens is not None:
        return torch.equal(a.tokens[a.mask], b.tokens[b.mask])
    return all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)


def _stack(rows: Sequence[Batch], like: Batch) -> Batch:
    if like.tokens is None:
        tensors = {k: torch.cat([r.tensors[k] for r in rows]) for k in like.tensors}
        return Batch(None, like.mask, like.rows, tensors)
    tokens = torch.zeros_like(like.tokens)
    for i, row in enumerate(rows):
        assert row.tokens is not None
        tokens[i, like.mask[i]] = row.tokens[row.mask]
    return Batch(tokens, like.mask, like.rows)
