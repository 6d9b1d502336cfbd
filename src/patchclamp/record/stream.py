"""The pass itself: batches through the subject, activity into buffers and measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from patchclamp.nouns.recording.lazy import storage_dtype
from patchclamp.nouns.recording.matrix import Heads
from patchclamp.nouns.recording.recording import Samples
from patchclamp.nouns.units import Site
from patchclamp.record.checks import check_activity
from patchclamp.record.measuring import StreamingMeasure, measured_units
from patchclamp.record.plan import Work
from patchclamp.record.prefix import Beginning
from patchclamp.record.schedule import Window
from patchclamp.subjects.language import LanguageModel


@dataclass(frozen=True)
class _Target:
    """Rows of one batch that belong to pieces: where they are in the batch, where they go, what they are."""

    source: Tensor
    to: Tensor
    samples: Samples
    rows: list[int]


class Stream:
    """Runs windows of a corpus through a subject.

    Parameters
    ----------
    subject, work
        The model and what was decided.
    content_only
        Record content tokens only.
    keeps
        Whether activity is kept.
    heads
        How measures see heads.
    """

    def __init__(
        self, subject: LanguageModel, work: Work, content_only: bool, keeps: bool, heads: Heads = "norm"
    ) -> None:
        self.subject, self.work, self.corpus = subject, work, work.corpus
        self.content_only, self.keeps, self.heads = content_only, keeps, heads
        self.dtype = storage_dtype(work.layout.dtype) if keeps else None
        self.done = 0
        self._beginning: Beginning | None = None

    def probe(self, pieces: list[int]) -> None:
        """Run a batch and record nothing."""
        batch = self.subject.batch([self.corpus.tokens(piece) for piece in pieces], pieces)
        self.subject.run(batch, read=dict.fromkeys(self.work.sites, _nothing))

    def window(
        self,
        window: Window,
        measures: dict[Site, dict[str, StreamingMeasure]],
        read: Callable[[Site, int, int], Tensor],
        report: Callable[[int], None],
    ) -> tuple[Samples, dict[Site, Tensor]]:
        """Compute a window: its samples in order, and their activity where it is kept."""
        rows = window.stop - window.start
        offsets = dict(zip(window.pieces, _starts(self.corpus.kept[window.pieces]), strict=True))
        samples = Samples.blank(rows)
        buffers: dict[Site, Tensor] = {}
        if self.dtype is not None:
            for site, shape in self.work.layout.shapes.items():
                buffers[site] = torch.empty(rows, *shape, dtype=self.dtype)
        for pieces, shared, cost in zip(window.batches, window.shared, window.costs, strict=True):
            self._batch(pieces, shared, window, offsets, samples, buffers, measures)
            self.done += cost
            report(self.done)
        for piece, source in window.copies:
            self._copy(piece, source, offsets, samples, buffers, measures, read)
        return samples, buffers

    def _batch(
        self,
        pieces: list[int],
        shared: int,
        window: Window,
        offsets: dict[int, int],
        samples: Samples,
        buffers: dict[Site, Tensor],
        measures: dict[Site, dict[str, StreamingMeasure]],
    ) -> None:
        batch = self.subject.batch([self.corpus.tokens(piece) for piece in pieces], pieces)
        content = self.subject.content_mask(batch)
        assert batch.tokens is not None
        valid = (content if self.content_only else batch.mask).cpu()
        flat = valid.flatten().nonzero()[:, 0]
        targets = self._targets(pieces, window, offsets, valid, content.cpu(), batch.tokens)
        for target in targets:
            for name, column in samples.columns():
                column[target.to] = getattr(target.samples, name)
        read = {
            site: self._reader(site, flat, targets, buffers.get(site), measures.get(site, {}))
            for site in self.work.sites
            if site.point != "attn_probs"
        }
        probs = [site for site in self.work.sites if site.point == "attn_probs"]
        if probs:
            # Every token draws attention, whether or not it is content.
            real = self._targets(pieces, window, offsets, batch.mask.cpu(), content.cpu(), batch.tokens)
            read |= {site: _windows(batch.mask, real, measures.get(site, {})) for site in probs}
        if shared:
            self._run_shared(pieces, shared, read)
        else:
            self.subject.run(batch, read=read)

    def _run_shared(self, pieces: list[int], shared: int, read: dict[Site, Callable[[Tensor], None]]) -> None:
        """Run pieces with a common beginning, which is kept for the batches that follow."""
        tokens = [self.corpus.tokens(piece) for piece in pieces]
        begin = tokens[0][:shared]
        if self._beginning is None or self._beginning.tokens != begin:
            self._beginning = Beginning.run(self.subject, begin, self.work.sites)
        self._beginning.run_rest(self.subject, [piece[shared:] for piece in tokens], read)

    def _targets(
        self,
        pieces: list[int],
        window: Window,
        offsets: dict[int, int],
        valid: Tensor,
        content: Tensor,
        tokens: Tensor,
    ) -> list[_Target]:
        """The batch's own pieces, then their repeats, in groups no larger than the batch."""
        row, position = valid.nonzero(as_tuple=True)
        counts = valid.sum(1).tolist()
        starts = _starts(np.asarray(counts, dtype=np.int64))
        token, marked = tokens.cpu()[row, position], content[row, position]

        def target(places: list[int], names: list[int]) -> _Target:
            """`names[i]` takes the activity of row `places[i]`."""
            spans = [torch.arange(starts[p], starts[p] + counts[p]) for p in places]
            source = torch.cat(spans)
            to = torch.cat(
                [torch.arange(offsets[n], offsets[n] + counts[p]) for p, n in zip(places, names, strict=True)]
            )
            name = torch.tensor(names).repeat_interleave(torch.tensor([counts[p] for p in places]))
            columns = {
                key: torch.from_numpy(getattr(self.corpus, key))[name]
                for key in ("doc", "offset", "label", "group")
            }
            place = columns.pop("offset") + position[source]
            found = Samples(position=place, token=token[source].long(), content=marked[source], **columns)
            return _Target(source, to, found, places)

        out = [target(list(range(len(pieces))), pieces)]
        again = [
            (place, twin) for place, piece in enumerate(pieces) for twin in window.repeats.get(piece, ())
        ]
        for begin in range(0, len(again), len(pieces)):
            part = again[begin : begin + len(pieces)]
            out.append(target([place for place, _ in part], [twin for _, twin in part]))
        return out

    def _reader(
        self,
        site: Site,
        flat: Tensor,
        targets: list[_Target],
        buffer: Tensor | None,
        measures: dict[str, StreamingMeasure],
    ) -> Callable[[Tensor], None]:
        """The function that the hook calls with the live tensor: reduce or copy, keep nothing else."""

        labels = [target.samples.to(self.subject.device) for target in targets] if measures else []

        # Measures that look for NaN and Inf in their own sums name them as well, at no further cost.
        checked = buffer is None and all(hasattr(measure, "checks_itself") for measure in measures.values())

        def take(activity: Tensor) -> None:
            index = flat.to(activity.device)
            values = activity.detach().flatten(0, 1).index_select(0, index)
            if not (checked and measures):
                check_activity(site, values, targets[0].samples, self.dtype)
            for number, target in enumerate(targets):
                part = values if number == 0 else values.index_select(0, target.source.to(values.device))
                if buffer is not None:
                    buffer[target.to] = part.to(device="cpu", dtype=buffer.dtype)
                for measure in measures.values():
                    measure.update(measured_units(part, self.heads), labels[number])

        return take

    def _copy(
        self,
        piece: int,
        source: int,
        offsets: dict[int, int],
        samples: Samples,
        buffers: dict[Site, Tensor],
        measures: dict[Site, dict[str, StreamingMeasure]],
        read: Callable[[Site, int, int], Tensor],
    ) -> None:
        """Take the activity of a repeat from where its first occurrence was written."""
        n = int(self.corpus.kept[piece])
        if not n:
            return
        batch = self.subject.batch([self.corpus.tokens(piece)], [piece])
        content = self.subject.content_mask(batch)[0].cpu()
        assert batch.tokens is not None
        position = (content if self.content_only else batch.mask[0].cpu()).nonzero()[:, 0]
        ones = torch.ones(n, dtype=torch.int64)
        found = Samples(
            position=position + int(self.corpus.offset[piece]),
            token=batch.tokens[0].cpu()[position].long(),
            content=content[position],
            **{key: ones * int(getattr(self.corpus, key)[piece]) for key in ("doc", "label", "group")},
        )
        to = slice(offsets[piece], offsets[piece] + n)
        for name, column in samples.columns():
            column[to] = getattr(found, name)
        first = int(self.corpus.row[source])
        for site, buffer in buffers.items():
            buffer[to] = read(site, first, first + n)
            for measure in measures.get(site, {}).values():
                measure.update(measured_units(buffer[to], self.heads), found)


def _windows(
    mask: Tensor, targets: list[_Target], measures: dict[str, StreamingMeasure]
) -> Callable[[Tensor], None]:
    """The function that hands attention probabilities, window by window, to measures that take these."""

    def take(activity: Tensor) -> None:
        for target in targets:
            for measure in measures.values():
                measure.update(activity[target.rows], target.samples, mask[target.rows])  # type: ignore[call-arg]

    return take


def _starts(counts: np.ndarray) -> list[int]:
    starts: list[int] = (np.cumsum(counts) - counts).tolist()
    return starts


def _nothing(activity: Tensor) -> None:
    return None


__all__ = ["Stream"]
