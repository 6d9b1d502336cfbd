"""SNMF and NMF: planted groups of neurons, and what holds for any fit (seeds, chunks, resuming, degenerate input)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose import NMF, SNMF, hierarchy, match, stability
from patchclamp.decompose.base import activity as read
from patchclamp.decompose.base import unexplained_variance
from patchclamp.decompose.dictionaries.non_negative import SNMFDictionary
from patchclamp.decompose.factor import refine
from patchclamp.decompose.factor import snmf_updates as step
from patchclamp.decompose.factor.nnls import encode_non_negative, non_negative_codes
from patchclamp.nouns.recording.matrix import ActivityMatrix
from patchclamp.nouns.recording.recording import Recording, Samples


def planted(seed: int = 0, samples: int = 1500, signed: bool = True) -> tuple[Tensor, Tensor]:
    """Card A6: 400 neurons, six features on disjoint sets of 8, 25 % active, noise .01."""
    random = torch.Generator().manual_seed(seed)
    groups = torch.zeros(6, 400)
    order = torch.randperm(400, generator=random)
    for k in range(6):
        values = 0.5 + torch.rand(8, generator=random)
        signs = torch.where(torch.rand(8, generator=random) < 0.5, -1.0, 1.0) if signed else 1.0
        groups[k, order[8 * k : 8 * k + 8]] = values * signs
    codes = torch.rand(samples, 6, generator=random) * (torch.rand(samples, 6, generator=random) < 0.25)
    noise = 0.01 * torch.randn(samples, 400, generator=random)
    return codes @ groups + (noise if signed else noise.abs()), groups


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return planted()


@pytest.mark.parametrize("seed", range(6))
def test_planted_groups_are_recovered_from_any_start(data: tuple[Tensor, Tensor], seed: int) -> None:
    activity, groups = data
    found = SNMF(n_features=6, sparsity=0.02, seed=seed).fit(activity)
    assert match(groups, found, null=0).cosines.min() > 0.999
    assert (found.directions != 0).sum(1).tolist() == [8] * 6
    assert found.meta["unexplained"] < 0.02
    assert np.all(np.diff(found.meta["errors"]) <= 1e-6)


def test_without_winner_take_all_the_error_is_the_same_and_the_groups_are_lost(
    data: tuple[Tensor, Tensor],
) -> None:
    activity, groups = data
    with_step = SNMF(n_features=6, sparsity=0.02).fit(activity).meta["error"]
    for seed in range(3):
        found = SNMF(n_features=6, sparsity=None, seed=seed).fit(activity)
        assert abs(found.meta["error"] - with_step) < 0.001
        assert match(groups, found, null=0).cosines.min() < 0.9


def test_features_are_units_of_the_site_and_beat_the_null(data: tuple[Tensor, Tensor]) -> None:
    activity, groups = data
    matching = match(groups, SNMF(n_features=6, sparsity=0.02).fit(activity))
    assert matching.mcc > 0.999
    assert matching.null_mcc < 0.2


def test_winner_take_all_keeps_exactly_that_many_even_where_entries_tie() -> None:
    kept = step.winner_take_all(torch.ones(3, 10), 4)
    assert kept.sum(1).tolist() == [4, 4, 4]
    assert step.winner_take_all(torch.tensor([[1.0, -3.0, 2.0]]), 1).tolist() == [[0, -3, 0]]


def test_refit_never_raises_the_error_and_keeps_the_zeros() -> None:
    random = torch.Generator().manual_seed(0)
    codes = torch.rand(200, 5, generator=random).double()
    activity = torch.randn(200, 30, generator=random).double()
    c, b, energy = codes.T @ codes, codes.T @ activity, float((activity**2).sum())
    sparse = step.winner_take_all(step.least_squares(c, b), 4)
    better = step.refit(sparse, c, b)
    assert torch.equal(better == 0, sparse == 0)
    assert step.squared_error(better, c, b, energy) < step.squared_error(sparse, c, b, energy)
    direct = float(((activity - codes @ better) ** 2).sum())
    assert step.squared_error(better, c, b, energy) == pytest.approx(direct, rel=1e-10)


def test_codes_are_those_of_scipys_solver() -> None:
    from scipy.optimize import nnls

    random = torch.Generator().manual_seed(1)
    directions = torch.randn(8, 20, generator=random).double()
    activity = torch.randn(30, 20, generator=random).double()
    codes = encode_non_negative(activity, directions)
    exact = np.stack([nnls(directions.T.numpy(), row.numpy())[0] for row in activity])
    assert np.abs(codes.numpy() - exact).max() < 1e-5


def test_codes_have_the_derivative_of_the_solution() -> None:
    random = torch.Generator().manual_seed(2)
    directions = torch.randn(5, 12, generator=random).double()
    activity = torch.randn(6, 12, generator=random).double().requires_grad_()
    codes = non_negative_codes(activity.detach() @ directions.T, directions @ directions.T)
    assert 0 < int((codes > 0).sum()) < codes.numel()
    weights = torch.randn(6, 5, generator=random).double()
    (encode_non_negative(activity, directions) * weights).sum().backward()
    for row, unit in ((0, 0), (3, 7), (5, 11)):
        moved = torch.zeros_like(activity)
        moved[row, unit] = 1e-3
        with torch.no_grad():
            up, down = (
                (encode_non_negative(activity + s * moved, directions) * weights).sum() for s in (1, -1)
            )
        assert activity.grad is not None
        assert float(activity.grad[row, unit]) == pytest.approx(float((up - down) / 2e-3), abs=2e-3)


# ---- seeds, chunks, order, resuming


def recorded(activity: Tensor, folder: Path, chunk_rows: int) -> Recording:
    samples = Samples.of(torch.arange(len(activity)) // 10, torch.arange(len(activity)) % 10)
    with Recording.create(
        folder, {}, {"mlp_act.3": (activity.shape[1],)}, len(activity), chunk_rows=chunk_rows
    ) as writer:
        writer.append(samples, {Recording.from_arrays({"mlp_act.3": activity}).sites[0]: activity})
        writer.finish()
    return Recording.open(folder)


def test_the_same_seed_gives_the_same_bits_whatever_the_chunks_on_disk(
    data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    activity = data[0]
    fine, coarse = (recorded(activity, tmp_path / str(rows), rows) for rows in (100, 1000))
    method = SNMF(n_features=6, sparsity=0.02, polish=3)
    first, second = method.fit(fine), method.fit(coarse, "mlp_act.3")
    assert str(first.site) == "mlp_act.3"
    assert torch.equal(first.directions, second.directions)
    assert first.meta["unexplained"] == second.meta["unexplained"]


def test_a_polishing_pass_does_not_depend_on_the_order_of_samples() -> None:
    activity = planted(samples=6000)[0]
    order = torch.randperm(6000, generator=torch.Generator().manual_seed(5))
    start = step.unit_rows(activity[:6])
    sums = []
    for rows in (activity, activity[order]):
        c, b = torch.zeros(6, 6).double(), torch.zeros(6, 400).double()
        for block in read(rows).blocks(2048):
            codes = non_negative_codes(block @ start.T, start @ start.T)
            c += codes.T @ codes
            b += codes.T @ block
        sums.append(step.least_squares(c, b))
    assert torch.allclose(*sums, rtol=1e-4, atol=1e-6)


def test_a_fit_that_was_killed_goes_on_to_the_same_bits(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    method = SNMF(n_features=6, sparsity=0.02, held_out=0)
    whole = method.fit(data[0])

    class Killed(RuntimeError):
        pass

    def kill(text: str, done: float, total: float | None) -> None:
        if done == 7:
            raise Killed

    with pytest.raises(Killed):
        method.fit(data[0], progress=kill, resume=tmp_path)
    seen: list[int] = []
    found = method.fit(data[0], progress=lambda text, done, total: seen.append(done), resume=tmp_path)
    assert seen[0] == 8
    assert torch.equal(found.directions, whole.directions)
    assert found.meta["errors"] == whole.meta["errors"]
    with pytest.raises(
        PatchclampError, match="holds the state of another run: n_features is 6 there and 5 here"
    ):
        SNMF(n_features=5, sparsity=0.02, held_out=0).fit(data[0], resume=tmp_path)


def test_progress_ends_at_its_total(data: tuple[Tensor, Tensor]) -> None:
    calls: list[tuple[int, int]] = []
    SNMF(n_features=3).fit(data[0], progress=lambda text, done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1]


def test_held_out_groups_are_never_cut_and_never_seen() -> None:
    activity = read(
        Recording.from_arrays(
            {"x": torch.randn(100, 4)}, Samples.of(torch.arange(100) // 10, torch.arange(100) % 10)
        )
    )
    seen, held = activity.split(0.2, seed=0)
    assert held is not None
    assert (seen.n, held.n) == (80, 20)
    assert not set(seen.group) & set(held.group)


def test_samples_without_content_are_left_out() -> None:
    activity = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    activity[::10] = 1e6
    content = torch.arange(50) % 10 != 0
    samples = Samples.of(torch.arange(50) // 10, torch.arange(50) % 10, content=content)
    kept = read(Recording.from_arrays({"x": activity}, samples))
    assert kept.n == 45
    assert torch.equal(next(kept.blocks()), activity[content])


def test_memory_is_that_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor read at a time is one block, however many samples there are."""
    read: list[int] = []
    original = ActivityMatrix.rows

    def watch(self: ActivityMatrix, places: np.ndarray) -> Tensor:
        read.append(len(places))
        return original(self, places)

    monkeypatch.setattr(ActivityMatrix, "rows", watch)
    SNMF(n_features=3, polish=1, held_out=0).fit(
        torch.randn(9000, 8, generator=torch.Generator().manual_seed(0))
    )
    assert max(read) <= 2048


