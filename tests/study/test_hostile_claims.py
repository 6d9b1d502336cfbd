"""Files that a study wrote and somebody edited: claims, scores, descriptions, boards, and what a killed run left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planted
from hostile import ODD, Case, as_json, child, spoiled, spots, with_value, without
from patchclamp.nouns.scores import Scores
from patchclamp.study import StudyOptions, run_study

pytestmark = pytest.mark.slow

SMALL = StudyOptions(
    n_train=16, n_validation=8, n_test=16, head_sizes=(1, 2), neuron_sizes=(1, 4), n_singles=2, refine_heads=2,
    curve_items=4, curve_points=2, n_random=1, exact_items=2, exact_layers=2, n_texts=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    planted.save(folder / "model")
    planted.task().to_jsonl(folder / "task.jsonl")
    from patchclamp.nouns.tasks.builtin import load_task
    from patchclamp.subjects import open_subject

    subject = open_subject(str(folder / "model"))
    task = load_task(folder / "task.jsonl", n=64)
    run_study(subject, task, folder / "out", options=SMALL, source=str(folder / "task.jsonl"))
    return folder


def first_claim(study: Path) -> dict[str, Any]:
    """The study's claims with the first alone, as it would be edited."""
    found: dict[str, Any] = json.loads((study / "out" / "claims.json").read_text())
    return found | {"claims": found["claims"][:1]}


def edits(document: Any, step: int, start: int = 0) -> dict[str, bytes]:
    """Every place of a document with every `step`-th odd value, another each time, and without it."""
    found, number = {}, start
    for where in spots(document):
        for value in ODD:
            number += 1
            if number % step == 0:
                found[f"{where}={value!r}"] = as_json(with_value(document, where, value))
        if where and isinstance(where[-1], str):
            found[f"{where} gone"] = as_json(without(document, where))
    return found


def written(folder: Path, files: dict[str, bytes]) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    found = {}
    for number, (name, data) in enumerate(files.items()):
        found[name] = folder / f"{number}.json"
        found[name].write_bytes(data)
    return found


def test_edited_claims_are_read_or_refused(study: Path, tmp_path: Path) -> None:
    good = (study / "out" / "claims.json").read_bytes()
    files = written(tmp_path / "read", edits(first_claim(study), 5) | spoiled(good))
    read = "from patchclamp.study.claims import read_claims; read_claims({!r})"
    cases = [Case(f"claims {n}", python=read.format(str(p)), files=[str(p)]) for n, p in files.items()]
    assert child().broken(cases) == []


def test_edited_claims_are_measured_or_refused(study: Path, tmp_path: Path) -> None:
    """Of what the schema lets pass: units, intervention, task, numbers of sets and items."""
    claim = first_claim(study)
    inside = ("claims", 0)
    odd = {
        ("units",): (
            [""],
            ["mlp_act.99[0]"],
            ["head.1[99999999999]"],
            ["mlp_act.0[0:999999999999]"],
            ["x" * 3000],
        ),
        ("task", "n"): (10**23, 1),
        ("task", "items"): (1, 10**23),
        ("task", "split"): ("", "nosuch"),
        ("task", "name"): ("", "ioi", "/dev/null", str(study)),
        ("task", "seed"): (-1,),
        ("task", "corruption"): ("odd",),
        ("task", "reference_split"): ("nosuch",),
        ("intervention", "kind"): ("odd", "", "scale"),
        ("intervention", "by"): (3, "odd", None),
        ("intervention", "value"): ("x", float("inf"), [1]),
        ("intervention", "positions"): ("odd", [], -1),
        ("intervention", "odd"): (1,),
        ("seed",): (-1, 2**70),
        ("control", "n_sets"): (10**9,),
        ("model", "name"): ("", "/nowhere", "\0", "smollm"),
        ("model", "fingerprint"): ("", "v2-"),
        ("n",): (10**23,),
        ("estimate",): (float("inf"), 1e308),
    }
    files = {}
    for where, values in odd.items():
        for value in values:
            if where[0] == "control" and not claim["claims"][0]["control"]:
                continue
            files[f"{where}={str(value)[:40]}"] = as_json(_with(claim, (*inside, *where), value))
    cases = [
        Case(f"verify {name}", ["verify", str(path)], files=[str(study), str(path)], ends=(0, 1, 2))
        for name, path in written(tmp_path / "verify", files).items()
    ]
    outcomes = [child().run(case) for case in cases]
    # Status 2 also says, on stdout and at length, that no claim could be measured.
    broken = [
        one.broken for one in outcomes if one.broken and not (one.status == 2 and not one.err and one.out)
    ]
    assert broken == []


def _with(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """`with_value` that also adds a key."""
    copy = document.copy()
    copy[path[0]] = value if len(path) == 1 else _with(document[path[0]], path[1:], value)
    return copy


def test_edited_scores_are_read_or_refused(tmp_path: Path) -> None:
    from patchclamp.nouns.units import Site

    site = Site("head", 1)
    values = {site: np.arange(32, dtype=np.float32).reshape(8, 4)}
    scores = Scores("exact", "denoising", "logit_diff", "copying", values, {site: "unit"})
    scores.save(tmp_path / "scores.parquet")
    beside = tmp_path / "scores.parquet.json"
    load = "from patchclamp.nouns.scores import Scores; Scores.load({!r}).table(n_boot=0)"
    cases = []
    good = (tmp_path / "scores.parquet").read_bytes()
    whole = beside.read_bytes()
    versions = [(name, good, data) for name, data in (edits(json.loads(whole), 3) | spoiled(whole)).items()]
    versions += [(f"parquet {name}", data, whole) for name, data in spoiled(good).items()]
    for number, (name, table, facts) in enumerate(versions):
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(table)
        path.with_name(path.name + ".json").write_bytes(facts)
        cases.append(Case(f"scores {name}", python=load.format(str(path)), files=[str(path)]))
    assert child().broken(cases) == []


def test_a_state_that_was_spoiled_is_refused(tmp_path: Path) -> None:
    """What a killed run left: a note that is edited, tensors that are cut short."""
    import torch

    from patchclamp.base.checkpoint import Checkpoint

    Checkpoint(tmp_path / "good", {"seed": 0}).save({"sum": torch.ones(9)}, {"done": 3})
    note, tensors = (tmp_path / "good" / name for name in ("state.json", "state-1.safetensors"))
    versions = [(n, d, tensors.read_bytes()) for n, d in (edits(json.loads(note.read_text()), 3)).items()]
    versions += [(n, d, tensors.read_bytes()) for n, d in spoiled(note.read_bytes()).items()]
    versions += [(f"tensors {n}", note.read_bytes(), d) for n, d in spoiled(tensors.read_bytes()).items()]
    load = "from patchclamp.base.checkpoint import Checkpoint; Checkpoint({!r}, {{'seed': 0}}).load()"
    cases = []
    for number, (name, one, other) in enumerate(versions):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / note.name).write_bytes(one)
        (folder / tensors.name).write_bytes(other)
        cases.append(Case(f"state {name}", python=load.format(str(folder)), files=[str(folder)]))
    assert child().broken(cases) == []
