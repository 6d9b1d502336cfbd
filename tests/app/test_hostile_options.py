"""Every option of every command, taken from the commands themselves, with values that nobody should give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

import planted
from hostile import Case, child
from patchclamp.app.cli import app
from patchclamp.app.commands import COMMANDS

pytestmark = pytest.mark.slow

VALUES = {
    "int": ("-1", "99999999999999999999999"),
    "float": ("1e400", "nan"),
    "str": ("", "*", ",", "\ud800", "[", "x" * 5000, "mlp_act.0[3]"),
    "Path": ("FILE/x", "/proc/none/x", "\0"),
}
"""Kind of an option -> values; each must run or be refused."""
NOT_TRIED = {"--model", "--device", "--dtype"}  # tests/subjects has them


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a task, texts and a store."""
    from patchclamp.record import record

    folder = tmp_path_factory.mktemp("place")
    planted.save(folder / "model")
    planted.task().to_jsonl(folder / "task.jsonl")
    lines = [f"w{i} w{i + 1} w{i + 2} w{i + 3} w{i + 5}" for i in range(1, 40)]
    (folder / "text.txt").write_text("\n".join(lines))
    rows = [json.dumps({"text": line, "label": "ab"[i % 2]}) for i, line in enumerate(lines)]
    (folder / "text.jsonl").write_text("\n".join(rows))
    (folder / "FILE").write_text("a file")
    record(planted.subject(), lines, ["mlp_act.1"], store=folder / "store", progress=False)
    return folder


def lines(place: Path) -> dict[str, list[str]]:
    """A call of each command that works and takes little; what it writes goes to OUT."""
    task, text = str(place / "task.jsonl"), ["--text", str(place / "text.txt")]
    model = ["-m", str(place / "model")]
    return {
        "study": ["study", task, *model, "--items", "8"],
        "verify": ["verify", str(place / "FILE"), *model],
        "record": ["record", "mlp_act.1", *model, *text, "--plan"],
        "open": ["open", str(place / "store")],
        "measure": ["measure", "mlp_act.1", *model, *text],
        "decompose": ["decompose", "mlp_act.1", *model, *text, "-k", "2"],
        "describe": ["describe", "mlp_act.1[0]", *model, *text, "--most", "20"],
        "attribute": ["attribute", task, *model, "--items", "8", "--sites", "head.1"],
        "effect": ["effect", task, "head.1[2]", *model, "--items", "8", "--n-control", "2"],
        "check": ["check", str(place / "model")],
        "sites": ["sites", str(place / "model")],
        "tasks": ["tasks", task, *model],
        "leaderboard": ["leaderboard", "measure", "--method", "moments", "--truth", "planted-gates"],
        "models": ["models"],
    }


def options(command: str) -> list[tuple[str, str]]:
    """The options of a command with the kinds of their values, as typer has built them."""
    built: Any = typer.main.get_command(app)
    found = [p for p in built.commands[command].params if p.param_type_name == "option" and not p.is_flag]
    return [(p.opts[0], kind(p)) for p in found if not NOT_TRIED & set(p.opts)]


def kind(option: Any) -> str:
    """int, float, Path or str."""
    annotation = str(option.type_descriptor.annotation)
    return next((name for name in ("float", "int", "Path") if name in annotation), "str")


def cases(command: str, place: Path) -> list[Case]:
    """The command with every value of every option: the last one given is the one that counts."""
    found = []
    for option, sort in options(command):
        # Of the texts one an option, another each time: a case is a whole run of the command.
        for value in VALUES[sort] if sort != "str" else [VALUES[sort][len(found) % len(VALUES[sort])]]:
            given = [option, value.replace("FILE", str(place / "FILE"))]
            name = f"{command} {option} {value[:30]!r}"
            found.append(Case(name, [*lines(place)[command], *given], files=[str(place)]))
    return found


def test_every_command_has_a_call() -> None:
    assert set(lines(Path())) == set(COMMANDS)
    assert {sort for name in COMMANDS for _, sort in options(name)} == set(VALUES)


@pytest.mark.parametrize("command", COMMANDS)
def test_odd_values_run_or_are_refused_in_a_line(command: str, place: Path) -> None:
    assert child().broken(cases(command, place)) == []
