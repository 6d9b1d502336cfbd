"""Features of one MLP site of the embedded model: described on text that was not fitted, and steering shows what was said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from patchclamp import Item, Task, open_subject
from patchclamp.decompose import SNMF, TopK
from patchclamp.describe import Split, Tokens, search_description
from patchclamp.intervene import effect
from patchclamp.intervention import Intervention
from patchclamp.record import documents, record

pytestmark = pytest.mark.smollm2
SITE = "mlp_act.2"


@dataclass
class Bench:
    subject: Any
    recording: Any
    tokens: Tokens
    vocabulary: Tokens
    prompts: list[str]
    size: float


@pytest.fixture(scope="module")
def bench() -> Bench:
    subject = open_subject("smollm2")
    texts = [one.text for one in documents("sample")]
    recording = record(subject, texts[:300], SITE, progress=False)
    vocabulary = [[subject.tokenizer.decode([i])] for i in range(subject.config.vocab_size)]
    return Bench(
        subject,
        recording,
        Tokens.from_samples(recording.samples, subject.tokenizer),
        Tokens.of(vocabulary),
        [text[:60].rsplit(" ", 1)[0] for text in texts[500:548]],
        float(torch.as_tensor(np.asarray(recording[SITE][:])).float().norm(dim=1).mean()),
    )


def raised(
    bench: Bench, prompts: list[str], direction: torch.Tensor, tokens: np.ndarray, **options: Any
) -> Any:
    """Log-probability that steering at all positions takes from the next token's being one of `tokens`."""
    wanted = torch.from_numpy(np.flatnonzero(tokens))

    def mass(logits: torch.Tensor, *_: Any) -> torch.Tensor:
        return logits.log_softmax(-1)[:, wanted].logsumexp(-1)

    task = Task("described", [Item(clean=p, answers=(" the",)) for p in prompts], metric=mass)
    push = Intervention(SITE, "add", value=bench.size, vector=tuple((direction / direction.norm()).tolist()))
    return effect(bench.subject, task, push, **options)


@pytest.mark.parametrize("method", ["snmf", "topk"])
def test_a_feature_is_described_and_its_steering_shows_it(bench: Bench, method: str) -> None:
    estimator: Any = SNMF(k=60) if method == "snmf" else TopK(n_features=512, k=16, steps=400)
    found = estimator.fit(bench.recording, SITE)
    activity = torch.as_tensor(np.asarray(bench.recording[SITE][:])).float()
    codes = found.encode(activity)
    often = (codes > 0).float().mean(0).argsort(descending=True)[:60].tolist()
    split = Split.of(bench.tokens, held_out=0.4, seed=0)
    described = search_description(
        codes, bench.tokens, split, units=often, names=f"{SITE}/{method}", quantile=0.98
    )

    # Chosen on half of the prompts among those whose description holds on held-out text ...
    rows = []
    for feature, description, score in zip(often, described.descriptions, described.table.score, strict=True):
        if score <= 0.9 or description.predicate is None:
            continue
        tokens = np.asarray(description.predicate.evaluate(bench.vocabulary), dtype=bool)
        if 0 < tokens.sum() < len(tokens) / 2:
            rows.append((score, feature, tokens, description.text))
    assert rows, described.table.sort_values("score").tail(3).to_string()
    rows = sorted(rows, key=lambda row: -row[0])[:6]
    gains = [
        raised(bench, bench.prompts[::2], found.directions[f], tokens, control=None).estimate
        for _, f, tokens, _ in rows
    ]
    score, feature, tokens, text = rows[int(np.argmin(gains))]
    # ... and shown on the others, against random directions of the same norm.
    shown = raised(bench, bench.prompts[1::2], found.directions[feature], tokens)
    print(method, feature, text, round(score, 3), shown)
    assert shown.high < 0
    assert shown.p <= 0.05
    assert shown.estimate < min(shown.control.per_set)