# ---- degenerate input


@pytest.mark.parametrize(
    ("activity", "message"),
    [
        (torch.zeros(20, 5), "zero everywhere"),
        (torch.ones(1, 5), "at least 2"),
        (torch.ones(20, 5).index_fill(0, torch.tensor([3]), float("nan")), "nan at sample 3"),
        (torch.ones(20, 5).index_fill(1, torch.tensor([2]), float("inf")), r"\[2\]: inf"),
        (torch.ones(20, 5, dtype=torch.int64), "wanted floating"),
    ],
)
@pytest.mark.parametrize(
    "method", [SNMF(n_features=2, held_out=0), NMF(n_features=2, held_out=0)], ids=["snmf", "nmf"]
)
def test_unusable_activity_is_refused_by_name(method: Any, activity: Tensor, message: str) -> None:
    with pytest.raises(PatchclampError, match=message):
        method.fit(activity)


@pytest.mark.parametrize(
    "method", [SNMF(n_features=3, sparsity=None), NMF(n_features=3)], ids=["snmf", "nmf"]
)
def test_constant_activity_is_one_feature_and_dead_ones(method: Any) -> None:
    row = torch.tensor([1.0, 2.0, 0.0, 3.0])
    found = method.fit(row.repeat(30, 1))
    assert found.meta["dead"] == 2
    assert torch.allclose(found.reconstruct(row), row, atol=1e-4)
    assert torch.equal(found.encode(torch.zeros(4)), torch.zeros(3))


