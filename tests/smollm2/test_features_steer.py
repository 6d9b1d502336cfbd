"""Features of one MLP site of the embedded model: described on text that was not fitted, and steering shows what was said."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
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
from patchclamp.subjects.batch import Edit

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

    def steered(self, prompts: list[str], direction: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (prompt, vocabulary) of the next token under steering at all positions."""
        push = self.size * direction / direction.norm()
        batch = self.subject.batch(self.subject.encode(prompts))
        edit = Edit(self.subject.resolve(SITE)[0], lambda activity, _: activity + push)
        return self.subject.run(batch, write=[edit], logits="last").logits.log_softmax(-1)

    @cached_property
    def at_random(self) -> list[torch.Tensor]:
        """The same for 20 random directions, on the prompts that choose."""
        draw = torch.Generator().manual_seed(0)
        return [self.steered(self.prompts[::2], torch.randn(1536, generator=draw)) for _ in range(20)]


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


def mass(log_probabilities: torch.Tensor, tokens: np.ndarray) -> torch.Tensor:
    """Log-probability of the next token's being one of `tokens`."""
    return log_probabilities[:, torch.from_numpy(np.flatnonzero(tokens))].logsumexp(-1)


def raised(
    bench: Bench, prompts: list[str], direction: torch.Tensor, tokens: np.ndarray, **options: Any
) -> Any:
    """What steering takes from that log-probability: negative where it raises it."""
    items = [Item(clean=p, answers=(" the",)) for p in prompts]
    task = Task("described", items, metric=lambda logits, *_: mass(logits.log_softmax(-1), tokens))
    push = Intervention(SITE, "add", value=bench.size, vector=tuple((direction / direction.norm()).tolist()))
    return effect(bench.subject, task, push, **options)


@pytest.mark.parametrize("method", ["snmf", "topk"])
def test_a_feature_is_described_and_its_steering_shows_it(bench: Bench, method: str) -> None:
    estimator: Any = SNMF(k=100) if method == "snmf" else TopK(n_features=1024, k=8, steps=1500)
    found = estimator.fit(bench.recording, SITE)
    codes = found.encode(bench.activity)
    often = (codes > 0).float().mean(0).argsort(descending=True)[:150].tolist()
    split = Split.of(bench.tokens, held_out=0.4, seed=0)
    described = search_description(
        codes, bench.tokens, split, units=often, names=f"{SITE}/{method}", quantile=0.98
    )

    # Chosen on half of the prompts among those whose description holds on held-out text ...
    ahead: dict[int, tuple[float, float, np.ndarray, str]] = {}
    for feature, description, score in zip(often, described.descriptions, described.table.score, strict=True):
        if score <= 0.9 or description.predicate is None:
            continue
        tokens = np.asarray(description.predicate.evaluate(bench.vocabulary), dtype=bool)
        if 0 < tokens.sum() < len(tokens) / 2:
            own = mass(bench.steered(bench.prompts[::2], found.directions[feature]), tokens)
            best = max(float(mass(one, tokens).mean()) for one in bench.at_random)
            ahead[feature] = (float(own.mean()) - best, score, tokens, description.text)
    assert ahead, described.table.sort_values("score").tail(3).to_string()
    feature = max(ahead, key=lambda one: ahead[one][0])
    _, score, tokens, text = ahead[feature]
    # ... and shown on the others, against other random directions of the same norm.
    shown = raised(bench, bench.prompts[1::2], found.directions[feature], tokens, n_control=39)
    print(method, feature, text, round(score, 3), shown)
    assert score > 0.9
    assert shown.high < 0
    assert shown.p <= 0.05
    assert shown.estimate < shown.control.low
