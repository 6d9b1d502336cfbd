"""Threads that share a model take turns: each pass is what it would have been alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from patchclamp import Site
from patchclamp.attribute import relevance_patching
from patchclamp.base.errors import PatchclampError
from patchclamp.subjects import Edit, LanguageModel
from planted import subject as planted_subject
from planted import task as planted_task
from record_subject import texts, tiny_subject


@pytest.fixture
def eager() -> Iterator[None]:
    """Threads are switched as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(calls: list[Any]) -> list[Any]:
    """What functions return, each in a thread of its own; an error of one is raised."""
    start, found, failed = threading.Barrier(len(calls)), [None] * len(calls), []

    def work(place: int) -> None:
        start.wait()
        try:
            found[place] = calls[place]()
        except (PatchclampError, IndexError, RuntimeError) as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found


@pytest.mark.usefixtures("eager")
def test_passes_of_threads_do_not_meet() -> None:
    lm = tiny_subject()
    other = LanguageModel(lm.model, lm.tokenizer, "the same model again")
    tokens = lm.tokenizer(texts(8))["input_ids"]
    site, later = Site("mlp_act", 0), Site("resid_post", 1)
    zero = Edit(site, lambda activity, batch: torch.zeros_like(activity))

    def one(subject: LanguageModel, row: int, write: list[Edit]) -> tuple[torch.Tensor, ...]:
        run = subject.run(subject.batch([tokens[row]], [row]), [site, later], write, logits="last")
        assert run.logits is not None
        return run.activity[site], run.activity[later], run.logits

    jobs = [(lm if row % 2 else other, row, [zero] if row % 3 else []) for row in range(8)]
    alone = [one(*job) for job in jobs]
    for _ in range(6):
        found = together([lambda job=job: one(*job) for job in jobs])
        assert all(
            torch.equal(a, b) for f, w in zip(found, alone, strict=True) for a, b in zip(f, w, strict=True)
        )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    assert all(p.requires_grad for p in lm.model.parameters())


@pytest.mark.usefixtures("eager")
def test_rules_for_gradients_stay_with_their_thread() -> None:
    lm, items = planted_subject(), planted_task().split("train").take(8)
    sites = lm.resolve("head.*")
    tokens = lm.tokenizer([item.clean for item in items.items])["input_ids"]
    batch = lm.batch(tokens, list(range(len(tokens))))

    def scores() -> Any:
        return relevance_patching(lm, items, sites).mean(sites[0])

    def gradient() -> torch.Tensor:
        run = lm.run(batch, logits="last", grad=True)
        return run.logits.detach()

    alone, logits = scores(), gradient()
    found = together([scores, gradient, scores, gradient])
    assert (found[0] == alone).all() and (found[2] == alone).all()
    assert torch.equal(found[1], logits) and torch.equal(found[3], logits)
