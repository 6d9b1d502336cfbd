"""What a person is told who gives a subject for a bench, a name for an intervention, or a unit that is not there."""

from __future__ import annotations

import pytest
import torch

from patchclamp import Intervention, Recording, TensorTask, TorchModule, effect, effects, run_study
from patchclamp.base.errors import PatchclampError
from patchclamp.compare import cka
from patchclamp.evaluate import (
    areas,
    completeness,
    equivalence,
    faithfulness,
    minimality,
    redundancy,
    sufficiency,
)
from patchclamp.nouns.recording.matrix import matrix
from patchclamp.record import measure_recording


@pytest.fixture
def subject() -> TorchModule:
    return TorchModule(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval(), torch.zeros(1, 3))


@pytest.fixture
def task() -> TensorTask:
    return TensorTask("t", torch.rand(8, 3), None, metric=lambda out: out[:, 0])


@pytest.mark.parametrize(
    "measure", [areas, completeness, equivalence, faithfulness, minimality, redundancy, sufficiency]
)
def test_a_subject_in_place_of_a_bench_is_told_of_the_bench(measure, subject) -> None:
    more = [None] * (1 if measure is redundancy else 2)
    with pytest.raises(PatchclampError, match="TorchModule in place of a bench: give Bench"):
        measure(subject, *more)


def test_units_that_are_not_there_are_refused_before_any_control_is_drawn(subject, task) -> None:
    with pytest.raises(PatchclampError, match="0..3"):
        effect(subject, task, Intervention("1.out[99]", "zero"))


def test_an_address_alone_is_no_intervention(subject, task) -> None:
    with pytest.raises(PatchclampError, match="Intervention"):
        effect(subject, task, "1.out[0]")
    with pytest.raises(PatchclampError, match="`effect` takes one"):
        effects(subject, task, Intervention("1.out[0]", "zero"))


def test_names_of_measures_and_text_for_activity_are_refused() -> None:
    recording = Recording.from_arrays({"a": torch.rand(5, 2)})
    for given in ("moments", ["moments"]):
        with pytest.raises(PatchclampError, match="not their names"):
            measure_recording(recording, given)
    for read in (lambda: matrix(["a", "b"]), lambda: cka(["a", "b"], ["c", "d"])):
        with pytest.raises(PatchclampError, match="no array of numbers"):
            read()


def test_a_study_of_tensors_is_refused(subject, task) -> None:
    with pytest.raises(PatchclampError, match="a study takes a Task of texts"):
        run_study(subject, task, write=False)
