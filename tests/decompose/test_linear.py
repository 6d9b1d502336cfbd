"""PCA and ICA against scikit-learn and planted sources; matching of dictionaries; saving and reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose import ICA, NMF, PCA, SNMF, load_dictionary, match
from patchclamp.nouns.dictionary import StoredDictionary


@pytest.fixture(scope="module")
def activity() -> Tensor:
    random = torch.Generator().manual_seed(0)
    mixed = torch.randn(3000, 5, generator=random) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5])
    basis = torch.linalg.qr(torch.randn(30, 5, generator=random)).Q.T
    return mixed @ basis + 0.01 * torch.randn(3000, 30, generator=random) + 2


def test_pca_is_scikit_learns(activity: Tensor) -> None:
    from sklearn.decomposition import PCA as Theirs

    found = PCA(n_features=4, held_out=0).fit(activity)
    theirs = Theirs(4, svd_solver="full").fit(activity.double().numpy())
    # Signs as of the largest entry; scikit-learn's newer versions agree, its older ones turn some around.
    turned = np.sign((theirs.components_ * found.directions.numpy()).sum(1))[:, None]
    assert np.abs(found.directions.numpy() - turned * theirs.components_).max() < 1e-5
    assert np.allclose(found.meta["explained"], theirs.explained_variance_ratio_, rtol=1e-5)
    codes = found.encode(activity)
    assert np.allclose(codes.numpy() * turned.T, theirs.transform(activity.double().numpy()), atol=1e-4)
    assert torch.allclose(found.directions @ found.directions.T, torch.eye(4), atol=1e-5)


def test_pca_does_not_depend_on_the_order_of_samples(activity: Tensor) -> None:
    order = torch.randperm(len(activity), generator=torch.Generator().manual_seed(1))
    first, second = (PCA(n_features=4, held_out=0).fit(rows) for rows in (activity, activity[order]))
    assert torch.allclose(first.directions, second.directions, atol=1e-6)


def test_incremental_pca_is_close_and_needs_no_covariance(activity: Tensor) -> None:
    exact, streamed = (
        PCA(n_features=3, held_out=0, solver=s).fit(activity) for s in ("covariance", "incremental")
    )
    assert match(exact, streamed, signed=False, null=0).cosines.min() > 0.999
    assert np.allclose(exact.meta["explained"], streamed.meta["explained"], rtol=1e-2)
    with pytest.raises(PatchclampError, match="cannot resume"):
        PCA(n_features=3, solver="incremental").fit(activity, resume="somewhere")


def test_ica_recovers_planted_sources_that_pca_mixes() -> None:
    random = np.random.default_rng(0)
    sources = np.stack(
        [random.laplace(size=6000), random.uniform(-1, 1, 6000), random.exponential(size=6000)], 1
    )
    mixing = random.normal(size=(3, 12))
    data = torch.from_numpy(sources @ mixing).float()
    found = ICA(n_features=3).fit(data)
    truth = torch.from_numpy(mixing)
    assert found.meta["converged"]
    assert match(truth, found, signed=False, null=0).cosines.min() > 0.998
    assert match(truth, PCA(n_features=3).fit(data), signed=False, null=0).cosines.min() < 0.98
    assert torch.allclose(found.encode(data).std(0), torch.ones(3), atol=0.05)
    assert torch.allclose(found.reconstruct(data), data, atol=1e-3)


@pytest.mark.parametrize("method", [PCA(n_features=2), ICA(n_features=2)], ids=["pca", "ica"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.ones(20, 5), "constant"),
        (torch.zeros(20, 5), "zero everywhere"),
        (torch.ones(1, 5), "at least 2"),
        (torch.arange(20.0)[:, None] * torch.ones(5), "rank 1"),
        (torch.full((20, 5), float("nan")), "nan at sample"),
        (torch.arange(10.0).reshape(2, 5), "ask for at most"),
    ],
)
def test_degenerate_input_gets_a_named_error(method: Any, rows: Tensor, message: str) -> None:
    with pytest.raises(PatchclampError, match=message):
        method.fit(rows)


def test_nearly_constant_activity_keeps_its_variance() -> None:
    """A mean a million times the spread: summing squares about zero would lose it in float32."""
    random = torch.Generator().manual_seed(0)
    spread = torch.randn(500, 1, generator=random) * torch.tensor([1.0, -1.0, 0.0])
    found = PCA(n_features=1, held_out=0).fit((spread + 1e4).double())
    assert match(torch.tensor([[1.0, -1.0, 0.0]]), found, signed=False, null=0).mcc > 0.9999


# ---- matching


def test_matching_finds_a_permutation_and_reports_chance() -> None:
    random = torch.Generator().manual_seed(0)
    first = torch.randn(8, 50, generator=random)
    order = torch.randperm(8, generator=random)
    found = match(first, -first[order], signed=False)
    assert found.mcc == pytest.approx(1)
    assert torch.equal(order[torch.from_numpy(found.pairs[:, 1])], torch.from_numpy(found.pairs[:, 0]))
    assert found.null_mcc < 0.4
    assert match(first, -first[order]).mcc < 0.5


def test_matching_is_one_to_one_where_the_best_cosine_is_not() -> None:
    first = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 0.0]])
    second = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    found = match(first, second, null=0)
    # Both like the second's first feature best; the pairs of largest sum are 0 + .8, not 1 - .6.
    assert found.pairs.tolist() == [[0, 1], [1, 0]]
    assert found.mcc == pytest.approx(0.4)
    assert found.mean_max == pytest.approx(0.9)
    assert np.isnan(found.best[2])


# ---- saving


@pytest.mark.parametrize(
    "method",
    [SNMF(n_features=3, sparsity=0.2), NMF(n_features=3), PCA(n_features=3), ICA(n_features=3)],
    ids=["snmf", "nmf", "pca", "ica"],
)
def test_a_dictionary_saved_and_read_back_encodes_the_same_bits(method: Any, tmp_path: Path) -> None:
    rows = torch.rand(400, 20, generator=torch.Generator().manual_seed(0)) ** 3
    found: StoredDictionary = method.fit(rows, "mlp_act.4")
    found.save(tmp_path / "mine")
    back = load_dictionary(tmp_path / "mine")
    assert type(back) is type(found)
    assert str(back.site) == "mlp_act.4"
    assert torch.equal(back.encode(rows), found.encode(rows))
    assert torch.equal(back.reconstruct(rows), found.reconstruct(rows))
    assert back.meta["seed"] == 0
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    with pytest.raises(PatchclampError, match="already"):
        found.save(tmp_path / "mine")
