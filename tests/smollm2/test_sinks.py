"""The sinks of the embedded model: massive values by a threshold of its own, and the same tokens by cosine."""

from __future__ import annotations

import pytest

from patchclamp import open_subject
from patchclamp.measure import MassiveActivations
from patchclamp.measure.language import first_token_cosine
from patchclamp.record import record

pytestmark = pytest.mark.smollm2
TEXTS = [
    "The capital of France is Paris. It lies on the Seine, and 2 million people live there.\nIt is old.",
    "In 1905 Einstein published four papers. The first was on the photoelectric effect.",
]


def test_massive_values_and_cosines_find_the_same_sinks_in_mid_sentence() -> None:
    kept = record(open_subject("smollm2"), TEXTS, "resid_post.5", content_only=False, progress=False)
    by_cosine = first_token_cosine(kept, "resid_post.5")
    sinks = by_cosine[by_cosine.cosine > 0.9]
    assert (sinks.position > 0).any()
    measure, papers = MassiveActivations(), MassiveActivations(minimum=100, ratio=1000)
    for samples, arrays in kept.chunks():
        for one in (measure, papers):
            one.update(arrays[kept.site("resid_post.5")], samples)
    found = measure.result()
    places = set(zip(found["doc"].values.tolist(), found["position"].values.tolist(), strict=True))
    assert places == set(zip(sinks.doc, sinks.position, strict=True))
    assert not papers.result().sizes["found"], "criteria of models of another size see nothing"
