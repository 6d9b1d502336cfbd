"""Selectivity: agreement with scikit-learn and SciPy, closed forms, the null of the maximum, WordNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, mutual_info_score, roc_auc_score

from patchclamp.base.errors import PatchclampError
from patchclamp.base.shuffles import Shuffle
from patchclamp.measure import Selectivity
from patchclamp.nouns.recording.recording import Samples
from patchclamp.nouns.tasks.wordnet import SUPERSENSES, WordNet


def rows(
    x: torch.Tensor, y: torch.Tensor, group: torch.Tensor | None = None, **options: object
) -> Selectivity:
    """One example a row."""
    measure = Selectivity(pool="none", **options)  # type: ignore[arg-type]
    n = torch.arange(len(x))
    measure.update(x, Samples.of(n, torch.zeros_like(n), label=y, group=group))
    return measure


def noise(n: int, units: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, units, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_scikit_learn(ties: bool) -> None:
    y = torch.arange(90) % 3
    x = noise(90, 8) + 0.5 * y[:, None] * torch.linspace(-1, 1, 8)
    x = x.round() if ties else x
    r = rows(x, y, n_permutations=0, bins=6).result()
    for label in range(3):
        member = (y == label).numpy()
        for unit in range(8):
            a = x[:, unit].double().numpy()
            at = {"unit": unit, "label": str(label)}
            assert float(r["auc"].sel(at)) == pytest.approx(roc_auc_score(member, a), abs=1e-12)
            assert float(r["ap"].sel(at)) == pytest.approx(average_precision_score(member, a), abs=1e-12)
            assert float(r["ap_negated"].sel(at)) == pytest.approx(
                average_precision_score(member, -a), abs=1e-12
            )
            v1, v0 = a[member].var(ddof=1), a[~member].var(ddof=1)
            d = (a[member].mean() - a[~member].mean()) / np.sqrt((v1 + v0) / 2)
            assert float(r["d_prime"].sel(at)) == pytest.approx(d, rel=1e-9)
            if not ties:
                binned = (a.argsort().argsort() * 6) // 90
                nats = mutual_info_score(member, binned)
                assert float(r["mi"].sel(at)) == pytest.approx(nats / np.log(2), abs=1e-12)


def test_constant_perfect_and_inverted_units() -> None:
    y = (torch.arange(100) < 20).long()
    x = torch.stack([torch.full((100,), 0.3), y.float(), -y.float(), torch.zeros(100)], 1)
    r = rows(x, y, n_permutations=20).result().sel(label="1")
    assert float(r["prevalence"]) == 0.2
    assert r["ap"].values == pytest.approx([0.2, 1.0, 0.2, 0.2])
    assert r["ap_negated"].values == pytest.approx([0.2, 0.2, 1.0, 0.2])
    assert r["ap_normalised"].values[:2] == pytest.approx([0, 1])
    assert r["auc"].values == pytest.approx([0.5, 1, 0, 0.5])
    entropy = -(0.2 * np.log2(0.2) + 0.8 * np.log2(0.8))
    assert r["mi"].values == pytest.approx([0, entropy, entropy, 0])
    assert np.isnan(r["d_prime"].values[[0, 3]]).all() and np.isposinf(r["d_prime"].values[1])
    for name in ("auc", "ap", "mi", "d_prime"):
        assert r[f"p_{name}"].values[1:3] == pytest.approx([1 / 21, 1 / 21])
    assert r["p_auc"].values[0] == 1


@pytest.mark.slow
def test_the_best_of_many_random_units_is_no_finding() -> None:
    # Card A21: best of 2,000 random units, 1:4 labels: AP about .30 with 500 examples, about .6 with 50.
    for n, low, high in ((500, 0.26, 0.34), (50, 0.5, 0.72)):
        y = (torch.arange(n) % 5 == 0).long()
        r = rows(noise(n, 2000, 3), y, n_permutations=19, statistics=("ap", "auc")).result().sel(label="1")
        assert low < float(r["ap"].max()) < high
        assert float(r["ap"].mean()) == pytest.approx(0.2, abs=0.06)
        assert float(r["p_ap"].min()) >= 0.1 and float(r["p_auc"].min()) >= 0.1
        assert r["null_max_ap"].shape == (19,)


def test_one_selective_unit_among_many_is_found() -> None:
    y = (torch.arange(200) % 5 == 0).long()
    x = noise(200, 300)
    x[:, 42] -= 3 * y
    r = rows(x, y, n_permutations=100).result().sel(label="1")
    for name in ("auc", "d_prime", "ap", "mi"):
        assert int(r[f"p_{name}"].values.argmin()) == 42 and float(r[f"p_{name}"][42]) == pytest.approx(
            1 / 101
        )
        assert (r[f"p_{name}"].values < 0.05).sum() <= 2


def test_the_null_holds_its_level() -> None:
    y = torch.arange(40) % 2
    smallest = [
        float(rows(noise(40, 30, s), y, n_permutations=39, statistics=("auc",)).result()["p_auc"].min())
        for s in range(60)
    ]
    assert np.mean(np.array(smallest) <= 0.1) < 0.25  # two labels with one null: about .1 expected


def test_labels_move_between_groups_where_groups_have_one() -> None:
    # 10 groups of 20 near copies: without groups, units that differ between groups would all look selective.
    group = torch.arange(200) // 20
    y = group % 2
    x = noise(10, 50, 1)[group] + 0.01 * noise(200, 50, 2)
    plain = rows(x, y, n_permutations=50, statistics=("auc",)).result()
    right = rows(x, y, group, n_permutations=50, statistics=("auc",)).result()
    assert plain.attrs["shuffled"] == "examples" and right.attrs["shuffled"] == "between groups"
    assert float(plain["p_auc"].min()) < 0.03
    assert float(right["p_auc"].min()) > 0.1


def test_shuffles_keep_what_they_must() -> None:
    generator = torch.Generator().manual_seed(0)
    group = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 5, 6])
    between = torch.tensor([[1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1]]).double()
    shuffle = Shuffle.of(between, group)
    assert shuffle.kind == "between groups"
    for _ in range(20):
        moved = shuffle(between, generator)
        assert all(len(moved[0, group == g].unique()) == 1 for g in range(7))
    within = torch.tensor([[1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1]]).double()
    shuffle = Shuffle.of(within, group)
    assert shuffle.kind == "within groups"
    results = torch.cat([shuffle(within, generator) for _ in range(20)])
    for g in range(7):
        assert bool((results[:, group == g].sum(1) == within[0, group == g].sum()).all())
    assert len({tuple(row.tolist()) for row in results}) > 5
    with pytest.raises(PatchclampError, match="4 groups leave too few ways"):
        Shuffle.of(torch.tensor([[0, 0, 1, 1, 0, 0, 1, 1]]).double(), torch.arange(8) // 2)


@pytest.mark.parametrize("pool", ["mean", "max", "sum", "last"])
def test_pooling_over_documents_split_between_batches(pool: str) -> None:
    doc = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    position = torch.tensor([0, 1, 2, 0, 1, 0, 1, 2, 0, 1])
    x = noise(10, 2)
    samples = Samples.of(doc, position, label=doc % 2)
    measure = Selectivity(pool=pool, n_permutations=0)
    for part in torch.randperm(10, generator=torch.Generator().manual_seed(0)).split(3):
        measure.update(x[part], samples[part])
    values, member, names, _ = measure.examples()
    pools = {
        "mean": lambda t: t.mean(0),
        "max": lambda t: t.amax(0),
        "sum": lambda t: t.sum(0),
        "last": lambda t: t[-1],
    }
    expected = torch.stack([pools[pool](x[doc == d]) for d in range(4)])
    torch.testing.assert_close(values.float(), expected)
    assert names == ["0", "1"] and member.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]


def test_documents_with_several_labels_or_none() -> None:
    membership = torch.tensor(
        [[True, False, False], [True, True, False], [False, False, False], [False, True, False]]
    )
    doc = torch.arange(4)
    measure = Selectivity(membership=membership, labels=("a", "b", "never"), n_permutations=0)
    measure.update(torch.tensor([[3.0], [2.0], [0.0], [1.0]]), Samples.of(doc, doc))
    r = measure.result()
    assert r["label"].values.tolist() == ["a", "b"]
    assert r["auc"].values[0].tolist() == [1.0, 0.5] and r["positives"].values.tolist() == [2, 2]


def test_unlabelled_examples_are_left_out_and_bad_input_refused() -> None:
    y = torch.tensor([0, 1, -1, 1, 0, -1])
    r = rows(noise(6, 2), y, n_permutations=0, labels=("no", "yes")).result()
    assert r.attrs["n_examples"] == 4 and r["label"].values.tolist() == ["no", "yes"]
    with pytest.raises(PatchclampError, match="1 label among the examples"):
        rows(noise(6, 2), torch.zeros(6, dtype=torch.int64)).result()
    with pytest.raises(PatchclampError, match="did you mean auc"):
        Selectivity(statistics=("aucs",))
    with pytest.raises(PatchclampError, match=r"label 1, but 1 names"):
        rows(noise(6, 2), y, labels=("no",)).result()
    with pytest.raises(PatchclampError, match=r"100 examples of 30 units need 0 MiB.*limit"):
        rows(noise(100, 30), torch.zeros(100, dtype=torch.int64), memory_limit=1000)
    mixed = Samples.of(torch.zeros(2), torch.arange(2), label=torch.tensor([0, 1]))
    with pytest.raises(PatchclampError, match=r'document 0 has samples of different label.*pool="none"'):
        Selectivity().update(noise(2, 2), mixed)


def installed() -> bool:
    return Path("/usr/share/wordnet/data.noun").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not installed(), reason="Debian's package wordnet-base is not installed")
def test_supersenses_of_words_and_glosses() -> None:
    wordnet = WordNet()
    assert len(SUPERSENSES) == 45 and len(wordnet.senses) == 117_659
    assert {sense.number for sense in wordnet.senses.values()} == set(range(45))
    assert wordnet.supersenses("dogs", pos="noun")[0] == "noun.animal"
    assert wordnet.supersenses("rained") == ("verb.weather",)
    assert "noun.animal" in wordnet.supersenses("mice") and "verb.motion" in wordnet.supersenses(
        "ran", "verb"
    )
    assert wordnet.supersenses("hot dog")[0] == "noun.person" or "noun.food" in wordnet.supersenses("hot dog")
    assert wordnet.supersenses("xyzzyx") == ()
    some = wordnet.examples(["noun.food", "verb.motion"], per_label=30, seed=1)
    assert some == wordnet.examples(["noun.food", "verb.motion"], per_label=30, seed=1)
    assert [e.label for e in some] == ["noun.food"] * 30 + ["verb.motion"] * 30
    assert all(e.text and '"' not in e.text[:1] and SUPERSENSES[e.number] == e.label for e in some)
    everything = wordnet.examples()
    assert len({e.text for e in everything}) == len(everything) > 100_000
    with pytest.raises(PatchclampError, match=r"did you mean noun.food"):
        wordnet.examples(["noun.foods"])
    with pytest.raises(PatchclampError, match="did you mean noun"):
        wordnet.supersenses("dog", pos="nouns")


def test_wordnet_that_is_not_there_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(PatchclampError, match="apt-get install wordnet-base"):
        WordNet(tmp_path)


def test_a_perfect_unit_among_perfect_shuffles_is_no_discovery() -> None:
    """Infinite d' (no variance on either side) is compared as infinite: two against two, shuffles get it too."""
    y = torch.tensor([0, 0, 1, 1])
    x = torch.stack([y.double(), torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])], 1)
    r = rows(x, y, statistics=("d_prime",), n_permutations=50).result()
    assert np.isinf(r["d_prime"].values[0]).all()  # and every shuffle makes one of the units perfect
    assert (r["p_d_prime"].values[0] == 1).all()
