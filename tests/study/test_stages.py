"""A study is a list of stages: run in turn, timed, told to the caller, and written as sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pandas as pd
import pytest
from jsonschema import Draft202012Validator

import patchclamp.study
from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import read_json
from patchclamp.study import Column, Context, Cover, Figure, Section, Stage, Table, run_stages


@dataclass(repr=False)
class Counting(Context):
    layers: int = field(init=False)

    def cover(self) -> Cover:
        model = {"name": self.subject.name, "fingerprint": self.subject.fingerprint}
        facts = {"options": {}, "model": model}
        return Cover(
            "count", "toy", ("How many ", "layers", "?"), "", ["Size."], "count", "", facts, "studies/x"
        )


def count(context: Counting) -> Section:
    context.layers = context.subject.n_layers
    context.say("halfway", 1, 2)
    table = Table(
        pd.DataFrame({"layers": [context.layers]}), "layers", [Column("Layers", "layers", "number", 0)]
    )
    return Section(heading="The layers", tables=[table], facts={"layers": context.layers}, headline="Three.")


def draw(context: Counting) -> Section:
    rows = [{"name": f"{context.layers} layers", "estimate": 0.5, "low": float("nan"), "high": 1.0}]
    figure = Figure("forest", [{"rows": rows, "x_label": "x", "label": "a forest"}])
    return Section(
        figures=[figure], findings=["Drawn."], save=lambda folder: (folder / "more.txt").write_text("more")
    )


STAGES = [Stage("counting", count), Stage("drawing", draw)]


def context(progress=None) -> Counting:
    return Counting(SimpleNamespace(name="tiny", fingerprint="ab" * 32, n_layers=3), progress)


def test_stages_run_in_turn_and_say_where_they_are():
    said = []
    study = run_stages(STAGES, context(lambda *step: said.append(step)))
    assert said == [("counting", 0, None), ("counting: halfway", 1, 2), ("drawing", 0, None)]
    assert list(study.data["seconds"]) == ["counting", "drawing", "total"]
    assert [section["stage"] for section in study.data["sections"]] == ["counting", "drawing"]
    assert study.facts == {"layers": 3} and study.context.layers == 3
    assert str(study) == "Three.\n- Drawn."
    assert study.report is None


def test_a_study_is_written_whole(tmp_path):
    study = run_stages(STAGES, context()).write(tmp_path / "out")
    assert sorted(path.name for path in study.folder.iterdir()) == [
        "layers.parquet",
        "more.txt",
        "report.html",
        "study.json",
    ]
    data = read_json(study.folder / "study.json")
    Draft202012Validator(read_json(f"{patchclamp.study.__path__[0]}/study.schema.json")).validate(data)
    assert data["sections"][1]["figures"][0]["drawings"][0]["rows"][0]["low"] is None
    page = study.report.read_text()
    assert "The layers" in page and "3 layers" in page and "layers.parquet" in page
    assert pd.read_parquet(study.folder / "layers.parquet")["layers"].tolist() == [3]


def test_a_stage_before_the_one_it_needs_is_told_so():
    with pytest.raises(PatchclampError, match="layers: no stage has found it yet"):
        run_stages(STAGES[::-1], context())


def test_names_that_are_no_field_stay_errors_of_python():
    with pytest.raises(AttributeError, match="heads"):
        _ = context().heads
