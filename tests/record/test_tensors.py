"""Recording networks that take tensors: a sample a step, in a store that resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from patchclamp import LanguageModel, Recording, TensorTask, TorchModule
from patchclamp.base.errors import PatchclampError
from patchclamp.measure import METHODS
from patchclamp.record import plan, record
from record_subject import Letters
from timed_toys import LIF, CellLoop, TwoInputs, inputs, made


@pytest.mark.parametrize("stored", [True, False])
def test_a_recording_has_a_sample_for_each_step_of_each_item(stored: bool, tmp_path: Path) -> None:
    x = inputs(150)
    subject = TorchModule(made(CellLoop), x[:1])
    store = tmp_path / "cell.zarr" if stored else None
    labels = ["low" if one < 0 else "high" for one in x[:, 0, 0]]
    made_ = record(
        subject, x, "cell.out, cell.out.cell", store=store, label=labels, batch_tokens=40, progress=False
    )
    made_ = Recording.open(store) if store else made_
    assert made_.n_samples == 750
    samples = made_.samples
    assert samples.doc.tolist() == [i for i in range(150) for _ in range(5)]
    assert samples.position.tolist() == list(range(5)) * 150
    assert torch.equal(samples.group, samples.doc)
    assert bool(samples.content.all())
    seen = subject.run(subject.batch(x), read=["cell.out", "cell.out.cell"]).activity
    for site in ("cell.out", "cell.out.cell"):
        assert np.allclose(np.asarray(made_[site][:]), seen[site].flatten(0, 1).numpy(), atol=1e-6)
    low = made_.select(where={"label": "low"})
    assert set(low.samples.doc.tolist()) == {i for i, one in enumerate(labels) if one == "low"}
    assert made_.manifest["positions"] == 5
    assert made_.manifest["documents"] == 150


def test_a_killed_recording_of_steps_goes_on_where_it_was(tmp_path: Path) -> None:
    x = inputs(300)
    subject = TorchModule(made(LIF), x[:1])
    options = {"chunk_rows": 100, "batch_tokens": 50, "window_tokens": 250}

    def stop(what: str, done: int, of: int) -> None:
        if done > 800:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(subject, x, "spike.out", store=tmp_path / "a.zarr", progress=stop, **options)
    assert 0 < Recording.open(tmp_path / "a.zarr").n_samples < 1500
    again = record(subject, x, "spike.out", store=tmp_path / "a.zarr", progress=False, **options)
    whole = record(subject, x, "spike.out", progress=False, **options)
    assert np.array_equal(np.asarray(again["spike.out"][:]), np.asarray(whole["spike.out"][:]))
    with pytest.raises(PatchclampError, match="data"):
        record(
            subject, inputs(300, seed=5), "spike.out", store=tmp_path / "a.zarr", progress=False, **options
        )


def test_measures_and_the_plan_of_steps() -> None:
    x = inputs(60)
    subject = TorchModule(made(LIF), x[:1])
    task = TensorTask("spikes", x, None, lambda out: out[:, 0], groups=tuple("abc" * 20))
    found = record(subject, task, "spike.out, fc.out", measures=[METHODS["moments"]], progress=False)
    mean = found.table("moments")["mean"].sel(unit="spike.out[3]").item()
    spikes = subject.run(subject.batch(x), read=["spike.out"]).activity["spike.out"]
    assert mean == pytest.approx(spikes[..., 3].mean().item(), abs=1e-6)
    said = plan(subject, task, "spike.out")
    assert (said.samples, said.documents, said.units) == (300, 60, 10)
    assert record(subject, task, "spike.out", progress=False).manifest["group_names"] == ["a", "b", "c"]


def test_several_inputs_are_recorded_and_what_does_not_fit_is_refused() -> None:
    both = {"stimulus": inputs(20), "context": inputs(20, 1)[:, 0, :2]}
    subject = TorchModule(made(TwoInputs), both)
    assert record(subject, both, "rnn.out", progress=False).n_samples == 100
    with pytest.raises(
        PatchclampError, match=r"gate\.out has 1 positions an item and rnn\.out 5, .* calls of their own"
    ):
        record(subject, both, "gate.out, rnn.out", progress=False)
    with pytest.raises(PatchclampError, match="takes tensors, not texts"):
        record(subject, ["one text"], "rnn.out", progress=False)
    with pytest.raises(PatchclampError, match="takes texts, not tensors"):
        record(LanguageModel(tiny.tiny_model("llama"), Letters()), inputs(), "mlp_act.0", progress=False)
    with pytest.raises(PatchclampError, match="give one label an item, 20 in all"):
        record(subject, both, "rnn.out", label="label", progress=False)
    broken = {**both, "stimulus": both["stimulus"].clone()}
    broken["stimulus"][7, 2] = float("nan")
    with pytest.raises(PatchclampError, match=r"rnn\.out\[0\] in document 7 at position 2"):
        record(subject, broken, "rnn.out", progress=False)
