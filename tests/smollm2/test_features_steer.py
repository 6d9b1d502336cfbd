"""Features of one MLP site of the embedded model: described on text that was not fitted, and steering shows what was said."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch

from patchclamp import open_subject
from patchclamp.decompose import SNMF, TopK
from patchclamp.describe import Split, Tokens, search_description
from patchclamp.record import documents, record
from patchclamp.subjects.clamp.batch import Edit

pytestmark = pytest.mark.smollm2
SITE = "mlp_act.8"


@dataclass
class Bench:
    subject: Any
    recording: Any
    tokens: Tokens
    vocabulary: Tokens
    prompts: list[str]
    activity: torch.Tensor

    @cached_property
    def size(self) -> float:
        """How far steering goes: the mean norm of activity."""
        return float(self.activity.norm(dim=1).mean())

    def steered(self, half: int, direction: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (text position, vocabulary) of the next tokens under steering at all positions."""
        push = self.size * direction / direction.norm()
        batch = self.subject.batch(self.subject.encode(self.prompts[half::2]))
        edit = Edit(self.subject.resolve(SITE)[0], lambda activity, _: activity + push)
        return self.subject.run(batch, write=[edit], logits="all").logits[batch.mask].log_softmax(-1)

    @cached_property
    def at_random(self) -> list[list[torch.Tensor]]:
        """The same for 20 random directions on the prompts that choose, and for 20 others on those that prove."""
        draw = torch.Generator().manual_seed(0)
        return [[self.steered(half, torch.randn(1536, generator=draw)) for _ in range(20)] for half in (0, 1)]

    def gain(self, half: int, direction: torch.Tensor, tokens: np.ndarray) -> float:
        """Log-probability of `tokens` under steering, over the largest that a random direction of that norm gives."""
        wanted = torch.from_numpy(np.flatnonzero(tokens))
        own, *others = (
            float(one[:, wanted].logsumexp(-1).mean())
            for one in (self.steered(half, direction), *self.at_random[half])
        )
        return own - max(others)


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
        torch.as_tensor(np.asarray(recording[SITE][:])).float(),
    )


@pytest.mark.parametrize("method", ["snmf", "topk"])
def test_a_feature_is_described_and_its_steering_shows_it(bench: Bench, method: str) -> None:
    estimator: Any = SNMF(n_features=100) if method == "snmf" else TopK(n_features=768, k=8, steps=800)
    found = estimator.fit(bench.recording, SITE)
    codes = found.encode(bench.activity)
    often = (codes > 0).float().mean(0).argsort(descending=True)[:100].tolist()
    split = Split.of(bench.tokens, held_out=0.4, seed=0)
    described = search_description(
        codes, bench.tokens, split, units=often, names=f"{SITE}/{method}", quantile=0.98
    )

    # Chosen on half of the prompts among those whose description holds on held-out text ...
    rows = []
    for feature, description, score in zip(often, described.descriptions, described.table.score, strict=True):
        # The bits of a fit differ between processors, and of 100 features one or two may be described above .9.
        if score > 0.85 and description.predicate is not None:
            tokens = np.asarray(description.predicate.evaluate(bench.vocabulary), dtype=bool)
            if 0 < tokens.sum() < len(tokens) / 2:
                rows.append((score, feature, tokens, description.text))
    assert rows, described.table.sort_values("score").tail(3).to_string()
    rows = sorted(rows, key=lambda row: -row[0])[:20]
    gains = [bench.gain(0, found.directions[feature], tokens) for _, feature, tokens, _ in rows]
    score, feature, tokens, text = rows[int(np.argmax(gains))]
    # ... and shown on the others: above each of 20 further random directions, p = 1/21.
    shown = bench.gain(1, found.directions[feature], tokens)
    print(
        f"{SITE}/{method}[{feature}]: {text} ({score:.3f} held out); {max(gains):+.2f} nats, then {shown:+.2f}"
    )
    assert shown > 0
