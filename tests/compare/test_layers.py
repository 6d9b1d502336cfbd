"""`compare.layers`: a brain that is a noisy copy of one layer of a network is traced to that layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from patchclamp.base.errors import PatchclampError
from patchclamp.compare import LayerProfile, cka, layers, rsa
from patchclamp.compare.encoding import Blocked
from patchclamp.compare.layers.activity import Sketch, activities, default_sites, in_order, untrained_twin
from patchclamp.compare.layers.scores import leave_one_out
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.subjects import TorchModule

N = 60


@pytest.fixture(scope="module")
def net() -> TorchModule:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for width in (20, 40, 40, 40, 40):
        parts += [nn.Linear(width, 40), nn.ReLU()]
    for part in parts[::2]:
        nn.init.normal_(part.weight, std=1.6 / part.weight.shape[1] ** 0.5)
    return TorchModule(nn.Sequential(*parts), torch.zeros(1, 20), "net")


@pytest.fixture(scope="module")
def stimuli() -> torch.Tensor:
    return torch.randn(N, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def brain(net: TorchModule, stimuli: torch.Tensor) -> dict[str, np.ndarray]:
    """Two areas: a random linear read-out of module 3 and one of module 9, 4 repeats with noise."""
    rng = np.random.default_rng(2)
    out = {}
    with torch.no_grad():
        for name, depth in (("early", 4), ("late", 10)):
            code = net.model[:depth](stimuli).double().numpy()
            code = code @ rng.normal(size=(40, 25)) / 40**0.5
            code /= code.std()
            out[name] = code[:, None] + 0.5 * rng.normal(size=(N, 4, 25))
    return out


RELU = [f"{i}.out" for i in range(1, 10, 2)]


@pytest.fixture(scope="module")
def found(net: TorchModule, stimuli: torch.Tensor, brain: dict[str, np.ndarray]) -> LayerProfile:
    return layers(net, brain, stimuli, sites=RELU, method="rsa", n_boot=200)


def test_the_layer_that_was_planted_is_found_with_its_ceiling(found: LayerProfile) -> None:
    best = found.best()
    assert best["layer"].to_dict() == {"early": "3.out", "late": "9.out"}
    assert (best["share"] > 0.9).all() and best.loc["early", "tied"] == []
    assert found.layers == RELU
    for region in ("early", "late"):
        low, high = found.ceilings[region]
        assert 0.5 < low < high <= 1
        assert best.loc[region, "value"] < high + 0.05
        assert best.loc[region, "low"] < best.loc[region, "value"] < best.loc[region, "high"]
    assert (best["gain_low"] > 0).all()


@pytest.mark.parametrize("method", ["rsa", "encoding", "cka"])
def test_a_region_that_does_not_agree_with_itself_concludes_nothing(
    net: TorchModule, stimuli: torch.Tensor, method: str
) -> None:
    rng = np.random.default_rng(0)
    n = len(stimuli)
    signal = rng.normal(size=(n, 1, 10))
    brain = {"noise": rng.normal(size=(n, 4, 10)), "signal": signal + 0.5 * rng.normal(size=(n, 4, 10))}
    made = layers(net, brain, stimuli, controls=(), method=method, n_boot=100)
    assert not made.conclusive("noise") and made.conclusive("signal")
    low, high = made.floors["noise"]
    assert low <= 0 and low < made.ceilings["noise"][0] + 0.1 and high > low
    assert made.floors["signal"][0] < made.ceilings["signal"][0] + 0.05 < made.floors["signal"][1] + 0.1
    assert "noise: nothing can be concluded, the lower noise ceiling" in str(made)
    assert made.best()["conclusive"].to_dict() == {"noise": False, "signal": True}


def test_values_are_those_of_rsa(
    found: LayerProfile, net: TorchModule, stimuli: torch.Tensor, brain: dict[str, np.ndarray]
) -> None:
    with torch.no_grad():
        code = net.model[:4](stimuli).numpy()
    table = found.table.set_index(["layer", "region"])
    assert table.loc[("3.out", "late"), "value"] == pytest.approx(rsa(code, brain["late"].mean(1)).value)
    assert table.loc[("pixels", "early"), "value"] == pytest.approx(
        rsa(stimuli.numpy(), brain["early"].mean(1)).value
    )
    assert set(found.table["control"]) == {"", "pixels", "untrained"}


def test_differences_are_paired(found: LayerProfile) -> None:
    near = found.contrast("9.out", "7.out", "late")
    wide = found.table.set_index(["layer", "region"]).loc[("9.out", "late")]
    assert near.low > 0 and near.high - near.low < (wide["high"] - wide["low"]) * 1.5
    assert near.value == pytest.approx(
        wide["value"] - found.table.set_index(["layer", "region"]).loc[("7.out", "late"), "value"]
    )
    assert found.contrast("7.out", "9.out", "late").high == pytest.approx(-near.low)


@pytest.mark.parametrize("method", ["encoding", "cka"])
def test_other_methods_find_it_too(
    method: Any, net: TorchModule, stimuli: torch.Tensor, brain: dict[str, np.ndarray]
) -> None:
    made = layers(net, brain, stimuli, sites=RELU, method=method, controls=("pixels",), n_boot=100)
    best = made.best()
    assert (best["gain_low"] > 0).all()
    for region, planted in (("early", "3.out"), ("late", "9.out")):
        row = best.loc[region]
        # A linear map from the layer before may do as well on 60 stimuli; then the table says so.
        assert planted in [row["layer"], *row["tied"]] and "1.out" not in [row["layer"], *row["tied"]]
    assert made.scale == ("r" if method == "encoding" else "similarity")
    assert all(made.ceilings[region] is not None for region in made.regions)


def test_a_brain_that_saw_something_else_is_not_predicted(net: TorchModule, stimuli: torch.Tensor) -> None:
    values = []
    for seed in range(6):
        noise = {"noise": np.random.default_rng(seed).normal(size=(N, 30))}
        for method in ("rsa", "encoding", "cka"):
            made = layers(net, noise, stimuli, sites="3.out", method=method, controls=(), n_boot=0)
            values.append((method, made.table["value"][0]))
    mean = {m: np.mean([v for name, v in values if name == m]) for m in ("rsa", "encoding", "cka")}
    assert abs(mean["rsa"]) < 0.06 and abs(mean["cka"]) < 0.06
    # Cross-validated r falls below 0 on noise (what is high in one part is low in the rest).
    assert -0.2 < mean["encoding"] < 0.03


def test_intervals_cover_the_value_of_many_stimuli() -> None:
    """The population's similarity lies within the interval of a sample of stimuli about as often as it says."""

    def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        g = np.random.default_rng(seed)
        x = g.normal(size=(n, 6)) * [3, 2, 1, 1, 1, 1]
        return x, x[:, ::-1] + g.normal(size=(n, 6))

    for method, scale in (("cka", 1.0), ("rsa", 1.0)):
        x, y = draw(1500, 0)
        truth = cka(x, y).value if method == "cka" else rsa(x, y, kind="euclidean2").value
        hits = []
        for seed in range(1, 41):
            x, y = draw(50, seed)
            made = layers(
                Recording.from_arrays({"layer": x}),
                {"r": y},
                method=method,
                kind="euclidean2",
                n_boot=200,
                controls=(),
            )
            row = made.table.iloc[0]
            hits.append(row["low"] <= truth * scale <= row["high"])
        assert np.mean(hits) > 0.8, method


