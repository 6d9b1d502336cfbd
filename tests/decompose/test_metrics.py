"""Figures of a dictionary: closed forms, invariance, and what it costs a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from patchclamp import Recording
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.dictionaries import SparseDictionary
from patchclamp.decompose.sae import quality, splice
from patchclamp.decompose.sae.splice import target_mean
from patchclamp.nouns.units import Site
from patchclamp.subjects import Edit
from record_subject import tiny_subject

SITE = "resid_post.0"
TEXTS = ["the cat sat on the mat", "a dog ran, and ran", "nothing here", "one more line of text."]
EIGHT = [*TEXTS, "rain fell all day", "a red door was open", "they went home early", "what else is there"]


def scaled(c: float, width: int = 6, offset: Tensor | None = None) -> SparseDictionary:
    """x -> c (x - b) + b, with a positive and a negative feature for every unit."""
    eye = torch.eye(width)
    both = torch.cat([eye, -eye])
    return SparseDictionary(SITE, both.T, None, c * both, offset)


def rows(n: int = 400, width: int = 6) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def test_the_identity_is_perfect() -> None:
    found = quality(scaled(1.0), rows())
    assert (
        found.unexplained < 1e-12 and found.shrinkage == pytest.approx(1) and found.cosine == pytest.approx(1)
    )
    assert found.l0 == 6 and found.dead == 0 and found.n == 400
    assert torch.allclose(found.density.reshape(2, 6).sum(0), torch.ones(6, dtype=torch.float64))


def test_shrinkage_is_the_factor() -> None:
    x = rows()
    for c in (0.5, 0.9, 1.2):
        found = quality(scaled(c), x)
        assert found.shrinkage == pytest.approx(c, rel=1e-6)
        want = (1 - c) ** 2 * float(x.square().sum() / (x - x.mean(0)).square().sum())
        assert found.unexplained == pytest.approx(want, rel=1e-5)
    # About b_dec: an offset of the activity does not hide it.
    shifted = quality(scaled(0.5, offset=torch.full((6,), 100.0)), x + 100)
    assert shifted.shrinkage == pytest.approx(0.5, rel=1e-4)


def test_the_mean_explains_nothing() -> None:
    x = rows()
    mean = SparseDictionary(SITE, torch.zeros(6, 3), None, torch.zeros(3, 6), x.mean(0))
    found = quality(mean, x)
    assert found.unexplained == pytest.approx(1, rel=1e-6)
    assert math.isnan(found.shrinkage)
    assert found.dead == 1.0 and found.l0 == 0 and found.log_density().isinf().all()


def test_unexplained_variance_is_pooled_and_knows_no_scale() -> None:
    """A published suite takes the square of the mean of squares off, and reads a true .9 as 1.18 at ten times the scale."""
    spread = torch.tensor([5.0, 1.0, 0.1, 3.0, 1.0, 1.0])
    x = rows(2000) * spread
    c = 1 - math.sqrt(0.1)
    figures, theirs = [], []
    for scale, shift in ((1.0, 0.0), (5.0, 0.0), (10.0, 0.0), (1.0, 50.0), (1e-3, 0.0)):
        y = scale * x + shift
        middle = y.mean(0)
        figures.append(quality(scaled(c, offset=middle), y).unexplained)
        made = c * (y - middle) + middle
        wrong = (y - made).square().sum(1).mean()
        theirs.append(float(1 - wrong / (y.square().sum(1).mean() - y.square().mean(0).mean() ** 2)))
    assert figures == pytest.approx([0.1] * 5, rel=1e-3)
    assert max(theirs) - min(theirs) > 0.1  # so the case tells them apart


def test_pieces_and_storage_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from patchclamp.decompose.sae import metrics

    x = rows() + 30
    one = quality(scaled(0.7), x)
    monkeypatch.setattr(metrics, "ENTRIES", 12 * 7)
    two = quality(scaled(0.7), Recording.from_arrays({SITE: x}))
    assert two.unexplained == pytest.approx(one.unexplained, rel=1e-12)
    assert two.shrinkage == pytest.approx(one.shrinkage, rel=1e-12)
    assert torch.equal(two.density, one.density)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.ones(5, 6), "do not vary"),
        (torch.ones(1, 6), "do not vary"),
        (torch.zeros(0, 6), "at least one"),
        (torch.full((3, 6), float("nan")), "NaN or Inf|nan at sample 0"),
        (torch.randn(4, 5), "encodes 6 units, the activity has 5"),
    ],
)
def test_activity_without_a_figure_is_refused(x: Tensor, says: str) -> None:
    with pytest.raises(PatchclampError, match=says):
        quality(scaled(1.0), x)


# ---- in the model


def exact(dictionary: SparseDictionary) -> SparseDictionary:
    return dictionary.to(dtype=torch.float64)


def test_the_identity_recovers_all_the_loss() -> None:
    subject = tiny_subject(bos=True, dtype=torch.float64)
    for ablation in ("mean", "zero"):
        found = splice(exact(scaled(1.0, 16)), subject, EIGHT, ablation=ablation)
        assert found.recovered.value == pytest.approx(1, abs=1e-9) and found.kl == pytest.approx(0, abs=1e-12)
        assert found.kl_recovered == pytest.approx(1, abs=1e-9)
        assert found.recovered.interval == pytest.approx((1, 1), abs=1e-9)
        assert found.ablated != pytest.approx(found.clean, rel=1e-3) and found.ablation == ablation


def test_the_mean_recovers_nothing_of_its_own_ablation_alone() -> None:
    subject = tiny_subject(bos=True, dtype=torch.float64)
    mean = target_mean(subject, Site("resid_post", 0), TEXTS)
    constant = SparseDictionary(SITE, torch.zeros(16, 2).double(), None, torch.zeros(2, 16).double(), mean)
    found = splice(constant, subject, TEXTS, ablation="mean")
    assert found.recovered.value == pytest.approx(0, abs=1e-9) and found.kl == pytest.approx(found.kl_ablated)
    assert "(no interval: 4 independent groups, at least 8 are needed)" in str(found)
    assert "nan" not in str(found)
    other = splice(constant, subject, TEXTS, ablation="zero")
    assert abs(other.recovered.value) > 1e-3
    assert other.spliced == pytest.approx(found.ablated)


def test_losses_are_those_of_passes_by_hand_and_sinks_are_left_alone() -> None:
    subject = tiny_subject(bos=True, dtype=torch.float64)
    half = exact(scaled(0.5, 16))
    found = splice(half, subject, TEXTS, ablation="zero", batch_size=3)
    site = Site("resid_post", 0)
    sums, kls, n = np.zeros(3), 0.0, 0
    for text in TEXTS:
        batch = subject.batch(subject.encode([text]))
        assert batch.tokens is not None
        logs = []
        for factor in (1.0, 0.5, 0.0):

            def change(a: Tensor, b: object, factor: float = factor) -> Tensor:
                return torch.cat([a[:, :1], factor * a[:, 1:]], 1)  # BOS as it is

            logits = subject.run(batch, write=[Edit(site, change)], logits="all").logits
            assert logits is not None
            logs.append(logits[0, 1:-1].log_softmax(-1))
        right = batch.tokens[0, 2:]
        sums += [float(-log.gather(1, right[:, None]).sum()) for log in logs]
        kls += float((logs[0].exp() * (logs[0] - logs[1])).sum())
        n += len(right)
    assert [found.clean, found.spliced, found.ablated] == pytest.approx(list(sums / n), rel=1e-9)
    assert found.kl == pytest.approx(kls / n, rel=1e-9) and found.n == n
    assert found.recovered.value == pytest.approx((sums[2] - sums[1]) / (sums[2] - sums[0]), rel=1e-9)
    assert found.per_item.shape == (4, 4) and found.per_item[:, 3].sum() == n
    # A ratio of means over tokens, whatever the batches.
    assert splice(half, subject, TEXTS, ablation="zero", batch_size=1).recovered.value == pytest.approx(
        found.recovered.value
    )


def test_a_transcoder_is_spliced_at_its_target() -> None:
    """A linear transcoder of a module that is linear costs nothing; the same weights halved do."""
    subject = tiny_subject(bos=True, dtype=torch.float64)
    down = subject.model.model.layers[0].mlp.down_proj.weight.detach()
    eye = torch.eye(24, dtype=torch.float64)
    both = torch.cat([eye, -eye])
    for factor, cost in ((1.0, False), (0.5, True)):
        made = SparseDictionary(
            "mlp_act.0",
            both.T,
            None,
            factor * both @ down.T,
            None,
            target="mlp_out.0",
            apply_b_dec_to_input=False,
        )
        found = splice(made, subject, TEXTS)
        assert (abs(found.spliced - found.clean) > 1e-4) is cost
        assert (found.kl > 1e-6) is cost


def test_a_function_is_as_good_as_a_subject() -> None:
    subject = tiny_subject(bos=True, dtype=torch.float64)
    site, batch = Site("resid_post", 0), subject.batch(subject.encode(EIGHT))
    assert batch.tokens is not None
    tokens = batch.tokens
    content = subject.content_mask(batch)
    scored = content[:, :-1] & batch.mask[:, 1:]

    def forward(change: object) -> tuple[Tensor, Tensor, Tensor]:
        def act(a: Tensor, b: object) -> Tensor:
            return torch.where(content[..., None], change(a), a) if callable(change) else a

        logits = subject.run(batch, write=[Edit(site, act)], logits="all").logits
        assert logits is not None
        return logits[:, :-1][scored], tokens[:, 1:][scored], scored.nonzero()[:, 0]

    half = exact(scaled(0.5, 16))
    mean = target_mean(subject, site, EIGHT)
    one, two = splice(half, forward, mean=mean), splice(half, subject, EIGHT)
    assert one.recovered.value == pytest.approx(two.recovered.value) and one.kl == pytest.approx(two.kl)
    assert one.recovered.interval == pytest.approx(two.recovered.interval)
    with pytest.raises(PatchclampError, match="give mean="):
        splice(half, forward)


def test_what_cannot_be_spliced_is_refused() -> None:
    subject = tiny_subject(bos=True)
    with pytest.raises(PatchclampError, match="'mean' or 'zero'"):
        splice(scaled(1.0, 16), subject, TEXTS, ablation="resample")
    with pytest.raises(PatchclampError, match="no token to score"):
        splice(scaled(1.0, 16), subject, ["a"], ablation="zero")
    with pytest.raises(PatchclampError, match=r"resid_post.9"):
        splice(scaled(1.0, 16).replace(site=Site("resid_post", 9), target=None), subject, TEXTS)
