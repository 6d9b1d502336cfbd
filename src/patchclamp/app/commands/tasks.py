"""``patchclamp tasks [NAME]``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from patchclamp.app.commands import common


def tasks(
    name: Annotated[str, typer.Argument(help="Show items of this task (name or JSONL file).")] = "",
    model: common.ModelOption = "smollm2",
    items: Annotated[int, typer.Option("--items", "-n", min=1, help="Items to show.")] = 4,
    seed: common.SeedOption = 0,
    corruption: common.CorruptionOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """List the built-in tasks, or show items of one."""
    from rich.text import Text

    from patchclamp.nouns.tasks.builtin import TASKS

    if not name:
        found = [(key, _summary(builder)) for key, builder in TASKS.items()]
        if as_json:
            common.emit_json([{"name": key, "description": text} for key, text in found])
        else:
            common.console().print(common.table(("task", "what the model has to do"), found))
        return
    subject = common.open_model(model, "cpu", "auto")
    task = common.load(name, subject, max(items, 32), seed, corruption)
    shown = [_row(item) for item in list(task.items)[:items]]
    if as_json:
        common.emit_json(
            {"name": task.name, "metric": str(task.metric), "corruption": task.corruption, "items": shown}
        )
        return
    screen = common.console()
    screen.print(Text(f"{task.name}: metric {task.metric}, corruption {task.corruption}", style="bold"))
    for row in shown:
        answer, foil = _first(row["answers"]), _first(row["foils"])
        parts = (f"\n{row['clean']}", (answer, "green"), (" not", "dim"), (foil, "red"))
        screen.print(Text.assemble(*parts))
        if row["corrupted"]:
            screen.print(Text(row["corrupted"], style="dim"))


def _summary(builder: Any) -> str:
    return (builder.__doc__ or "").strip().split("\n")[0]


def _row(item: Any) -> dict[str, Any]:
    fields = ("clean", "corrupted", "answers", "foils", "template", "group")
    return {field: getattr(item, field) for field in fields}


def _first(words: Any) -> str:
    return words[0] if words else ""