def test_leave_one_out_is_that_of_leaving_out() -> None:
    g = np.random.default_rng(0)
    x, y = g.normal(size=(12, 4)), g.normal(size=(12, 6))
    every = leave_one_out(x @ x.T, y @ y.T)
    for i in (0, 7):
        expected = cka(np.delete(x, i, 0), np.delete(y, i, 0)).value
        assert every[i] == pytest.approx(expected, abs=1e-10)


def test_the_same_for_any_batch_size_and_memory(
    net: TorchModule, stimuli: torch.Tensor, brain: dict[str, np.ndarray]
) -> None:
    options = {"sites": RELU, "method": "rsa", "n_boot": 20, "controls": ()}
    one = layers(net, brain, stimuli, batch_size=7, memory=40 * N * 4, **options)
    two = layers(net, brain, stimuli, batch_size=60, **options)
    assert one.table["value"].to_numpy() == pytest.approx(two.table["value"].to_numpy(), abs=1e-6)
    assert np.array_equal(two.draws, layers(net, brain, stimuli, batch_size=60, **options).draws)


def test_the_untrained_twin_leaves_the_subject_alone(net: TorchModule, stimuli: torch.Tensor) -> None:
    before = {k: v.clone() for k, v in net.model.state_dict().items()}
    state = torch.random.get_rng_state()
    twin, again = untrained_twin(net, 0), untrained_twin(net, 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.model.state_dict().items())
    assert not torch.equal(twin.model[0].weight, net.model[0].weight)
    assert torch.equal(twin.model[0].weight, again.model[0].weight)
    site = net.resolve("3.out")
    out = [
        dict(activities(s, stimuli, site, pool="flatten", project=None, batch_size=8, memory=1e9, seed=0))
        for s in (net, twin)
    ]
    assert not np.allclose(out[0][site[0]], out[1][site[0]])

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    with pytest.raises(PatchclampError, match="no reset_parameters"):
        untrained_twin(TorchModule(nn.Sequential(Odd()), torch.zeros(1, 3)), 0)


