"""`record` and `plan`: the verb as a person calls it."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

from patchclamp.base.checkpoint import Checkpoint
from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import bytes_in, way_out
from patchclamp.base.progress import Progress, shown
from patchclamp.nouns.recording.matrix import Heads
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.writer import StoreWriter
from patchclamp.nouns.units import Site, SitesLike
from patchclamp.record.corpus import Long, read_corpus
from patchclamp.record.measuring import (
    Measures,
    Recorded,
    StreamingMeasure,
    fresh_measures,
    load_measures,
    measure_recording,
    save_measures,
)
from patchclamp.record.plan import Plan, Work, adopt_fingerprint, estimate_seconds, prepare, refuse_full_disk
from patchclamp.record.sinks import MemorySink, NoSink, Sink, StoreSink
from patchclamp.record.stream import Stream
from patchclamp.record.tensors import TensorStream, TensorWork, is_tensors, prepare_tensors, read_items
from patchclamp.record.texts import documents
from patchclamp.subjects.base import Subject
from patchclamp.subjects.language import LanguageModel

CHECKPOINT_SECONDS = 30.0
MEMORY_LIMIT = 8 << 30


def plan(
    subject: Subject,
    texts: Any,
    sites: SitesLike,
    *,
    store: bool = True,
    dtype: str = "float32",
    batch_tokens: int | None = None,
    window_tokens: int | None = None,
    chunk_rows: int | None = None,
    share_prefixes: bool = False,
    content_only: bool = True,
    long: Long = "refuse",
    context: int | None = None,
    empty: Literal["refuse", "skip"] = "refuse",
    probe: bool = True,
    **fields: Any,
) -> Plan:
    """Say what `record` with the same arguments would cost, and record nothing.

    The size follows from the token counts, so it is exact but for the metadata; the time is measured on one batch.

    Parameters
    ----------
    store
        Whether activity would be kept.
    probe
        Run one batch to estimate the time.

    Examples
    --------
    >>> print(plan(subject, "sample", "mlp_act.15"))                    # doctest: +SKIP
    """
    if is_tensors(texts):
        items = prepare_tensors(
            subject, read_items(texts, **fields), subject.resolve(sites), dtype=dtype, keeps=store,
            measured=not store, batch_tokens=batch_tokens, window_tokens=window_tokens, chunk_rows=chunk_rows, options={},
        )  # fmt: skip
        return (
            replace(items.plan, seconds=TensorStream(subject, items, store).seconds())
            if probe
            else items.plan
        )
    reader = _reads_texts(subject)
    source = documents(texts, **fields)
    corpus = read_corpus(reader, source, content_only=content_only, long=long, context=context, empty=empty)
    with closing(corpus):
        work = prepare(
            reader,
            corpus,
            subject.resolve(sites),
            dtype=dtype,
            keeps=store,
            measured=not store,
            batch_tokens=batch_tokens,
            window_tokens=window_tokens,
            chunk_rows=chunk_rows,
            share_prefixes=share_prefixes,
            options={},
        )
        if not probe:
            return work.plan
        stream = Stream(reader, work, content_only, store)
        return replace(work.plan, seconds=estimate_seconds(work, stream.probe))


@overload
def record(
    subject: Subject,
    texts: Any,
    sites: SitesLike,
    *,
    store: str | Path | None = None,
    measures: None = None,
    **options: Any,
) -> Recording: ...
@overload
def record(
    subject: Subject,
    texts: Any,
    sites: SitesLike,
    *,
    store: str | Path | None = None,
    measures: Measures,
    **options: Any,
) -> Recorded: ...
def record(
    subject: Subject,
    texts: Any,
    sites: SitesLike,
    *,
    store: str | Path | None = None,
    measures: Measures | None = None,
    heads: Heads = "norm",
    dtype: str = "float32",
    batch_tokens: int | None = None,
    window_tokens: int | None = None,
    chunk_rows: int | None = None,
    share_prefixes: bool = False,
    content_only: bool = True,
    long: Long = "refuse",
    context: int | None = None,
    empty: Literal["refuse", "skip"] = "refuse",
    resume: bool = True,
    checkpoint: str | Path | None = None,
    keep_free: int = 0,
    progress: bool | Progress = True,
    **fields: Any,
) -> Recording | Recorded:
    """Stream a subject over text, or tensors, and record sites into a store, into measures, or both, in one pass.

    The pass stops after the last site. Texts of like length go together, repeated texts are computed once, padding
    never enters a result. In a store, samples are in the order of the data.

    Parameters
    ----------
    subject
        A language model (`open_subject`), or a network that takes tensors.
    texts
        See `documents`: ``"sample"``, a ``.txt``, ``.jsonl`` or ``.parquet`` path, a data set, a list. For a network that
        takes tensors: a tensor (item, ...), a tuple or dict of them, or a `TensorTask`, of which the clean inputs are
        recorded: a sample for each position (step) of each item, `doc` the item; all of them are content.
    sites
        Addresses: ``"mlp_act.*"``, ``"resid_post.5, z.3"``, a list of `Site`.
    store
        Folder of the Zarr store. None without measures: the recording stays in memory.
    measures
        Measures (`patchclamp.measure`), by name or as a list; instances are copied for each site. They see float32
        values as the model computed them.
    heads
        How measures see `head` sites: ``"norm"`` of each head's z, or its parts side by side (``"join"``).
    dtype
        Storage type: ``"float32"``, ``"float16"`` or ``"bfloat16"``. A finite value too large for it is refused.
    batch_tokens
        Most tokens (with padding) a pass; 1,024 on a CPU, 32,768 on a GPU.
    window_tokens
        Most tokens held in memory at once (twice, while the last ones are written): texts are sorted by length
        within a window. About 128 MB of activity where None.
    chunk_rows
        Samples a chunk of the store; about 8 MB where None.
    share_prefixes
        Compute the beginning that texts have in common (16 tokens or more) once, for prompts with a common header.
        The result agrees to floating-point rounding, which is checked on one text first; causal models only.
    content_only
        Leave out special tokens and position 0 (attention sinks). False keeps them, marked in `samples.content`.
    long, context, empty
        Texts longer than the context (the model's, or `context` tokens): ``"refuse"``, ``"split"``, ``"truncate"``;
        texts without tokens: ``"refuse"``, ``"skip"``.
    resume
        Go on with an unfinished store or return a finished one; False refuses a store that exists.
    checkpoint
        Folder in which measures without a store are saved now and then, so that the run can be resumed.
    keep_free
        Bytes to leave free on the disk.
    progress
        True: the plan and a bar on the terminal; a function told the tokens done and in all; False: nothing.
    **fields
        `text`, `label`, `group`: names of fields; `paragraphs`: how ``.txt`` files are cut (see `documents`). Of tensors,
        `label` and `group` are lists with one entry an item.

    Returns
    -------
    Recording or Recorded
        `Recorded` (measures by site, and `.recording`) where measures were asked for.

    Raises
    ------
    PatchclampError
        Before work begins: bad addresses, empty or too long texts, a store of another model, tokenizer, data, dtype
        or set of sites, a full disk. During it: activity that is not finite or does not fit the dtype (unit,
        document and position named), a disk that fills up. What was recorded stays and can be resumed.

    Notes
    -----
    Killed at any moment and called again, a run ends in a store that is bit-identical to an uninterrupted one's, on
    the same machine, device and number of threads.

    Examples
    --------
    >>> rec = record(subject, "sample", "mlp_act.15", store="acts.zarr")        # doctest: +SKIP
    >>> rec.select(where={"label": "definition"})["mlp_act.15"][:100]           # doctest: +SKIP
    """
    chosen = subject.resolve(sites)
    if store is not None and not resume and Path(store).exists():
        raise PatchclampError(
            f"{store}: exists already; choose another path, or pass resume=True to go on with it"
        )
    keeps = store is not None or measures is None
    if is_tensors(texts):
        items = prepare_tensors(
            subject, read_items(texts, **fields), chosen, dtype=dtype, keeps=keeps, measured=measures is not None,
            batch_tokens=batch_tokens, window_tokens=window_tokens, chunk_rows=chunk_rows,
            options={} if keeps else {"heads": heads},
        )  # fmt: skip
        stream = TensorStream(subject, items, keeps, heads)
        return _record(
            stream, measures, store, checkpoint, keep_free, heads, content_only, items.read_back, progress
        )
    reader = _reads_texts(subject)
    source = documents(texts, **fields)
    corpus = read_corpus(reader, source, content_only=content_only, long=long, context=context, empty=empty)
    with closing(corpus):
        work = prepare(
            reader,
            corpus,
            chosen,
            dtype=dtype,
            keeps=keeps,
            measured=measures is not None,
            batch_tokens=batch_tokens,
            window_tokens=window_tokens,
            chunk_rows=chunk_rows,
            share_prefixes=share_prefixes,
            options={"content_only": content_only, "long": long, "context": context}
            | ({} if keeps else {"heads": heads}),
        )
        return _record(
            Stream(reader, work, content_only, keeps, heads),
            measures, store, checkpoint, keep_free, heads, content_only, work.schedule.read_back, progress,
        )  # fmt: skip


def _reads_texts(subject: Subject) -> LanguageModel:
    if not isinstance(subject, LanguageModel):
        raise PatchclampError(
            f"{subject.name}: takes tensors, not texts; give record a tensor (item, ...), a tuple or dict of them, or a TensorTask"
        )
    return subject


def _record(
    stream: Stream | TensorStream,
    measures: Measures | None,
    store: str | Path | None,
    checkpoint: str | Path | None,
    keep_free: int,
    heads: Heads,
    content: bool,
    read_back: bool,
    progress: bool | Progress,
) -> Recording | Recorded:
    work, subject = stream.work, stream.subject
    adopt_fingerprint(work.manifest, subject, store, checkpoint)
    sink = _sink(work, store, measures is not None, keep_free)
    with closing(sink):
        found = {} if measures is None else fresh_measures(measures, work.sites, subject)
        # What a finished store holds is measured without the model, if it was stored as it was computed.
        if sink.complete and measures is not None and read_back:
            recording = sink.finish()
            assert recording is not None
            return measure_recording(recording, measures, subject, heads=heads, content=content)
        kept = Checkpoint(store or checkpoint, {**work.manifest, "heads": heads}, "measures")
        found = _go(stream, sink, found, kept, progress)
        recording = sink.finish()
        kept.forget()
    if measures is None:
        assert recording is not None
        return recording
    return Recorded(found, recording, heads=heads, content=content, shapes=work.layout.shapes)


def _sink(work: Work | TensorWork, store: str | Path | None, measured: bool, keep_free: int) -> Sink:
    if store is not None:
        path = Path(store) if Path(store).exists() else way_out(store, "folder")
        there = bytes_in(path) if path.exists() else 0
        refuse_full_disk(path, work.plan.bytes, there, keep_free)
        return StoreSink(StoreWriter(path, work.manifest, work.layout))
    if measured:
        return NoSink()
    if work.plan.bytes > MEMORY_LIMIT:
        raise PatchclampError(
            f"this recording takes {work.plan.bytes / 1e9:.1f} GB of memory; pass store=<folder> to keep it on disk, or "
            "measures= to reduce it in the pass"
        )
    return MemorySink(work.layout, work.manifest)


def _go(
    stream: Stream | TensorStream,
    sink: Sink,
    measures: dict[Site, dict[str, StreamingMeasure]],
    checkpoint: Checkpoint,
    progress: bool | Progress,
) -> dict[Site, dict[str, StreamingMeasure]]:
    """Run all windows that are not done; returns the measures, restored where a checkpoint had them."""
    work = stream.work
    measures, measured = (load_measures(checkpoint, measures) if measures else None) or (measures, 0)
    saved, title = time.monotonic(), work.plan.sites[0] + (" ..." if len(work.sites) > 1 else "")
    with shown(progress, str(work.plan), "tokens") as tell:
        for number, window in enumerate(work.windows):
            stored = not stream.keeps or window.stop <= sink.rows
            if stored and (not measures or number < measured):
                stream.done += sum(window.costs)
                continue
            samples, arrays = stream.window(
                window,
                measures if number >= measured else {},
                sink.read,
                lambda done: tell(title, done, work.plan.computed),
            )
            skip = max(0, min(sink.rows - window.start, len(samples))) if stream.keeps else 0
            sink.append(samples[skip:], {site: values[skip:] for site, values in arrays.items()})
            if measures and checkpoint.folder is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                save_measures(checkpoint, measures, number + 1)
                saved = time.monotonic()
    return measures


__all__ = ["plan", "record"]
