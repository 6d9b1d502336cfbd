"""Attention sinks measured in the pass over text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchclamp import Samples
from patchclamp.base.errors import PatchclampError
from patchclamp.measure import AttentionSinks, Moments
from patchclamp.record import record
from record_subject import texts, tiny_subject


def test_record_feeds_sinks_in_the_pass_as_by_hand():
    """Repeated texts, padding and content_only make no difference: every token draws attention."""
    subject = tiny_subject(bos=True)
    lines = texts(14, longest=30)
    lines = [*lines, lines[3], lines[3]]
    site = subject.resolve("attn_probs.1")[0]
    by_hand = AttentionSinks.for_site(subject, site, positions=6, min_queries=2)
    for number, line in enumerate(lines):
        batch = subject.batch(subject.encode([line]), [number])
        places = torch.arange(batch.mask.shape[1])
        assert batch.tokens is not None
        samples = Samples.of(torch.full_like(places, number), places, token=batch.tokens[0])
        by_hand.update(subject.run(batch, read=[site]).activity[site], samples, batch.mask)
    want = by_hand.result()
    for content_only in (True, False):
        options = {"content_only": content_only, "batch_tokens": 150, "progress": False}
        spec = (AttentionSinks, {"positions": 6, "min_queries": 2})
        found = record(subject, lines, "attn_probs.*", measures=[spec], **options)["attn_probs.1"][
            "sinks"
        ].result()
        np.testing.assert_allclose(found["excess"], want["excess"], atol=1e-6)
        np.testing.assert_allclose(found["baseline"], want["baseline"], atol=1e-12)
        assert found["found_doc"].values[0] == want["found_doc"].values[0]
        assert int(found.attrs["n_samples"]) == int(want.attrs["n_samples"])


def test_attention_probabilities_are_measured_and_not_kept(tmp_path):
    subject = tiny_subject()
    for options in ({}, {"store": tmp_path / "s"}, {"store": tmp_path / "s", "measures": [AttentionSinks]}):
        with pytest.raises(PatchclampError, match=r"attn_probs\.0: .*measures=\[AttentionSinks\]"):
            record(subject, texts(4), "attn_probs.0", progress=False, **options)
    with pytest.raises(PatchclampError, match="the measure moments takes one value a unit"):
        record(subject, texts(4), "attn_probs.0", measures=[Moments], progress=False)
    with pytest.raises(PatchclampError, match="the measure sinks takes attn_probs"):
        record(subject, texts(4), "mlp_act.0", measures=[AttentionSinks], progress=False)
    assert not (tmp_path / "s").exists()
