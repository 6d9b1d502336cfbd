"""The command line: quick to answer, clear about bad input, machine-readable on request."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import replace

import pytest

import planted
from command_line import run
from patchclamp.app import cli
from patchclamp.app.commands import COMMANDS
from patchclamp.attribute import DEFAULT, METHODS


def loaded(*arguments: str) -> tuple[int, set[str]]:
    """Exit status of one call in a fresh process, and the modules that it loaded."""
    code = (
        "import json, sys; from patchclamp.app import cli\n"
        f"status = cli.run({list(arguments)!r})\n"
        "print('\\n' + json.dumps([status, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stdout.splitlines()[-1])
    return status, set(modules)


def test_help_loads_nothing_but_the_command_line():
    """What makes it quick: of numbers and models nothing is imported, of us the commands and what they print with."""
    status, modules = loaded("--help")
    assert status == 0
    heavy = (
        "numpy",
        "torch",
        "pandas",
        "scipy",
        "transformers",
        "xarray",
        "zarr",
        "sklearn",
        "pyarrow",
        "jsonschema",
    )
    assert modules.isdisjoint(heavy)
    ours = {tuple(name.split(".")[1:2]) for name in modules if name.split(".")[0] == "patchclamp"}
    assert ours == {(), ("app",), ("base",)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(capsys, name):
    status, out, _ = run(capsys, name, "--help")
    assert status == 0
    assert "--json" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense"),
        (["study"], "give a task"),
        (["study", "ioi", "--items", "two"], "valid integer"),
        (["check", "--wrong"], "--wrong"),
        (["verify", "none.json"], "none.json: no such file"),
        (["study", "oi"], "did you mean ioi"),
        (["study", "none.jsonl"], "none.jsonl"),
        (["study", "ioi", "--ablation", "maen"], "did you mean mean"),
        (["attribute", "ioi", "--method", "gradient"], "partial_gradients"),
        (["attribute", "ioi", "--check", "1"], "from one unit"),
        (["attribute", "ioi", "--direction", "both"], "noising"),
        (
            ["attribute", "ioi", "--method", "direct_logit_attribution", "--direction", "noising"],
            "no direction",
        ),
        (["effect", "ioi", "head.9[1]"], "layers 0..2"),
        (["effect", "ioi", "head.1[77]"], "units 0..3"),
        (["measure", "mlp_act.1", "--measures", "momnts"], "did you mean moments"),
        (["measure", "mlp_akt.1"], "did you mean mlp_act"),
        (["measure", "mlp_act.1", "--measures", ","], "none is named; there are moments"),
        (["record", "mlp_act.1", "--out", "x", "--text", "none.txt"], "none.txt"),
        (["record", "mlp_act.1"], "--out is missing"),
        (["record", "mlp_act.1", "--out", "x", "--long", "splitt"], "did you mean split"),
        (["record", "mlp_act.0[3]", "--out", "x"], "mlp_act.0[3]: names single units, and a whole site"),
        (["record", "mlp_act.0", "--out", "x", "--label", "nosuch"], "no entry has a field 'nosuch'"),
        (["measure", "mlp_act.0,mlp_act.1[2]"], "mlp_act.1[2]: names single units"),
        (["decompose", "mlp_act.*"], "names 3 sites, mlp_act.0 to mlp_act.2"),
        (["decompose", "mlp_act.0[3]"], "mlp_act.0[3]: names single units"),
        (["sites", "MODEL", "resid.1"], "ambiguous"),
        (["sites", "no-such-model"], "no-such-model"),
        (["tasks", "nope"], "nope"),
        (["sites", "./missing"], "./missing: neither a folder"),
        (["measure", "missing.csv"], "missing.csv: no such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    takes_model = {"study", "attribute", "effect", "measure", "record", "tasks", "decompose"} & set(
        arguments[:1]
    )
    status, out, err = run(
        capsys, *[a.replace("MODEL", model) for a in arguments], *(["-m", model] if takes_model else [])
    )
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("patchclamp: ")
    assert message in err


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(*a: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("patchclamp.app.commands.common.open_model", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(["sites"])


def test_a_full_disk_is_one_line(capsys, model, monkeypatch):
    def full(*a: object, **k: object) -> None:
        raise OSError(28, "No space left on device", "x/zarr.json")

    monkeypatch.setattr("patchclamp.record.record", full)
    status, _, err = run(capsys, "record", "mlp_act.1", "--out", "x", "--model", model)
    assert status == 2
    assert err == "patchclamp: x/zarr.json: No space left on device\n"


def test_sites_models_tasks_and_check_speak_json(capsys, model, task_file):
    status, out, _ = run(capsys, "sites", model, "mlp_act.*", "--json")
    assert status == 0
    assert [row["site"] for row in json.loads(out)] == ["mlp_act.0", "mlp_act.1", "mlp_act.2"]
    assert "Llama" in json.loads(run(capsys, "models", "--json")[1])["families"]
    assert "ioi" in {row["name"] for row in json.loads(run(capsys, "tasks", "--json")[1])}
    shown = json.loads(run(capsys, "tasks", task_file, "--items", "2", "--model", model, "--json")[1])
    assert len(shown["items"]) == 2
    status, out, _ = run(capsys, "check", model, "--json")
    assert status == 0
    assert json.loads(out)["passed"]


def test_the_same_without_json_prints_tables(capsys, model, task_file):
    for arguments in (
        ["sites", model],
        ["models"],
        ["tasks"],
        ["tasks", task_file, "-m", model],
        ["check", model],
    ):
        status, out, _ = run(capsys, *arguments)
        assert status == 0
        assert len(out.splitlines()) > 3


def test_tasks_says_what_a_study_would_say(capsys, model, tmp_path):
    good, bad, broken = (tmp_path / f"{name}.jsonl" for name in ("good", "bad", "broken"))
    planted.task().to_jsonl(good)
    shown = json.loads(run(capsys, "tasks", str(good), "--model", model, "--json")[1])
    assert shown["ability"]["accuracy"] > 0.9 and shown["refused"] is None
    lines = [json.loads(line) for line in good.read_text().splitlines()]
    for line in lines[1:]:
        line["answers"], line["foils"] = line["foils"], line["answers"]
    bad.write_text("\n".join(map(json.dumps, lines)))
    status, out, _ = run(capsys, "tasks", str(bad), "--model", model)
    assert status == 0
    assert "A study would refuse it: task copying: the model cannot do it (accuracy 0.0" in " ".join(
        out.split()
    )
    lines[3]["answers"] = [" nobody"]
    broken.write_text("\n".join(map(json.dumps, lines)))
    status, out, err = run(capsys, "tasks", str(broken), "--model", model)
    assert status == 2 and out == "" and "nobody" in err


def test_measure_reads_a_recording_from_a_file(capsys, tmp_path):
    file = tmp_path / "eeg.csv"
    file.write_text("Fz,Cz\n" + "\n".join(f"{i % 3},{i % 5}" for i in range(60)))
    status, out, err = run(capsys, "measure", str(file), "--model", "no-such-model", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["units"] == 2
    assert {row["mean"] for row in found["table"]} == {1.0, 2.0}


def test_decompose_says_where_what_it_found_explains_nothing_on_other_texts(capsys, model, tmp_path):
    source = tmp_path / "t.txt"
    words = [" ".join(f"w{(i * j) % 7 + 50 * (i >= 20)}" for j in range(1, 8)) for i in range(40)]
    source.write_text("\n".join(words))
    options = ["--method", "pca", "--features", "2", "--text", str(source), "--model", model]
    status, out, err = run(capsys, "decompose", "resid_pre.0", "--most", "20", *options)
    assert status == 0
    assert "warning: what was found explains nothing on held-out texts" in " ".join(err.split())
    status, out, err = run(capsys, "decompose", "resid_pre.0", "--most", "40", "--json", *options)
    assert status == 0
    assert json.loads(out)["unexplained_on_held_out_texts"] is None
    source.write_text("\n".join(words[:20] * 2))
    found = json.loads(run(capsys, "decompose", "resid_pre.0", "--most", "20", "--json", *options)[1])
    assert found["unexplained_on_held_out_texts"] < 1 and found["warning"] is None


def test_describe_prints_no_nan(capsys, model, tmp_path):
    source = tmp_path / "t.txt"
    source.write_text("\n".join(f"w{i % 7} w{i % 5} w{i % 3} w{i % 11}" for i in range(30)))
    units = ["mlp_act.0[3]", "--text", str(source), "--model", model]
    status, out, _ = run(capsys, "describe", *units)
    assert status == 0
    assert "nan" not in out
    row = json.loads(run(capsys, "describe", *units, "--json")[1])[0]
    assert row["shuffled"] is None
    assert (row["description"] == "no description found") == bool(row["tried"])


def test_attribute_finds_the_planted_head(capsys, model, task_file):
    status, out, _ = run(capsys, "attribute", task_file, "--items", "16", "--model", model, "--json")
    assert status == 0
    assert json.loads(out)["units"][0]["unit"] == "head.1[2]"


def test_attribute_prints_its_agreement_and_signs(capsys, model, task_file):
    status, out, _ = run(capsys, "attribute", task_file, "--items", "16", "--model", model)
    assert status == 0
    out = " ".join(out.split())
    assert f", {DEFAULT} (denoising), 16 items" in out
    assert "Largest first by size; + raises the metric" in out
    assert "against exact patching of" in out
    found = json.loads(
        run(capsys, "attribute", task_file, "--items", "16", "--model", model, "--check", "6", "--json")[1]
    )
    assert found["method"] == found["check"]["used"]
    check = found["check"]["checks"][DEFAULT]["head"]
    assert check["checked"] == 6
    assert check["measures"]["pearson"]["value"] > 0.9


def test_attribute_gives_up_a_method_that_does_not_agree(capsys, model, task_file, monkeypatch):
    """A user's own method in the table, and a bad one."""

    def upside_down(*args, **options):
        scores = METHODS[DEFAULT](*args, **options)
        return replace(scores, method="upside_down", values={s: -v for s, v in scores.values.items()})

    monkeypatch.setitem(METHODS, "upside_down", upside_down)
    monkeypatch.setattr(upside_down, "__signature__", inspect.signature(METHODS[DEFAULT]), raising=False)
    asked = ("attribute", task_file, "--items", "16", "--model", model, "--method", "upside_down")
    status, out, _ = run(capsys, *asked)
    out = " ".join(out.split())
    assert status == 0
    assert f"{DEFAULT.replace('_', ' ').capitalize()} in place of upside down" in out
    assert f", {DEFAULT} (denoising)" in out
    found = json.loads(run(capsys, *asked, "--json")[1])
    assert (found["method"], found["check"]["asked"]) == (DEFAULT, "upside_down")
    assert found["units"][0]["unit"] == "head.1[2]"
    as_it_is = json.loads(run(capsys, *asked, "--check", "0", "--json")[1])
    assert as_it_is["method"] == "upside_down"


