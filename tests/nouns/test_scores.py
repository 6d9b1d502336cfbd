"""Scores: means, tables, selections, saving; effects as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null
from patchclamp.nouns.scores import Effect, Scores, metric_name
from patchclamp.nouns.units import Site, Units

HEAD, MLP = Site("head", 1), Site("mlp_out", 0)


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    head = rng.normal(size=(9, 3, 2)).astype(np.float32)
    head[:, 1] -= 4
    head[0, :, 1] = np.nan
    mlp = rng.normal(1.0, 0.1, size=(9, 1, 2)).astype(np.float32)
    return Scores(
        "test",
        "denoising",
        "logit_diff",
        "toy",
        {HEAD: head, MLP: mlp},
        {HEAD: "unit", MLP: "site"},
        ("end", "other"),
        tuple("aabcdefgh"),
        {HEAD: (0, 2, 5)},
        {"passes": 3},
    )


def test_means_leave_out_positions_that_an_item_does_not_have(scores):
    assert scores.mean(HEAD)[:, 1] == pytest.approx(scores.values[HEAD][1:, :, 1].mean(0), abs=1e-6)
    assert scores.summed().values[HEAD][0] == pytest.approx(scores.values[HEAD][0, :, 0], abs=1e-6)


def test_table_names_units_and_brackets_the_mean(scores):
    table = scores.table(n_boot=200)
    assert list(table.columns) == [
        "unit",
        "site",
        "point",
        "layer",
        "index",
        "position",
        "score",
        "low",
        "high",
    ]
    assert set(table["unit"]) == {"head.1[0]", "head.1[2]", "head.1[5]", "mlp_out.0"}
    assert len(table) == 8
    assert ((table["low"] <= table["score"]) & (table["score"] <= table["high"])).all()
    assert table["score"].abs().is_monotonic_decreasing
    assert table.iloc[0]["unit"] == "head.1[2]"


def test_ranking_by_size_or_sign(scores):
    assert scores.top(1, by="abs") == [Units.parse("head.1[2]")]
    assert scores.top(10, by="signed")[-1] == Units.parse("head.1[2]")
    assert scores.top(1, by="signed", points=["mlp_out"]) == [Units.parse("mlp_out.0")]


def test_the_top_raises_the_metric_unless_asked_otherwise(scores):
    """The strongest head of these scores works against the behaviour: it is not what carries it."""
    assert scores.top(10) == scores.top(10, by="signed")
    assert Units.parse("head.1[2]") not in scores.top(3)


def test_items_and_sites_can_be_taken(scores):
    part = scores.items([4, 0]).select([HEAD])
    assert part.n == 2
    assert part.groups == ("d", "a")
    assert part.sites == [HEAD]
    np.testing.assert_array_equal(part.values[HEAD][1], scores.values[HEAD][0])
    with pytest.raises(PatchclampError, match=r"mlp_out\.7"):
        scores.select([Site("mlp_out", 7)])


def test_saved_and_loaded_equal(scores, tmp_path):
    scores.save(tmp_path / "scores.parquet")
    back = Scores.load(tmp_path / "scores.parquet")
    for site in scores.sites:
        np.testing.assert_array_equal(back.values[site], scores.values[site])
    assert (back.positions, back.groups, dict(back.nodes)) == (scores.positions, scores.groups, scores.nodes)
    assert (back.method, back.direction, back.metric, back.task) == ("test", "denoising", "logit_diff", "toy")
    assert back.meta["passes"] == 3
    (tmp_path / "scores.parquet.json").write_text('{"schema": "another"}')
    with pytest.raises(PatchclampError, match="schema"):
        Scores.load(tmp_path / "scores.parquet")
    with pytest.raises(PatchclampError, match="missing"):
        Scores.load(tmp_path / "none.parquet")


def test_as_xarray(scores):
    data = scores.to_xarray()
    assert data["head.1"].shape == (9, 3, 2)
    assert list(data["pos"].values) == ["end", "other"]
    assert data.attrs["direction"] == "denoising"


def test_shapes_that_do_not_fit_are_refused():
    values = {HEAD: np.zeros((2, 3), np.float32), MLP: np.zeros((4, 1), np.float32)}
    with pytest.raises(PatchclampError, match="equal items"):
        Scores("m", "none", "x", "t", values, {HEAD: "unit", MLP: "site"})
    with pytest.raises(PatchclampError, match="no site"):
        Scores("m", "none", "x", "t", {}, {})


def test_effect_as_json():
    null = Null(0.1, 0.0, 0.2, 20, "layer", 1 / 21, draws=(0.1,) * 20)
    found = Effect(
        Units.parse("head.1[2]"), ({"units": ["head.1[2]"], "kind": "zero"},), "toy", "logit_diff",
        2.0, 0.5, Estimate(1.5, 1.0, 2.0, 2, null), (1.0, 2.0), (2.0, 2.0), 0,
    )  # fmt: skip
    data = json.loads(json.dumps(found.to_json()))
    assert data["units"] == ["head.1[2]"]
    assert data["share"] == 0.75
    assert data["control"]["n_sets"] == 20
    assert "75% of the baseline" in str(found)


def test_metric_names():
    def mine(logits, encoded, reference):
        return logits[:, 0]

    assert metric_name("loss") == "loss"
    assert metric_name(mine) == "mine"
