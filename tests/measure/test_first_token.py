"""Planted sinks in mid-sentence are the tokens whose cosine with the first one is 1."""

from __future__ import annotations

import pytest
import torch

from patchclamp import Recording, Samples
from patchclamp.base.errors import PatchclampError
from patchclamp.measure.language import first_token_cosine
from patchclamp.record import record
from record_subject import texts, tiny_subject

LENGTH, DOCS = 30, 5
SINKS = {(0, 7), (3, 2), (4, 29)}


def planted() -> tuple[torch.Tensor, Samples]:
    x = torch.randn(DOCS * LENGTH, 64, generator=torch.Generator().manual_seed(0))
    doc, position = torch.arange(len(x)) // LENGTH, torch.arange(len(x)) % LENGTH
    for d, p in [(d, 0) for d in range(DOCS)] + sorted(SINKS):
        x[d * LENGTH + p, 11] = 800.0 + 10 * p
    return x, Samples.of(doc, position, token=torch.arange(len(x)))


@pytest.mark.parametrize("rows", [None, 7, 30, 41])
def test_planted_sinks_are_found_wherever_chunks_are_cut(rows: int | None) -> None:
    x, samples = planted()
    recording = Recording.from_arrays({"resid_post.1": x}, samples)
    recording.chunk_rows = rows or recording.chunk_rows
    found = first_token_cosine(recording, "resid_post.1")
    assert found.position.tolist() == samples.position.tolist()
    sinks = found[(found.position > 0) & (found.cosine > 0.9)]
    assert set(zip(sinks.doc, sinks.position, strict=True)) == SINKS
    assert sinks.cosine.min() > 0.99
    assert (found[found.position == 0].cosine - 1).abs().max() < 1e-12
    rest = found[(found.position > 0) & (found.cosine < 0.9)]
    assert rest.cosine.abs().max() < 0.6
    norms = x.double().norm(dim=1).numpy()
    assert abs(found.norm.to_numpy() - norms).max() < 1e-9


def test_a_recording_without_the_first_tokens_is_refused() -> None:
    subject = tiny_subject()
    whole = record(subject, texts(6), "resid_post.1", content_only=False, progress=False)
    assert len(first_token_cosine(whole, "resid_post.1")) == whole.n_samples
    content = record(subject, texts(6), "resid_post.1", progress=False)
    with pytest.raises(
        PatchclampError, match="first token of document 0 was not recorded.*content_only=False"
    ):
        first_token_cosine(content, "resid_post.1")
    with pytest.raises(PatchclampError, match=r"resid_post\.0"):
        first_token_cosine(whole, "resid_post.0")