def test_rank_deficient_activity_is_explained() -> None:
    random = torch.Generator().manual_seed(0)
    activity = torch.rand(300, 2, generator=random) @ torch.randn(2, 20, generator=random)
    found = SNMF(n_features=5, sparsity=None, polish=30).fit(activity)
    assert torch.isfinite(found.directions).all()
    assert found.meta["error"] < 1e-4


def test_bad_settings_are_refused() -> None:
    activity = torch.rand(20, 5)
    for method, message in (
        (SNMF(n_features=0), "at least one feature"),
        (SNMF(n_features=30), "at most"),
        (SNMF(n_features=2, sparsity=0.0), "sparsity"),
        (SNMF(n_features=2, held_out=1.0), "held_out"),
    ):
        with pytest.raises(PatchclampError, match=message):
            method.fit(activity)
    with pytest.raises(PatchclampError, match="below zero"):
        NMF(n_features=2).fit(activity - 0.5)
    two = Recording.from_arrays({"a": activity, "b": activity})
    with pytest.raises(PatchclampError, match="several sites"):
        SNMF(n_features=2).fit(two)


# ---- NMF, hierarchy, stability


def test_nmf_recovers_parts_as_well_as_scikit_learn() -> None:
    from sklearn.decomposition import NMF as Theirs

    activity, groups = planted(signed=False)
    found = NMF(n_features=6, held_out=0).fit(activity)
    assert float(found.directions.min()) >= 0
    assert match(groups, found, null=0).cosines.min() > 0.99
    theirs = Theirs(6, init="nndsvda", max_iter=200).fit(activity.numpy())
    error = theirs.reconstruction_err_**2 / float((activity**2).sum())
    assert found.meta["error"] < 1.02 * error