def test_a_projection_keeps_inner_products() -> None:
    x = torch.randn(6, 20000, generator=torch.Generator().manual_seed(0))
    seen = Sketch(20000, 4096, 0)(x)
    exact, kept = x @ x.T, seen @ seen.T
    assert torch.allclose(kept / 20000, exact / 20000, atol=0.06)
    whole = Sketch(20000, 4096, 0)(torch.cat([x, x]))
    assert torch.equal(whole[:6], seen)


def test_recordings_of_brains_with_regions_and_repeats(net: TorchModule, stimuli: torch.Tensor) -> None:
    rng = np.random.default_rng(3)
    with torch.no_grad():
        early, late = (net.model[:d](stimuli).numpy()[:, :30] for d in (4, 10))
    shown = np.concatenate([rng.permutation(N) for _ in range(3)])
    values = np.concatenate([early, late], 1)[shown] + 0.3 * rng.normal(size=(3 * N, 60))
    values[:, 5] = np.nan
    samples = Samples.of(torch.from_numpy(shown), torch.zeros(3 * N, dtype=torch.int64))
    present = np.arange(60) != 5
    recording = Recording.from_arrays(
        {"cells": values.astype(np.float32)},
        samples,
        labels={"cells": {"region": ["V1"] * 30 + ["IT"] * 30, "present": present.tolist()}},
    )
    made = layers(net, recording, stimuli, sites=RELU, method="rsa", controls=(), n_boot=50, missing="drop")
    assert made.best()["layer"].to_dict() == {"V1": "3.out", "IT": "9.out"}
    assert made.ceilings["IT"] is not None
    network = Recording.from_arrays({"early": early, "late": late})
    other = layers(network, recording, method="rsa", n_boot=50, missing="drop")
    assert other.best()["layer"].to_dict() == {"V1": "early", "IT": "late"}
    assert not (other.table["control"] != "").any()


def test_sites_come_in_the_order_of_the_pass() -> None:
    deep = nn.Sequential(*[nn.Linear(3, 3) for _ in range(12)])
    subject = TorchModule(deep, torch.zeros(1, 3))
    assert [str(s) for s in default_sites(subject)] == [f"{i}.out" for i in range(12)]
    assert [str(s) for s in in_order(subject, subject.resolve(["10.out", "2.out"]))] == ["2.out", "10.out"]


def test_time_series_take_folds_with_a_gap(
    net: TorchModule, stimuli: torch.Tensor, brain: dict[str, np.ndarray]
) -> None:
    late = {"late": brain["late"].mean(1)}
    made = layers(net, late, stimuli, sites=RELU, cv=Blocked(4, gap=3), controls=(), n_boot=20)
    assert made.method == "encoding" and made.best().loc["late", "layer"] in ("7.out", "9.out")
    grouped = layers(
        net, late, stimuli, sites=RELU, groups=np.repeat(np.arange(12), 5), controls=(), n_boot=20
    )
    assert grouped.best().loc["late", "layer"] in ("7.out", "9.out")
    assert not np.array_equal(grouped.table["value"], made.table["value"])


def test_the_figure_is_returned_and_not_shown(found: LayerProfile) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = found.figure()
    assert len(figure.axes) == 2 and plt.get_fignums() == before
    line = next(one for one in figure.axes[1].lines if one.get_label() == "layers")
    own = found.table[(found.table["region"] == "late") & (found.table["control"] == "")]
    assert list(line.get_ydata()) == own["value"].tolist()
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["1", "3", "5", "7", "9"]


def test_text_says_what_was_found(found: LayerProfile) -> None:
    assert "late: 9.out" in str(found) and "ceiling" in str(found)
    assert found.to_json()["table"][0]["layer"] == "1.out"


@pytest.mark.parametrize(
    "options, words",
    [
        ({"recording": {"a": np.ones((7, 7, 7))}}, "does not fit 60 stimuli"),
        ({"recording": {"a": np.full((N, 3), np.nan)}}, "NaN or Inf"),
        ({"recording": {}}, "no region"),
        ({"recording": {"a": np.ones(N * (N - 1) // 2)}, "method": "cka"}, "needs activity"),
        ({"method": "rdm"}, "give one of rsa"),
        ({"controls": ("pixel",)}, "'pixel'"),
        ({"memory": 10.0}, "more than memory"),
        ({"pool": "max", "sites": "3.out"}, "give 'flatten'"),
        ({"sites": "33.out"}, "no such module"),
        ({"recording": Recording.from_arrays({"a": np.ones((N + 1, 3))})}, "say which stimulus"),
        ({"stimuli": None}, "needs the stimuli"),
    ],
)
def test_refusals(options: dict[str, Any], words: str, net: TorchModule, stimuli: torch.Tensor) -> None:
    recording = options.pop("recording", {"a": np.random.default_rng(0).normal(size=(N, 4))})
    shown = options.pop("stimuli", stimuli)
    with pytest.raises(PatchclampError, match=words):
        layers(net, recording, shown, n_boot=0, **options)
