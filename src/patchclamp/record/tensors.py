"""Recording a network that takes tensors: items of equal shape, a sample for each position (step) of each item."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.lazy import storage_dtype
from patchclamp.nouns.recording.matrix import Heads
from patchclamp.nouns.recording.recording import Samples
from patchclamp.nouns.recording.store import Layout
from patchclamp.nouns.units import Site
from patchclamp.record.checks import check_activity
from patchclamp.record.measuring import StreamingMeasure, measured_units
from patchclamp.record.plan import BATCH_TOKENS, WINDOW_BYTES, Plan, is_lossless, made_by, sample_shape
from patchclamp.record.schedule import Window
from patchclamp.record.texts import Names
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch
from patchclamp.subjects.clamp.features import provenance
from patchclamp.subjects.inputs import Inputs, as_inputs, n_items, named_inputs, take_items
from patchclamp.subjects.language import LanguageModel
from patchclamp.subjects.survey import numbers_of_positions
from patchclamp.subjects.tensors import TensorTask

LEAST_ITEMS = 32


def is_tensors(source: Any) -> bool:
    """Whether what is to be recorded is tensors (of a task) rather than texts."""
    parts = (
        source.values()
        if isinstance(source, Mapping)
        else source
        if isinstance(source, (tuple, list))
        else ()
    )
    return isinstance(source, (Tensor, TensorTask)) or any(isinstance(part, Tensor) for part in parts)


@dataclass(frozen=True)
class TensorItems:
    """The items: their inputs, and what is known of each."""

    inputs: Inputs
    label: Tensor
    group: Tensor
    label_names: list[str]
    group_names: list[str]
    fingerprint: str

    def __len__(self) -> int:
        return n_items(self.inputs)


def read_items(source: Any, label: Any = None, group: Any = None) -> TensorItems:
    """The items of a task or of tensors, with one label and one group an item, as names or whole numbers.

    Without groups, each item is its own; a task brings its own groups.
    """
    if isinstance(source, TensorTask):
        group = (source.groups or None) if group is None else group
        source = source.clean
    inputs = as_inputs(source, "record")
    n = n_items(inputs)
    if not n:
        raise PatchclampError("there is no item to record: the inputs are empty")
    codes, names = [], []
    for word, given, missing in (("label", label, [-1] * n), ("group", group, list(range(n)))):
        if isinstance(given, str) or (given is not None and len(given) != n):
            raise PatchclampError(
                f"{word}={given!r:.40}: of tensors, give one {word} an item, {n} in all, not the name of a field"
            )
        known = Names(word)
        values = given.tolist() if isinstance(given, (Tensor, np.ndarray)) else given
        found = missing if values is None else [known.code(value, -1) for value in values]
        codes.append(torch.tensor(found, dtype=torch.int64))
        names.append(list(known.names))
    digest = hashlib.sha256()
    for name, tensor in named_inputs(inputs).items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        for part in tensor.detach().cpu().split(1024):
            digest.update(part.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    for column in codes:
        digest.update(column.numpy().tobytes())
    digest.update(json.dumps(names).encode())
    return TensorItems(inputs, codes[0], codes[1], names[0], names[1], digest.hexdigest()[:16])


@dataclass(frozen=True)
class TensorWork:
    """All that is decided before the first pass."""

    items: TensorItems
    steps: int
    sites: list[Site]
    layout: Layout
    windows: list[Window]
    read_back: bool
    manifest: dict[str, Any]
    plan: Plan


def prepare_tensors(
    subject: Subject,
    items: TensorItems,
    sites: Sequence[Site],
    *,
    dtype: str,
    keeps: bool,
    measured: bool,
    batch_tokens: int | None,
    window_tokens: int | None,
    chunk_rows: int | None,
    options: Mapping[str, Any],
) -> TensorWork:
    """Decide on layout, windows and batches, and describe them; see `prepare`, its like for texts.

    Raises
    ------
    PatchclampError
        For a subject of texts, and for sites that do not have equally many positions.
    """
    if isinstance(subject, LanguageModel):
        raise PatchclampError(f"{subject.name}: takes texts, not tensors; give a list of strings")
    steps = _steps(subject, items, sites)
    shapes = {site: sample_shape(subject, site) for site in sites}
    features = [site for site in sites if site.dictionary is not None]
    n = len(items) * steps
    layout = Layout.of(n, shapes, dtype, chunk_rows, features)
    usual = BATCH_TOKENS.get(subject.device.type, BATCH_TOKENS["cuda"])
    batch = max(1, batch_tokens // steps) if batch_tokens else max(LEAST_ITEMS, usual // steps)
    room = window_tokens or (
        max(2 * batch * steps, WINDOW_BYTES // layout.row_bytes) if keeps else 128 * batch * steps
    )
    windows = _windows(len(items), steps, batch, max(batch, room // steps // batch * batch))
    manifest = made_by(subject, dtype) | {
        "data": items.fingerprint,
        "documents": len(items),
        "positions": steps,
        "tokens": n,
        "label_names": items.label_names,
        "group_names": items.group_names,
        "schedule": {"items": batch, "window": windows[0].stop},
    } | dict(options) | provenance(subject, list(sites))  # fmt: skip
    if note := subject.training_note:
        manifest["training"] = note
    widest = max(int(np.prod(shape)) for shape in shapes.values())
    most = max(window.stop - window.start for window in windows)
    plan = Plan(
        documents=len(items), tokens=n, samples=n, computed=n,
        batches=sum(len(window.batches) for window in windows), windows=len(windows),
        sites=tuple(map(str, sites)), units=sum(shape[0] for shape in shapes.values()), dtype=dtype,
        bytes=layout.nbytes if keeps else 0,
        memory=(2 * most + layout.chunk_rows) * layout.row_bytes * keeps + 8 * widest * batch * steps,
    )  # fmt: skip
    read_back = keeps and (is_lossless(subject, dtype) or not measured)
    return TensorWork(items, steps, list(sites), layout, windows, read_back, manifest, plan)


def _steps(subject: Subject, items: TensorItems, sites: Sequence[Site]) -> int:
    """How many positions the sites have."""
    batch = _batch(subject, items, [0])
    for site in sites:
        if site.point == "attn_probs":
            raise PatchclampError(
                f"{site}: attention probabilities are not one value a unit and position; subject.run gives them"
            )
    counts = numbers_of_positions(subject, batch, sites)
    if len(counts) > 1:
        (n, one), (m, other) = list(counts.items())[:2]
        raise PatchclampError(
            f"{one} has {n} positions an item and {other} {m}, and samples of a recording are those of all its sites; record "
            "them in calls of their own"
        )
    return next(iter(counts))


def _windows(n: int, steps: int, batch: int, window: int) -> list[Window]:
    found = []
    for first in range(0, n, window):
        pieces = list(range(first, min(first + window, n)))
        batches = [pieces[i : i + batch] for i in range(0, len(pieces), batch)]
        costs = [len(one) * steps for one in batches]
        start = first * steps
        found.append(
            Window(pieces, batches, [0] * len(batches), costs, {}, [], start, start + len(pieces) * steps)
        )
    return found


def _batch(subject: Any, items: TensorItems, pieces: Sequence[int]) -> Batch:
    found: Batch = subject.batch(take_items(items.inputs, list(pieces)))
    return found


class TensorStream:
    """Runs windows of items through a subject; see `Stream`, its like for texts."""

    def __init__(self, subject: Subject, work: TensorWork, keeps: bool, heads: Heads = "norm") -> None:
        self.subject, self.work, self.keeps, self.heads = subject, work, keeps, heads
        self.dtype = storage_dtype(work.layout.dtype) if keeps else None
        self.done = 0

    def seconds(self) -> float:
        """Time of the whole pass, from one batch run twice."""
        pieces = self.work.windows[0].batches[0]
        batch = _batch(self.subject, self.work.items, pieces)
        for _ in range(2):
            begin = time.perf_counter()
            self.subject.run(batch, read=dict.fromkeys(self.work.sites, lambda activity: None))
            took = time.perf_counter() - begin
        return took * len(self.work.items) / len(pieces)

    def window(
        self,
        window: Window,
        measures: Mapping[Site, Mapping[str, StreamingMeasure]],
        read: Callable[[Site, int, int], Tensor],
        report: Callable[[int], None],
    ) -> tuple[Samples, dict[Site, Tensor]]:
        """Compute a window: its samples in order, and their activity where it is kept."""
        samples = self._samples(window.pieces)
        buffers: dict[Site, Tensor] = {}
        if self.dtype is not None:
            for site, shape in self.work.layout.shapes.items():
                buffers[site] = torch.empty(len(samples), *shape, dtype=self.dtype)
        for pieces, cost in zip(window.batches, window.costs, strict=True):
            first = (pieces[0] - window.pieces[0]) * self.work.steps
            rows = slice(first, first + cost)
            here = samples[rows]
            self.subject.run(
                _batch(self.subject, self.work.items, pieces),
                read={s: self._reader(s, here, buffers, rows, measures.get(s, {})) for s in self.work.sites},
            )
            self.done += cost
            report(self.done)
        return samples, buffers

    def _samples(self, pieces: Sequence[int]) -> Samples:
        steps, doc = self.work.steps, torch.tensor(pieces)
        return Samples.of(
            doc=doc.repeat_interleave(steps),
            position=torch.arange(steps).repeat(len(doc)),
            label=self.work.items.label[doc].repeat_interleave(steps),
            group=self.work.items.group[doc].repeat_interleave(steps),
        )

    def _reader(
        self,
        site: Site,
        samples: Samples,
        buffers: Mapping[Site, Tensor],
        rows: slice,
        measures: Mapping[str, StreamingMeasure],
    ) -> Callable[[Tensor], None]:
        def take(activity: Tensor) -> None:
            if activity.shape[1] != self.work.steps:
                raise PatchclampError(
                    f"{site}: has {activity.shape[1]} positions on items {int(samples.doc[0])} to {int(samples.doc[-1])}, and "
                    f"{self.work.steps} on the first item; record items of equally many steps"
                )
            values = activity.detach().flatten(0, 1)
            check_activity(site, values, samples, self.dtype)
            if site in buffers:
                buffers[site][rows] = values.to(device="cpu", dtype=buffers[site].dtype)
            for measure in measures.values():
                measure.update(measured_units(values, self.heads), samples.to(values.device))

        return take


__all__ = ["TensorStream", "TensorWork", "is_tensors", "prepare_tensors", "read_items"]