def test_effect_measures_the_planted_head(capsys, model, task_file):
    status, out, _ = run(capsys, "effect", task_file, "head.1[2]", "--items", "16", "-m", model, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["share"] > 0.7
    assert abs(found["control"]["mean"] / found["baseline"]) < 0.1
    status, out, _ = run(
        capsys, "effect", task_file, "head.1[2]", "--items", "16", "-m", model, "--control", "none"
    )
    assert status == 0
    assert "head.1[2]" in out


def test_record_and_measure(capsys, model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("w1 w2 w3 w4\nw5 w6 w7\n")
    store = tmp_path / "acts.zarr"
    options = ["--text", str(text), "--model", model, "--json"]
    planned = json.loads(run(capsys, "record", "mlp_act.1", "--out", str(store), "--plan", *options)[1])
    assert planned["samples"] == 5
    assert not store.exists()
    done = json.loads(run(capsys, "record", "mlp_act.1", "--out", str(store), *options)[1])
    assert done["samples"] == 5
    table = tmp_path / "table.parquet"
    status, out, _ = run(capsys, "measure", "mlp_act.1", "--out", str(table), *options)
    assert status == 0
    assert json.loads(out)["units"] == 32
    assert table.exists()
    again = json.loads(run(capsys, "measure", str(store), "--json")[1])
    assert again["table"][0]["unit"] == json.loads(out)["table"][0]["unit"]


@pytest.mark.slow
def test_study_of_a_circuit_then_verify(capsys, model, task_file, tmp_path):
    out = tmp_path / "circuit"
    options = ("--circuit", "--model", model, "--items", "16", "--out", str(out))
    status, text, err = run(capsys, "study", task_file, *options)
    assert status == 0, err
    assert "1 of 12 attention heads carries it" in " ".join(text.split())
    for name in (
        "study.json",
        "claims.json",
        "report.html",
        "circuit_curve.parquet",
        "edges.parquet",
        "nodes.parquet",
    ):
        assert (out / name).stat().st_size > 100
    assert "head.1[2]" in (out / "report.html").read_text()
    status, text, _ = run(capsys, "verify", str(out / "claims.json"))
    assert status == 0 and "holds" in text


@pytest.mark.slow
def test_study_then_verify(capsys, model, task_file, tmp_path):
    out = tmp_path / "study"
    status, text, _ = run(capsys, "study", task_file, "--model", model, "--items", "16", "--out", str(out))
    assert status == 0
    assert "head.1[2]" in text
    for name in ("study.json", "claims.json", "report.html", "scores.parquet", "units.parquet"):
        assert (out / name).stat().st_size > 100
    status, text, _ = run(capsys, "verify", str(out / "claims.json"))
    assert status == 0
    assert "holds" in text
    idle = planted.subject(planted=False)
    idle.model.save_pretrained(tmp_path / "idle")
    planted.tokenizer().save_pretrained(tmp_path / "idle")
    status, text, _ = run(capsys, "verify", str(out / "claims.json"), "--model", str(tmp_path / "idle"))
    assert status == 2
    assert "cannot run" in text and "holds" not in text
    (tmp_path / "match.json").write_text('["head.1[2]"]')
    status, _, err = run(capsys, "verify", str(out / "claims.json"), "--match", str(tmp_path / "match.json"))
    assert status == 2 and "give a JSON object" in err
    data = json.loads((out / "claims.json").read_text())
    data["claims"][0]["criterion"] = {"at_least": 5.0}
    (out / "claims.json").write_text(json.dumps(data))
    status, text, _ = run(capsys, "verify", str(out / "claims.json"), "--json")
    assert status == 1
    assert json.loads(text)[0]["outcome"] == "fails"
    (out / "claims.json").write_text(json.dumps({**data, "schema": "another/7"}))
    status, _, err = run(capsys, "verify", str(out / "claims.json"))
    assert status == 2
    assert "another/7" in err


@pytest.mark.slow
def test_a_command_that_fails_has_not_loaded_what_opens_models():
    status, modules = loaded("verify", "/none.json")
    assert status == 2
    assert "transformers" not in modules and "patchclamp.subjects.files.embedded" not in modules


def test_recordings_are_planned_without_a_folder_and_measured_with_the_models_weights(
    capsys, model, tmp_path
):
    source = tmp_path / "t.jsonl"
    source.write_text('{"text": "w1 w2 w3"}\n{"text": ""}\n')
    words = ["--text", str(source), "--model", model]
    status, out, err = run(capsys, "record", "mlp_act.1", "--plan", *words)
    assert status == 2 and "--skip-empty" in err
    status, out, err = run(capsys, "record", "mlp_act.1", "--plan", "--skip-empty", "--json", *words)
    assert (status, json.loads(out)["documents"]) == (0, 1), err
    store = str(tmp_path / "store")
    assert run(capsys, "record", "mlp_act.1", "--out", store, "--skip-empty", *words)[0] == 0
    tables = []
    for sites in ("mlp_act.1", store):
        options = ["--measures", "importance", "--skip-empty", "--json", *words]
        status, out, err = run(capsys, "measure", sites, *options)
        assert status == 0, err
        tables.append(json.loads(out)["table"])
    assert [row["unit"] for row in tables[0]] == [row["unit"] for row in tables[1]]
    assert [row["output_norm"] for row in tables[0]] == [row["output_norm"] for row in tables[1]]
    status, out, _ = run(capsys, "measure", store, "--measures", "moments,importance,sparsity", *words)
    assert status == 0 and str(tables[0][0]["unit"]) in out
    assert "\u2026" not in out  # no address and no number is cut short
