"""What a recording will cost, said before it starts."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import read_json
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.lazy import storage_dtype
from patchclamp.nouns.recording.store import Layout, read_attributes
from patchclamp.nouns.units import Site
from patchclamp.record.corpus import Corpus
from patchclamp.record.prefix import LEAST, check_sharing
from patchclamp.record.schedule import Schedule, Window, computed_tokens
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.features import provenance
from patchclamp.subjects.files.identity import OLD, is_old
from patchclamp.subjects.language import LanguageModel

BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}
OVERHEAD = {"cpu": 24, "cuda": 4096}
WINDOW_BYTES = 128 << 20


@shown
@dataclass(frozen=True)
class Plan:
    """Size, memory and time of a recording.

    Parameters
    ----------
    documents, tokens, samples
        Of the source; samples are the tokens that will be recorded.
    computed
        Tokens that the model will compute: padding counted, repeated texts once.
    batches, windows
        Passes of the model; pieces of work after each of which the run can be resumed.
    sites, units, dtype
        What is recorded, units summed over sites, and the storage type.
    bytes
        Of the store on disk (of the recording in memory, where there is no store); 0 for measures alone.
    memory
        Bytes of activity held at once, the model and the measures aside.
    seconds
        Estimated from one batch; None where none was run.
    """

    documents: int
    tokens: int
    samples: int
    computed: int
    batches: int
    windows: int
    sites: tuple[str, ...]
    units: int
    dtype: str
    bytes: int
    memory: int
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def __str__(self) -> str:
        some = ", ".join(self.sites[:3]) + (f" ... ({len(self.sites)} sites)" if len(self.sites) > 3 else "")
        took = "" if self.seconds is None else f", about {_duration(self.seconds)}"
        size = f"{self.bytes / 1e6:,.1f} MB as {self.dtype}" if self.bytes else "nothing stored"
        return (
            f"{self.samples:,} samples of {self.documents:,} documents ({self.tokens:,} tokens) x {self.units:,} units "
            f"at {some}\n{size}, {self.memory / 1e6:,.0f} MB of memory, {self.computed:,} tokens computed in "
            f"{self.batches:,} batches{took}"
        )


@dataclass(frozen=True)
class Work:
    """All that is decided before the first pass."""

    corpus: Corpus
    sites: list[Site]
    layout: Layout
    schedule: Schedule
    windows: list[Window]
    manifest: dict[str, Any]
    plan: Plan


def prepare(
    subject: LanguageModel,
    corpus: Corpus,
    sites: list[Site],
    *,
    dtype: str,
    keeps: bool,
    measured: bool,
    batch_tokens: int | None,
    window_tokens: int | None,
    chunk_rows: int | None,
    share_prefixes: bool,
    options: dict[str, Any],
) -> Work:
    """Decide on layout, windows and batches, and describe them.

    Parameters
    ----------
    keeps
        Whether activity is kept (in a store or in memory).
    measured
        Whether measures are updated in the pass.
    share_prefixes
        Whether common beginnings are computed once.
    options
        Further entries of the manifest.
    """
    probs = [site for site in sites if site.point == "attn_probs"]
    if probs and (keeps or share_prefixes):
        raise PatchclampError(
            f"{probs[0]}: attention probabilities are head x query x key, not one value a unit and token, so they are measured "
            "(record(..., measures=[AttentionSinks]), without store and share_prefixes) and not kept; subject.run gives "
            "them, or record z or head"
        )
    shapes = {site: sample_shape(subject, site) for site in sites}
    features = [site for site in sites if site.dictionary is not None]
    layout = Layout.of(corpus.n_samples, shapes, dtype, chunk_rows, features)
    kind = subject.device.type
    batch = batch_tokens or BATCH_TOKENS.get(kind, BATCH_TOKENS["cuda"])
    most = 128 * batch
    window = window_tokens or (min(most, max(2 * batch, WINDOW_BYTES // layout.row_bytes)) if keeps else most)
    # A read-back value is the computed one only where storage rounds nothing away.
    lossless = is_lossless(subject, dtype)
    schedule = Schedule(
        window,
        batch,
        OVERHEAD.get(kind, OVERHEAD["cuda"]),
        by_length=not keeps,
        read_back=keeps and (lossless or not measured),
        share=LEAST if share_prefixes else 0,
    )
    windows = schedule.windows(corpus)
    example = next(((w.batches[i][0], n) for w in windows for i, n in enumerate(w.shared) if n), None)
    if example is not None:
        check_sharing(subject, corpus.tokens(example[0]), example[1], sites)
    manifest = _manifest(subject, corpus, dtype, schedule) | options | provenance(subject, sites)
    if note := subject.training_note:
        manifest["training"] = note
    plan = _plan(corpus, sites, layout, schedule, windows, keeps)
    return Work(corpus, sites, layout, schedule, windows, manifest, plan)


def is_lossless(subject: Subject, dtype: str) -> bool:
    """Whether a storage type rounds nothing away of what a model computes."""
    storage = storage_dtype(dtype)
    return storage.itemsize >= subject.dtype.itemsize and storage in (torch.float32, torch.float64)


def sample_shape(subject: Subject, site: Site) -> tuple[int, ...]:
    """Of one sample at a site: units, and the parts of heads."""
    return (subject.width(site), subject.unit_dim(site)) if site.point == "head" else (subject.width(site),)


def _plan(
    corpus: Corpus,
    sites: list[Site],
    layout: Layout,
    schedule: Schedule,
    windows: list[Window],
    keeps: bool,
) -> Plan:
    widest = max(int(np.prod(shape)) for shape in layout.shapes.values())
    most = max(window.stop - window.start for window in windows)
    buffers = (2 * most + min(layout.chunk_rows, layout.n_samples)) * layout.row_bytes if keeps else 0
    return Plan(
        documents=corpus.n_documents,
        tokens=corpus.n_tokens,
        samples=corpus.n_samples,
        computed=computed_tokens(windows),
        batches=sum(len(window.batches) for window in windows),
        windows=len(windows),
        sites=tuple(map(str, sites)),
        units=sum(shape[0] for shape in layout.shapes.values()),
        dtype=layout.dtype,
        bytes=layout.nbytes if keeps else 0,
        memory=buffers + 2 * 4 * widest * schedule.batch_tokens,
    )


def _manifest(subject: LanguageModel, corpus: Corpus, dtype: str, schedule: Schedule) -> dict[str, Any]:
    return made_by(subject, dtype) | {
        "tokenizer": tokenizer_fingerprint(subject.tokenizer),
        "bos": bos_policy(subject),
        "data": corpus.fingerprint,
        "documents": corpus.n_documents,
        "skipped_documents": len(corpus.skipped),
        "tokens": corpus.n_tokens,
        "label_names": corpus.label_names,
        "group_names": corpus.group_names,
        "schedule": asdict(schedule),
    }


def made_by(subject: Subject, dtype: str) -> dict[str, Any]:
    """What a manifest says of the model and the program."""
    from patchclamp.base.version import __version__

    return {
        "model": subject.name,
        "model_fingerprint": subject.fingerprint,
        "model_dtype": str(subject.dtype).removeprefix("torch."),
        "device": subject.device.type,
        "dtype": dtype,
        "code": __version__,
        "torch": torch.__version__.split("+")[0],
    }


def adopt_fingerprint(
    manifest: dict[str, Any], subject: Subject, store: str | Path | None, checkpoint: str | Path | None
) -> None:
    """Write this model's fingerprint as what is already on disk has it, where both are of one model.

    Two machines round a model's answer otherwise, and an older version counted less; the store is gone on with.
    """
    theirs = None
    if store is not None and (Path(store) / "zarr.json").is_file():
        theirs = read_attributes(Path(store))["manifest"].get("model_fingerprint")
    elif checkpoint is not None and (Path(checkpoint) / "measures.json").is_file():
        theirs = read_json(Path(checkpoint) / "measures.json").get("made_by", {}).get("model_fingerprint")
    if theirs is None or theirs == manifest["model_fingerprint"] or not subject.is_model(str(theirs)):
        return
    if is_old(str(theirs)):
        warnings.warn(f"{store or checkpoint}: {OLD}", UserWarning, stacklevel=3)
    manifest["model_fingerprint"] = theirs


def bos_policy(subject: LanguageModel) -> str:
    """How texts begin: "always", "never", or "tokenizer: with/without"."""
    if subject.bos is not None:
        return "always" if subject.bos else "never"
    return f"tokenizer: {'with' if subject.begins_with_bos else 'without'}"


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash of what decides token ids: the vocabulary, the special tokens, the rules of a fast tokenizer.

    Of a fast tokenizer it is worked out once for what the tokenizer writes of itself, so that one that was changed
    in place is noticed.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    special = tuple(getattr(tokenizer, "all_special_ids", ()))
    if backend is None:
        return _tokenizer_hash(tokenizer, special, None)
    written = backend.to_str()
    key = (special, hashlib.blake2b(written.encode()).digest())
    if key not in _TOKENIZERS:
        _TOKENIZERS[key] = _tokenizer_hash(tokenizer, special, written)
    return _TOKENIZERS[key]


_TOKENIZERS: dict[tuple[Any, bytes], str] = {}


def _tokenizer_hash(tokenizer: Any, special: tuple[int, ...], written: str | None) -> str:
    facts: dict[str, Any] = {"special": list(special)}
    if hasattr(tokenizer, "get_vocab"):
        facts["vocabulary"] = sorted(tokenizer.get_vocab().items())
    if written is not None:
        rules = json.loads(written)
        facts["rules"] = {key: rules.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor")}
        facts["merges"] = rules.get("model", {}).get("merges")
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]


def estimate_seconds(work: Work, run: Callable[[list[int]], None]) -> float:
    """Time of the whole pass, from the middle batch of the middle window, run twice."""
    window = max(work.windows, key=lambda w: len(w.batches))
    if not window.batches:
        return 0.0
    batch = window.batches[len(window.batches) // 2]
    run(batch)
    begin = time.perf_counter()
    run(batch)
    seconds = time.perf_counter() - begin
    tokens = len(batch) * int(work.corpus.length[batch].max())
    return seconds * work.plan.computed / tokens


def refuse_full_disk(path: Path, needed: int, there: int, keep_free: int) -> None:
    """Refuse a store that does not fit on its disk.

    Parameters
    ----------
    path
        Folder of the store, which need not exist.
    needed, there
        Bytes of the finished store, and of what is on disk already.
    keep_free
        Bytes to leave free.
    """
    parent = next(p for p in [path, *path.absolute().parents] if p.exists())
    free = shutil.disk_usage(parent).free
    missing = needed - there
    if missing + keep_free > free:
        raise PatchclampError(
            f"{path}: the store needs {missing / 1e9:.3f} GB and the disk has {free / 1e9:.3f} GB free"
            + (f", of which {keep_free / 1e9:.3f} GB are to stay free" if keep_free else "")
            + "; use dtype='float16', fewer sites or texts, or another disk"
        )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
