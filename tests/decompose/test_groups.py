"""Dark matter, bricks and discrete codes: what a dictionary misses, and which units fire together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import nn

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.structure.bricks import Partition, balanced_kmeans, partition_weights
from patchclamp.decompose.structure.dark_matter import dark_matter
from patchclamp.decompose.structure.discrete import codes_of, discrete_codes
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.nouns.units import Site

draw = lambda seed: torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=draw(seed), dtype=torch.float64)


def rotation(n, seed=0):
    return torch.linalg.qr(normal(n, n, seed=seed))[0]


def linear(weight, bias=None):
    """y = x @ weight (+ bias)."""
    layer = nn.Linear(*weight.shape, bias=bias is not None).double()
    layer.weight.data = weight.T.clone()
    if bias is not None:
        layer.bias.data = bias
    return layer


# ---- dark matter
class HalfBlind(Dictionary):
    """Knows the first 32 of 64 orthonormal features, and adds noise of its own to what it decodes."""

    method = "half-blind"

    def __init__(self, features, known, noise):
        super().__init__("resid_post.0")
        self.features, self.known, self.noise = features, known, noise
        self.generator = draw(5)

    @property
    def directions(self):
        return self.features[: self.known]

    def encode(self, activity):
        return activity @ self.directions.T

    def decode(self, codes):
        out = codes @ self.directions
        return out + self.noise * torch.randn(out.shape, generator=self.generator)


def planted_recording(n=12000, seed=0, docs=60):
    features = rotation(64, seed=seed).float()
    on = torch.rand(n, 64, generator=draw(seed + 1)) < 0.1
    codes = on * (0.5 + torch.rand(n, 64, generator=draw(seed + 2)))
    samples = Samples.of(torch.arange(n) // (n // docs), torch.arange(n) % (n // docs))
    activity = (codes @ features).numpy()
    return Recording.from_arrays({"resid_post.0": activity}, samples), features, codes.double()


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_dark_matter_of_a_dictionary_that_knows_half(noise):
    recording, features, codes = planted_recording()
    variance = codes.var(0, correction=0).sum()
    missing = codes[:, 32:].pow(2).sum(1).mean()
    found = dark_matter(HalfBlind(features, 32, noise), recording, seed=1, n_boot=200)
    random_part = float(64 * noise**2 / variance)
    assert found.fvu_nonlinear.value == pytest.approx(random_part, rel=0.03, abs=1e-6)
    assert found.fvu.value == pytest.approx(float(missing / variance) + random_part, rel=0.03)
    assert found.fvu.low < found.fvu.value < found.fvu.high
    assert found.r2_shuffled < 0.02
    assert found.n_fit + found.n_test == 12000
    if noise == 0:
        assert found.r2_error.value == pytest.approx(1, abs=1e-6)
        assert found.r2_error_mean == pytest.approx(1, abs=1e-5)
    else:
        assert found.r2_error.value < 1
        assert "of it not linear" in str(found)


def test_dark_matter_does_not_depend_on_chunks_and_splits_add_up():
    recording, features, _ = planted_recording(6000)
    pair = [
        dark_matter(HalfBlind(features, 32, 0.0), recording, rows=rows, n_boot=50) for rows in (100, 6000)
    ]
    for name in ("fvu", "fvu_nonlinear", "r2_error", "r2_norm"):
        one, other = (getattr(found, name) for found in pair)
        assert (one.value, one.low) == pytest.approx((other.value, other.low), abs=1e-8)
    x = recording["resid_post.0"][:100]
    error = x - HalfBlind(features, 32, 0.0).decode(x @ features[:32].T)
    linear, rest = pair[0].split(x, error)
    assert torch.allclose(linear + rest, error)
    assert rest.abs().max() < 1e-5
    # The squared norm of the missing half grows with the missing codes, so the input tells most of it.
    assert pair[0].r2_norm.value > 0.5
    assert pair[0].r2_size < pair[0].r2_norm.value


def test_dark_matter_refuses_what_it_cannot_judge():
    recording, features, _ = planted_recording(600, docs=3)
    with pytest.raises(PatchclampError, match="at least two groups"):
        dark_matter(HalfBlind(features, 32, 0.0), recording)
    recording, features, _ = planted_recording(200, docs=20)
    with pytest.raises(PatchclampError, match="samples fit 65 weights"):
        dark_matter(HalfBlind(features, 32, 0.0), recording)
    transcoder = HalfBlind(features, 32, 0.0)
    transcoder.target = Site("mlp_out", 1)
    with pytest.raises(PatchclampError, match="transcoder"):
        dark_matter(transcoder, recording)


# ---- bricks
def brick_recording(n=1500, groups=4, size=15, coupled=True, seed=0, units=60):
    """Units of a brick fire together: which brick is active is drawn anew for each sample."""
    order = torch.randperm(units, generator=draw(seed))
    truth = torch.empty(units, dtype=torch.int64)
    truth[order] = torch.arange(units) // size
    chosen = torch.randint(groups, (n,), generator=draw(seed + 1))
    drive = (truth == chosen[:, None]).double() if coupled else torch.zeros(n, units)
    activity = drive * 2 + torch.rand(n, units, generator=draw(seed + 2))
    samples = Samples.of(torch.arange(n) // 30, torch.arange(n) % 30)
    return Recording.from_arrays({"mlp_act.0": activity.float().numpy()}, samples), truth.numpy()


def test_bricks_are_the_groups_that_fire_together():
    recording, truth = brick_recording()
    found = Partition(4, active=0.25).fit(recording)
    assert adjusted_rand_score(found.labels, truth) == 1
    assert np.bincount(found.labels).tolist() == [15] * 4
    assert found.within > 0.9
    assert found.between < 0
    assert (found.restarts, found.halves) == (1, 1)
    assert abs(found.chance) < 0.1
    mine = found.units(int(found.labels[0]))
    assert list(mine.sites) == [Site("mlp_act", 0)]
    assert 0 in (mine[Site("mlp_act", 0)] or ())
    x = recording["mlp_act.0"][:5]
    torch.testing.assert_close(found.activity(x).sum(1), x.abs().sum(1))
    again = Partition(4, active=0.25).fit(recording, "mlp_act.0", rows=70)
    assert np.array_equal(again.labels, found.labels)
    with pytest.raises(PatchclampError, match=r"bricks 0\.\.3"):
        found.units(4)


def test_bricks_of_independent_units_are_not_stable():
    recording, _ = brick_recording(coupled=False)
    found = Partition(4, active=0.25).fit(recording)
    assert found.halves < 0.1
    assert found.within < 0.05
    assert "of halves of the data" in str(found)


def test_bricks_from_input_weights_and_balanced_sizes():
    truth = np.arange(62) % 4
    rows = normal(4, 20, seed=3)[truth] + 0.1 * normal(62, 20, seed=4)
    found = partition_weights(rows, "mlp_act.2", 4)
    assert adjusted_rand_score(found.labels, truth) == 1
    assert found.restarts > 0.9  # 62 units make two bricks of 16 and two of 15, and which ones is left open
    assert found.chance < 0.5
    labels, _ = balanced_kmeans(normal(50, 3, seed=5).numpy(), 7)
    assert sorted(np.bincount(labels).tolist()) == [7] * 6 + [8]
    same, _ = balanced_kmeans(np.zeros((6, 2)), 3)
    assert np.bincount(same).tolist() == [2, 2, 2]


def test_bricks_refuse_what_has_none():
    recording, _ = brick_recording(60)
    with pytest.raises(PatchclampError, match="give 2 to 60"):
        Partition(61).fit(recording)
    with pytest.raises(PatchclampError, match="active=1.5"):
        Partition(4, active=1.5).fit(recording)
    still = Recording.from_arrays({"mlp_act.0": np.zeros((60, 8), "float32")})
    with pytest.raises(PatchclampError, match="ever active"):
        Partition(2).fit(still)
    with pytest.raises(PatchclampError, match="no row of weights"):
        partition_weights(torch.zeros(8, 3), "mlp_act.0", 2)


# ---- discrete codes of heads
def planted_heads(prompts=50, heads=12, width=8, seed=0):
    """All heads use 5 shared words; head 3 uses 5 of its own on positives, head 7 one on 44 % of them."""
    words = nn.functional.normalize(normal(11, width, seed=seed), dim=1) * 3
    pick = torch.randint(5, (2, prompts, heads), generator=draw(seed + 1))
    pick[0, :, 3] = 5 + torch.arange(prompts) % 5
    pick[0, : round(0.44 * prompts), 7] = 10
    noise = 0.02 * normal(2, prompts, heads, width, seed=seed + 2)
    return words[pick] + noise


def test_codes_of_planted_heads():
    positive, negative = planted_heads()
    found = codes_of(positive, negative, n_codes=24, steps=200, n_perm=200)
    assert found.count.tolist() == [0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0]
    assert found.fraction[[3, 7]].tolist() == pytest.approx([1.0, 0.44])
    assert found.unexplained < 0.1
    assert found.p[3] < 0.01
    assert found.p[[i for i in range(12) if i not in (3, 7)]].min() == 1
    assert found.pairs[3, 7] >= 5
    assert found.pairs[0, 1] < found.pairs[3, 7]
    assert np.array_equal(found.pairs, found.pairs.T)
    again = codes_of(positive, negative, n_codes=24, steps=200, n_perm=200)
    assert np.array_equal(again.positive, found.positive)


def test_no_code_is_found_where_nothing_differs():
    both = planted_heads()[1]
    pick = torch.randperm(50, generator=draw(3))
    found = codes_of(both, both[pick], n_codes=24, steps=200, n_perm=100)
    assert found.count.max() == 0
    assert found.p.min() == 1


def test_codes_refuse_bad_outputs():
    positive, negative = planted_heads(4)
    for bad, message in (
        ((positive, negative[:3]), "alike"),
        ((positive * float("nan"), negative), "NaN"),
        ((torch.ones(3, 2, 4), torch.ones(3, 2, 4)), "are equal"),
    ):
        with pytest.raises(PatchclampError, match=message):
            codes_of(*bad)
    with pytest.raises(PatchclampError, match="at least two"):
        codes_of(positive, negative, n_codes=1)


def test_codes_find_the_planted_head_of_a_model():
    lm = planted.subject()
    found = discrete_codes(lm, planted.task(24), n_codes=128, steps=100, n_perm=100)
    best = found.scores.top(1)[0]
    assert str(best) == f"head.{planted.LAYER}[{planted.HEAD}]"
    assert found.scores.values[Site("head", 1)].shape == (24, 4)
    with pytest.raises(PatchclampError, match="codes are of heads"):
        discrete_codes(lm, planted.task(4), "mlp_act.0")
