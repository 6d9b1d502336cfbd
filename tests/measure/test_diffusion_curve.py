"""Information along learning: a sigma that is too narrow makes it fall while accuracy rises; one for all epochs does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from patchclamp import PatchclampError, Recording, Samples
from patchclamp.measure import METHODS
from patchclamp.measure.brain import diffusion_curve, diffusion_information
from patchclamp.record import measure_recording

Stages = tuple[dict[str, torch.Tensor], torch.Tensor, list[float]]


@pytest.fixture(scope="module")
def learning() -> Stages:
    """Hidden activity of a network that learns digits, on 250 that it does not train on."""
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU()]
        net = torch.nn.Sequential(*layers, torch.nn.Linear(128, 10))
    learner, seen, accuracy = torch.optim.Adam(net.parameters(), 3e-3), {}, []
    held = slice(1000, 1250)
    for epoch in range(17):
        if epoch in (0, 1, 2, 4, 8, 16):
            with torch.no_grad():
                seen[str(epoch)] = net[:4](x[held])
                accuracy.append(float((net(x[held]).argmax(1) == y[held]).float().mean()))
        for batch in torch.arange(1000).split(100):
            learner.zero_grad()
            torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            learner.step()
    return seen, y[held], accuracy


def test_one_sigma_gives_the_rise_and_a_narrow_one_the_fall(learning: Stages) -> None:
    stages, label, accuracy = learning
    assert accuracy[-1] > accuracy[2] > accuracy[0] + 0.5
    narrow = [diffusion_information(stages[e], label, sigma=2.5) for e in ("2", "16")]
    assert narrow[1] < 0.5 * narrow[0]  # the wrong fall: accuracy rises meanwhile
    curve = diffusion_curve(stages, label, against=accuracy, sweep=(0.1, 1.0, 2.0))
    found = curve.data["information"].sel(sigma=curve.sigma).values
    assert (np.diff(found) > -0.05).all()
    assert found[-1] > found[0] + 1.5
    assert float(curve.data["trend"].sel(sigma=curve.sigma)) > 0.85
    assert float(curve.data["trend"][0]) < -0.5
    assert curve.sigma == pytest.approx(float(curve.data["own_sigma"].max()))
    assert "the other way at sigma" in repr(curve)
    assert bool(curve.data["saturated"].isel(stage=-1, sigma=0))
    assert curve.table().shape == (7, 3)
    assert len(curve.plot().axes[0].lines) == 3
    said = diffusion_curve(stages, label, sigma=2.5, sweep=(1.0,))
    assert said.data["information"].sel(stage=["2", "16"]).values.ravel() == pytest.approx(narrow)


def test_layers_that_are_measured_together_share_a_sigma(learning: Stages) -> None:
    stages, label, _ = learning
    samples = Samples.of(torch.arange(250), torch.zeros(250), label=label)
    recording = Recording.from_arrays({f"layer{k}": stages[k] for k in ("2", "16")}, samples)
    found = measure_recording(recording, {"diffusion": (METHODS["diffusion"], {"n_permutations": 3})})
    results = [found[site]["diffusion"].result() for site in found]
    own = [float(r["own_sigma"]) for r in results]
    assert own[1] > 1.5 * own[0]
    assert [float(r["sigma"]) for r in results] == [max(own)] * 2
    for result, stage in zip(results, ("2", "16"), strict=True):
        for factor in result["times_sigma"].values:
            expected = diffusion_information(stages[stage], label, max(own) * float(factor))
            assert float(result["information_at"].sel(times_sigma=factor)) == pytest.approx(
                expected, abs=0.15
            )
    table = found.table("diffusion")
    assert float(table["sigma"]) == max(own)
    alone = METHODS["diffusion"](n_permutations=0)
    alone.update(stages["2"], samples)
    assert float(alone.result()["sigma"]) == pytest.approx(own[0])
    measure = found["layer2"]["diffusion"]
    measure.update(stages["2"][:5] * 2, Samples.of(torch.arange(900, 905), torch.zeros(5)))
    assert float(measure.result()["sigma"]) < max(own)  # other rows: what was agreed on is gone


def test_what_does_not_compare_is_refused() -> None:
    x, label = torch.randn(20, 3, generator=torch.manual_seed(0)), torch.arange(20) % 2
    for stages, options, words in [
        ({"a": x}, {}, "1 stages"),
        ({"a": x, "b": x[:9]}, {}, r"samples; entropies need one number"),
        ({"a": x, "b": x}, {"sigma": -1.0}, "positive"),
        ({"a": x, "b": x}, {"against": [1.0]}, r"against has \(1,\) entries for 2 stages"),
        ({"a": x, "b": x}, {"sweep": (0.5,)}, "1 among them"),
    ]:
        with pytest.raises(PatchclampError, match=words):
            diffusion_curve(stages, label, **options)
