"""Where commands write: what a user has there is never touched, and that is found before the work begins."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from command_line import run


@pytest.fixture
def text(tmp_path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"w{i} w{i + 1} w{i + 2} w{i + 3} w{i + 5}" for i in range(1, 40)) + "\n")
    return str(path)


def commands(model: str, task: str, text: str) -> dict[str, list[str]]:
    """Every command that writes a file or folder, without the place."""
    return {
        "attribute": ["attribute", task, "-m", model, "--items", "8", "--out"],
        "measure": ["measure", "mlp_act.1", "-m", model, "--text", text, "--out"],
        "leaderboard": ["leaderboard", "measure", "--method", "moments", "--truth", "planted-gates", "--out"],
        "leaderboard page": ["leaderboard", "measure", "--method", "moments", "--truth", "gates", "--html"],
        "record": ["record", "mlp_act.1", "-m", model, "--text", text, "--out"],
        "decompose": ["decompose", "mlp_act.1", "-m", model, "--text", text, "-k", "2", "--out"],
        "study": ["study", task, "-m", model, "--items", "16", "--out"],
        "study of texts": ["study", "--texts", text, "-m", model, "--out"],
    }


@pytest.mark.parametrize("name", commands("", "", ""))
def test_a_users_file_and_folder_stay_as_they_are(capsys, model, task_file, text, tmp_path, name) -> None:
    arguments = commands(model, task_file, text)[name]
    if name == "study of texts":
        Path(text).with_suffix(".jsonl").write_text(
            "\n".join(json.dumps({"text": f"w{i} w{i + 1} w3", "label": "ab"[i % 2]}) for i in range(40))
        )
        arguments = [a.replace(".txt", ".jsonl") for a in arguments]
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in ("results.parquet", "notes.json", "page.html", "sae_weights.safetensors"):
        (mine / file).write_text('{"schema": "mine/1", "text": "patchclamp/study/2"}')
    before = {path: path.read_bytes() for path in mine.iterdir()}
    for place in [*before, mine, mine / "notes.json" / "x"]:
        status, out, err = run(capsys, *arguments, str(place))
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert str(mine) in err
    assert {path: path.read_bytes() for path in mine.iterdir()} == before


def test_a_file_beside_the_scores_is_the_users_too(capsys, model, task_file, tmp_path) -> None:
    beside = tmp_path / "scores.parquet.json"
    beside.write_text("[]")
    arguments = [
        "attribute",
        task_file,
        "-m",
        model,
        "--items",
        "8",
        "--out",
        str(tmp_path / "scores.parquet"),
    ]
    assert "scores.parquet.json: exists already" in run(capsys, *arguments)[2]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet.json"]
    beside.unlink()
    for _ in range(2):  # what it wrote itself it may write again
        assert run(capsys, *arguments)[0] == 0
    assert pd.read_parquet(tmp_path / "scores.parquet").shape[0] == 8


def test_a_table_is_written_again_over_its_own(capsys, model, text, tmp_path) -> None:
    out = tmp_path / "table.parquet"
    for _ in range(2):
        assert (
            run(capsys, "measure", "mlp_act.1", "-m", model, "--text", text, "--out", str(out), "--json")[0]
            == 0
        )
    table = pd.read_parquet(out)
    del table.attrs["written_by"]
    table.to_parquet(out)
    status, _, err = run(capsys, "measure", "mlp_act.1", "-m", model, "--text", text, "--out", str(out))
    assert status == 2 and "patchclamp did not write it" in err


def test_a_store_is_checked(capsys, model, text, tmp_path) -> None:
    store = tmp_path / "acts"
    assert (
        run(capsys, "record", "mlp_act.1", "-m", model, "--text", text, "--out", str(store), "--json")[0] == 0
    )
    status, out, _ = run(capsys, "check", str(store))
    assert status == 0 and "checksums agree" in out
    assert json.loads(run(capsys, "open", str(store), "--json")[1])["about"]["checksums"] == "crc32c"
    chunk = next((store / "mlp_act.1" / "c" / "0").iterdir())
    data = bytearray(chunk.read_bytes())
    data[40] ^= 1
    chunk.write_bytes(bytes(data))
    status, out, _ = run(capsys, "check", str(store), "--json")
    assert status == 1 and json.loads(out)["faults"] == [["mlp_act.1/c/0/0", "its checksum does not match"]]
    status, _, err = run(capsys, "measure", str(store))
    assert status == 2 and "patchclamp check" in err and err.count("\n") == 1
    chunk.unlink()
    status, _, err = run(capsys, "open", str(store))
    assert status == 2 and "1 chunks are lost" in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_fit_that_was_killed_is_resumed(capsys, model, text, tmp_path) -> None:
    arguments = [
        "decompose",
        "mlp_act.1",
        "-m",
        model,
        "--text",
        text,
        "-k",
        "40",
        "--method",
        "topk",
        "--json",
    ]
    whole, out = tmp_path / "whole", tmp_path / "out"
    status, _, err = run(capsys, *arguments, "--out", str(whole))
    assert status == 0, err
    code = (
        f"import sys; from patchclamp.app import cli; sys.exit(cli.run({[*arguments, '--out', str(out)]!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while not (out / ".unfinished" / "fit" / "run.json").is_file() and child.poll() is None:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert (out / ".unfinished" / "activity" / "zarr.json").is_file() and not (out / "cfg.json").exists()
    status, _, err = run(capsys, *arguments, "--out", str(out), "--seed", "1")
    assert status == 2 and "seed is 0 there and 1 here" in err
    assert run(capsys, *arguments, "--out", str(out))[0] == 0
    names = {path.name for path in whole.iterdir()}
    assert {path.name for path in out.iterdir()} == names and ".unfinished" not in names
    weights = [(folder / "sae_weights.safetensors").read_bytes() for folder in (whole, out)]
    assert weights[0] == weights[1]
    status, _, err = run(capsys, *arguments, "--out", str(out))
    assert status == 2 and "is not empty" in err
