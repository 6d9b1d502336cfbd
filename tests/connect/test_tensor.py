"""Tensor factorisation, affinities, block model: against formulas and planted factors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from patchclamp.base.errors import PatchclampError
from patchclamp.connect import affinities, dynamic_connectome, tensor_factorisation, weighted_blocks
from patchclamp.connect.groups.tensor_factorisation import match_components
from patchclamp.truth.populations_coded import motifs

PLANTED = motifs(0)


def planted_tensor(noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    parts = [rng.random((n, 3)) * (rng.random((n, 3)) < 0.6) for n in (40, 6, 90)]
    x = np.einsum("tr,wr,pr->twp", *parts)
    return x + noise * rng.random(x.shape), parts


# ---- factorisation


def test_planted_factors_come_back_exactly():
    x, parts = planted_tensor()
    found = tensor_factorisation(x, 3, tolerance=1e-7, iterations=500)
    assert found.error < 1e-3 and found.rank == 3
    assert match_components(parts, [found.time, found.animals, found.pairs])[1].min() > 0.999
    assert np.allclose(np.linalg.norm(found.time, axis=0), 1) and (found.pairs >= 0).all()
    assert found.stability.min() > 0.99


def test_error_is_that_of_the_tensor_and_falls_with_rank():
    x, _ = planted_tensor(0.5)
    errors = []
    for rank in (1, 2, 3, 4):
        found = tensor_factorisation(x, rank, restarts=3)
        model = np.einsum("tr,wr,pr->twp", found.time, found.animals, found.pairs)
        assert found.error == pytest.approx(np.linalg.norm(x - model) / np.linalg.norm(x), rel=1e-6)
        errors.append(found.error)
    assert (np.diff(errors) < 0).all() and min(found.errors) == found.error


def test_the_block_size_changes_nothing_and_the_seed_everything_but_the_answer():
    x, _ = planted_tensor(0.2)
    one, other = (tensor_factorisation(x, 3, block=b, restarts=2) for b in (7, 4096))
    assert np.abs(one.pairs - other.pairs).max() < 1e-9
    again = tensor_factorisation(x, 3, restarts=2)
    assert np.array_equal(again.time, other.time)


def test_missing_pairs_do_not_enter():
    rng = np.random.default_rng(1)
    parts = [rng.random((40, 3)) ** 3, rng.random((6, 3)) + 0.2, rng.random((90, 3)) ** 3]
    x = np.einsum("tr,wr,pr->twp", *parts)
    gone = rng.random(x.shape[1:]) < 0.2
    x[:, gone] = np.nan
    found = tensor_factorisation(x, 3, tolerance=1e-6, iterations=300, restarts=2)
    assert found.error < 1e-2 and gone.sum() > 50
    assert match_components(parts, [found.time, found.animals, found.pairs])[1].min() > 0.99


def test_starting_on_part_of_the_pairs_leads_to_the_same_error():
    x, _ = planted_tensor(0.3)
    wide = np.concatenate([x] * 20, 2)
    cold = tensor_factorisation(wide, 3, warm_pairs=None, restarts=3, tolerance=1e-6)
    warm = tensor_factorisation(wide, 3, warm_pairs=100, restarts=3, tolerance=1e-6)
    assert warm.error == pytest.approx(cold.error, rel=2e-3) and warm.passes < cold.passes


# ---- affinities


def test_affinity_is_the_formula():
    from scipy.ndimage import gaussian_filter1d

    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 50, 4))
    tensor = affinities(x, smooth_trace=1.5, smooth_affinity=3)
    slope = np.gradient(gaussian_filter1d(x, 1.5, axis=1), axis=1)
    slope /= slope.std(1, keepdims=True)
    wanted = np.stack(
        [
            gaussian_filter1d(np.sqrt(np.maximum(slope[..., i] * slope[..., j], 0)), 3, axis=1)
            for i, j in zip(*np.triu_indices(4, 1), strict=True)
        ],
        2,
    )
    assert np.abs(tensor.dense() - wanted.transpose(1, 0, 2)).max() < 1e-5
    fitted = tensor_factorisation(tensor, 2, restarts=1), tensor_factorisation(tensor.dense(), 2, restarts=1)
    assert fitted[0].error == pytest.approx(fitted[1].error, abs=2e-3), "smoothed inside as outside"


def test_affinities_made_again_in_every_pass_are_the_same():
    kept, made = (affinities(PLANTED.recording, cache=c) for c in (2**31, 0))
    one, other = (tensor_factorisation(t, 2, restarts=1, iterations=5, block=100) for t in (kept, made))
    assert np.abs(one.pairs - other.pairs).max() < 1e-4


def test_opposite_changes_are_seen_by_the_other_sign_alone():
    rng = np.random.default_rng(0)
    a = np.cumsum(rng.normal(size=(200, 1)), 0)
    x = np.concatenate([a, -a, rng.normal(size=(200, 1))], 1)[None]
    same, opposite = (affinities(x, sign=s, smooth_affinity=0).dense()[..., 0].mean() for s in (1, -1))
    assert same < 1e-3 and opposite > 0.5
    assert affinities(x, kind="minimum", sign=-1, smooth_affinity=0).dense()[..., 0].mean() > 0.4


# ---- blocks


def test_blocks_of_a_planted_partition_and_one_block_without():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [8, 10, 12])
    rate = np.where(truth[:, None] == truth, 4.0, 1.0)
    w = np.tril(rng.exponential(rate), -1)
    found = weighted_blocks(w + w.T)
    assert normalized_mutual_info_score(truth, found.labels) == pytest.approx(1) and found.gain > 20
    flat = np.tril(rng.exponential(np.ones((30, 30))), -1)
    none = weighted_blocks(flat + flat.T)
    assert none.n == 1 and none.gain == 0 and none.dense() == [] and none.structure == 0


def test_evidence_is_the_integral_over_rates():
    """One block of three nodes: the integral of the likelihood over the rate, done numerically."""
    from scipy.integrate import quad

    w = np.array([[0, 1.0, 2.0], [1.0, 0, 0.5], [2.0, 0.5, 0]])
    x, beta = 3.5, 3.5 / 3
    integral = quad(lambda rate: rate**3 * np.exp(-rate * x) * beta * np.exp(-rate * beta), 0, 60)[0]
    assert weighted_blocks(w, most=1).evidence == pytest.approx(np.log(integral) - np.log(3), abs=1e-6)


def test_structure_is_the_energy_between_blocks():
    truth = np.repeat([0, 1], 10)
    w = np.where((truth[:, None] == 0) & (truth == 0), 5.0, 1.0) + 0.0
    np.fill_diagonal(w, 0)
    found = weighted_blocks(w)
    pairs = w[np.tri(20, k=-1, dtype=bool)]
    assert found.structure == pytest.approx(((pairs - pairs.mean()) ** 2).sum())
    assert found.dense() == [0] and found.labels.tolist() == truth.tolist()


def test_unmeasured_pairs_are_left_out_of_the_evidence():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], [8, 16])
    w = np.tril(rng.exponential(np.where((truth[:, None] + truth) == 0, 6.0, 1.0)), -1)
    w = w + w.T
    gone = np.triu(rng.random(w.shape) < 0.2)
    w[gone | gone.T] = np.nan
    w[20] = w[:, 20] = np.nan  # never seen at all
    labels = weighted_blocks(w).labels
    kept = np.arange(24) != 20
    assert normalized_mutual_info_score(truth[kept], labels[kept]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tensor_factorisation(np.ones((3, 4)), 1), "time x animal x pair"),
        (lambda: tensor_factorisation(-np.ones((3, 2, 4)), 1), "smallest value -1"),
        (lambda: tensor_factorisation(np.zeros((3, 2, 4)), 1), "all values are 0"),
        (lambda: tensor_factorisation(np.ones((3, 2, 4)), 0), "rank=0"),
        (
            lambda: tensor_factorisation(
                np.where(np.eye(4)[None] > 0, np.nan, np.ones((3, 4, 4))), 1, restarts=0
            ),
            "restarts",
        ),
        (
            lambda: tensor_factorisation(np.r_[np.full((1, 2, 4), np.nan), np.ones((2, 2, 4))], 1),
            "at all times",
        ),
        (lambda: affinities(np.ones((3, 9))[0]), "animal x time x neuron"),
        (lambda: affinities(np.ones((9, 3)), [0] * 4 + [1] * 5), "cut them to one length"),
        (lambda: affinities(np.full((2, 9, 3), np.nan)), "missing in every animal"),
        (lambda: dynamic_connectome(np.ones((2, 9, 3)), null="roll"), "null='roll'"),
        (lambda: weighted_blocks(-np.ones((3, 3))), "not negative"),
        (lambda: dynamic_connectome(np.random.rand(2, 9, 3), names=["a"]), "names: 1 given"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(PatchclampError, match=says):
        call()
