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
    able, refused = _ability(subject, name, seed, corruption)
    shown = [_row(item) for item in list(task.items)[:items]]
    if as_json:
        facts = {"name": task.name, "metric": str(task.metric), "corruption": task.corruption, "items": shown}
        common.emit_json({**facts, "ability": able, "refused": refused or None})
        return
    screen = common.console()
    screen.print(Text(f"{task.name}: metric {task.metric}, corruption {task.corruption}", style="bold"))
    for row in shown:
        answer, foil = _first(row["answers"]), _first(row["foils"])
        parts = (f"\n{row['clean']}", (answer, "green"), (" not", "dim"), (foil, "red"))
        screen.print(Text.assemble(*parts))
        if row["corrupted"]:
            screen.print(Text(row["corrupted"], style="dim"))
    if able is not None:
        right = f"{able['accuracy']:.0%} of {able['n_items']} test items right, {able['metric_name']} {able['metric']:.3g}"
        screen.print(Text(f"\n{subject.name}: {right}", style="dim"))
    if refused:
        screen.print(Text(f"\nA study would refuse it: {refused}", style="bold red"))


def _ability(subject: Any, name: str, seed: int, corruption: str | None) -> tuple[dict[str, Any] | None, str]:
    """What a study measures before it begins, or why it would not begin; a task that cannot be encoded is refused here."""
    from patchclamp.base.errors import PatchclampError
    from patchclamp.study import StudyOptions, load_for_study
    from patchclamp.study.ability import measure_ability

    options = StudyOptions(seed=seed)
    task = load_for_study(subject, name, options, corruption)
    task.encode(subject.tokenizer, bos=subject.bos, max_length=subject.max_length)
    try:
        able = measure_ability(subject, task.split("test").take(options.n_test), options)
    except PatchclampError as error:
        return None, f"{error}{_joined(task)}"
    return able | {"metric_name": task.metric_name}, ""


def _joined(task: Any) -> str:
    """A word about answers that go on in the last word of their text, which is how a forgotten space reads."""
    for item in task.items:
        word = item.answers[0]
        if item.clean[-1:].isalnum() and word[:1].isalnum():
            last = item.clean.split()[-1]
            return f"; the answer {word!r} reads {last + word!r} there: did you mean {' ' + word!r} with a space?"
    return ""


def _summary(builder: Any) -> str:
    return (builder.__doc__ or "").strip().split("\n")[0]


def _row(item: Any) -> dict[str, Any]:
    fields = ("clean", "corrupted", "answers", "foils", "template", "group")
    return {field: getattr(item, field) for field in fields}


def _first(words: Any) -> str:
    return words[0] if words else ""
