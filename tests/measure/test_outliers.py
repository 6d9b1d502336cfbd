"""Massive activations, attention sinks, exemplars and their contexts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from patchclamp.base.errors import PatchclampError
from patchclamp.measure import AttentionSinks, Exemplars, MassiveActivations
from patchclamp.measure.activity import contexts
from patchclamp.nouns.recording.recording import Samples
from patchclamp.subjects import LanguageModel


def test_planted_massive_activations_are_the_ones_found() -> None:
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    x[3, 100], x[40, 7], x[10, 10] = 900.0, -700.0, 80.0
    samples = Samples.of(torch.arange(64) // 32, torch.arange(64) % 32, token=torch.arange(64) + 1000)
    r = _fed(MassiveActivations(), x, samples).result()
    found = list(
        zip(
            r["massive_unit"].values.tolist(),
            r["doc"].values.tolist(),
            r["position"].values.tolist(),
            strict=True,
        )
    )
    assert found == [(100, 0, 3), (7, 1, 8)]
    assert r["value"].values.tolist() == [900, -700] and r["token"].values.tolist() == [1003, 1040]
    assert float(r["median"]) == pytest.approx(float(x.abs().median()), rel=0.003)
    assert float(r["median"]) == pytest.approx(0.671, abs=0.01)
    scaled = _fed(MassiveActivations(), x / 1000, samples).result()
    assert scaled["massive_unit"].values.tolist() == [100, 7], "the threshold is relative to the model"
    paper = _fed(MassiveActivations(minimum=100, ratio=1000), x, samples).result()
    assert paper["massive_unit"].values.tolist() == [100, 7]
    assert not _fed(MassiveActivations(minimum=100, ratio=1000), x / 2000, samples).result().sizes["found"]
    loose = _fed(MassiveActivations(minimum=50, ratio=100), x, samples).result()
    assert loose["massive_unit"].values.tolist() == [100, 7, 10] and int(loose["above"].sum()) == 3
    strict = _fed(MassiveActivations(ratio=1200), x, samples).result()
    assert strict["massive_unit"].values.tolist() == [100]
    few = _fed(MassiveActivations(keep=1), x, samples).result()
    assert (
        few["massive_unit"].values.tolist() == [100]
        and few.attrs["truncated"] == 1
        and int(few["n_candidates"]) == 2
    )


def _fed(measure: MassiveActivations, x: torch.Tensor, samples: Samples) -> MassiveActivations:
    for start in range(0, len(x), 20):
        measure.update(x[start : start + 20], samples[start : start + 20])
    return measure


def uniform(batch: int, heads: int, n: int) -> torch.Tensor:
    causal = torch.ones(n, n).tril()
    return (causal / causal.sum(1, keepdim=True)).expand(batch, heads, n, n).clone()


def labels(mask: torch.Tensor) -> Samples:
    rows, places = mask.nonzero(as_tuple=True)
    return Samples.of(rows, places - mask.int().argmax(1)[rows], token=places)


def test_uniform_attention_has_no_sink() -> None:
    mask = torch.ones(1, 64, dtype=torch.bool)
    m = AttentionSinks(positions=64)
    m.update(uniform(1, 2, 64), labels(mask))
    r = m.result()
    assert float(r["score"][0, 0]) == pytest.approx(0.0741, abs=1e-4)  # the bare score looks like a sink
    assert np.abs(r["excess"].values).max() < 1e-6
    assert np.abs(r["found_excess"].values).max() < 1e-6


def planted(n: int) -> torch.Tensor:
    """Head 1 puts .9 on token 5 from there on, spread evenly else; head 0 is uniform."""
    probs = uniform(1, 2, n)
    for t in range(6, n):
        probs[0, 1, t] *= 0.1
        probs[0, 1, t, 5] += 0.9
    return probs


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_planted_sink_is_found_whatever_the_padding(side: str) -> None:
    n, width = 40, 52
    mask = torch.zeros(2, width, dtype=torch.bool)
    probs = torch.full((2, 2, width, width), 0.01)  # padding holds anything
    lengths = [n, 20]
    for row, length in enumerate(lengths):
        span = slice(0, length) if side == "right" else slice(width - length, width)
        mask[row, span] = True
        probs[row, :, span, span] = planted(length)[0]
    m = AttentionSinks(positions=8, keep=2)
    m.update(probs, labels(mask), mask)
    r = m.result()
    assert float(r["excess"][0].max()) < 1e-6
    queries = [length - 5 for length in lengths]
    score = sum(
        sum((1 / (t + 1)) if t < 6 else 0.1 / (t + 1) + 0.9 for t in range(5, length)) for length in lengths
    ) / sum(queries)
    assert float(r["score"].sel(head=1, window_position=5)) == pytest.approx(score, rel=1e-5)
    assert list(zip(r["found_doc"].values.tolist(), r["found_position"].values.tolist(), strict=True)) == [
        (0, 5),
        (1, 5),
    ]
    parts = [AttentionSinks(positions=8, keep=2) for _ in range(2)]
    for row, part in enumerate(parts):
        part.update(probs[row : row + 1], labels(mask)[labels(mask).doc == row], mask[row : row + 1])
    merged = AttentionSinks.from_state(parts[0].state()).merge(parts[1]).result()
    np.testing.assert_allclose(merged["score"], r["score"], rtol=1e-12)
    np.testing.assert_array_equal(merged["found_doc"], r["found_doc"])


def test_encoders_see_both_ways() -> None:
    m = AttentionSinks(positions=4, causal=False)
    m.update(torch.full((1, 1, 10, 10), 0.1), labels(torch.ones(1, 10, dtype=torch.bool)))
    assert np.abs(m.result()["excess"].values).max() < 1e-6


def test_attention_of_another_shape_is_refused() -> None:
    samples = labels(torch.ones(1, 10, dtype=torch.bool))
    with pytest.raises(PatchclampError, match="wanted attn_probs"):
        AttentionSinks().update(torch.zeros(10, 3), samples)
    with pytest.raises(PatchclampError, match="10 samples and a mask"):
        AttentionSinks().update(torch.zeros(1, 2, 12, 12), samples)
    broken = uniform(1, 2, 10)
    broken[0, 1, 7, 2] = float("nan")
    with pytest.raises(PatchclampError, match=r"\[1\]: NaN in activity at doc 0, position 2"):
        AttentionSinks().update(broken, samples)


def test_exemplars_are_the_sorted_ones_with_ties_by_place() -> None:
    x = torch.tensor([[1.0], [5.0], [5.0], [2.0], [5.0]])
    samples = Samples.of(torch.tensor([4, 3, 3, 0, 1]), torch.tensor([0, 9, 2, 0, 7]))
    m = Exemplars(k=3)
    m.update(x, samples)
    r = m.result()
    assert r["doc"].values.tolist() == [[1, 3, 3]] and r["position"].values.tolist() == [[7, 2, 9]]
    one = Exemplars(k=3, per_doc=True)
    one.update(x[:2], samples[:2])
    one.update(x[2:], samples[2:])
    r = one.result()
    assert r["doc"].values.tolist() == [[1, 3, 0]] and r["position"].values.tolist() == [[7, 2, 0]]
    few = Exemplars(k=7, by="min")
    few.update(x, samples)
    assert few.result()["doc"].values.tolist() == [[4, 0, 1, 3, 3, -1, -1]]
    assert few.result()["value"].values[0, :2].tolist() == [1, 2] and np.isnan(
        few.result()["value"].values[0, 6]
    )


def test_exemplars_against_a_full_sort() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-4, 5, (400, 7), generator=generator).float()  # many ties
    doc, position = torch.arange(400) // 40, torch.arange(400) % 40
    m = Exemplars(k=12, by="abs")
    order = torch.randperm(400, generator=generator)
    samples = Samples.of(doc, position)
    for part in order.split(33):
        m.update(x[part], samples[part])
    r = m.result()
    for unit in range(7):
        best = np.lexsort((position.numpy(), doc.numpy(), -x[:, unit].abs().numpy()))[:12]
        assert r["doc"].values[unit].tolist() == doc[best].tolist()
        assert r["position"].values[unit].tolist() == position[best].tolist()
        assert r["value"].values[unit].tolist() == x[best, unit].tolist()


def test_contexts_stay_in_the_document() -> None:
    texts = {0: list(range(100, 110)), 1: [7, 8]}
    x = torch.zeros(12, 2)
    x[1, 0], x[9, 0], x[10, 1] = 3.0, 2.0, 1.0
    samples = Samples.of(torch.tensor([0] * 10 + [1] * 2), torch.cat([torch.arange(10), torch.arange(2)]))
    m = Exemplars(k=2)
    m.update(x, samples)
    windows = contexts(m.result(), texts.__getitem__, units=[0], before=3, after=2)
    assert [w.tokens for w in windows] == [(100, 101, 102, 103), (106, 107, 108, 109)]
    assert [w.tokens[w.offset] for w in windows] == [101, 109] and [w.value for w in windows] == [3, 2]
    with pytest.raises(PatchclampError, match=r"unit 5; these exemplars have units 0\.\.1"):
        contexts(m.result(), texts.__getitem__, units=[5])
    with pytest.raises(PatchclampError, match="has 1 tokens, the exemplar is at 1"):
        contexts(m.result(), lambda doc: [0], units=[0])
    with pytest.raises(PatchclampError, match="did you mean max"):
        Exemplars(by="maxi")


@pytest.mark.parametrize("per_doc", [False, True])
def test_exemplars_over_many_batches_against_a_full_sort(per_doc: bool) -> None:
    x = torch.randn(3000, 9, generator=torch.Generator().manual_seed(2))
    x[:, 3] = x[:, 3].relu()
    x[:, 4] = 1.0
    doc, position = torch.arange(3000) // 30, torch.arange(3000) % 30
    m = Exemplars(k=4, per_doc=per_doc)
    for part in torch.arange(3000).split(100):
        m.update(x[part], Samples.of(doc[part], position[part]))
    r = m.result()
    for unit in range(9):
        order = np.lexsort((position.numpy(), doc.numpy(), -x[:, unit].numpy()))
        if per_doc:
            order = order[np.sort(np.unique(doc.numpy()[order], return_index=True)[1])]
        assert r["doc"].values[unit].tolist() == doc[order[:4]].tolist()
        assert r["position"].values[unit].tolist() == position[order[:4]].tolist()


def test_sinks_of_a_subject_do_not_depend_on_padding() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    subject = LanguageModel(LlamaForCausalLM(config).eval())
    site = subject.resolve("attn_probs.1")[0]
    texts = [list(range(3, 15)), list(range(20, 29)), [4, 5, 6]]

    def measured(batches: list[list[int]]) -> AttentionSinks:
        measure = AttentionSinks.for_site(subject, site, positions=6, min_queries=2)
        for rows in batches:
            batch = subject.batch([texts[i] for i in rows], rows)
            row, position = batch.mask.nonzero(as_tuple=True)
            assert batch.tokens is not None
            samples = Samples.of(batch.rows[row], position, batch.tokens[batch.mask])
            measure.update(subject.run(batch, read=[site]).activity[site], samples, batch.mask)
        return measure

    together, apart = measured([[0, 1, 2]]).result(), measured([[2], [0], [1]]).result()
    assert together.attrs["site"] == "attn_probs.1" and together.sizes["head"] == 4
    np.testing.assert_allclose(together["excess"], apart["excess"], atol=1e-6)
    assert together["found_doc"].values[0] == apart["found_doc"].values[0]