def family(n_shared: int, n_own: int) -> Tensor:
    """Nine features in three families: units shared by the family, and units of one's own."""
    shared = torch.eye(3).repeat_interleave(n_shared, 1).repeat_interleave(3, 0)
    return torch.cat([shared, torch.eye(9).repeat_interleave(n_own, 1)], dim=1)


def one_parent_a_family(parents: Tensor) -> bool:
    rows = parents.reshape(3, 3)
    return torch.equal(rows, rows[:, :1].expand(3, 3)) and rows[:, 0].unique().numel() == 3


def test_refining_puts_features_that_share_units_under_one_parent() -> None:
    tree = refine(SNMFDictionary("x", step.unit_rows(family(8, 2))), [3], sparsity=10 / 42)
    assert one_parent_a_family(tree.parents[0])
    assert sorted(child for k in range(3) for child in tree.children(1, k)) == list(range(9))
    table = tree.table()
    assert list(table["level"]) == [0] * 9 + [1] * 3
    assert table["share"][:9].min() > 0.9
    with pytest.raises(PatchclampError, match="have children"):
        tree.children(0, 0)


@pytest.mark.slow
def test_a_hierarchy_of_activity_finds_features_and_their_families() -> None:
    random = torch.Generator().manual_seed(0)
    fine = family(4, 6)
    codes = torch.rand(4000, 9, generator=random) * (torch.rand(4000, 9, generator=random) < 0.15)
    tree = hierarchy(codes @ fine, [9, 3], settings=SNMF(sparsity=10 / fine.shape[1], restarts=6))
    matched = match(fine, tree.levels[0], null=0)
    assert matched.mcc > 0.99
    assert one_parent_a_family(tree.parents[0][torch.from_numpy(matched.pairs[:, 1])])
    with pytest.raises(PatchclampError, match="falling"):
        hierarchy(codes @ fine, [3, 9])


@pytest.mark.slow
def test_stability_is_one_for_planted_groups_and_low_without_the_step(data: tuple[Tensor, Tensor]) -> None:
    stable = stability(SNMF(n_features=6, sparsity=0.02), data[0])
    loose = stability(SNMF(n_features=6, sparsity=None), data[0])
    assert stable.mean > 0.999
    assert stable.features.min() > 0.999
    assert loose.mean < 0.99
    assert stable.null < 0.2
    with pytest.raises(PatchclampError, match="two different seeds"):
        stability(SNMF(n_features=2), data[0], seeds=(1, 1))


def test_unexplained_variance_is_pooled_about_the_mean(data: tuple[Tensor, Tensor]) -> None:
    found = SNMF(n_features=6, sparsity=0.02).fit(data[0])
    x = data[0].double()
    wrong = ((x - found.reconstruct(data[0]).double()) ** 2).sum()
    assert unexplained_variance(found, data[0]) == pytest.approx(
        float(wrong / ((x - x.mean(0)) ** 2).sum()), rel=1e-5
    )
